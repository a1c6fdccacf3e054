"""The KVM wrappers against the lab's KVM: guests of a few instructions, without a kernel."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.host import Host

PROGRAM = "/usr/bin/kvm_tests"


@pytest.fixture(scope="module")
def kvm_host(build_dir: Path) -> Iterator[Host]:
    """A host with the program in its RAM."""
    program = build_dir / "tests/kvm/kvm_tests"
    if not program.is_file():
        pytest.fail(f"no kvm_tests in {build_dir}")
    with Host.start(extra_files={PROGRAM: program}) as host:
        yield host


def test_kvm_wrappers_work_on_the_lab_kernel(kvm_host: Host) -> None:
    done = kvm_host.run(f"cd /tmp && {PROGRAM} --gtest_brief=1", timeout=120, check=False)
    tail = (done.stdout + done.stderr)[-3000:]
    assert done.returncode == 0, tail
    assert "[  PASSED  ]" in done.stdout, tail
    assert "[  SKIPPED ]" not in done.stdout, f"the lab's kernel offers all of it\n{tail}"
