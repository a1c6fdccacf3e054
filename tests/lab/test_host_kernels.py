"""Both kernels serve as emulated hosts and run guests."""

import time
from pathlib import Path

import pytest

from guests import READY, VmmHost
from lab.host import Host


@pytest.mark.parametrize("kernel", ["lab", "debian"])
def test_kernel_boots_as_a_host_and_runs_a_guest(
    kernel: str, shares: dict[str, Path], vmm_files: dict[str, Path]
) -> None:
    begun = time.monotonic()
    with Host.start(kernel=kernel, shares=shares, extra_files=vmm_files) as host:
        release = host.run("uname -r").stdout.strip()
        print(f"{release}: host up in {time.monotonic() - begun:.1f} s")
        assert release.startswith("6.12.")
        assert release.endswith("-lab" if kernel == "lab" else "-arm64")
        assert host.run("test -c /dev/kvm", check=False).returncode == 0
        vmm = VmmHost(host)
        guest = vmm.start(vcpus=2)
        guest.wait(READY)
        assert vmm("stop").returncode == 0
        assert guest.exit_status() == 0


def test_saved_state_and_write_protect_logging_work_on_a_stock_kernel(build_dir: Path) -> None:
    """What migration wants of KVM, without hardware dirty logging."""
    program = build_dir / "tests/kvm/kvm_tests"
    if not program.is_file():
        pytest.fail(f"{program} is missing: build the arm64 preset first")
    tests = "*State*:*Move*:Identity*:Counter*:DirtyLog*"
    with Host.start(kernel="debian", extra_files={"/usr/bin/kvm_tests": program}) as host:
        done = host.run(f"cd /tmp && kvm_tests --gtest_brief=1 --gtest_filter='{tests}'", timeout=240, check=False)
    tail = (done.stdout + done.stderr)[-3000:]
    assert done.returncode == 0, tail
    assert "[  PASSED  ]" in done.stdout, tail
