"""An emulated host with disks and a bridge for guests, and guests that take commands over it."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guest_images.disk import PACKAGES, format_disk
from lab.artifacts import debian_packages
from lab.elf import closure
from lab.host import Host

from guests import READY, Guest, VmmHost, table

# Programs of the host besides the lab's own.
PROGRAMS = ["usr/bin/iperf3", "bin/ping", "sbin/e2fsck"]
# By their paths: the host's shell prefers what busybox has under these names.
IP = "/bin/ip"
PING = "/bin/ping"
BRIDGE = "br0"
NETWORK = "10.78.0"
SHELL_PORT = 5000
SCRATCH_MIB = 3072
ROOT_DISK = "/dev/vda"  # a fresh copy of the debian image's root disk
SCRATCH = "/disk"       # an ext4 file system on a disk of the host
DHCP_SERVER = f"""\
interface {BRIDGE}
start {NETWORK}.10
end {NETWORK}.99
lease_file /run/udhcpd.leases
option subnet 255.255.255.0
"""


def host_programs() -> dict[str, Path]:
    """What the host needs from Debian's packages, by path in the host."""
    files = closure(debian_packages(PACKAGES), PROGRAMS)
    return {f"/{path}": source for path, source in files.items()}


def host_disks(folder: Path, images: Path) -> list[Path]:
    """The disks of a host, made in `folder`: ROOT_DISK and the one of SCRATCH."""
    root, scratch = folder / "root.img", folder / "scratch.img"
    subprocess.run(["cp", "--sparse=always", images / "root.img", root], check=True)
    root.chmod(0o600)
    format_disk(scratch, SCRATCH_MIB)
    return [root, scratch]


def prepare_network(host: Host) -> None:
    """Make the bridge, with a DHCP server at its first address."""
    host.run(
        f"ip link add {BRIDGE} type bridge && ip addr add {NETWORK}.1/24 dev {BRIDGE} && "
        f"ip link set {BRIDGE} up && cat >/tmp/udhcpd.conf && : >/run/udhcpd.leases && "
        "udhcpd /tmp/udhcpd.conf", input=DHCP_SERVER)


def add_tap(host: Host, name: str) -> None:
    """A tap device on the bridge, free for a guest; one of that name goes first."""
    host.run(f"{IP} link del {name} 2>/dev/null; {IP} tuntap add {name} mode tap vnet_hdr && "
             f"{IP} link set {name} master {BRIDGE} up")


def make_disk(host: Host, name: str, size: str) -> str:
    """A sparse file of `size` (as for truncate) without content on the scratch disk; its path."""
    path = f"{SCRATCH}/{name}"
    host.run(f"rm -f {path} && truncate -s {size} {path}")
    return path


def net(tap: str) -> str:
    """A network device of a guest on the tap."""
    return table("[[net]]", id="lan", tap=tap)


def disk(name: str, path: str, **settings: object) -> str:
    """A disk of a guest."""
    return table("[[disk]]", id=name, path=path, **settings)


class NetworkGuest:
    """A guest on the bridge whose init listens for commands (vmm.listen)."""

    CMDLINE = f"quiet ip=dhcp vmm.listen={SHELL_PORT}"

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.host = guest.vmm.host
        self.address = ""

    def wait(self, boots: int = 1, timeout: float = 180) -> "NetworkGuest":
        """Wait until the guest has got its address and listens, the `boots`-th time."""
        self.guest.wait(READY, timeout, boots)
        console = self.guest.wait("vmm-guest: address", timeout, boots)
        self.address = re.findall(r"vmm-guest: address (\S+) on eth0", console)[-1]
        ask = f"echo echo here | nc -w 3 {self.address} {SHELL_PORT} 2>/dev/null | grep -q here"
        script = f"until {ask}; do usleep 100000; done"
        self.host.run(f"timeout 30 sh -c '{script}'", timeout=45)
        return self

    def run(self, script: str, timeout: float = 60) -> str:
        """Run a shell script in the guest, expect success, and return what it printed."""
        text = f"( set -e\n{script}\n) </dev/null 2>&1\nprintf '\\nstatus=%s\\n' $?\n"
        done = self.host.run(["nc", self.address, str(SHELL_PORT)], timeout, False, text)
        output, _, status = done.stdout.rpartition("\nstatus=")
        assert status.strip() == "0", f"{script}\n{done.stdout}\n{done.stderr}"
        return output

    def run_apart(self, script: str, timeout: float) -> None:
        """Run a script that may cut the network, and wait until it has ended with success."""
        self.run(f"rm -f /tmp/status; cat >/tmp/apart <<'END'\n{script}\nEND\n"
                 "setsid sh -c 'sh /tmp/apart >/tmp/apart.log 2>&1; echo $? >/tmp/status' "
                 "</dev/null >/dev/null 2>&1 &")
        ask = f"echo 'cat /tmp/status' | nc -w 3 {self.address} {SHELL_PORT} 2>/dev/null"
        wait = f"until [ -n \"$({ask})\" ]; do sleep 1; done"
        self.host.run(["timeout", str(timeout), "sh", "-c", wait], timeout + 15)
        self.run("[ $(cat /tmp/status) = 0 ] || { cat /tmp/apart.log; false; }")


@contextmanager
def start_device_host(
    folder: Path, shares: dict[str, Path], files: dict[str, Path], **options: object
) -> Iterator[VmmHost]:
    """A host with disks, bridge and DHCP server, and with `vmm` in it."""
    disks = host_disks(folder, shares["/images/debian"])
    with Host.start(shares=shares, extra_files={**files, **host_programs()}, disks=disks,
                    **options) as host:  # type: ignore[arg-type]
        host.run(f"mkdir -p {SCRATCH} && mount /dev/vdb {SCRATCH}")
        prepare_network(host)
        yield VmmHost(host)
