"""Messages of the protocol against faults, for real: what survives is judged by the records and the
guest itself. Each message meets each fault, before or after it is passed on, in either log mode."""

import time

import pytest

from lab.job import Job
from lab.moving import MovingGuest
from migration import MESSAGES, TwoHosts

pytestmark = pytest.mark.full

QUICK = ("--peer-timeout", "3")
# Longer than the peer timeout, so that it is noticed.
FAULT_S = 5
SETTLED_S = 60
# A fault: the host in which the relay provokes it.
FAULTS = {"source killed": 0, "destination killed": 1, "source frozen": 0, "destination frozen": 1,
          "link cut": 0}
CELLS = [(message, fault, ("before", "after")[(row + column) % 2], ("hw", "wp")[row % 2])
         for row, message in enumerate(MESSAGES) for column, fault in enumerate(FAULTS)]


def records_at(two: TwoHosts, end: int) -> list[str]:
    """The outcomes that the records of a host tell."""
    side = ("source", "destination")[end]
    found = two.hosts[end].run(f"grep -h ^outcome= /var/lib/vmm/migrations/*.{side} 2>/dev/null", check=False)
    return [line.partition("=")[2] for line in found.stdout.split()]


def settle(two: TwoHosts, guest: MovingGuest, receiver: Job) -> tuple[list[int], Job | None]:
    """Wait until no guest is in doubt or under way; the hosts that run one. Never do both.

    Where the source asks and the receiver has gone, another one answers from the records, as an
    operator would have it.
    """
    answers = None
    deadline = time.monotonic() + SETTLED_S
    while True:
        states = [state for end in (0, 1) for state in two.states(end).values()]
        running = two.running()
        assert len(running) <= 1, "two guests run"
        if all(state == "running" for state in states):
            return running, answers
        if "in doubt" in states and answers is None and not receiver.running():
            answers = guest.listen()
        assert time.monotonic() < deadline, states
        time.sleep(0.5)


def provoke(two: TwoHosts, fault: str, victim: Job) -> tuple[str, str]:
    """The commands that provoke a fault and end it."""
    if fault == "link cut":
        return "/bin/ip link set eth1 down", "/bin/ip link set eth1 up"
    signal = "KILL" if fault.endswith("killed") else "STOP"
    return f"kill -{signal} {victim.pid()}", f"kill -CONT {victim.pid()} 2>/dev/null; true"


@pytest.mark.parametrize("message, fault, when, mode", CELLS,
                         ids=["-".join(cell).replace(" ", "_") for cell in CELLS])
def test_one_guest_survives_whole(
    two: TwoHosts, message: str, fault: str, when: str, mode: str
) -> None:
    guest: MovingGuest = two.started()
    source, receiver = guest.job, guest.listen(*QUICK)
    end = FAULTS[fault]
    command, undo = provoke(two, fault, (source, receiver)[end])
    relay = two.relay(end, message, when, command)
    migration = Job(guest.host, "migrate", guest.migrate_command(
        *QUICK, "--dirty-log", mode, "--verify", via=two.through(end)))
    relay.until(f"grep -q 'relay: at' {relay.folder}/stdout", 60)
    time.sleep(FAULT_S)
    two.hosts[end].run(undo)
    migration.wait(SETTLED_S)
    killed = end if fault.endswith("killed") else None
    if killed is not None:
        two.hosts[killed].run("rm -rf /run/vmm")  # a killed process leaves its socket and lock
    running, answers = settle(two, guest, receiver)

    started = "started" in records_at(two, 1)
    owner = 1 if started else 0
    assert running == ([] if owner == killed else [owner]), (started, records_at(two, 0))
    if answers is not None:
        two.end_of_receiver(1)
    if running == [0]:
        two.assert_runs_on(guest)
        if (message, fault) == ("manifest", "link cut"):
            receiver.signal("TERM")  # no guest has been announced to it: it goes on listening
        assert receiver.wait(SETTLED_S) != 0
    elif running == [1]:
        guest.arrived(receiver)
        two.assert_runs_on(guest)
        source.wait(SETTLED_S)
    else:
        survivor = (source, receiver)[1 - owner]
        survivor.wait(SETTLED_S)
        assert "mover" in survivor.read("stderr") or "migrat" in survivor.read("stderr")
    for other in {0, 1} - set(running):
        two.assert_nothing_left(other)
