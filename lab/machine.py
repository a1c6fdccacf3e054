"""The QEMU command line of an emulated host."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from lab.remote import EXCHANGE
from lab.runtime import runtime_root

# Frames as large as IP takes: the cost of a packet limits an emulated network more than that of a byte.
LAN_MTU = 65000


@dataclasses.dataclass(frozen=True)
class Lan:
    """A host's end of the private network: its number (1 or 2), its socket and the other's."""

    number: int
    own: Path
    peer: Path

    @property
    def address(self) -> str:
        """IPv4 address of this end."""
        return f"10.77.0.{self.number}"


def lan_end(number: int, names: Sequence[str]) -> Lan:
    """End `number` of the network between the hosts whose directories are called `names`."""
    sockets = [runtime_root() / name / "lan.sock" for name in names]
    return Lan(number, sockets[number - 1], sockets[2 - number])


def machine(cpu: str, cpus: int, memory_mib: int, icount: bool) -> list[str]:
    """Machine, processors and memory. EL2 is emulated, so that the host kernel has KVM."""
    argv = [
        "qemu-system-aarch64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-M", "virt,virtualization=on,gic-version=3", "-cpu", cpu, "-smp", str(cpus),
        "-m", str(memory_mib),
    ]
    return argv + (["-icount", "shift=0,sleep=off"] if icount else [])


def devices(
    directory: Path, shares: dict[str, Path], disks: Sequence[Path], lan: Lan | None
) -> list[str]:
    """Console, monitor, management network, and what the caller asked for.

    virtio-mmio throughout, which both kernels have. A shared disk bypasses the page cache and QEMU's
    locks, because the guests' own arbitrate.
    """
    argv = [
        "-chardev", f"file,id=console,path={directory}/console.log", "-serial", "chardev:console",
        "-qmp", f"unix:{directory}/qmp.sock,server=on,wait=off",
        "-device", "virtio-rng-device",
        # restrict=on: the host reaches nothing outside, only the forwarded port leads in.
        "-netdev", "user,id=mgmt,restrict=on,hostfwd=tcp:127.0.0.1:0-10.0.2.15:22",
    ]
    # QEMU hands virtio-mmio slots out from the last to the first, and the kernel probes upwards, so
    # what is named last becomes eth0.
    if lan:
        argv += [
            "-netdev",
            f"dgram,id=lan,local.type=unix,local.path={lan.own},"
            f"remote.type=unix,remote.path={lan.peer}",
            "-device",
            f"virtio-net-device,netdev=lan,mac=52:54:00:77:00:{lan.number:02x},host_mtu={LAN_MTU}",
        ]
    argv += ["-device", "virtio-net-device,netdev=mgmt,mac=52:54:00:77:01:01"]
    for number, disk in reversed(list(enumerate(disks))):
        argv += [
            "-drive",
            f"file={disk},if=none,id=disk{number},format=raw,cache=none,file.locking=off",
            "-device", f"virtio-blk-device,drive=disk{number},share-rw=on",
        ]
    for number, path in enumerate(shares.values()):
        argv += _shared_folder(f"share{number}", path, ",readonly=on")
    return argv + _shared_folder(EXCHANGE, directory / EXCHANGE, "")


def _shared_folder(tag: str, path: Path, options: str) -> list[str]:
    return [
        "-fsdev", f"local,id={tag},path={path},security_model=none,multidevs=remap{options}",
        "-device", f"virtio-9p-device,fsdev={tag},mount_tag={tag}",
    ]
