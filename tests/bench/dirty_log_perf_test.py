"""The reader of dirty_log_perf_test's output."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent.parent)]
from benchlib import BenchError  # noqa: E402
from dirty_log_perf import Job, comparable, parse, steady  # noqa: E402

HARDWARE = """\
Test iterations: 2
Populate memory time: 1.000000007s
Enabling dirty logging time: 0.000000100s

Iteration 1 dirty memory time: 0.020000000s
Iteration 1 dirty memory exits: 3
Iteration 1 get dirty log time: 0.000010000s
Iteration 1 clear dirty log time: 0.002000000s
Iteration 1 hardware scans: 0 PTEs scanned: 0 PTEs found: 0 leaves armed: 256
Iteration 2 dirty memory time: 0.010000000s
Iteration 2 dirty memory exits: 4
Iteration 2 get dirty log time: 0.000020000s
Iteration 2 clear dirty log time: 0.001000000s
Iteration 2 hardware scans: 1 PTEs scanned: 256 PTEs found: 256 leaves armed: 256
Disabling hardware dirty logging time: 0.000030000s
Disabling dirty logging time: 0.000040000s
Get dirty log over 2 iterations took 0.000030000s. (Avg 0.000015000s/iteration)
"""


def test_reads_times_in_nanoseconds_and_counts() -> None:
    run = parse(Job(1, hardware=True), HARDWARE)
    assert run.populate == 1_000_000_007
    assert run.dirty == [20_000_000, 10_000_000]
    assert run.get == [10_000, 20_000]
    assert run.clear == [2_000_000, 1_000_000]
    assert run.scanned == [0, 256]
    assert (run.disable_hardware, run.disable) == (30_000, 40_000)


def test_exits_leave_out_the_one_of_each_vcpu() -> None:
    assert parse(Job(1, hardware=True), HARDWARE).rewrite_exits_per_page() == 3 / 256
    assert parse(Job(1, vcpus=4, hardware=True), HARDWARE).rewrite_exits_per_page() == 0


def test_write_protect_needs_no_hardware_lines() -> None:
    lines = [line for line in HARDWARE.splitlines() if "hardware" not in line]
    run = parse(Job(1), "\n".join(lines))
    assert (run.scanned, run.disable_hardware) == ([], None)


@pytest.mark.parametrize("missing", ["Populate", "Iteration 2 get", "Disabling hardware"])
def test_missing_line_is_an_error(missing: str) -> None:
    lines = [line for line in HARDWARE.splitlines() if not line.startswith(missing)]
    with pytest.raises(BenchError):
        parse(Job(1, hardware=True), "\n".join(lines))


def test_steady_state_leaves_out_the_first_iteration() -> None:
    assert steady([1000, 3, 1, 2]) == 2


def test_command_line() -> None:
    job = Job(64, vcpus=2, hardware=True, backing="anonymous_thp", iterations=5)
    assert job.command().startswith("/")
    assert job.command().endswith("-m 3 -i 5 -b 64M -v 2 -s anonymous_thp -H -D")
    assert job.pages == 2 * 64 * 256
    assert Job(64, exact=True).command().startswith("lab-exact /")


def test_steps_that_wait_are_compared_with_their_like() -> None:
    assert comparable([15, 44, 45], [14, 43]) == [44, 45]
    assert comparable([102, 101], [100, 99]) == [102, 101]
    # A step that has become slower is not taken for one that waits.
    assert comparable([300, 310], [100, 101]) == [300, 310]
