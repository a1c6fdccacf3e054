"""What the benchmarks that compare vmm with QEMU have in common: the programs, and their guest."""

import gzip
import io
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "guest-images"), str(Path(__file__).parent)]
from benchlib import BenchError  # noqa: E402
from guest_images.recipes import guest_image  # noqa: E402
from lab.artifacts import debian_packages  # noqa: E402
from lab.cpio import CpioWriter  # noqa: E402
from lab.elf import closure, find  # noqa: E402
from lab.host import Host  # noqa: E402

QEMU = "usr/bin/qemu-system-aarch64"
# Read by QEMU's virt machine even without the device it is for.
QEMU_DATA = ["usr/share/qemu/efi-virtio.rom"]
QEMU_MACHINE = [f"/{QEMU}", "-M", "virt,gic-version=3", "-accel", "kvm", "-cpu", "host",
                "-nographic"]

_LOAD_LINE = re.compile(r"(\S+) count=(\d+) us=(\d+) cpu_us=(\d+) guest_us=(\d+)")


def default_build() -> Path:
    """Folder of the arm64 build."""
    named = os.environ.get("VMM_BUILD_ARM64")
    return Path(named) if named else REPOSITORY / "build" / "arm64"


def programs(build: Path, *tools: str) -> dict[str, Path]:
    """vmm and programs of tests/bench, such as "tools/boot_timer", by their path in the host."""
    found = {"/usr/bin/vmm": build / "src/vmm/vmm"}
    found |= {f"/usr/bin/{Path(tool).name}": build / "tests/bench" / tool for tool in tools}
    for path in found.values():
        if not path.is_file():
            raise BenchError(f"{path} is missing: build the arm64 preset first")
    return found


def qemu_files() -> dict[str, Path]:
    """Debian's QEMU for arm64 with its loader, libraries and data, by path in the host."""
    root = debian_packages(["qemu-system-arm"])
    files = {f"/{path}": source for path, source in closure(root, [QEMU]).items()}
    for path in QEMU_DATA:
        if (root / path).exists():
            files[f"/{path}"] = find(root, path).resolve()
    return files


def load_image(build: Path, into: Path) -> dict[str, Path]:
    """The tiny guest's kernel and, in `into`, its initrd with `load` besides, by path in the host.

    The load generator comes in a second archive behind the first, so that only guests that need it
    carry it.
    """
    tiny = guest_image("tiny", build)
    stream = io.BytesIO()
    archive = CpioWriter(stream)
    archive.file("bin/load", (build / "tests/bench/load/load").read_bytes(), 0o755)
    archive.finish()
    initrd = into / "initrd.gz"
    initrd.write_bytes((tiny / "initrd.gz").read_bytes()
                       + gzip.compress(stream.getvalue(), compresslevel=6, mtime=0))
    return {"/image/Image": tiny / "Image", "/image/initrd.gz": initrd}


class Sample:
    """What one load did in one run: count per second and CPU time in microseconds per count."""

    def __init__(self, count: int, us: int, cpu_us: int, guest_us: int) -> None:
        self.rate = count * 1e6 / us
        self.cpu = cpu_us / count
        # Without the time inside the guest, which is what the monitor and the kernel add.
        self.overhead = (cpu_us - guest_us) / count


def run_loads(host: Host, command: Sequence[str], memory_mib: int, limit_s: int,
              ) -> tuple[dict[str, Sample], float]:
    """(samples by load name, private memory in MiB) of one run of a monitor to its guest's end."""
    meter = ["/usr/bin/load_meter", str(limit_s), str(memory_mib), *command]
    done = host.run(shlex.join(meter), timeout=limit_s + 30, check=False)
    private = re.search(r"private_kib=(\d+)", done.stdout)
    if done.returncode != 0 or private is None:
        raise BenchError(f"{command[0]}: {done.stderr.strip() or done.stdout.strip()}")
    samples = {name: Sample(*map(int, numbers))
               for name, *numbers in _LOAD_LINE.findall(done.stdout)}
    return samples, int(private.group(1)) / 1024
