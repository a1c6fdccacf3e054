"""What a guest has been told is on its disk is there, whatever happens to vmm and the host."""

import re
import struct
from pathlib import Path

import pytest

from devices import disk, make_disk
from guests import VmmHost, run_command
from lab.host import Host

RECORD_BYTES = 4096
DISK_BYTES = 32 << 20
# So many acknowledged writes make a run worth something; the guest goes on until it is cut off.
ENOUGH = 40


def acknowledged(console: str) -> list[int]:
    """The records that the guest has reported, from whole lines only."""
    return [int(number) for number in re.findall(r"^ack (\d+)\n", console, re.MULTILINE)]


def missing_records(image: bytes, numbers: list[int]) -> list[int]:
    """Those of the records that an image does not hold, byte for byte."""
    wrong = []
    for number in numbers:
        content = struct.pack("<Q", number + 1) * (RECORD_BYTES // 8)
        if image[number * RECORD_BYTES:(number + 1) * RECORD_BYTES] != content:
            wrong.append(number)
    return wrong


def record_until_cut_off(vmm: VmmHost, path: str, direct: bool) -> list[int]:
    """Let a guest write records to the disk at `path`; kill vmm in the midst of it."""
    guest = vmm.start(cmdline=run_command("recorder /dev/vda 8"), vcpus=2,
                      devices=disk("data", path, direct=direct))
    guest.wait("ack ", count=ENOUGH)
    guest.signal("KILL")
    guest.exit_status()
    return acknowledged(guest.console())


def check_after_kill(vmm: VmmHost, folder: Path, direct: bool) -> None:
    path = make_disk(vmm.host, "records.img", str(DISK_BYTES))
    numbers = record_until_cut_off(vmm, path, direct)
    assert len(numbers) >= ENOUGH
    length = (max(numbers) + 1) * RECORD_BYTES
    vmm.host.run(f"dd if={path} bs=4k count={max(numbers) + 1} of=/tmp/records 2>/dev/null")
    vmm.host.get("/tmp/records", folder / "records")
    image = (folder / "records").read_bytes()
    assert len(image) == length
    assert missing_records(image, numbers) == []


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "page cache"])
def test_acknowledged_writes_survive_the_kill_of_vmm(
    device_vmm: VmmHost, tmp_path: Path, direct: bool
) -> None:
    check_after_kill(device_vmm, tmp_path, direct)


@pytest.mark.full
@pytest.mark.parametrize("direct", [True, False], ids=["direct", "page cache"])
def test_acknowledged_writes_survive_many_kills_of_vmm(
    device_vmm: VmmHost, tmp_path: Path, direct: bool
) -> None:
    for _ in range(15):
        check_after_kill(device_vmm, tmp_path, direct)


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "page cache"])
def test_acknowledged_writes_survive_the_loss_of_the_host(
    shares: dict[str, Path], vmm_files: dict[str, Path], tmp_path: Path, direct: bool
) -> None:
    image = tmp_path / "records.img"
    with image.open("wb") as stream:
        stream.truncate(DISK_BYTES)
    with Host.start(shares=shares, extra_files=vmm_files, disks=[image]) as host:
        vmm = VmmHost(host)
        guest = vmm.start(cmdline=run_command("recorder /dev/vda 8"), vcpus=2,
                          devices=disk("data", "/dev/vda", direct=direct))
        numbers = acknowledged(guest.wait("ack ", count=ENOUGH))
        host.stop()
    assert len(numbers) >= ENOUGH
    assert missing_records(image.read_bytes(), numbers) == []
