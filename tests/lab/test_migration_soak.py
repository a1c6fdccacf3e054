"""A guest that moves back and forth for a long time under changing loads; nothing may grow.

In parts that stand for themselves, so that a soak that was interrupted goes on with the next.
"""

import random

import pytest

from lab.moving import EchoClient, MovingGuest
from migration import CLOCK_LIMIT_S, TwoHosts, assert_arrived_whole

pytestmark = pytest.mark.full

PARTS = 5
MIGRATIONS = 200  # in each
LOAD_LASTS = 10  # migrations
GUEST_MIB = 160
IN_TIME = ("--max-rounds", "5", "--on-timeout", "stop-and-copy")
# Growth over a part that would show a leak, far below what 200 migrations of anything would leave.
MAX_GROWTH_KIB = 1024
MAX_HOST_GROWTH_MIB = 16


def load(random_load: random.Random) -> str:
    """Options of a load: how much memory, how fast, by how many threads."""
    size = random_load.choice((8, 32, 64))
    rate = random_load.choice(("1M", "16M", "64M", "max"))
    fill = random_load.choice(("zero", "pattern"))
    return (f"--size {size}M --rate {rate} --fill {fill} --threads {random_load.choice((1, 2))} "
            "--tick 2 --interval 500")


def usage(guest: MovingGuest) -> tuple[int, int]:
    """What the guest's process uses: KiB of its own, besides the guest's memory, and descriptors."""
    pid = guest.job.pid()
    own = f"$1 == \"Size:\" {{ size = $2 }} $1 == \"Private_Dirty:\" && size < {GUEST_MIB << 10} {{ sum += $2 }}"
    found = guest.host.run(
        f"awk '{own} END {{ print sum }}' /proc/{pid}/smaps; ls /proc/{pid}/fd | wc -l").stdout.split()
    return int(found[0]), int(found[1])


@pytest.mark.parametrize("part", range(1, PARTS + 1))
def test_soak(two: TwoHosts, part: int) -> None:
    choice = random.Random(part)
    guest = two.started(load(choice), vcpus=2, memory=f"{GUEST_MIB}M")
    client = EchoClient(two.hosts[0])
    ahead = guest.clock_ahead(two.clocks)
    first: dict[int, tuple[int, int]] = {}
    free = [0, 0]
    for number in range(MIGRATIONS):
        options = ("--dirty-log", choice.choice(("auto", "hw", "wp")),
                   "--channels", str(choice.randint(1, 4)))
        assert_arrived_whole(guest, guest.move(*IN_TIME, *options, "--verify"))
        two.assert_nothing_left(1 - guest.at)
        own_kib, descriptors = usage(guest)
        if guest.at not in first and number >= 2:
            first[guest.at] = own_kib, descriptors
            free[1 - guest.at] = two.free_mib(1 - guest.at)
        if guest.at in first:
            assert descriptors == first[guest.at][1], number
            assert own_kib <= first[guest.at][0] + MAX_GROWTH_KIB, number
        if number % LOAD_LASTS == LOAD_LASTS - 1:
            assert guest.stop_workload() == "workload: done result=ok"
            guest.start_workload(load(choice))
    other = 1 - guest.at
    assert two.free_mib(other) > free[other] - MAX_HOST_GROWTH_MIB
    assert abs(guest.clock_ahead(two.clocks) - ahead) < CLOCK_LIMIT_S
    assert client.stop()["lost"] == 0
    assert guest.stop_workload() == "workload: done result=ok"
