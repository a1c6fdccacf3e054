"""Guests move between hosts that are unlike, where they use nothing that only one of them has."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.host import DEFAULT_CPU
from migration import (
    MIGRATION_FAILED, TwoHosts, assert_arrived_whole, one_line, start_two_hosts,
)

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def unlike(
    tmp_path_factory: pytest.TempPathFactory, build_dir: Path, shares: dict[str, Path]
) -> Iterator[TwoHosts]:
    """The first host has the lab's kernel, the second Debian's as it is, on a CPU without SVE."""
    second = {"kernel": "debian", "cpu": f"{DEFAULT_CPU},sve=off"}
    with start_two_hosts(tmp_path_factory.mktemp("shared"), build_dir, shares,
                         each=({}, second)) as started:
        yield started


@pytest.fixture
def two(unlike: TwoHosts) -> Iterator[TwoHosts]:
    """The same for one test alone."""
    unlike.end_all()
    yield unlike
    unlike.end_all()


@pytest.mark.parametrize("image", ["tiny", "debian"])
def test_baseline_guest_moves_between_kernels_and_back(two: TwoHosts, image: str) -> None:
    guest = two.started(image=image, memory="256M", vcpus=2)
    modes = []
    for _ in range(4):
        report = guest.move("--verify", "--on-timeout", "stop-and-copy")
        assert_arrived_whole(guest, report)
        modes.append(report["rounds"][0]["mode"])
    assert modes == ["hw", "wp", "hw", "wp"]  # what either host has
    assert guest.stop_workload() == "workload: done result=ok"


def test_guest_with_a_feature_that_the_other_side_lacks_is_refused_by_name(two: TwoHosts) -> None:
    guest = two.started(features=["sve"])
    receiver = guest.listen()
    outcome = guest.migrate()
    assert outcome.status == MIGRATION_FAILED, outcome
    one_line(outcome.stderr, "sve")
    assert "sve" in receiver.read("stderr").lower() and receiver.running()
    two.assert_runs_on(guest)


def test_host_without_the_series_does_not_pretend_to_have_hardware_logging(two: TwoHosts) -> None:
    guest = two.guest()
    guest.start(1)
    guest.start_workload("--size 16M --rate 4M")
    for option in (("--require-hw",), ("--dirty-log", "hw")):
        guest.listen()
        outcome = guest.migrate(*option)
        assert outcome.status == MIGRATION_FAILED, outcome
        one_line(outcome.stderr, "hardware")
        two.end_of_receiver(0)
    assert guest.check_memory()["mismatches"] == 0
    assert two.states(1) == {"mover": "running"}
