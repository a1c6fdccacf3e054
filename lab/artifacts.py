"""All artifacts of the lab by name; each is built on first use and then comes from the cache."""

from collections.abc import Callable
from pathlib import Path

from lab.debian import debian_packages
from lab.errors import LabError
from lab.kernel import KernelArtifact, kernel, kernel_headers, selftests
from lab.sysroot import sysroot

__all__ = [
    "KernelArtifact", "NAMED", "debian_packages", "kernel", "kernel_headers", "path_of", "selftests",
    "sysroot",
]

NAMED: dict[str, Callable[[], Path]] = {
    "debug-kernel": lambda: kernel("debug").image,
    "debian-kernel": lambda: kernel("debian").image,
    "headers": kernel_headers,
    "kernel": lambda: kernel("lab").image,
    "selftests": selftests,
    "sysroot": sysroot,
}


def path_of(name: str) -> Path:
    """Path of the artifact `name`, built if need be. Raises LabError for an unknown name."""
    if name not in NAMED:
        raise LabError(f"no artifact '{name}'; there are: {', '.join(sorted(NAMED))}")
    return NAMED[name]()
