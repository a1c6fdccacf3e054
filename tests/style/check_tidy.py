"""Runs clang-tidy over the sources that a build directory's compilation database names.

Usage: check_tidy.py --clang-tidy PROGRAM --build DIRECTORY ROOT
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys


def check(clang_tidy: str, build: pathlib.Path, source: str) -> str:
    """The findings in one file, empty if there are none."""
    result = subprocess.run(
        [clang_tidy, "-p", str(build), "--quiet", source],
        capture_output=True, text=True, check=False,
    )
    if result.returncode == 0:
        return ""
    # clang-tidy's stderr counts suppressed warnings; only what made it fail to run matters there.
    return result.stdout or result.stderr


def main() -> int:
    """Check src/ and guest-images/; tests are exempt, as gtest's macros are not ours to mend."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clang-tidy", required=True)
    parser.add_argument("--build", required=True, type=pathlib.Path)
    parser.add_argument("root", type=pathlib.Path)
    arguments = parser.parse_args()
    database = json.loads((arguments.build / "compile_commands.json").read_text())
    roots = tuple(f"{arguments.root}/{folder}/" for folder in ("src", "guest-images"))
    sources = sorted({entry["file"] for entry in database if entry["file"].startswith(roots)})
    if not sources:
        print("the compilation database names no source of the project", file=sys.stderr)
        return 1
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        findings = [
            text
            for text in pool.map(
                lambda source: check(arguments.clang_tidy, arguments.build, source), sources
            )
            if text
        ]
    print("".join(findings), end="")
    print(f"{len(sources)} files checked, {len(findings)} with findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
