"""The two guest images. Each is a folder with a kernel, an initrd.gz and a guest.cfg to start from.

tiny    the lab's own kernel, busybox and the workload: a few MB, boots in a fraction of a second
debian  Debian's unmodified kernel, with the modules it needs for the devices of vmm, and a root disk
        (root.img) that the same initrd goes on from where the command line says so
"""

import gzip
import hashlib
import io
import shutil
from pathlib import Path

from guest_images.disk import base_files, make_root_disk
from guest_images.programs import APPLETS, build_folder, busybox, our_programs
from lab.artifacts import KernelArtifact, kernel
from lab.cache import cached, file_hash
from lab.cpio import CpioWriter
from lab.modules import module_files
from lab.progress import step

IMAGES = ("tiny", "debian")

# What Debian builds as modules of all that vmm's machine has; the rest is in its kernel.
DEBIAN_MODULES = [
    "gpio_keys", "evdev", "virtio_mmio", "virtio_blk", "virtio_net", "virtio_rng",
    "virtio_console", "virtio_balloon", "rtc_pl031", "gpio_pl061", "ext4", "crc32c_generic",
    "af_packet",
]
MODULE_LIST = "/lib/modules/load"
CONFIG = """\
# Start with: vmm run guest.cfg
name   = "{name}"
vcpus  = 1
memory = "{memory}"

[boot]
kernel  = "{kernel}"
initrd  = "initrd.gz"
cmdline = "console=ttyAMA0{root}"
"""
DISK_CONFIG = """
[[disk]]
id   = "root"
path = "root.img"
"""


def guest_image(name: str, build: Path | None = None) -> Path:
    """Folder of the image "tiny" or "debian", made on first use.

    `build`: folder of the arm64 build whose programs go in (default as in programs.build_folder).
    Raises LabError if something it is made of is missing.
    """
    programs = our_programs(build_folder(build)) | {"busybox": busybox()}
    chosen = kernel("lab" if name == "tiny" else "debian")
    key = {
        "kernel": file_hash(chosen.image),
        "release": chosen.release,
        "programs": {item: hashlib.sha256(data).hexdigest() for item, data in programs.items()},
        "recipe": [file_hash(path) for path in _sources()],
    }

    def fill(into: Path) -> None:
        with step(f"make the {name} guest image"):
            _make(name, chosen, programs, into)

    return cached(f"guest-{name}", key, fill)


def _sources() -> list[Path]:
    """The files that decide what the images are like, besides programs and kernels."""
    folder = Path(__file__).parent
    return sorted([*folder.glob("*.py"), *(folder.parent / "rootfs").iterdir()])


def _make(name: str, chosen: KernelArtifact, programs: dict[str, bytes], into: Path) -> None:
    stream = io.BytesIO()
    archive = CpioWriter(stream)
    _add_base(archive, programs)
    if chosen.modules is not None:
        _add_modules(archive, chosen.modules, chosen.release)
    archive.finish()
    (into / "initrd.gz").write_bytes(gzip.compress(stream.getvalue(), compresslevel=9, mtime=0))
    tiny = name == "tiny"
    image = "Image" if tiny else "vmlinuz"
    shutil.copyfile(chosen.image, into / image)
    text = CONFIG.format(name=name, memory="128M" if tiny else "512M", kernel=image,
                         root="" if tiny else " root=/dev/vda rw")
    if not tiny:
        make_root_disk(into / "root.img", programs)
        text += DISK_CONFIG
    (into / "guest.cfg").write_text(text)


def _add_base(archive: CpioWriter, programs: dict[str, bytes]) -> None:
    """What both images have: our init and programs, busybox under all its names, small files."""
    for folder in ("proc", "sys", "dev", "run", "tmp", "root", "mnt", "etc", "bin"):
        archive.directory(folder)
    archive.device("dev/console", 5, 1)
    archive.device("dev/null", 1, 3, 0o666)
    archive.file("init", programs["guest_init"], 0o755)
    for program in ("busybox", "recorder", "workload"):
        archive.file(f"bin/{program}", programs[program], 0o755)
    for applet in APPLETS:
        archive.link(f"bin/{applet}", "busybox")
    archive.link("sbin", "bin")
    for path, (content, mode) in base_files().items():
        archive.file(path, content, mode)


def _add_modules(archive: CpioWriter, root: Path, release: str) -> None:
    """The modules with all they depend on, and for init the list of them in loading order."""
    names = []
    for file_name, content in module_files(root, release, DEBIAN_MODULES):
        names.append(f"/lib/modules/{release}/{file_name}\n")
        archive.file(f"lib/modules/{release}/{file_name}", content)
    archive.file(MODULE_LIST, "".join(names).encode())
