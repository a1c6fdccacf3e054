"""All artifacts of the lab by name; each is built on first use and then comes from the cache."""

import sys
from collections.abc import Callable
from pathlib import Path

from lab.debian import debian_packages
from lab.errors import LabError
from lab.kernel import KernelArtifact, kernel, kernel_headers, selftests
from lab.source import REPOSITORY
from lab.sysroot import sysroot

__all__ = [
    "KernelArtifact", "NAMED", "debian_packages", "guest_image", "guest_programs", "kernel",
    "kernel_headers", "path_of", "selftests", "sysroot",
]


def _recipes() -> None:
    """Make the guest images' own package importable. (It uses this one, so it is imported late.)"""
    folder = str(REPOSITORY / "guest-images")
    if folder not in sys.path:
        sys.path.insert(0, folder)


def guest_image(name: str, build: Path | None = None) -> Path:
    """Directory of the guest image `name` ("tiny" or "debian"), made by the recipes in guest-images/.

    `build` is the arm64 build whose programs go in; by default build/arm64, brought up to date.
    """
    _recipes()
    from guest_images.recipes import guest_image as make

    return make(name, build)


def guest_programs() -> list[str]:
    """Targets of the arm64 build whose programs go into the guest images."""
    _recipes()
    from guest_images.programs import OURS

    return list(OURS)


NAMED: dict[str, Callable[[], Path]] = {
    "debug-kernel": lambda: kernel("debug").image,
    "debian": lambda: guest_image("debian"),
    "debian-kernel": lambda: kernel("debian").image,
    "headers": kernel_headers,
    "kernel": lambda: kernel("lab").image,
    "selftests": selftests,
    "sysroot": sysroot,
    "tiny": lambda: guest_image("tiny"),
}


def path_of(name: str) -> Path:
    """Path of the artifact `name`, built if need be. Raises LabError for an unknown name."""
    if name not in NAMED:
        raise LabError(f"no artifact '{name}'; there are: {', '.join(sorted(NAMED))}")
    return NAMED[name]()
