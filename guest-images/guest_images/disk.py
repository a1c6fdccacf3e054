"""The root disk of the debian guest: a raw ext4 image with the programs that try out devices."""

import os
import shutil
import subprocess
from pathlib import Path

from guest_images.programs import APPLETS
from lab.artifacts import debian_packages
from lab.elf import closure
from lab.packages import need_tool

FILES = Path(__file__).resolve().parent.parent / "rootfs"
PACKAGES = ["busybox-static", "dash", "e2fsprogs", "fio", "iperf3", "iputils-ping", "util-linux"]
PROGRAMS = [
    "bin/dash", "usr/bin/fio", "usr/bin/iperf3", "bin/ping", "sbin/mke2fs", "sbin/e2fsck", "sbin/resize2fs",
    "sbin/fstrim", "sbin/blkdiscard", "sbin/blockdev", "bin/lsblk", "bin/dmesg",
]
# dash runs the programs it is asked for, busybox's shell what busybox has under their names.
LINKS = {"usr/bin/sh": "dash", "usr/sbin/mkfs.ext4": "mke2fs", "usr/sbin/fsck.ext4": "e2fsck",
         "bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib"}
FOLDERS = ("proc", "sys", "dev", "run", "tmp", "root", "mnt", "etc", "srv/www", "usr/lib")
# The programs with their libraries, the journal, and room to write a little.
SIZE_MIB = 160
BLOCK_BYTES = 4096


def base_files() -> dict[str, tuple[bytes, int]]:
    """Small files of every guest: path -> (content, mode)."""
    return {
        "etc/passwd": (b"root:x:0:0:root:/root:/bin/sh\n", 0o644),
        "etc/group": (b"root:x:0:\n", 0o644),
        "etc/profile": (b"export PS1='guest:\\w# '\n", 0o644),
        "etc/rc": ((FILES / "rc").read_bytes(), 0o755),
        "etc/dhcp": ((FILES / "dhcp").read_bytes(), 0o755),
        "srv/www/index.html": (b"vmm guest\n", 0o644),
    }


def make_root_disk(target: Path, programs: dict[str, bytes]) -> None:
    """Write the image, a sparse file of SIZE_MIB, to `target`; `programs` are ours and busybox."""
    need_tool("mke2fs", "e2fsprogs")
    tree = target.with_suffix(".tree")
    tree.mkdir()
    _fill(tree, programs)
    format_disk(target, SIZE_MIB, tree)
    shutil.rmtree(tree)
    target.chmod(0o444)  # guests get copies


def _fill(tree: Path, programs: dict[str, bytes]) -> None:
    for folder in FOLDERS:
        (tree / folder).mkdir(parents=True)
    packages = debian_packages(PACKAGES)
    for path, source in closure(packages, PROGRAMS).items():
        _copy(tree / path, source.read_bytes(), 0o755)
    (tree / "usr/share/misc").mkdir(parents=True)
    for path, (content, mode) in base_files().items():
        _copy(tree / path, content, mode)
    _copy(tree / "etc/mke2fs.conf", (packages / "etc/mke2fs.conf").read_bytes(), 0o644)
    _copy(tree / "usr/sbin/init", programs["guest_init"], 0o755)
    for name in ("workload", "recorder", "busybox"):
        _copy(tree / "usr/bin" / name, programs[name], 0o755)
    for path, target in LINKS.items():
        (tree / path).symlink_to(target)
    for applet in APPLETS:
        if not any((tree / f"usr/{folder}/{applet}").exists() for folder in ("bin", "sbin")):
            (tree / "usr/bin" / applet).symlink_to("busybox")


def _copy(target: Path, content: bytes, mode: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    target.chmod(mode)


def format_disk(target: Path, size_mib: int, tree: Path | None = None) -> None:
    """Make a sparse raw image with an ext4 file system; what is in `tree` belongs to root in it."""
    blocks = size_mib * (1 << 20) // BLOCK_BYTES
    source = ["-d", str(tree)] if tree else []
    subprocess.run(
        ["mke2fs", "-q", "-F", "-t", "ext4", "-b", str(BLOCK_BYTES), "-m", "0", *source,
         "-E", "root_owner=0:0,nodiscard", str(target), str(blocks)],
        check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )
    if tree is not None and os.geteuid() != 0:
        _give_to_root(target, tree)


def _give_to_root(image: Path, tree: Path) -> None:
    """Make root the owner of all that is in the image: mke2fs has copied the files' owners."""
    paths = sorted(path.relative_to(tree) for path in tree.rglob("*"))
    script = "".join(f'sif "/{path}" {field} 0\n' for path in paths for field in ("uid", "gid"))
    subprocess.run(["debugfs", "-w", "-f", "/dev/stdin", str(image)], input=script, text=True,
                   check=True, capture_output=True)
