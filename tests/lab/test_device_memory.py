"""What vmm needs for itself stays small, with devices that work too."""

from devices import NetworkGuest, add_tap, disk, make_disk, net
from guests import VmmHost

LIMIT_KIB = 6 << 10
MEMORY_MIB = 98  # a size that no other mapping has by chance

# Private memory in KiB, the mapping of the guest's memory left out (argument: its size in KiB).
PRIVATE = """awk -v guest=%d '
/^Size:/ { counts = $2 != guest; guests += !counts }
/^Private_(Clean|Dirty):/ && counts { total += $2 }
END { print total, guests }' /proc/%d/smaps"""


def test_vmm_with_a_disk_and_a_tap_needs_little_memory_of_its_own(device_vmm: VmmHost) -> None:
    add_tap(device_vmm.host, "tap0")
    path = make_disk(device_vmm.host, "data.img", "64M")
    started = device_vmm.start(memory=f"{MEMORY_MIB}M", cmdline=NetworkGuest.CMDLINE,
                               devices=disk("data", path) + net("tap0"))
    guest = NetworkGuest(started).wait()
    guest.run("dd if=/dev/zero of=/dev/vda bs=1M count=16 conv=fsync; "
              "dd if=/dev/vda of=/dev/null bs=256k count=64 iflag=direct")
    device_vmm.host.run(f"ping -c 20 -i 0.01 -s 1400 {guest.address}")
    script = PRIVATE % (MEMORY_MIB << 10, started.pid())
    total, guests = map(int, device_vmm.host.run(script).stdout.split())
    assert guests == 1
    assert total <= LIMIT_KIB
