"""The kernel source tree: Debian's, kept in the cache and brought to the patch series of the repository."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from lab.cache import cache_root, key_hash, locked, prune, remove_tree
from lab.errors import LabError
from lab.packages import need_tool
from lab.patches import PatchedTree, series, touched
from lab.progress import Step, note, step

SOURCE_PACKAGE = "linux-source-6.12"
TARBALL = Path("/usr/src/linux-source-6.12.tar.xz")
REPOSITORY = Path(__file__).resolve().parent.parent
PATCHES = REPOSITORY / "kernel-patch" / "linux-6.12"
CROSS = "aarch64-linux-gnu-"


def source_version() -> str:
    """Debian version of the installed source package. Raises LabError if it is not installed."""
    need_tool("dpkg-query", "dpkg")
    result = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", SOURCE_PACKAGE],
        capture_output=True, text=True, check=False,
    )
    if result.returncode != 0 or not TARBALL.is_file():
        raise LabError(f"{SOURCE_PACKAGE} is not installed: run lab/lab setup lab")
    return result.stdout.strip()


def compiler_version() -> str:
    """First line of the cross compiler's --version."""
    need_tool(f"{CROSS}gcc", "gcc-aarch64-linux-gnu")
    text = subprocess.run(
        [f"{CROSS}gcc", "--version"], capture_output=True, text=True, check=True
    ).stdout
    return text.splitlines()[0]


def patch_series() -> list[Path]:
    """All patches of the repository, in order."""
    return series(PATCHES)


def patches_touching(part: str) -> list[Path]:
    """The patches that touch a path containing `part`."""
    return [p for p in patch_series() if any(part in name for name in touched(p))]


def make_command(directory: Path) -> list[str]:
    """make in `directory` with what every build of kernel code here has in common.

    It runs at low priority, as it uses all processors.
    """
    return [
        "nice", "-n", "10", "make", "-C", str(directory), f"-j{os.cpu_count() or 1}",
        "ARCH=arm64", f"CROSS_COMPILE={CROSS}",
        # The same source and compiler give the same Image, wherever and whenever it is built.
        "KBUILD_BUILD_USER=vmm", "KBUILD_BUILD_HOST=lab", "KBUILD_BUILD_TIMESTAMP=2026-01-01",
        "KBUILD_BUILD_VERSION=1",
    ]


class SourceTree:
    """The unpacked source with the current series applied, and its build directories."""

    def __init__(self, root: Path) -> None:
        self.source = root / "source"
        self.build = root / "build"
        self.build.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def source_tree() -> Iterator[SourceTree]:
    """Exclusive use of the source tree, patched. Others wait until the block ends.

    The tree stays between uses, and its build directories with it: after a change of the series only
    what depends on the changed files is compiled again.
    """
    version = source_version()
    name = f"linux-{key_hash(version)}"
    root = cache_root() / name
    with locked(name):
        root.mkdir(exist_ok=True)
        os.utime(root)
        prune("linux", root, keep=1)
        tree = SourceTree(root)
        if not tree.source.is_dir():
            with step(f"unpack the kernel source {version}") as current:
                _unpack(tree.source, current)
        changed = PatchedTree(tree.source, root).apply(patch_series())
        if changed:
            note(f"kernel series: {len(patch_series())} patches, {len(changed)} files changed")
        yield tree


def _unpack(target: Path, current: Step) -> None:
    partial = target.with_name("source.tmp")
    remove_tree(partial)
    partial.mkdir()
    current.run(["tar", "-C", partial, "--strip-components=1", "--no-same-owner", "-xf", TARBALL])
    partial.rename(target)
