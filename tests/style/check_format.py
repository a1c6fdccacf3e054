"""Fails where clang-format would change a C++ file of the project.

Usage: check_format.py --clang-format PROGRAM ROOT
"""

import argparse
import pathlib
import subprocess
import sys

FOLDERS = ("src", "tests", "guest-images", "lab")
SUFFIXES = {".h", ".cc"}


def main() -> int:
    """Run the check; clang-format itself prints what it would change."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clang-format", required=True)
    parser.add_argument("root", type=pathlib.Path)
    arguments = parser.parse_args()
    files = sorted(
        str(path)
        for folder in FOLDERS
        for path in (arguments.root / folder).rglob("*")
        if path.suffix in SUFFIXES
    )
    if not files:
        print(f"no C++ files below {arguments.root}", file=sys.stderr)
        return 1
    command = [arguments.clang_format, "--dry-run", "-Werror", *files]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
