"""Taps and the network device against the lab's kernel."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.host import Host

PROGRAM = "/usr/bin/tap_tests"


@pytest.fixture(scope="module")
def tap_host(build_dir: Path) -> Iterator[Host]:
    """A host with the program in its RAM."""
    program = build_dir / "tests/tap/tap_tests"
    if not program.is_file():
        pytest.fail(f"no tap_tests in {build_dir}")
    with Host.start(extra_files={PROGRAM: program}) as host:
        yield host


def test_taps_and_the_network_device_work_on_the_lab_kernel(tap_host: Host) -> None:
    done = tap_host.run(f"cd /tmp && {PROGRAM} --gtest_brief=1", timeout=120, check=False)
    tail = (done.stdout + done.stderr)[-3000:]
    assert done.returncode == 0, tail
    assert "[  PASSED  ]" in done.stdout, tail
