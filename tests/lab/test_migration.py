"""Guests move between two hosts under load, and nobody notices but by a short pause."""

import shlex

import pytest

from lab.moving import EchoClient
from migration import (
    CLOCK_LIMIT_S, MAX_LOAD, TwoHosts, assert_arrived_whole,
)

VERIFY = ("--verify",)
# For loads that write faster than the network carries.
IN_TIME = ("--max-rounds", "5", "--on-timeout", "stop-and-copy")


def modes(report: dict) -> set[str]:
    """The log modes that the rounds of a migration used."""
    return {item["mode"] for item in report["rounds"]}


def test_a_guest_under_load_goes_there_and_back(two: TwoHosts) -> None:
    guest = two.started(MAX_LOAD)
    client = EchoClient(two.hosts[1])
    ahead = guest.clock_ahead(two.clocks)
    for end, mode in ((1, "hw"), (0, "wp")):
        report = guest.move("--dirty-log", mode, *IN_TIME, *VERIFY)
        assert_arrived_whole(guest, report)
        assert modes(report) == {mode}
        assert two.running() == [end]
        assert abs(guest.clock_ahead(two.clocks) - ahead) < CLOCK_LIMIT_S
        two.assert_nothing_left(1 - end)
        assert two.log_mode(guest) == "0"
    replies = client.stop()
    assert replies["lost"] == 0 and replies["sent"] > 100
    assert guest.stop_workload() == "workload: done result=ok"


def test_a_guest_that_has_arrived_is_one_as_any_other(two: TwoHosts) -> None:
    guest = two.started()
    source = guest.job
    receiver = guest.listen()
    # When the command ends, nothing of the guest is left here.
    left = guest.host.run(f"{shlex.join(guest.migrate_command())} >/dev/null && ls /run/vmm", 120)
    assert left.stdout == ""
    guest.arrived(receiver)
    assert source.wait(10) == 0
    assert "10.77.0.2:4444" in source.read("stderr")  # it says where the guest went
    two.assert_nothing_left(0)
    end = two.ends[1]
    assert two.states(1) == {"mover": "running"}
    assert end("pause").returncode == 0 and two.states(1) == {"mover": "paused"}
    # Paused by the operator it arrives paused.
    report = guest.move(*VERIFY)
    assert report["verify"]["source"] == report["verify"]["destination"]
    assert two.states(0) == {"mover": "paused"}
    end = two.ends[0]
    assert end("resume").returncode == 0 and two.states(0) == {"mover": "running"}
    assert guest.check_memory()["mismatches"] == 0
    assert end("stop").returncode == 0
    assert guest.job.wait(30) == 0
    two.assert_nothing_left(0)


def test_what_was_read_ahead_at_the_destination_is_not_what_the_guest_reads(two: TwoHosts) -> None:
    guest = two.started()
    # The destination's page cache has the disk as it was.
    two.hosts[1].run("dd if=/dev/vda of=/dev/null bs=1M 2>/dev/null")
    guest.run("head -c 8388608 /dev/urandom >/tmp/noise; "
              "dd if=/tmp/noise of=/dev/vda bs=64k seek=16 2>/dev/null; sync")
    guest.move(*VERIFY)
    guest.run("echo 3 >/proc/sys/vm/drop_caches; "
              "dd if=/dev/vda bs=64k skip=16 count=128 2>/dev/null | cmp - /tmp/noise")
    guest.run("dd if=/tmp/noise of=/dev/vda bs=64k seek=256 2>/dev/null; sync")
    guest.move(*VERIFY)
    guest.run("echo 3 >/proc/sys/vm/drop_caches; "
              "dd if=/dev/vda bs=64k skip=256 count=128 2>/dev/null | cmp - /tmp/noise")


def test_vcpus_with_sve_and_pointer_authentication_move(two: TwoHosts) -> None:
    guest = two.started("--size 48M --threads 4 --pin --tick 2 --interval 100", vcpus=4,
                        memory="256M", features=["sve", "pauth"])
    guest.run("grep -q 'sve.*paca' /proc/cpuinfo")
    assert_arrived_whole(guest, guest.move("--channels", "4", *IN_TIME, *VERIFY))
    guest.run("grep -q 'sve.*paca' /proc/cpuinfo")
    assert guest.stop_workload() == "workload: done result=ok"


def test_a_debian_guest_with_a_gigabyte_moves(two: TwoHosts) -> None:
    guest = two.started("--size 256M --fill pattern --rate 64M --threads 2 --tick 2 --interval 100",
                        image="debian", vcpus=2, memory="1G")
    report = guest.move(*IN_TIME, *VERIFY)
    assert_arrived_whole(guest, report)
    assert guest.stop_workload() == "workload: done result=ok"


CROSS = [(image, memory, vcpus, thp)
         for image in ("tiny", "debian") for memory in ("256M", "1G")
         for vcpus in (1, 2, 4) for thp in ("never", "madvise")]


@pytest.mark.full
@pytest.mark.parametrize("image, memory, vcpus, thp", CROSS,
                         ids=[f"{i}-{m}-{v}-{t}" for i, m, v, t in CROSS])
def test_every_kind_of_guest_goes_there_and_back(
    two: TwoHosts, image: str, memory: str, vcpus: int, thp: str
) -> None:
    for host in two.hosts:
        host.run(f"echo {thp} >/sys/kernel/mm/transparent_hugepage/enabled")
    size = "64M" if memory == "256M" else "512M"
    backing = "thp" if thp == "madvise" and image == "debian" else "4k"
    guest = two.started(
        f"--size {size} --fill pattern --backing {backing} --threads {vcpus} --pin --tick 2 "
        "--interval 100", image=image, memory=memory, vcpus=vcpus)
    client = EchoClient(two.hosts[0])
    ahead = guest.clock_ahead(two.clocks)
    for mode in ("hw", "wp"):
        report = guest.move("--dirty-log", mode, *IN_TIME, *VERIFY, timeout=400)
        assert_arrived_whole(guest, report)
        assert abs(guest.clock_ahead(two.clocks) - ahead) < CLOCK_LIMIT_S
    assert client.stop()["lost"] == 0
    assert guest.stop_workload() == "workload: done result=ok"
    for host in two.hosts:
        host.run("echo madvise >/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.full
def test_fifty_migrations_back_and_forth(two: TwoHosts) -> None:
    guest = two.started("--size 64M --threads 2 --tick 2 --interval 500", vcpus=2, memory="256M")
    client = EchoClient(two.hosts[0])
    ahead = guest.clock_ahead(two.clocks)
    for number in range(50):
        options = ("--dirty-log", ("auto", "wp")[number % 2], "--channels", str(1 + number % 4))
        assert_arrived_whole(guest, guest.move(*IN_TIME, *options, *VERIFY))
        two.assert_nothing_left(1 - guest.at)
    assert abs(guest.clock_ahead(two.clocks) - ahead) < CLOCK_LIMIT_S
    assert client.stop()["lost"] == 0
    assert guest.stop_workload() == "workload: done result=ok"
