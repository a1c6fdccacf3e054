"""Guests that are saved to a file and restored from it, in the lab."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from guests import guest_config
from lab.guest_shell import ANSWERS, CMDLINE
from lab.host import Host
from lab.job import Job
from lab.moving import MovingGuest, devices, host_address, make_bridge
from migration import (
    FAILED, INTERRUPTED, LOAD, TAP, USAGE, TwoHosts, assert_arrived_whole, one_line,
)

SNAPSHOT = "/tmp/jobs/web.snap"
LOADED = re.compile(r"(\d+) MiB of memory loaded in (\d+) ms")
RESTORED = re.compile(r"the guest is restored after (\d+) ms")


def snapshot(guest: MovingGuest, *options: str, to: str = SNAPSHOT) -> tuple[int, str, str]:
    """Run `vmm snapshot`; its status and what it printed."""
    done = guest.host.run(["vmm", "snapshot", guest.name, "--to", to, *options], 120, False)
    return done.returncode, done.stdout, done.stderr


def restore(guest: MovingGuest, *options: str, file: str = SNAPSHOT) -> Job:
    """Start `vmm restore` where the guest was, with its configuration."""
    job = Job(guest.host, f"restore{len(guest.jobs)}",
              ["vmm", "restore", file, "--config", guest.config(guest.at), *options])
    guest.jobs.append(job)
    return job


def assert_goes_on(guest: MovingGuest, job: Job) -> None:
    """A restored guest answers, its load goes on and finds its memory right; its memory is loaded
    while it runs."""
    job.until(ANSWERS, 90)
    before = guest.workload_lines()[-1]
    after = guest.check_memory()
    assert after["pages"] > before["pages"]
    assert after["mismatches"] == after["clock_back"] == 0
    job.until(f"grep -q 'memory loaded' {job.folder}/stderr", 60)
    log = job.read("stderr")
    loaded, restored = LOADED.search(log), RESTORED.search(log)
    assert loaded and restored, log
    assert "all memory is loaded before" not in log
    print(f"restored in {restored[1]} ms, {loaded[1]} MiB loaded in {loaded[2]} ms")


def test_a_guest_under_load_is_saved_and_restored(two: TwoHosts) -> None:
    guest = two.started(LOAD, disks=())
    status, out, err = snapshot(guest)
    assert status == 0, err
    print(out)
    assert "paused for" in out
    # It goes on, and knows nothing.
    assert guest.check_memory()["mismatches"] == 0
    saved = guest.workload_lines()[-1]["pages"]
    guest.host.run(["vmm", "kill", guest.name])
    assert_goes_on(guest, restore(guest))
    assert guest.host.run(f"stat -c %a {SNAPSHOT}").stdout.strip() == "600"
    assert guest.stop_workload() == "workload: done result=ok"
    assert saved > 0


def test_a_guest_with_a_disk_is_saved_with_its_end(two: TwoHosts) -> None:
    guest = two.guest(disks=("/tmp/jobs/disk.img",))
    guest.host.run("mkdir -p /tmp/jobs; truncate -s 16M /tmp/jobs/disk.img; "
                   f"sed -i 's/direct = true/direct = false/' {guest.config(0)}")
    guest.start()
    guest.start_workload(LOAD)
    status, _, err = snapshot(guest)
    assert status == USAGE
    one_line(err, "writes to disk disk0", "--stop")
    guest.run("echo before >/dev/vda; sync")
    status, out, err = snapshot(guest, "--stop")
    assert status == 0, err
    # It has ended when the command says so: its name and its disk are free.
    assert two.states(0) == {}
    assert guest.job.wait(10) == 0
    assert guest.host.run("head -c 6 /tmp/jobs/disk.img").stdout == "before"
    job = restore(guest)
    assert_goes_on(guest, job)
    guest.run("echo after >/dev/vda; sync; [ $(head -c 5 /dev/vda) = after ]")
    # The disk has moved on.
    guest.host.run(["vmm", "kill", guest.name])
    job = restore(guest)
    assert job.wait(30) == FAILED
    one_line(job.read("stderr"), "disk disk0", "has changed since the snapshot")
    two.assert_nothing_left(0)


def test_a_damaged_file_and_a_full_disk(two: TwoHosts) -> None:
    guest = two.started(LOAD, disks=())
    host = guest.host
    host.run("mkdir -p /tmp/small; mountpoint -q /tmp/small || "
             "mount -t tmpfs -o size=4M tmpfs /tmp/small; echo old >/tmp/small/snap")
    status, _, err = snapshot(guest, to="/tmp/small/snap")
    assert status == FAILED
    one_line(err, "/tmp/small/snap", "No space left")
    assert host.run("cat /tmp/small/*").stdout == "old\n"
    assert guest.check_memory()["mismatches"] == 0
    host.run("umount /tmp/small")
    assert snapshot(guest)[0] == 0
    host.run(["vmm", "kill", guest.name])
    size = int(host.run(f"stat -c %s {SNAPSHOT}").stdout)
    for offset, words in ((100, "header at offset 0 is damaged"), (size - 20, "index at offset"),
                          (size // 2, "guest memory at offset")):
        host.run(f"cp {SNAPSHOT} /tmp/jobs/bad; printf '\\377\\376\\375\\374' | "
                 f"dd of=/tmp/jobs/bad bs=1 seek={offset} conv=notrunc 2>/dev/null")
        job = restore(guest, file="/tmp/jobs/bad")
        assert job.wait(30) == FAILED
        one_line(job.read("stderr"), words, "/tmp/jobs/bad")
    host.run(f"truncate -s {size - 1} /tmp/jobs/bad")
    job = restore(guest, file="/tmp/jobs/bad")
    assert job.wait(30) == FAILED
    one_line(job.read("stderr"), f"ends at offset {size - 1}")
    host.run("rm -f /tmp/jobs/bad")


@pytest.mark.full
def test_a_client_that_is_interrupted_or_lost_leaves_the_guest_as_it_was(two: TwoHosts) -> None:
    guest = two.started("--size 512M --fill pattern --tick 2 --interval 100", disks=(),
                        memory="768M")
    for signal, status in (("INT", INTERRUPTED), ("KILL", 137)):
        job = Job(guest.host, "snapshot", ["vmm", "snapshot", guest.name, "--to", SNAPSHOT])
        job.until(f"ls {SNAPSHOT}.* 2>/dev/null", 20)
        job.signal(signal)
        assert job.wait(30) == status
        guest.host.run(f"until [ -z \"$(ls {SNAPSHOT}* 2>/dev/null)\" ]; do usleep 50000; done", 60)
        assert two.states(0) == {guest.name: "running"}
        assert guest.check_memory()["mismatches"] == 0


@pytest.mark.full
def test_a_guest_with_many_cpus_and_much_memory_is_restored(two: TwoHosts) -> None:
    guest = two.started("--size 512M --fill pattern --threads 4 --pin --tick 2 --interval 100",
                        disks=(), vcpus=4, memory="1G", features=["sve", "pauth"])
    status, out, err = snapshot(guest, "--stop")
    assert status == 0, err
    assert guest.job.wait(10) == 0
    job = restore(guest)
    assert_goes_on(guest, job)
    # A guest like any other: it moves on from there.
    guest.move("--max-rounds", "5", "--on-timeout", "stop-and-copy", "--verify")
    assert guest.stop_workload() == "workload: done result=ok"


@pytest.fixture
def huge_pages(two: TwoHosts) -> Iterator[TwoHosts]:
    """Hosts with 128 MiB each in the pool of huge pages."""
    for host in two.hosts:
        host.run("echo 64 >/proc/sys/vm/nr_hugepages; [ $(cat /proc/sys/vm/nr_hugepages) = 64 ]")
    yield two
    for host in two.hosts:
        host.run("echo 0 >/proc/sys/vm/nr_hugepages")


@pytest.mark.full
def test_a_guest_in_huge_pages_of_the_pool_moves_and_is_restored(huge_pages: TwoHosts) -> None:
    two = huge_pages
    guest = two.guest(disks=())
    for end, host in enumerate(two.hosts):
        host.run(f"sed -i 's/^memory = .*/&\\nbacking = \"hugetlb\"/' {guest.config(end)}")
    guest.start()
    guest.start_workload(LOAD)
    assert_arrived_whole(guest, guest.move("--verify"))
    in_pool = "awk '/^Private_Hugetlb/ { sum += $2 } END { print sum }'"
    used = two.hosts[1].run(f"{in_pool} /proc/{guest.job.pid()}/smaps").stdout
    assert int(used) > 32 << 10, used  # KiB, the load's
    status, _, err = snapshot(guest, "--stop")
    assert status == 0, err
    assert guest.job.wait(10) == 0
    job = restore(guest)
    job.until(ANSWERS, 90)
    assert guest.check_memory()["mismatches"] == 0
    log = job.read("stderr")
    assert "all memory is loaded before the guest runs: huge pages of the pool" in log
    assert guest.stop_workload() == "workload: done result=ok"


@pytest.mark.full
def test_a_stock_kernel_brings_memory_as_it_is_touched(
    shares: dict[str, Path], vmm_files: dict[str, Path]
) -> None:
    with Host.start(kernel="debian", shares=shares, extra_files=vmm_files) as host:
        make_bridge(host, host_address(0), [TAP])
        config = guest_config("mover", memory="96M", cmdline=CMDLINE, devices=devices((), TAP))
        guest = MovingGuest([host], "mover", [config])
        guest.start()
        guest.start_workload(LOAD)
        status, _, err = snapshot(guest, "--stop")
        assert status == 0, err
        assert guest.job.wait(10) == 0
        assert_goes_on(guest, restore(guest))
        assert guest.stop_workload() == "workload: done result=ok"
