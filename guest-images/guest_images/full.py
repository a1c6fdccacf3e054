"""A whole Debian system with systemd and sshd on a disk image.

This machine downloads and unpacks its packages; they are configured, and so their scripts run, in
an emulated arm64 host.
"""

from pathlib import Path
from shlex import quote

from guest_images.disk import format_disk
from lab.cache import cached, file_hash
from lab.debian import debian_sources, make_root_tar
from lab.host import Host
from lab.hostroot import ssh_key
from lab.progress import step

PACKAGES = [
    "?essential", "usr-is-merged", "systemd-sysv", "udev", "dbus", "openssh-server", "iproute2",
    "iputils-ping", "kmod", "login", "passwd", "e2fsprogs",
]
FILES = Path(__file__).resolve().parent.parent / "full"
SETUP = FILES / "setup"
UNPACKED = FILES / "unpacked"
OPTIONS = [
    "--setup-hook=/usr/share/mmdebstrap/hooks/merged-usr/setup00.sh",
    f"--extract-hook={quote(str(UNPACKED))} \"$1\"",
]
SIZE_MIB = 2048
INSTALL_TIMEOUT_S = 2100
SHARE = "/packages"


def full_disk() -> Path:
    """The disk image, installed on first use, which takes minutes. Root logs in by ssh with the
    lab's key. Guests get copies."""
    codename, _ = debian_sources()
    public = ssh_key().with_suffix(".pub")
    key = {"codename": codename, "packages": PACKAGES, "size": SIZE_MIB,
           "files": [file_hash(path) for path in (SETUP, UNPACKED, public, Path(__file__))]}

    def build(into: Path) -> None:
        folder = _packages(codename)
        disk = into / "root.img"
        format_disk(disk, SIZE_MIB)
        with step("install Debian in the lab"), Host.start(
            shares={SHARE: folder}, disks=[disk],
            extra_files={"/setup": SETUP, "/authorized_keys": public},
        ) as host:
            host.run("sh /setup", timeout=INSTALL_TIMEOUT_S)
        disk.chmod(0o444)

    return cached("guest-full", key, build) / "root.img"


def _packages(codename: str) -> Path:
    """Folder with root.tar: the packages' files, and dpkg's database that says they are unpacked."""

    def build(into: Path) -> None:
        with step("fetch a Debian system's arm64 packages") as current:
            make_root_tar(PACKAGES, "arm64", into, current, OPTIONS)

    key = {"codename": codename, "packages": PACKAGES,
           "files": [file_hash(path) for path in (UNPACKED, Path(__file__))]}
    return cached("full-packages", key, build)
