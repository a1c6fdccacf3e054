"""Debian packages the build machine needs, and their installation."""

import os
import subprocess
from collections.abc import Iterable

from lab.errors import LabError
from lab.progress import note, step

# Each line is one need; where releases name a package differently, the first that exists is taken.
GROUPS: dict[str, list[str]] = {
    "build": [
        "cmake", "ninja-build", "g++", "pkg-config", "git",
        "libboost1.81-dev | libboost1.83-dev | libboost1.88-dev",
        "libspdlog-dev", "libfmt-dev", "libcli11-dev", "libtomlplusplus-dev", "libssl-dev",
        "libfdt-dev", "liburing-dev", "libzstd-dev", "zlib1g-dev", "libseccomp-dev",
        "libgtest-dev", "libgmock-dev", "libbenchmark-dev",
    ],
    "lab": [
        "qemu-system-arm", "ipxe-qemu", "mmdebstrap", "debian-archive-keyring", "openssh-client",
        "gcc-aarch64-linux-gnu", "g++-aarch64-linux-gnu", "linux-source-6.12",
        "make", "bc", "bison", "flex", "libelf-dev", "libssl-dev", "rsync", "patch", "xz-utils",
        "cpio", "kmod", "device-tree-compiler", "e2fsprogs",
    ],
    # For tests/bench/transport, which runs on this machine rather than in a host.
    "bench": ["iperf3", "qemu-system-arm"],
    # Only for ./test --full and -L fuzz.
    "fuzz": ["clang-16", "libclang-rt-16-dev"],
    "test": ["clang-format-16 | clang-format", "clang-tidy-16 | clang-tidy", "python3-pytest"],
}


def _candidates(names: Iterable[str]) -> set[str]:
    """Those of `names` that apt could install."""
    result = subprocess.run(
        ["apt-cache", "policy", *names], capture_output=True, text=True, check=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    found: set[str] = set()
    name = ""
    for line in result.stdout.splitlines():
        if line and not line.startswith(" "):
            name = line.rstrip(":")
        elif line.strip().startswith("Candidate:") and "(none)" not in line:
            found.add(name)
    return found


def _installed(names: Iterable[str]) -> set[str]:
    """Those of `names` that are installed."""
    result = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n", *names],
        capture_output=True, text=True, check=False,
    )
    lines = (line.split() for line in result.stdout.splitlines())
    return {words[1] for words in lines if words[0] == "installed"}


def missing(groups: Iterable[str]) -> list[str]:
    """Needs of `groups` that no installed package meets, as written in GROUPS."""
    needs = list(dict.fromkeys(need for group in groups for need in GROUPS[group]))
    names = [name.strip() for need in needs for name in need.split("|")]
    present = _installed(names)
    return [n for n in needs if not present.intersection(x.strip() for x in n.split("|"))]


def choose(need: str, available: set[str]) -> str:
    """The first name of `need` ("a | b") that is available. Raises LabError if there is none."""
    for name in need.split("|"):
        if name.strip() in available:
            return name.strip()
    raise LabError(f"no package for '{need}' in the configured apt sources (Debian 12 or later needed)")


def ensure(*groups: str) -> None:
    """Install what is missing of the named groups with apt-get, as root or through sudo."""
    needs = missing(groups)
    if not needs:
        return
    prefix = [] if os.geteuid() == 0 else ["sudo"]
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    with step("update package lists") as current:
        current.run([*prefix, "apt-get", "update"], env=env)
    available = _candidates(name.strip() for need in needs for name in need.split("|"))
    names = [choose(need, available) for need in needs]
    note("installing: " + " ".join(names))
    with step("install packages") as current:
        current.run(
            [*prefix, "apt-get", "install", "-y", "--no-install-recommends", *names], env=env
        )


def need_tool(name: str, package: str) -> None:
    """Raise LabError naming the package if the program `name` is not on the machine."""
    if not any(
        os.access(os.path.join(folder, name), os.X_OK)
        for folder in os.environ.get("PATH", "").split(os.pathsep)
    ):
        raise LabError(f"{name} is not installed: run lab/lab setup, or install {package}")
