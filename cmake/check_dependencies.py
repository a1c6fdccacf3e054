"""Checks that includes between the folders of src/ point downward only.

Usage: check_dependencies.py SRC. Prints each offending line and exits 1 if there is one.
"""

import pathlib
import re
import sys

# Folder -> folders it may include. `devices` and `migration` never see `kvm`.
ALLOWED = {
    "base": {"base"},
    "memory": {"memory", "base"},
    "kvm": {"kvm", "memory", "base"},
    "devices": {"devices", "memory", "base"},
    "migration": {"migration", "memory", "base"},
    "vmm": {"vmm", "migration", "devices", "memory", "kvm", "base"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s+["<]([^">]+)[">]')


def offences(src: pathlib.Path):
    for path in sorted(src.rglob("*")):
        if path.suffix not in (".h", ".cc"):
            continue
        folder = path.relative_to(src).parts[0]
        for number, line in enumerate(path.read_text().splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            target = match.group(1)
            top = target.split("/")[0]
            if top in ALLOWED and "/" in target and top not in ALLOWED[folder]:
                yield f"{path}:{number}: {folder} must not include {target}"
            if target in ("linux/kvm.h", "asm/kvm.h") and folder != "kvm":
                yield f"{path}:{number}: only src/kvm includes <{target}>"


def main() -> int:
    found = list(offences(pathlib.Path(sys.argv[1])))
    for offence in found:
        print(offence, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
