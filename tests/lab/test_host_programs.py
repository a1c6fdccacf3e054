"""Test programs that want the lab's kernel: the KVM wrappers, with guests of a few instructions, and
taps with the network device."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.host import Host

PROGRAMS = ["kvm", "tap"]


@pytest.fixture(scope="module")
def program_host(build_dir: Path) -> Iterator[Host]:
    """A host with the programs in its RAM."""
    files = {f"/usr/bin/{name}_tests": build_dir / f"tests/{name}/{name}_tests" for name in PROGRAMS}
    for program in files.values():
        if not program.is_file():
            pytest.fail(f"{program} is missing: build the arm64 preset first")
    with Host.start(extra_files=files) as host:
        yield host


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_passes_on_the_lab_kernel(program_host: Host, name: str) -> None:
    done = program_host.run(f"cd /tmp && {name}_tests --gtest_brief=1", timeout=120, check=False)
    tail = (done.stdout + done.stderr)[-3000:]
    assert done.returncode == 0, tail
    assert "[  PASSED  ]" in done.stdout, tail
    assert "[  SKIPPED ]" not in done.stdout, f"the lab's kernel offers all of it\n{tail}"
