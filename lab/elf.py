"""Which files of an extracted root a program needs to run."""

import re
import subprocess
from pathlib import Path

from lab.errors import LabError
from lab.packages import need_tool

LIBRARY_FOLDERS = ("lib/aarch64-linux-gnu", "usr/lib/aarch64-linux-gnu", "lib", "usr/lib")
_NEEDED = re.compile(r"\(NEEDED\).*\[(.+)\]")
_RUNPATH = re.compile(r"\((?:RUNPATH|RPATH)\).*\[(.+)\]")
_INTERPRETER = re.compile(r"Requesting program interpreter: (\S+)\]")


def find(root: Path, path: str) -> Path:
    """`path` below `root`, with or without a leading usr. Raises LabError if neither exists."""
    path = path.strip("/")
    for candidate in (root / path, root / "usr" / path, root / path.removeprefix("usr/")):
        if candidate.exists():
            return candidate
    raise LabError(f"no {path} among the extracted packages")


def _library(root: Path, name: str, runpath: list[str]) -> Path:
    """The library `name`, first looked for where the file that needs it says (`runpath`)."""
    for folder in (*runpath, *LIBRARY_FOLDERS):
        if (root / folder.strip("/") / name).exists():
            return root / folder.strip("/") / name
    raise LabError(f"no library {name} among the extracted packages")


def closure(root: Path, programs: list[str]) -> dict[str, Path]:
    """Programs with their loader and shared libraries: path in a merged-/usr root -> file here.

    Libraries that are only opened at run time (dlopen) are not seen.
    """
    need_tool("readelf", "binutils")
    found: dict[str, Path] = {}
    queue = [find(root, program) for program in programs]
    while queue:
        path = queue.pop()
        relative = str(path.relative_to(root))
        target = relative if relative.startswith("usr/") else f"usr/{relative}"
        if target in found:
            continue
        # Links are followed, so that a library sits under the one name by which it is asked for.
        found[target] = path.resolve()
        text = subprocess.run(
            ["readelf", "-W", "-l", "-d", path], capture_output=True, text=True, check=False
        ).stdout
        runpath = [folder for line in _RUNPATH.findall(text) for folder in line.split(":")]
        queue += [_library(root, name, runpath) for name in _NEEDED.findall(text)]
        queue += [find(root, name) for name in _INTERPRETER.findall(text)]
    return found
