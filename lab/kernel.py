"""Kernels of the lab and what comes from the same source: user-space headers and KVM selftests."""

import dataclasses
import shutil
import subprocess
from pathlib import Path

from lab.cache import cached, file_hash
from lab.debian import debian_sources, extract_packages
from lab.errors import LabError
from lab.packages import need_tool
from lab.patches import fingerprint
from lab.progress import Step, step
from lab.source import (
    CROSS, REPOSITORY, SourceTree, compiler_version, make_command, patch_series,
    patches_touching, source_tree, source_version,
)
from lab.sysroot import sysroot

CONFIGS = REPOSITORY / "lab" / "kernel"
FRAGMENTS = {"lab": ["lab.config"], "debug": ["lab.config", "debug.config"]}
# Metapackage of Debian's 6.12 kernel; where 6.12 is the release's own kernel it has the plain name.
DEBIAN_KERNEL = {"bookworm": "linux-image-6.12-arm64"}
DEBIAN_KERNEL_ELSEWHERE = "linux-image-arm64"


@dataclasses.dataclass(frozen=True)
class KernelArtifact:
    """A bootable kernel: `image` for -kernel, `modules` the root of lib/modules if there are any."""

    image: Path
    modules: Path | None
    config: Path
    release: str


def kernel(kind: str = "lab") -> KernelArtifact:
    """The kernel "lab", "debug" or "debian", built or fetched on first use.

    Raises LabError when a patch does not apply, a config option is not honoured or the build fails.
    """
    if kind == "debian":
        return _debian_kernel()
    if kind not in FRAGMENTS:
        raise LabError(f"no kernel '{kind}'; there are: lab, debug, debian")
    fragments = [CONFIGS / name for name in FRAGMENTS[kind]]
    key = {
        "source": source_version(),
        "compiler": compiler_version(),
        "config": [file_hash(path) for path in fragments],
        "patches": fingerprint(patch_series()),
    }

    def build(into: Path) -> None:
        with source_tree() as tree, step(f"build the {kind} kernel") as current:
            _build_kernel(tree, kind, fragments, into, current)

    entry = cached(f"kernel-{kind}", key, build)
    return KernelArtifact(
        entry / "Image", None, entry / "config", (entry / "release").read_text().strip()
    )


def missing_options(fragments: list[Path], config: Path) -> list[str]:
    """Options of `fragments` that `config` does not carry as asked; later fragments win."""
    wanted: dict[str, str] = {}
    for fragment in fragments:
        for line in fragment.read_text().splitlines():
            if line.startswith("CONFIG_"):
                wanted[line.split("=", 1)[0]] = line
    have = set(config.read_text().splitlines())
    return [line for line in wanted.values() if line not in have]


def _configure(tree: SourceTree, output: Path, fragments: list[Path], current: Step) -> None:
    """Write .config from the fragments; options that stay the same cause no recompilation."""
    merged = output / "wanted.config"
    merged.write_text("".join(path.read_text() for path in fragments))
    current.run([*make_command(tree.source), f"O={output}", f"KCONFIG_ALLCONFIG={merged}",
                 "allnoconfig"])
    missing = missing_options(fragments, output / ".config")
    if missing:
        raise LabError("the kernel's Kconfig did not take: " + " ".join(missing))


def _build_kernel(
    tree: SourceTree, kind: str, fragments: list[Path], into: Path, current: Step
) -> None:
    output = tree.build / kind
    output.mkdir(parents=True, exist_ok=True)
    _configure(tree, output, fragments, current)
    current.run([*make_command(tree.source), f"O={output}", "Image"])
    shutil.copyfile(output / "arch/arm64/boot/Image", into / "Image")
    shutil.copyfile(output / ".config", into / "config")
    shutil.copyfile(output / "System.map", into / "System.map")
    shutil.copyfile(output / "include/config/kernel.release", into / "release")
    (into / "version").write_text(source_version() + "\n")


def _debian_kernel() -> KernelArtifact:
    """Debian's stock kernel with its modules, indexed by depmod on this machine."""
    codename, _ = debian_sources()
    package = DEBIAN_KERNEL.get(codename, DEBIAN_KERNEL_ELSEWHERE)

    def build(into: Path) -> None:
        need_tool("depmod", "kmod")
        with step("fetch Debian's arm64 kernel") as current:
            extract_packages([package], "arm64", into, current)
            release = _only_release(into)
            current.run(["depmod", "-b", into, "-F", into / f"boot/System.map-{release}", release])

    root = cached("kernel-debian", {"codename": codename, "package": package}, build)
    release = _only_release(root)
    return KernelArtifact(
        root / f"boot/vmlinuz-{release}", root, root / f"boot/config-{release}", release
    )


def _only_release(root: Path) -> str:
    releases = [path.name for path in (root / "lib/modules").iterdir()]
    if len(releases) != 1:
        raise LabError(f"Debian's package brought {len(releases)} kernels instead of one: {releases}")
    return releases[0]


def kernel_headers() -> Path:
    """include/ directory of the patched source's arm64 headers_install.

    Its path changes only when a patch of the uapi headers does.
    """
    need_tool("rsync", "rsync")
    key = {"source": source_version(), "patches": fingerprint(patches_touching("/uapi/"))}

    def build(into: Path) -> None:
        with source_tree() as tree, step("install the kernel headers") as current:
            output = tree.build / "headers"
            output.mkdir(exist_ok=True)
            current.run([*make_command(tree.source), f"O={output}",
                         f"INSTALL_HDR_PATH={into}", "headers_install"])

    return cached("headers", key, build) / "include"


def selftests() -> Path:
    """Directory of the patched source's KVM selftests for arm64, statically linked.

    Start them by absolute path: they open their own ELF file by it.
    """
    headers, root = kernel_headers(), sysroot()
    key = {
        "source": source_version(), "compiler": compiler_version(), "headers": str(headers),
        "patches": fingerprint(patches_touching("tools/")),
    }

    def build(into: Path) -> None:
        with source_tree() as tree, step("build the KVM selftests") as current:
            output = tree.build / "selftests"
            output.mkdir(exist_ok=True)
            current.run([
                *make_command(tree.source / "tools/testing/selftests/kvm"), f"OUTPUT={output}",
                f"CC={CROSS}gcc --sysroot={root}", f"KHDR_INCLUDES=-isystem {headers}",
                "LDFLAGS=-static -pthread -no-pie",
            ])
            _collect_programs(output, into)

    return cached("selftests", key, build)


def _collect_programs(output: Path, into: Path) -> None:
    """Copy the executables below `output` without their object files, stripped of debug data."""
    for path in sorted(output.rglob("*")):
        if path.is_file() and path.stat().st_mode & 0o100 and not path.suffix:
            target = into / path.relative_to(output)
            target.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run([f"{CROSS}strip", "-g", "-o", target, path], check=True)
