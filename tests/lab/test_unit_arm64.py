"""The unit tests as built for arm64 run in the lab: the same program that runs natively."""

from pathlib import Path

import pytest

from lab.host import Host


@pytest.fixture(scope="module")
def unit_host(build_dir: Path):  # noqa: ANN201 - a fixture's iterator
    """A host with the program in its RAM."""
    program = build_dir / "tests/unit/unit_tests"
    if not program.is_file():
        pytest.fail(f"no unit_tests in {build_dir}")
    with Host.start(extra_files={"/usr/bin/unit_tests": program}) as host:
        yield host


def test_unit_tests_pass_on_arm64(unit_host: Host) -> None:
    done = unit_host.run("cd /tmp && unit_tests --gtest_brief=1", timeout=120, check=False)
    tail = (done.stdout + done.stderr)[-3000:]
    assert done.returncode == 0, tail
    assert "[  PASSED  ]" in done.stdout, tail
