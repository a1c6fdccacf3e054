"""Builds of the project by its CMake presets."""

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from lab.cache import key_hash, locked
from lab.errors import LabError
from lab.kernel import kernel_headers
from lab.progress import Step, step
from lab.source import REPOSITORY
from lab.sysroot import sysroot


def build_dir(preset: str) -> Path:
    """Build directory of a preset, as CMakePresets.json has it."""
    return REPOSITORY / "build" / preset


def _configure(preset: str, variables: Mapping[str, object], current: Step) -> None:
    definitions = [f"-D{name}={value}" for name, value in variables.items()]
    current.run(["cmake", "--preset", preset, *definitions], cwd=REPOSITORY)


def configure_preset(preset: str, variables: Mapping[str, object]) -> Path:
    """Configure a preset without building it, so that its tests are known."""
    with step(f"configure {preset}") as current, locked(f"build-{key_hash(build_dir(preset))}"):
        _configure(preset, variables, current)
    return build_dir(preset)


def build_preset(
    preset: str, variables: Mapping[str, object], targets: Iterable[str] = ()
) -> Path:
    """Configure and build a preset (or some of its targets); returns its build directory.

    One at a time per build directory; others wait.
    """
    wanted = list(targets)
    with step(f"build {preset}") as current, locked(f"build-{key_hash(build_dir(preset))}"):
        _configure(preset, variables, current)
        selection = ["--target", *wanted] if wanted else []
        current.run(["cmake", "--build", "--preset", preset, *selection], cwd=REPOSITORY)
    return build_dir(preset)


def build_arm64(targets: Iterable[str] = ()) -> Path:
    """Cross build for the lab."""
    variables = {"VMM_SYSROOT": sysroot(), "VMM_KERNEL_HEADERS": kernel_headers()}
    return build_preset("arm64", variables, targets)


def python_with_pytest() -> str:
    """A Python that has pytest: this one, or else the system's."""
    for python in (sys.executable, "/usr/bin/python3"):
        probe = subprocess.run(
            [python, "-c", "import pytest"], capture_output=True, check=False, env=os.environ
        )
        if probe.returncode == 0:
            return python
    raise LabError("no Python with pytest: install python3-pytest (lab/lab setup test)")
