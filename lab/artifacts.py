"""All artifacts of the lab by name; each is built on first use and then comes from the cache."""

from collections.abc import Callable
from pathlib import Path

from lab.debian import debian_packages
from lab.errors import LabError
from lab.sysroot import sysroot

__all__ = ["NAMED", "debian_packages", "path_of", "sysroot"]

NAMED: dict[str, Callable[[], Path]] = {
    "sysroot": sysroot,
}


def path_of(name: str) -> Path:
    """Path of the artifact `name`, built if need be. Raises LabError for an unknown name."""
    if name not in NAMED:
        raise LabError(f"no artifact '{name}'; there are: {', '.join(sorted(NAMED))}")
    return NAMED[name]()
