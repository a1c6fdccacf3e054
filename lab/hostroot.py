"""The initial RAM file system that emulated hosts run from."""

import subprocess
from pathlib import Path

from lab.cache import cache_root, cached, file_hash, locked
from lab.cpio import CpioWriter
from lab.debian import debian_packages
from lab.elf import closure
from lab.kernel import KernelArtifact
from lab.modules import module_files
from lab.progress import step
from lab.source import CROSS, REPOSITORY, compiler_version

PACKAGES = ["busybox-static", "dropbear-bin", "bash", "iproute2", "util-linux"]
PROGRAMS = [
    "bin/busybox", "bin/bash", "usr/sbin/dropbear", "bin/ip", "sbin/tc", "sbin/bridge",
    "usr/bin/chrt", "usr/bin/taskset",
]
FILES = REPOSITORY / "lab" / "rootfs"
# What Debian's kernel needs as modules to be a lab host.
HOST_MODULES = [
    "virtio_mmio", "virtio_net", "virtio_blk", "virtio_rng", "9pnet_virtio", "9p", "tun", "bridge",
    "loop", "ext4", "crc32c_generic", "af_packet", "virtio_balloon",
]


def ssh_key() -> Path:
    """Private key of this user's lab, made on first use; its public half is beside it (.pub)."""
    key = cache_root() / "ssh" / "id_ed25519"
    with locked("ssh"):
        if not key.exists():
            key.parent.mkdir(exist_ok=True, mode=0o700)
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "vmm-lab", "-f", str(key)],
                check=True,
            )
    return key


def host_root() -> Path:
    """The cpio archive common to all hosts, cached."""
    packages = debian_packages(PACKAGES)
    files = sorted(path for path in FILES.iterdir() if path.is_file())
    public = ssh_key().with_suffix(".pub")
    key = {
        "packages": str(packages), "files": [[p.name, file_hash(p)] for p in [*files, public]],
        "compiler": compiler_version(),
        "code": [file_hash(Path(__file__)), file_hash(Path(__file__).with_name("cpio.py"))],
    }

    def build(into: Path) -> None:
        keeper = into / "keep-vm"
        with step("build the lab's file system") as current:
            current.run([f"{CROSS}gcc", "-Wall", "-Werror", "-O2", "-static",
                         "-o", str(keeper), str(FILES / "keep-vm.c")])
        with (into / "root.cpio").open("wb") as stream:
            _write_root(CpioWriter(stream), packages, public, keeper)

    return cached("host-root", key, build) / "root.cpio"


def _write_root(cpio: CpioWriter, packages: Path, public: Path, keeper: Path) -> None:
    cpio.device("dev/console", 5, 1)
    cpio.device("dev/null", 1, 3, 0o666)
    for folder in ("proc", "sys", "tmp", "run", "mnt", "var/log", "etc/dropbear", "lab/modules"):
        cpio.directory(folder)
    cpio.directory("root", 0o700)
    cpio.directory("root/.ssh", 0o700)
    cpio.merged_usr()
    for path, source in closure(packages, PROGRAMS).items():
        cpio.file(path, source.read_bytes(), 0o755)
    cpio.link("usr/bin/sh", "busybox")
    cpio.link("init", "usr/bin/busybox")
    cpio.file("root/.ssh/authorized_keys", public.read_bytes(), 0o600)
    cpio.file("etc/passwd", b"root:*:0:0:root:/root:/bin/sh\nnobody:*:65534:65534::/:/bin/false\n")
    cpio.file("etc/group", b"root:x:0:\ntty:x:5:\nnogroup:x:65534:\n")
    cpio.file("etc/shells", b"/bin/sh\n/bin/bash\n")
    cpio.file("etc/inittab", (FILES / "inittab").read_bytes())
    cpio.file("etc/profile", (FILES / "profile").read_bytes())
    cpio.file("lab/setup", (FILES / "setup").read_bytes(), 0o755)
    cpio.file("lab/keep-vm", keeper.read_bytes(), 0o755)
    cpio.file("usr/bin/lab-exact", (FILES / "lab-exact").read_bytes(), 0o755)
    cpio.finish()


def write_initrd(
    target: Path, kernel: KernelArtifact, settings: dict[str, str], shares: dict[str, Path],
    extra_files: dict[str, Path],
) -> None:
    """Write the host's initrd: the common root, its settings, modules and extra files.

    `shares` maps mount points to directories (tag shareN in order), `extra_files` destinations in the
    host to files or directories of this machine.
    """
    with target.open("wb") as stream:
        stream.write(host_root().read_bytes())
        cpio = CpioWriter(stream)
        lines = "".join(f"{name}='{value}'\n" for name, value in settings.items())
        cpio.file("lab/settings", lines.encode())
        tags = "".join(f"share{n} {path}\n" for n, path in enumerate(shares))
        cpio.file("lab/shares", tags.encode())
        if kernel.modules:
            modules = module_files(kernel.modules, kernel.release, HOST_MODULES)
            for number, (name, data) in enumerate(modules):
                cpio.file(f"lab/modules/{number:03}-{name}", data)
        for destination, source in extra_files.items():
            cpio.tree(source, destination)
        cpio.finish()
