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
