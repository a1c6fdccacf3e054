"""Roots of Debian packages for arm64, extracted without running foreign code.

Sources, keys and proxies are those of the machine's own apt configuration; other vendors' sources on
the machine are left out.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lab.cache import cached, remove_tree
from lab.errors import LabError
from lab.packages import need_tool
from lab.progress import Step, step

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# What of apt's Acquire settings says how to reach the mirrors, rather than how to unpack indexes.
ACQUIRE_PREFIXES = (
    "Acquire::http::", "Acquire::https::", "Acquire::Retries", "Acquire::Check-Valid-Until",
    "Acquire::Check-Date", "Acquire::ForceIPv4", "Acquire::Proxy",
)


def debian_sources() -> tuple[str, list[str]]:
    """(codename, one-line apt entries) of the Debian archives this machine uses.

    Raises LabError if there are none, which also happens before the first apt-get update.
    """
    need_tool("apt-get", "apt")
    listing = subprocess.run(
        ["apt-get", "indextargets", "--format",
         "$(ORIGIN)|$(RELEASE)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)", "Created-By: Packages"],
        capture_output=True, text=True, check=True,
    ).stdout
    entries: dict[str, None] = {}
    codename = ""
    for line in listing.splitlines():
        origin, release, name, component, uri = line.split("|", 4)
        if origin != "Debian" or component.startswith("non-free"):
            continue
        entries[f"deb [signed-by={KEYRING}] {uri} {release} {component}"] = None
        if component == "main" and "-" not in name:
            codename = name
    if not codename:
        raise LabError("apt knows no Debian archive on this machine: run apt-get update, then again")
    return codename, list(entries)


def acquire_options() -> list[str]:
    """The machine's apt settings for reaching its mirrors (proxies and such), as apt.conf lines."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    return [line for line in dump.splitlines() if line.startswith(ACQUIRE_PREFIXES)]


def make_root_tar(
    names: list[str], arch: str, folder: Path, current: Step, options: Sequence[str] = ()
) -> Path:
    """Make an archive of the extracted packages `names` and all they depend on; its path below
    `folder`. `options` are more of mmdebstrap's."""
    need_tool("mmdebstrap", "mmdebstrap")
    codename, sources = debian_sources()
    sources_list = folder / "sources.list"
    sources_list.write_text("\n".join(sources) + "\n")
    conf = folder / "apt.conf"
    conf.write_text("\n".join(acquire_options()) + "\n")
    tar = folder / "root.tar"
    # Both modes only unpack; the second needs no privileges.
    mode = "root" if os.geteuid() == 0 else "chrootless"
    current.run([
        "mmdebstrap", f"--mode={mode}", "--variant=extract", f"--architectures={arch}", "--format=tar",
        f"--aptopt={conf}", *options, *(f"--include={name}" for name in names), codename, tar, sources_list,
    ], env={"TMPDIR": str(folder)})
    return tar


def extract_packages(names: list[str], arch: str, into: Path, current: Step) -> None:
    """Unpack `names` and all they depend on below `into`."""
    # Below `into`, so that it goes with it should this be killed.
    scratch = into / "mmdebstrap"
    scratch.mkdir()
    # A tar in between drops device nodes and foreign owners, so no privileges are needed here.
    tar = make_root_tar(names, arch, scratch, current)
    current.run(["tar", "-C", into, "--no-same-owner", "--exclude=./dev/*", "-xf", tar])
    remove_tree(scratch)
    relative_links(into)


def debian_packages(names: list[str], arch: str = "arm64") -> Path:
    """Directory with the extracted root of the packages `names` and their dependencies, cached.

    Maintainer scripts are not run, so links that they would make (alternatives, usrmerge) are absent.
    """
    codename, _ = debian_sources()
    wanted = sorted(set(names))
    title = f"arm64 packages: {' '.join(wanted)}" if arch == "arm64" else " ".join(wanted)

    def build(into: Path) -> None:
        with step(title[:72]) as current:
            extract_packages(wanted, arch, into, current)

    return cached("packages", {"arch": arch, "codename": codename, "names": wanted}, build)


def relative_links(root: Path) -> None:
    """Make absolute links below `root` relative, so that they resolve within it."""
    for folder, subfolders, files in os.walk(root):
        for name in [*subfolders, *files]:
            link = Path(folder) / name
            if not link.is_symlink():
                continue
            target = os.readlink(link)
            if target.startswith("/"):
                link.unlink()
                link.symlink_to(os.path.relpath(root / target[1:], folder))
