"""A whole Debian system, with systemd and sshd, as a guest on its own disk."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from devices import NETWORK, add_tap, disk, net, prepare_network
from guest_images.full import full_disk
from guests import VmmHost
from lab.artifacts import debian_packages
from lab.elf import closure
from lab.host import Host
from lab.hostroot import ssh_key

START_TIMEOUT_S = 600
KEY = "/etc/guest-key"


@pytest.fixture(scope="module")
def vmm_with_debian(
    tmp_path_factory: pytest.TempPathFactory, shares: dict[str, Path], vmm_files: dict[str, Path]
) -> Iterator[VmmHost]:
    """A host with the system's disk and an ssh client."""
    image = tmp_path_factory.mktemp("debian") / "root.img"
    subprocess.run(["cp", "--sparse=always", full_disk(), image], check=True)
    image.chmod(0o600)
    client = closure(debian_packages(["openssh-client"]), ["usr/bin/ssh"])
    files = {**vmm_files, KEY: ssh_key(), **{f"/{path}": here for path, here in client.items()}}
    with Host.start(shares=shares, extra_files=files, disks=[image]) as host:
        prepare_network(host)
        yield VmmHost(host)


def wait_for_ssh(vmm: VmmHost) -> str:
    """Wait until the guest has got its address and lets root in; the command that does it."""
    # The server writes its leases when it is told to.
    lease = ("killall -USR1 udhcpd; usleep 200000; "
             f"dumpleases -f /run/udhcpd.leases | grep -o '{NETWORK}[.0-9]*'")
    address = vmm.host.run(f"until {lease}; do sleep 1; done", START_TIMEOUT_S).stdout.split()[0]
    ssh = (f"/usr/bin/ssh -i {KEY} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "
           f"-o LogLevel=ERROR -o ConnectTimeout=30 root@{address}")
    vmm.host.run(f"until {ssh} true; do sleep 1; done", START_TIMEOUT_S)
    return ssh


def test_a_debian_system_is_logged_in_to_by_ssh_and_shuts_down(vmm_with_debian: VmmHost) -> None:
    vmm = vmm_with_debian
    add_tap(vmm.host, "tap0")
    guest = vmm.start("debian", image="debian", memory="512M", vcpus=2,
                      cmdline="quiet root=/dev/vda rw",
                      devices=disk("root", "/dev/vda", direct=True) + net("tap0"))
    ssh = wait_for_ssh(vmm)
    done = vmm.shell(f"{ssh} 'systemctl is-system-running --wait; cat /proc/1/comm; "
                     "systemctl --failed --no-legend; findmnt -n -o SOURCE,FSTYPE /; dpkg --audit'",
                     START_TIMEOUT_S)
    assert done.stdout.split("\n")[:2] == ["running", "systemd"], done.stdout + done.stderr
    assert done.stdout.split("\n")[2].split() == ["/dev/vda", "ext4"], done.stdout
    guest.wait("debian login:")
    assert vmm("stop", "--timeout", "300", timeout=330).returncode == 0
    assert guest.exit_status() == 0
