"""The arm64 sysroot of the cross builds."""

import os
import subprocess
from pathlib import Path

from lab.debian import debian_packages, debian_sources
from lab.packages import need_tool

CROSS = "aarch64-linux-gnu-"
LIBRARIES = [
    "libc6-dev", "linux-libc-dev", "libspdlog-dev", "libfmt-dev", "libcli11-dev",
    "libtomlplusplus-dev", "libssl-dev", "libfdt-dev", "liburing-dev", "libzstd-dev", "zlib1g-dev",
    "libseccomp-dev", "libgtest-dev", "libgmock-dev", "libbenchmark-dev",
]
BOOST = {"bookworm": "libboost1.81-dev", "trixie": "libboost1.83-dev"}


def gcc_major() -> str:
    """Major version of the cross compiler; its libstdc++ must come from the same release."""
    need_tool(f"{CROSS}g++", "g++-aarch64-linux-gnu")
    return subprocess.run(
        [f"{CROSS}g++", "-dumpversion"], capture_output=True, text=True, check=True
    ).stdout.strip().split(".")[0]


def sysroot() -> Path:
    """arm64 root of Debian's development packages, for --sysroot."""
    codename, _ = debian_sources()
    boost = BOOST.get(codename, "libboost1.88-dev")
    return debian_packages([*LIBRARIES, boost, f"libstdc++-{gcc_major()}-dev"])
