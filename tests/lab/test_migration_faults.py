"""What happens to a guest when a process is killed or the link is cut while it moves.

A relay that reads the protocol does it at a chosen message. Never do two guests run, and none only
where the process that was killed was the sole owner.
"""

import pytest

from lab.job import Job
from lab.moving import MovingGuest, Outcome
from migration import (
    IN_DOUBT, INTERRUPTED, MIGRATION_FAILED, SLOW, TwoHosts, assert_arrived_whole,
)

QUICK = ("--peer-timeout", "3")
CUT = "/bin/ip link set eth1 down"
MEND = "/bin/ip link set eth1 up"


def start_moving(guest: MovingGuest, *options: str, via: str | None = None) -> Job:
    """`vmm migrate` in the background."""
    return Job(guest.host, "migrate", guest.migrate_command(*options, via=via))


def outcome_of(job: Job, timeout: float = 60) -> Outcome:
    """How a `vmm migrate` in the background ended."""
    status = job.wait(timeout)
    return Outcome(status, job.read("stdout"), job.read("stderr"))


def wait_for_round_one(guest: MovingGuest) -> None:
    """Wait until memory is under way, as `dirty-rate` says, which then reports the migration."""
    guest.job.until("vmm stats dirty-rate --json | grep -q '\"round\":1'", 20)


def assert_moves_now(two: TwoHosts, guest: MovingGuest) -> None:
    """A fault has left nothing behind that stands in the way of the next migration."""
    assert_arrived_whole(guest, guest.move("--verify"))
    assert two.running() == [guest.at]


def test_source_killed_before_commit_leaves_no_guest_behind(two: TwoHosts) -> None:
    guest = two.started()
    receiver = guest.listen()
    two.relay(0, "state", "before", f"kill -9 {guest.job.pid()}")
    outcome = guest.migrate(via=two.through(0))
    assert outcome.status != 0
    assert receiver.wait(30) != 0
    assert "mover" in receiver.read("stderr")
    assert two.running() == []  # the process that was killed was its only owner
    two.assert_nothing_left(1)


def test_destination_killed_before_commit_lets_the_source_run_on(two: TwoHosts) -> None:
    guest = two.started()
    receiver = guest.listen()
    two.relay(1, "state", "before", f"kill -9 {receiver.pid()}")
    outcome = guest.migrate(via=two.through(1))
    assert outcome.status == MIGRATION_FAILED, outcome
    two.assert_runs_on(guest)
    two.hosts[1].run("rm -rf /run/vmm")  # what a killed process leaves: its socket and lock file
    assert_moves_now(two, guest)


@pytest.mark.full
def test_destination_killed_with_the_commit_on_its_way_leaves_the_source_in_doubt(
    two: TwoHosts
) -> None:
    guest = two.started()
    receiver = guest.listen()
    two.relay(1, "commit", "before", f"kill -9 {receiver.pid()}")
    outcome = guest.migrate(*QUICK, via=two.through(1))
    assert outcome.status == IN_DOUBT, outcome
    identity = outcome.report["migration_id"]
    assert two.running() == []
    assert two.ends[0]("resume").returncode != 0  # nobody may run it by accident
    assert two.ends[0]("stop").returncode != 0
    status = two.ends[0]("migration", "status", identity)
    assert "doubt" in status.stdout, status
    # Whoever listens there answers from the records: this migration has not been started, and now
    # never will be. The source hears that by itself, and goes on.
    two.hosts[1].run("rm -rf /run/vmm")
    guest.listen()
    guest.job.until("vmm list | grep -q running", 60)
    two.assert_runs_on(guest)
    assert "discarded" in two.ends[1]("migration", "status", identity).stdout
    assert two.running() == [0]


def test_destination_killed_after_commit_is_the_sole_owner(two: TwoHosts) -> None:
    guest = two.started()
    receiver = guest.listen()
    source = guest.job
    # The relay goes with it, so that the source does not hear that the guest was started.
    two.relay(1, "started", "before", f"kill -9 {receiver.pid()} $PPID")
    outcome = guest.migrate(*QUICK, via=two.through(1))
    assert outcome.status == IN_DOUBT, outcome
    identity = outcome.report["migration_id"]
    assert "started" in two.ends[1]("migration", "status", identity).stdout
    assert two.running() == []
    assert two.ends[0]("migration", "resolve", identity, "--discard").returncode == 0
    source.wait(20)
    assert two.states(0) == {}
    two.assert_nothing_left(0)


@pytest.mark.full
def test_operator_resumes_a_guest_in_doubt(two: TwoHosts) -> None:
    guest = two.started()
    receiver = guest.listen()
    two.relay(1, "commit", "before", f"kill -9 {receiver.pid()}")
    outcome = guest.migrate(*QUICK, via=two.through(1))
    assert outcome.status == IN_DOUBT, outcome
    identity = outcome.report["migration_id"]
    done = two.ends[0]("migration", "resolve", identity, "--resume")
    assert done.returncode == 0, done.stderr
    two.assert_runs_on(guest)


@pytest.mark.full
def test_link_cut_in_the_first_round(two: TwoHosts) -> None:
    guest = two.started()
    receiver = guest.listen(*QUICK)
    migration = start_moving(guest, *SLOW, *QUICK)
    wait_for_round_one(guest)
    for host in two.pair.hosts:
        host.set_link(False)
    outcome = outcome_of(migration, 10)
    assert outcome.status == MIGRATION_FAILED, outcome
    two.assert_runs_on(guest)
    assert receiver.wait(10) != 0
    two.assert_nothing_left(1)
    for host in two.pair.hosts:
        host.set_link(True)
    assert_moves_now(two, guest)


@pytest.mark.full
def test_link_cut_while_the_guest_is_stopped(two: TwoHosts) -> None:
    guest = two.started()
    receiver = guest.listen(*QUICK)
    two.relay(0, "state", "before", CUT)
    outcome = guest.migrate(*QUICK, via=two.through(0), timeout=40)
    assert outcome.status == MIGRATION_FAILED, outcome
    two.assert_runs_on(guest)
    assert receiver.wait(20) != 0
    assert two.running() == [0]
    two.assert_nothing_left(1)


def test_link_cut_after_the_commit_is_settled_once_it_is_back(two: TwoHosts) -> None:
    guest = two.started()
    receiver = guest.listen(*QUICK)
    source = guest.job
    two.relay(1, "started", "before", CUT)  # the answer is on its way, and does not arrive
    outcome = guest.migrate(*QUICK, via=two.through(1))
    assert outcome.status == IN_DOUBT, outcome
    assert two.running() == [1]
    two.hosts[1].run(MEND)
    # The source asks again by itself, hears that the guest runs there, and gives its copy up.
    source.wait(60)
    two.assert_nothing_left(0)
    guest.arrived(receiver)
    assert guest.check_memory()["mismatches"] == 0


def test_cancel_in_a_round(two: TwoHosts) -> None:
    guest = two.started()
    receiver = guest.listen()
    migration = start_moving(guest, *SLOW)
    wait_for_round_one(guest)
    assert two.ends[0]("cancel").returncode == 0
    outcome = outcome_of(migration)
    assert outcome.status == MIGRATION_FAILED, outcome
    assert "cancel" in outcome.stderr
    two.assert_runs_on(guest)
    assert receiver.wait(20) != 0
    two.assert_nothing_left(1)
    assert_moves_now(two, guest)


@pytest.mark.full
def test_interrupting_the_command_cancels(two: TwoHosts) -> None:
    guest = two.started()
    guest.listen()
    migration = start_moving(guest, *SLOW)
    wait_for_round_one(guest)
    migration.signal("INT")
    outcome = outcome_of(migration)
    assert outcome.status in (INTERRUPTED, MIGRATION_FAILED), outcome
    two.assert_runs_on(guest)


@pytest.mark.full
def test_limit_of_time_cancels_unless_it_stops_and_copies(two: TwoHosts) -> None:
    guest = two.started("--size 48M --tick 2 --interval 100")
    guest.listen()
    limits = ("--bandwidth", "12", "--downtime-limit", "1", "--timeout", "4")
    outcome = guest.migrate(*limits)
    assert outcome.status == MIGRATION_FAILED, outcome
    two.assert_runs_on(guest)
    assert_arrived_whole(guest, guest.move(*limits, "--on-timeout", "stop-and-copy", "--verify"))
