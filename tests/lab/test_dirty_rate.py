"""`vmm stats dirty-rate` finds what the guest says it writes, and turns logging off again."""

import json
import time
from collections.abc import Iterator

import pytest

from lab.guest_shell import CMDLINE, Clocks
from lab.host import Host
from lab.job import Job
from lab.load_lines import Line, pages_at
from lab.moving import MovingGuest, end_all, make_bridge
from guests import VmmHost, guest_config, table

TAP = "rate0"
ADDRESS = "10.77.0.1"
TOLERANCE = 0.05
# How many intervals of how many milliseconds. The guest's kernel writes besides, to the same pages again
# and again: a third of what the load writes in a second at the low rate, and not the same each second;
# a fifteenth of what it writes in ten.
INTERVALS = {"1M": (1, 10000), "100M": (4, 1000), "max": (4, 1000)}
SIZE_MIB = 64


@pytest.fixture(scope="module")
def network(host: Host) -> Host:
    """A host with the guests' network."""
    make_bridge(host, ADDRESS, [TAP])
    return host


@pytest.fixture
def rate_host(network: Host) -> Iterator[VmmHost]:
    """A host for one test alone."""
    end_all([network])
    yield VmmHost(network)
    end_all([network])


def start(vmm: VmmHost, vcpus: int) -> MovingGuest:
    """A guest with its shell."""
    config = guest_config("rate", memory="160M", vcpus=vcpus, cmdline=CMDLINE,
                          devices=table("[[net]]", id="lan", tap=TAP))
    guest = MovingGuest([vmm.host], "rate", [config])
    guest.start()
    return guest


def measure(vmm: VmmHost, mode: str, period_ms: int, interval_ms: int) -> dict:
    """One measurement."""
    found = vmm.json("stats", "dirty-rate", "rate", "--dirty-log", mode, "--period", str(period_ms),
                     "--interval", str(interval_ms))
    assert isinstance(found, dict)
    return found


def log_is_off(guest: MovingGuest) -> bool:
    """Whether the kernel has no hardware logging for the guest, and no page of it is watched: what
    the guest writes makes no exits."""
    pattern = f"/sys/kernel/debug/kvm/{guest.job.pid()}-*"
    mode = guest.host.run(f"cat {pattern}/hw_dirty_log_mode").stdout.strip()
    return mode == "0"


def unique_pages(lines: list[Line], begin: float, end: float, intervals: int) -> float:
    """Different pages that the load wrote to in each interval, together: it goes over them in order,
    so that none is written again before all are."""
    times = [begin + number * (end - begin) / intervals for number in range(intervals + 1)]
    pages = [pages_at(lines, when) for when in times]
    return sum(min(after - before, SIZE_MIB * 256) for before, after in zip(pages, pages[1:]))


def chosen(rate: str, vcpus: int, mode: str) -> object:
    """Either mode and number of vCPUs once, and the low rate; the others take long."""
    quick = (rate, vcpus, mode) in (("1M", 1, "hw"), ("100M", 2, "wp"), ("max", 2, "hw"))
    return pytest.param(rate, vcpus, mode, marks=[] if quick else [pytest.mark.full])


@pytest.mark.parametrize("rate, vcpus, mode", [
    chosen(rate, vcpus, mode) for rate in INTERVALS for vcpus in (1, 2) for mode in ("hw", "wp")])
def test_it_agrees_with_what_the_guest_counts(
    rate_host: VmmHost, rate: str, vcpus: int, mode: str
) -> None:
    guest = start(rate_host, vcpus)
    count, interval_ms = INTERVALS[rate]
    clocks = Clocks([rate_host.host])
    ahead = guest.clock_ahead(clocks)
    options = f"--threads {vcpus} --size {SIZE_MIB}M --interval 200 --wall"
    # What a guest writes to besides: its kernel, and the program that writes.
    guest.start_workload(f"{options} --rate {vcpus}")
    time.sleep(0.5)
    besides = measure(rate_host, mode, count * interval_ms, interval_ms)["intervals"]
    guest.stop_workload()
    guest.start_workload(f"{options} --rate {rate}")
    time.sleep(0.5)
    # In their first pass one thread may be several times as fast as the other, and write twice to its
    # own pages before the other has written to all of its.
    deadline = time.monotonic() + 60
    while rate != "1M" and guest.workload_lines()[-1]["passes"] < 1:
        assert time.monotonic() < deadline, guest.workload_lines()[-1]
        time.sleep(0.2)
    found = measure(rate_host, mode, count * interval_ms, interval_ms)
    assert found["mode"] == mode and len(found["intervals"]) == count
    begin = found["begun"] - clocks.ahead[0]
    end = begin + found["measured_ms"] / 1000
    own = unique_pages(guest.workload_lines_until(end, ahead), begin, end, count)
    got = sum(found["intervals"]) - sum(besides)
    print(f"{rate} {vcpus} {mode}: {got} pages measured, {own:.0f} counted: {got / own - 1:+.2%}; "
          f"{found['intervals']} without {besides}")
    assert got == pytest.approx(own, rel=TOLERANCE), (found, besides, own)
    assert log_is_off(guest)


def test_figures_of_one_measurement_fit_together(rate_host: VmmHost) -> None:
    guest = start(rate_host, 1)
    guest.start_workload("--size 16M --rate 8M")
    found = measure(rate_host, "hw", 2000, 200)
    assert found["period_ms"] == 2000 and found["interval_ms"] == 200
    assert len(found["intervals"]) == 10
    assert found["bytes_per_s"] == pytest.approx(found["pages_per_s"] * 4096)
    assert max(found["intervals"]) <= found["unique_pages"] <= sum(found["intervals"])
    text = rate_host("stats", "dirty-rate", "--period", "500")
    assert text.returncode == 0 and "pages/s" in text.stdout and "MiB/s" in text.stdout


def test_it_measures_again_and_again(rate_host: VmmHost) -> None:
    start(rate_host, 1)
    done = rate_host("stats", "dirty-rate", "--count", "3", "--period", "300", "--json")
    assert done.returncode == 0
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 3


@pytest.mark.parametrize("signal", [
    "KILL", *(pytest.param(signal, marks=pytest.mark.full) for signal in ("INT", "TERM"))])
def test_logging_is_off_after_the_command_was_killed(rate_host: VmmHost, signal: str) -> None:
    guest = start(rate_host, 1)
    guest.start_workload("--size 16M --rate 8M")
    command = Job(rate_host.host, "rate", ["vmm", "stats", "dirty-rate", "--period", "600000"])
    guest.job.until(f"[ $(cat /sys/kernel/debug/kvm/{guest.job.pid()}-*/hw_dirty_log_mode) = 1 ]", 20)
    command.signal(signal)
    command.wait(20)
    guest.job.until(f"[ $(cat /sys/kernel/debug/kvm/{guest.job.pid()}-*/hw_dirty_log_mode) = 0 ]", 20)
    assert log_is_off(guest)
    assert guest.check_memory()["mismatches"] == 0


def test_a_guest_that_ends_ends_the_measurement(rate_host: VmmHost) -> None:
    guest = start(rate_host, 1)
    command = Job(rate_host.host, "rate", ["vmm", "stats", "dirty-rate", "--period", "600000"])
    time.sleep(1)
    rate_host("kill", "rate")
    assert command.wait(20) != 0
    assert guest.job.wait(20) != -1
