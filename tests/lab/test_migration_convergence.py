"""Guests that write faster than the link carries: they move where they may be slowed, and only there,
and have their speed back however that ends."""

import time

import pytest

from lab.job import Job
from lab.moving import MovingGuest
from migration import MIGRATION_FAILED, TwoHosts, assert_arrived_whole

pytestmark = pytest.mark.full  # a link that even a slow machine's guest outruns takes its time

# A second a round. The load writes as fast as it can, so that write-protection, which makes each page
# cost a fault, does not help either.
LOAD = "--size 4M --tick 2 --interval 100"
LINK = ("--bandwidth", "4", "--downtime-limit", "500")
STEPS = [0, 20, 40, 60, 80, 90, 95, 99]


def interruptions(two: TwoHosts, guest: MovingGuest) -> int:
    """How often the guest's vCPU was taken out of it: 50 times a second while it is throttled."""
    stats = two.ends[guest.at].json("stats", guest.name)
    return sum(vcpu["interrupted"] for vcpu in stats["vcpu"])  # type: ignore[index]


def assert_full_speed(two: TwoHosts, guest: MovingGuest) -> None:
    """Nobody takes the guest's vCPU out of it, and its load writes."""
    before = interruptions(two, guest), guest.workload_lines()[-1]["pages"]
    time.sleep(0.5)
    assert interruptions(two, guest) == before[0]
    assert guest.workload_lines()[-1]["pages"] > before[1]


def test_a_guest_that_writes_faster_than_the_link_carries_moves_when_slowed(two: TwoHosts) -> None:
    guest = two.started(LOAD)
    receiver = guest.listen()
    outcome = guest.migrate(*LINK, "--max-rounds", "4")
    assert outcome.status == MIGRATION_FAILED, outcome
    assert "round limit of 4 reached" in outcome.stderr and "throttled" not in outcome.stderr
    assert receiver.wait(20) != 0
    report = guest.move(*LINK, "--max-throttle", "99", "--verify")
    assert_arrived_whole(guest, report)
    throttles = [item["throttle_percent"] for item in report["rounds"]]
    assert throttles.pop() == 0  # the guest stood still
    assert throttles == sorted(throttles) and throttles[0] == 0
    used = sorted(set(throttles))
    assert len(used) > 1 and used == STEPS[:len(used)]
    assert_full_speed(two, guest)


def test_a_guest_that_was_slowed_has_its_speed_back_after_a_cancel(two: TwoHosts) -> None:
    guest = two.started(LOAD)
    guest.listen()
    # As far as it may be slowed, it still writes faster than the link carries.
    migration = Job(guest.host, "migrate", guest.migrate_command(*LINK, "--max-throttle", "20"))
    guest.job.until("vmm stats dirty-rate --json | grep -q '\"throttle_percent\":20'", 30)
    throttled = interruptions(two, guest)
    time.sleep(1)
    assert interruptions(two, guest) > throttled
    assert two.ends[0]("cancel").returncode == 0
    assert migration.wait(30) == MIGRATION_FAILED
    assert "vCPUs throttled by 20 %" in migration.read("stderr")
    two.assert_runs_on(guest)
    assert_full_speed(two, guest)
