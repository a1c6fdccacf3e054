"""What is wrong with a guest's devices gives one clear line and a documented status."""

import pytest

from devices import IP, disk
from guests import READY, VmmHost, guest_config, table
from test_bad_input import FAILED, HOST, USAGE, refuse_config, refused

IMAGE = "/tmp/disk.img"
GOOD_DISK = disk("data", IMAGE)
MOST_DEVICES = 32


def with_devices(devices: str) -> str:
    return guest_config("bad", devices=devices)


@pytest.fixture(scope="module")
def image(vmm_host: VmmHost) -> str:
    """A good disk image in the host."""
    vmm_host.host.run(f"truncate -s 4M {IMAGE}")
    return IMAGE


def nic(**values: object) -> str:
    return table("[[net]]", **{"id": "lan", "tap": "badtap", **values})


CONFIGS = [
    # (tables, where the error is, words of it)
    pytest.param(disk("", IMAGE), '""', ["disk.id must be"], id="empty id"),
    pytest.param(disk("a/b", IMAGE), '"a/b"', ["disk.id must be"], id="id with a slash"),
    pytest.param(GOOD_DISK + "color = 1\n", "color", ["unknown key", "color"], id="unknown key"),
    pytest.param(disk("data", ""), '""', ["path", "empty"], id="empty path"),
    pytest.param(disk("data", IMAGE, direct="yes"), '"yes"', ["disk.direct", "true or false"],
                 id="string for a truth value"),
    pytest.param(disk("data", IMAGE, serial="S" * 21), '"SSSS', ["serial", "20"],
                 id="long serial number"),
    pytest.param(nic(mac="52:54:00:12:34"), '"52:54:00:12:34"', ["not a MAC address"], id="short MAC"),
    pytest.param(nic(mac="52:54:00:12:34:5g"), '"52:54:00:12:34:5g"', ["not a MAC address"], id="no MAC"),
    pytest.param(nic(mac="52-54-00-12-34-56"), '"52-54', ["not a MAC address"], id="MAC with dashes"),
    pytest.param(nic(mac="01:00:5e:00:00:01"), '"01:00:5e', ["mac", "multicast"],
                 id="multicast MAC"),
    pytest.param(nic(mac="00:00:00:00:00:00"), '"00:00', ["all zero"], id="MAC of zeros"),
    pytest.param(nic(fd=3), "[[net]]", ["either a tap"], id="tap and descriptor"),
    pytest.param(nic(tap="averyveryverylongname"), '"averyvery', ["net.tap must be"], id="long tap name"),
    pytest.param(table("[rng]", enabled=1), "1\n", ["rng.enabled"], id="number for a truth value"),
    pytest.param(table("[balloon]", size=1), "size", ["unknown key", "balloon.size"],
                 id="unknown key of the balloon"),
]


@pytest.mark.parametrize("devices, at, words", CONFIGS)
def test_wrong_device_settings_name_file_line_and_column(
    vmm_host: VmmHost, image: str, devices: str, at: str, words: list[str]
) -> None:
    text = with_devices(devices)
    error = refuse_config(vmm_host, text, USAGE, *words)
    # The devices are the last that stands in the file.
    before = text[:text.rindex(at)]
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    assert f"bad.cfg:{line}:{column}:" in error


def test_two_devices_of_one_id(vmm_host: VmmHost, image: str) -> None:
    refuse_config(vmm_host, with_devices(GOOD_DISK * 2), USAGE, "bad.cfg:",
                  "disk.id is taken already")


def test_missing_image(vmm_host: VmmHost) -> None:
    refuse_config(vmm_host, with_devices(disk("data", "/tmp/none.img")), USAGE,
                  "/tmp/none.img", "No such file")


def test_image_that_is_a_directory(vmm_host: VmmHost) -> None:
    refuse_config(vmm_host, with_devices(disk("data", "/tmp")), USAGE, "/tmp")


@pytest.mark.parametrize("size", [1, 511, 4095, 1000001])
def test_image_whose_size_is_no_multiple_of_the_sector_size(vmm_host: VmmHost, size: int) -> None:
    vmm_host.host.run(f"rm -f /tmp/odd.img; truncate -s {size} /tmp/odd.img")
    refuse_config(vmm_host, with_devices(disk("data", "/tmp/odd.img")), USAGE,
                  "/tmp/odd.img", str(size), "512")


@pytest.mark.parametrize("make, path, word", [
    ("truncate -s 4M /tmp/protected.img; chmod 444 /tmp/protected.img", "/tmp/protected.img",
     "write-protected"),
    ("true", "/images/debian/vmlinuz", "Read-only file system"),
], ids=["file without write permission", "read-only file system"])
def test_image_that_may_only_be_read(
    vmm_host: VmmHost, make: str, path: str, word: str
) -> None:
    vmm_host.host.run(make)
    refuse_config(vmm_host, with_devices(disk("data", path)), USAGE, path, word)


def test_image_that_another_guest_uses(vmm: VmmHost, image: str) -> None:
    guest = vmm.start("owner", devices=GOOD_DISK)
    guest.wait(READY)
    for readonly in (False, True):
        text = with_devices(disk("data", image, readonly=readonly))
        refuse_config(vmm, text, FAILED, image, "locked by another process")
    assert guest.is_running()
    guest.signal("KILL")
    guest.exit_status()
    again = vmm.start("heir", devices=GOOD_DISK)
    again.wait(READY)


def test_guests_may_share_an_image_that_all_only_read(vmm: VmmHost, image: str) -> None:
    first, second = (vmm.start(devices=disk("data", image, readonly=True)) for _ in range(2))
    first.wait(READY)
    second.wait(READY)
    refuse_config(vmm, with_devices(GOOD_DISK), FAILED, image, "locked by another process")


def test_host_without_tun(vmm_host: VmmHost) -> None:
    path = vmm_host.write("bad.cfg", with_devices(nic()))
    vmm_host.host.run("mv /dev/net/tun /dev/net/away")
    try:
        refused(vmm_host, f"vmm run {path}", HOST, "/dev/net/tun", "No such file")
    finally:
        vmm_host.host.run("mv /dev/net/away /dev/net/tun")


def test_tap_that_cannot_be_made_for_want_of_permission(vmm_host: VmmHost) -> None:
    path = vmm_host.write("bad.cfg", with_devices(nic()))
    vmm_host.host.run("chmod 666 /dev/kvm /dev/net/tun; mkdir -p /tmp/nobody; "
                      "chown nobody /tmp/nobody; chmod 755 /tmp/guests")
    inner = f"XDG_RUNTIME_DIR=/tmp/nobody vmm run {path}"
    try:
        refused(vmm_host, f"su -s /bin/sh nobody -c '{inner}'", HOST, "badtap", "CAP_NET_ADMIN")
    finally:
        vmm_host.host.run("chmod 600 /dev/kvm")


def test_tap_that_another_guest_uses(vmm: VmmHost) -> None:
    guest = vmm.start("owner", devices=nic(tap="busytap"))
    guest.wait(READY)
    refuse_config(vmm, with_devices(nic(tap="busytap")), FAILED, "busytap", "in use")
    assert guest.is_running()


def test_name_of_a_device_that_is_no_tap(vmm_host: VmmHost) -> None:
    vmm_host.host.run(f"{IP} link show nobridge >/dev/null 2>&1 || "
                      f"{IP} link add nobridge type bridge")
    refuse_config(vmm_host, with_devices(nic(tap="nobridge")), USAGE, "nobridge", "not a tap")


def test_descriptor_that_was_not_passed(vmm_host: VmmHost) -> None:
    text = with_devices(table("[[net]]", id="lan", fd=77))
    refuse_config(vmm_host, text, USAGE, "descriptor 77")


def test_more_devices_than_interrupt_lines(vmm_host: VmmHost) -> None:
    vmm_host.host.run(f"for n in $(seq {MOST_DEVICES + 1}); do truncate -s 1M /tmp/d$n.img; done")
    # The source of entropy is a device as well.
    disks = [disk(f"d{n}", f"/tmp/d{n}.img") for n in range(1, MOST_DEVICES + 1)]
    refuse_config(vmm_host, with_devices("".join(disks)), USAGE,
                  f"{MOST_DEVICES + 1} virtio devices", str(MOST_DEVICES))


def test_as_many_devices_as_there_are_interrupt_lines(vmm: VmmHost) -> None:
    vmm.host.run(f"for n in $(seq {MOST_DEVICES}); do truncate -s 1M /tmp/d$n.img; done")
    disks = [disk(f"d{n}", f"/tmp/d{n}.img") for n in range(1, MOST_DEVICES)]
    guest = vmm.start(devices="".join(disks), cmdline=(
        'quiet vmm.run="ls -d /sys/bus/virtio/drivers/*/virtio* | wc -l"'))
    assert guest.exit_status() == 0
    assert f"\n{MOST_DEVICES}\n" in guest.console()
