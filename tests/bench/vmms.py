"""What the benchmarks that compare vmm with QEMU have in common: the programs, and their guest."""

import argparse
import dataclasses
import gzip
import io
import os
import re
import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "guest-images"), str(Path(__file__).parent)]
from benchlib import BenchError, Figure  # noqa: E402
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
MEMORY_MIB = 160  # a size that no other mapping of either program has by chance
LIMIT_S = 120
CONFIG = """\
name = "load"
vcpus = 1
memory = "{memory}M"
[boot]
kernel = "/image/Image"
initrd = "/image/initrd.gz"
cmdline = "{cmdline}"
{devices}
"""

_LOAD_LINE = re.compile(r"(\S+) count=(\d+) us=(\d+) cpu_us=(\d+) guest_us=(\d+)")


def default_build() -> Path:
    """Folder of the arm64 build."""
    named = os.environ.get("VMM_BUILD_ARM64")
    return Path(named) if named else REPOSITORY / "build" / "arm64"


def add_build_option(parser: argparse.ArgumentParser) -> None:
    """--build-dir, which every benchmark of our programs has."""
    parser.add_argument("--build-dir", type=Path, default=default_build(), metavar="DIR",
                        help="arm64 build to measure (default: VMM_BUILD_ARM64, or build/arm64)")


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


@dataclasses.dataclass(frozen=True)
class Sample:
    """One load in one run: how much a second, and CPU time of the monitor in us for each."""

    rate: float
    cpu: float


class Samples:
    """The samples of one program by load, and its private memory in MiB."""

    def __init__(self) -> None:
        self.loads: dict[str, list[Sample]] = {}
        self.private_mib: list[float] = []

    def rates(self, load: str) -> list[float]:
        return [sample.rate for sample in self.loads[load]]

    def cpu(self, load: str) -> list[float]:
        return [sample.cpu for sample in self.loads[load]]


@dataclasses.dataclass(frozen=True)
class Setup:
    """A guest that runs loads: a shell command, and the devices for either monitor."""

    loads: str
    vmm_devices: str
    qemu_devices: Sequence[str]

    def start_host(self, build: Path, scratch: Path, **options: object) -> Host:
        """A host with both monitors and the guest; `options` are those of Host.start."""
        files = {**programs(build, "tools/load_meter", "load/load"), **qemu_files(),
                 **load_image(build, scratch)}
        host = Host.start(extra_files=files, **options)
        try:
            host.run("cat >/tmp/guest.cfg", input=CONFIG.format(
                memory=MEMORY_MIB, cmdline=self._cmdline().replace('"', '\\"'),
                devices=self.vmm_devices))
        except BaseException:
            host.stop()
            raise
        return host

    def _cmdline(self) -> str:
        return f'console=ttyAMA0 quiet vmm.run="{self.loads}"'

    def commands(self) -> dict[str, list[str]]:
        """How to start either monitor in the host."""
        qemu = [
            *QEMU_MACHINE, "-nic", "none", "-smp", "1", "-m", str(MEMORY_MIB),
            "-global", "virtio-mmio.force-legacy=false", *self.qemu_devices,
            "-kernel", "/image/Image", "-initrd", "/image/initrd.gz", "-append", self._cmdline(),
        ]
        return {"vmm": ["/usr/bin/vmm", "run", "/tmp/guest.cfg"], "qemu": qemu}

    def measure(self, host: Host, runs: int, prefix: Sequence[str] = ()) -> dict[str, Samples]:
        """Samples of "vmm" and "qemu" of `runs` runs in turns, with `prefix` before the commands."""
        samples = {name: Samples() for name in self.commands()}
        for _ in range(runs):
            for name, command in self.commands().items():
                _run_once(host, [*prefix, *_meter(), *command], samples[name])
        return samples


def _meter() -> list[str]:
    return ["/usr/bin/load_meter", str(LIMIT_S), str(MEMORY_MIB)]


def _run_once(host: Host, command: Sequence[str], into: Samples) -> None:
    done = host.run(shlex.join(command), timeout=LIMIT_S + 30, check=False)
    private = re.search(r"private_kib=(\d+)", done.stdout)
    if done.returncode != 0 or private is None:
        raise BenchError(f"{shlex.join(command)}: {done.stdout} {done.stderr.strip()}")
    into.private_mib.append(int(private.group(1)) / 1024)
    for name, *numbers in _LOAD_LINE.findall(done.stdout):
        count, us, cpu_us, _ = map(int, numbers)
        into.loads.setdefault(name, []).append(Sample(count * 1e6 / us, cpu_us / count))


def ratio(name: str, own: Sequence[float], peer: Sequence[float], target: str | None) -> Figure:
    """The ratio of the medians, with the extremes of the runs' own ratios."""
    each = [one / other for one, other in zip(own, peer)]
    value = statistics.median(own) / statistics.median(peer)
    return Figure(name, value, "ratio", target, len(each), min(each), max(each), 1.0)


def worst(name: str, figures: Sequence[Figure]) -> Figure:
    """The one of several ratios with the same target that is furthest from it, under `name`."""
    least = min if figures[0].target.startswith(">") else max
    return dataclasses.replace(least(figures, key=lambda item: item.value), name=name)
