"""Modules of Debian's kernel, picked with their dependencies and unpacked on this machine."""

import gzip
import lzma
from pathlib import Path

from lab.errors import LabError


def _name(path: str) -> str:
    """Module name of a file name in modules.dep: without directory and suffixes, dashes as _."""
    return path.rsplit("/", 1)[-1].split(".ko", 1)[0].replace("-", "_")


def module_files(root: Path, release: str, names: list[str]) -> list[tuple[str, bytes]]:
    """(file name, content) of modules and their dependencies, in the order insmod needs them.

    `root` holds lib/modules/RELEASE with modules.dep. Names that are built into the kernel are left
    out. Raises LabError for a name that is neither.
    """
    base = root / "lib/modules" / release
    dependencies: dict[str, list[str]] = {}
    for line in (base / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        # depmod lists the nearest dependency first; what has none is loaded first.
        dependencies[_name(path)] = [*reversed(rest.split()), path]
    builtin = {_name(line) for line in (base / "modules.builtin").read_text().splitlines()}
    order: dict[str, None] = {}
    for name in (name.replace("-", "_") for name in names):
        if name in dependencies:
            order.update(dict.fromkeys(dependencies[name]))
        elif name not in builtin:
            raise LabError(f"kernel {release} has no module {name}")
    return [(f"{_name(path)}.ko", _unpacked(base / path)) for path in order]


def _unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".gz":
        return gzip.decompress(data)
    if path.suffix == ".ko":
        return data
    raise LabError(f"{path.name}: unknown compression of a kernel module")
