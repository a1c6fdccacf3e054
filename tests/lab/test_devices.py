"""A guest with Debian's stock kernel on its own disk and network, and what its devices do for it.

All tests share one guest, which boots from its root disk. Those that would not leave it as it was
come last.
"""

import dataclasses
import re
import subprocess
import time

import pytest

from devices import (
    NETWORK, PING, ROOT_DISK, NetworkGuest, add_tap, disk, make_disk, net,
)
from guests import ROOT, VmmHost, table

DATA_BYTES = 1 << 30
DRIVERS = ["virtio_blk", "virtio_net", "virtio_rng", "virtio_console", "virtio_balloon"]


@pytest.fixture(scope="module")
def guest(device_host: VmmHost) -> NetworkGuest:
    """A guest with every device: root and data disk, network, entropy, console, balloon."""
    add_tap(device_host.host, "tap0")
    add_tap(device_host.host, "tap1")
    data = make_disk(device_host.host, "data.img", str(DATA_BYTES))
    # The virtio console takes the terminal; the serial one is seen in the file.
    console = table("[console]", virtio=True, file=f"{ROOT}/debian/both")
    started = device_host.start(
        "debian", image="debian", vcpus=2, cmdline=f"{NetworkGuest.CMDLINE} root=/dev/vda rw",
        devices=disk("root", ROOT_DISK) + disk("data", data, direct=True, serial="DATA-7")
        + net("tap0") + table("[[net]]", id="second", tap="tap1", mac="52:54:00:12:34:56")
        + table("[balloon]", enabled=True) + console)
    return NetworkGuest(dataclasses.replace(started, output="both")).wait()


def test_the_guest_boots_from_its_disk_and_is_reached_at_its_address(guest: NetworkGuest) -> None:
    assert guest.address.startswith(f"{NETWORK}.")
    assert "/dev/vda / ext4 rw" in guest.run("cat /proc/mounts")
    page = guest.host.run(["wget", "-q", "-O", "-", f"http://{guest.address}/"]).stdout
    assert page == "vmm guest\n"


def test_disks_have_the_size_and_the_serial_number_of_the_configuration(
    guest: NetworkGuest
) -> None:
    assert guest.run("cat /sys/block/vdb/serial") == "DATA-7"
    assert guest.run("cat /sys/block/vda/serial") == "root"
    assert int(guest.run("cat /sys/block/vdb/size")) * 512 == DATA_BYTES


def test_network_devices_have_the_address_of_the_configuration_or_one_of_their_own(
    guest: NetworkGuest
) -> None:
    assert guest.run("cat /sys/class/net/eth1/address").strip() == "52:54:00:12:34:56"
    derived = int(guest.run("cat /sys/class/net/eth0/address")[:2], 16)
    assert derived & 0b11 == 0b10  # local, and of one station


def test_the_guest_has_entropy_from_the_host(guest: NetworkGuest) -> None:
    assert guest.run("cat /sys/class/misc/hw_random/rng_current").startswith("virtio_rng")
    assert guest.run("head -c 256 /dev/hwrng | wc -c").strip() == "256"
    assert guest.run("head -c 64 /dev/hwrng | md5sum") != guest.run(
        "head -c 64 /dev/hwrng | md5sum")


def test_the_virtio_console_is_the_terminal(guest: NetworkGuest) -> None:
    guest.run("echo from-the-guest >/dev/hvc0")
    terminal = dataclasses.replace(guest.guest, output="console")
    assert terminal.wait("from-the-guest", 30) == "from-the-guest\n"


def fio(name: str, pattern: str, **options: object) -> str:
    """A fio job that writes, reads back and compares."""
    settings = {"ioengine": "libaio", "iodepth": 16, "direct": 1, "verify": "crc32c",
                "verify_fatal": 1, "group_reporting": 1, **options}
    words = " ".join(f"--{key}={value}" for key, value in settings.items())
    command = f"fio --name={name} --rw={pattern} {words}"
    return f"{command} >/tmp/fio.txt || {{ cat /tmp/fio.txt; false; }}"


def test_what_is_written_is_read_back_and_the_file_system_is_clean(guest: NetworkGuest) -> None:
    guest.run("mke2fs -q -t ext4 /dev/vdb && mount /dev/vdb /mnt")
    guest.run(fio("random", "randwrite", directory="/mnt", size="6M", bs="4k"), 120)
    guest.run(fio("sequential", "write", directory="/mnt", size="24M", bs="256k"), 120)
    guest.run(fio("buffered", "randwrite", directory="/mnt", size="6M", bs="1k-32k", direct=0,
                  fsync=16), 120)
    guest.run("rm /mnt/random* && /sbin/fstrim /mnt && umount /mnt && e2fsck -fn /dev/vdb")


@pytest.mark.full
@pytest.mark.parametrize("pattern", ["write", "randwrite", "rw", "randrw", "trimwrite",
                                     "randtrimwrite"])
@pytest.mark.parametrize("block", ["4k", "64k"])
def test_raw_disk_keeps_what_is_written_in_every_pattern(
    guest: NetworkGuest, pattern: str, block: str
) -> None:
    size = "16M" if block == "4k" else "96M"
    guest.run(fio("raw", pattern, filename="/dev/vdb", size=size, bs=block, offset="512M"), 300)


@pytest.mark.full
def test_a_file_system_under_many_writers_stays_clean(guest: NetworkGuest) -> None:
    guest.run("mke2fs -q -F -t ext4 /dev/vdb && mount -o discard /dev/vdb /mnt")
    for engine, direct in (("libaio", 1), ("psync", 0)):  # past the guest's page cache, through it
        guest.run(fio("files", "randrw", directory="/mnt", size="12M", bsrange="4k-64k",
                      numjobs=4, nrfiles=8, fsync=64, ioengine=engine, direct=direct), 600)
    guest.run("rm -r /mnt/files* && /sbin/fstrim /mnt && umount /mnt && e2fsck -fn /dev/vdb", 120)


def test_what_is_trimmed_is_freed_on_the_host(guest: NetworkGuest) -> None:
    blocks = "stat -c %b /disk/data.img"
    guest.run("dd if=/dev/urandom of=/dev/vdb bs=1M count=32 seek=512 oflag=direct 2>/dev/null")
    before = int(guest.host.run(blocks).stdout)
    guest.run("/sbin/blkdiscard -o 512M -l 32M /dev/vdb")
    assert int(guest.host.run(blocks).stdout) <= before - (31 << 20) // 512
    guest.run("[ $(dd if=/dev/vdb bs=1M count=32 skip=512 iflag=direct 2>/dev/null | "
              "tr -d '\\0' | wc -c) = 0 ]")


def echoes(guest: NetworkGuest) -> tuple[int, int]:
    """How many echo requests the host has sent so far, and how many replies have arrived."""
    names, values = (line.split() for line in
                     guest.host.run("grep ^Icmp: /proc/net/snmp").stdout.splitlines())
    counts = dict(zip(names, values))
    return int(counts["OutEchos"]), int(counts["InEchoReps"])


def ping(guest: NetworkGuest, count: int, timeout: float) -> None:
    """Flood the guest with echo requests, several under way at a time; all must come back.

    The kernel counts, because ping leaves after twice the longest round trip that it has seen, and
    a busy machine may take longer for the last replies.
    """
    sent_before, received_before = echoes(guest)
    done = guest.host.run([PING, "-f", "-l", "32", "-q", "-c", str(count), guest.address], timeout,
                          False)
    deadline = time.monotonic() + 10
    while True:
        sent, received = echoes(guest)
        missing = (sent - sent_before) - (received - received_before)
        if missing == 0 or time.monotonic() > deadline:
            break
    assert missing == 0, f"{missing} of {sent - sent_before} are missing\n{done}"
    assert sent - sent_before == count, done


def test_no_ping_is_lost(guest: NetworkGuest) -> None:
    ping(guest, 2000, 120)


@pytest.mark.full
def test_none_of_a_hundred_thousand_pings_is_lost(guest: NetworkGuest) -> None:
    ping(guest, 100_000, 1200)


def throughput(guest: NetworkGuest, seconds: int, reverse: bool) -> float:
    """Bits per second over TCP to the guest, or from it, as the receiver saw it."""
    guest.run("pidof iperf3 >/dev/null || iperf3 -s -D")
    command = f"iperf3 -c {guest.address} -t {seconds} -J" + (" -R" if reverse else "")
    done = guest.host.run(command, seconds + 60)
    found = re.search(r'"sum_received":\s*\{[^}]*"bits_per_second":\s*([\d.e+]+)', done.stdout)
    assert found is not None, done.stdout
    return float(found.group(1))


@pytest.mark.parametrize("reverse", [False, True], ids=["to the guest", "from the guest"])
def test_tcp_streams_flow(guest: NetworkGuest, reverse: bool) -> None:
    assert throughput(guest, 2, reverse) > 1e6


@pytest.mark.full
@pytest.mark.parametrize("reverse", [False, True], ids=["to the guest", "from the guest"])
def test_tcp_streams_flow_for_long(guest: NetworkGuest, reverse: bool) -> None:
    assert throughput(guest, 30, reverse) > 1e6


def test_statistics_count_what_the_devices_have_done(
    device_host: VmmHost, guest: NetworkGuest
) -> None:
    stats = device_host.json("stats", "debian")
    counters = {item["name"]: item["counters"] for item in stats["devices"]}
    assert {"disk.root", "disk.data", "net.lan", "net.second", "rng"} <= counters.keys()
    assert counters["disk.root"]["bytes_read"] > 1 << 20
    assert counters["disk.root"]["errors"] == counters["disk.data"]["errors"] == 0
    text = device_host("stats", "debian").stdout
    assert all(name in text for name in counters)


# Takes each device but the root disk away from a driver and gives it back, again and again, while
# both disks and the source of entropy are read and the data disk is written. A disk that is still
# open comes back under another name.
RESET = """
root=$(basename $(readlink -f /sys/block/vda/device))
busy() {
    dd if=/dev/vda of=/dev/null bs=64k count=64 iflag=direct &
    dd if=/dev/hwrng of=/dev/null bs=16 count=64 &
    for disk in /dev/vd[b-z]; do
        dd if=$disk of=/dev/null bs=64k count=64 iflag=direct &
        dd if=/dev/zero of=$disk bs=64k count=64 seek=4096 oflag=direct &
    done
}
cd /sys/bus/virtio/drivers/DRIVER || exit 1
for round in $(seq ROUNDS); do
    busy 2>/dev/null
    for device in virtio*; do
        [ $device = $root ] && continue
        echo $device >unbind && echo $device >bind || exit 1
    done
done
wait
killall udhcpc
/etc/dhcp eth0
/etc/dhcp eth1
"""


def hot_reset(guest: NetworkGuest, driver: str, rounds: int, timeout: float) -> None:
    """Reset the devices of a driver `rounds` times, busy with I/O and flooded with pings, and see
    that all of them work afterwards."""
    bound = f"cd /sys/bus/virtio/drivers/{driver}; ls -d virtio*"
    before = guest.run(bound)
    flood = guest.host.popen([PING, "-f", "-q", "-w", str(int(timeout)), guest.address],
                             stdout=subprocess.DEVNULL)
    try:
        script = RESET.replace("DRIVER", driver).replace("ROUNDS", str(rounds))
        guest.run_apart(script, timeout)
    finally:
        # To end the process on this side would leave ping running in the host.
        guest.host.run("killall ping", check=False)
        flood.wait(30)
    assert guest.run(bound) == before
    guest.run("""
for disk in /dev/vd*; do
    [ "$(cat /sys/block/${disk##*/}/serial)" = DATA-7 ] && data=$disk
done
head -c 262144 /dev/urandom >/tmp/noise
dd if=/tmp/noise of=$data bs=64k oflag=direct 2>/dev/null
dd if=$data bs=64k count=4 iflag=direct 2>/dev/null | cmp - /tmp/noise
head -c 64 /dev/hwrng >/dev/null
""")
    ping(guest, 50, 60)


@pytest.mark.parametrize("driver", DRIVERS)
def test_devices_survive_the_loss_of_their_driver_under_load(
    guest: NetworkGuest, driver: str
) -> None:
    hot_reset(guest, driver, 3, 60)


@pytest.mark.full
@pytest.mark.parametrize("driver", DRIVERS)
def test_devices_survive_losing_their_driver_again_and_again(
    guest: NetworkGuest, driver: str
) -> None:
    hot_reset(guest, driver, 30, 600)


def test_a_reboot_keeps_what_is_on_the_disks(device_host: VmmHost, guest: NetworkGuest) -> None:
    guest.run("head -c 3000000 /dev/urandom >/noise; md5sum /noise >/noise.md5; "
              "setsid sh -c 'sleep 1; reboot' </dev/null >/dev/null 2>&1 &")
    guest.wait(boots=2)
    guest.run("md5sum -c /noise.md5")
    assert device_host("stop").returncode == 0
    assert guest.guest.exit_status() == 0
    check = device_host.shell(f"e2fsck -fn {ROOT_DISK}", 60)
    assert check.returncode == 0, check.stdout
