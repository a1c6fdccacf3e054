"""Fixtures of the tests that run in the lab: an emulated host with the cross-built vmm in it."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "guest-images"), str(Path(__file__).parent)]
from guest_images.recipes import IMAGES, guest_image  # noqa: E402
from lab.host import Host  # noqa: E402

from devices import start_device_host  # noqa: E402
from guests import VmmHost  # noqa: E402
from migration import TwoHosts, start_two_hosts  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    """Names the marker of the tests that run with ./test --full only."""
    config.addinivalue_line("markers", "full: takes long; run by ./test --full")


@pytest.fixture(scope="session")
def build_dir() -> Path:
    """The arm64 build whose programs are tested."""
    named = os.environ.get("VMM_BUILD_ARM64")
    folder = Path(named) if named else REPOSITORY / "build" / "arm64"
    for program in ("src/vmm/vmm", "tests/unit/unit_tests"):
        if not (folder / program).is_file():
            pytest.exit(f"no {program} in {folder}: build it, or set VMM_BUILD_ARM64", 2)
    return folder


@pytest.fixture(scope="session")
def shares(build_dir: Path) -> dict[str, Path]:
    """What every test host mounts: both guest images."""
    return {f"/images/{name}": guest_image(name, build_dir) for name in IMAGES}


@pytest.fixture(scope="session")
def vmm_files(build_dir: Path) -> dict[str, Path]:
    """What every test host has in its RAM: the program under test and its unit tests."""
    return {
        "/usr/bin/vmm": build_dir / "src/vmm/vmm",
        "/usr/bin/unit_tests": build_dir / "tests/unit/unit_tests",
    }


@pytest.fixture(scope="session")
def host(shares: dict[str, Path], vmm_files: dict[str, Path]) -> Iterator[Host]:
    """One emulated host with the lab's kernel, shared by the tests of a run."""
    with Host.start(shares=shares, extra_files=vmm_files) as started:
        yield started


@pytest.fixture(scope="session")
def vmm_host(host: Host) -> VmmHost:
    """The host with the means to run guests in it."""
    return VmmHost(host)


@pytest.fixture
def vmm(vmm_host: VmmHost) -> Iterator[VmmHost]:
    """The same for one test, which is alone with its guests; they end with it."""
    vmm_host.end_all()
    yield vmm_host
    vmm_host.end_all()


@pytest.fixture(scope="session")
def device_host(
    tmp_path_factory: pytest.TempPathFactory, shares: dict[str, Path], vmm_files: dict[str, Path]
) -> Iterator[VmmHost]:
    """A host with disks and a bridge for guests with devices."""
    with start_device_host(tmp_path_factory.mktemp("disks"), shares, vmm_files) as started:
        yield started


@pytest.fixture
def device_vmm(device_host: VmmHost) -> Iterator[VmmHost]:
    """The same for one test, which is alone with its guests; they end with it."""
    device_host.end_all()
    yield device_host
    device_host.end_all()


@pytest.fixture(scope="session")
def two_hosts(
    tmp_path_factory: pytest.TempPathFactory, build_dir: Path, shares: dict[str, Path]
) -> Iterator[TwoHosts]:
    """Two hosts between which guests move."""
    with start_two_hosts(tmp_path_factory.mktemp("shared"), build_dir, shares) as started:
        yield started


@pytest.fixture
def two(two_hosts: TwoHosts) -> Iterator[TwoHosts]:
    """The same for one test, which is alone with its guests; they end with it."""
    two_hosts.end_all()
    yield two_hosts
    two_hosts.end_all()
