"""What the migration benchmark makes of the load's lines: runs natively."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from benchlib import BenchError
from migration_runs import longest_gap, pages_at, rate, times_in

# 1000 pages a second until 12.0, 100 a second from then on; a gap of 300 ms in the third line.
LINES = [{"wall": 10.0, "pages": 0.0, "tick_us": 1000.0},
         {"wall": 12.0, "pages": 2000.0, "tick_us": 2000.0},
         {"wall": 13.0, "pages": 2100.0, "tick_us": 300_000.0},
         {"wall": 14.0, "pages": 2200.0, "tick_us": 400_000.0}]


def test_pages_between_two_lines_are_interpolated() -> None:
    assert pages_at(LINES, 11.0) == pytest.approx(1000)
    assert pages_at(LINES, 12.5) == pytest.approx(2050)


def test_a_time_without_lines_is_no_measurement() -> None:
    for when in (9.0, 15.0):
        with pytest.raises(BenchError):
            pages_at(LINES, when)


def test_rate_is_that_between_the_two_times() -> None:
    assert rate(LINES, 10.5, 11.5) == pytest.approx(1000)
    assert rate(LINES, 11.5, 12.5) == pytest.approx(550)


def test_longest_gap_is_of_the_lines_in_the_time() -> None:
    assert longest_gap(LINES, 11.0, 13.5) == pytest.approx(0.3)
    assert longest_gap(LINES, 11.0, 14.0) == pytest.approx(0.4)


def test_times_stand_around_the_output() -> None:
    assert times_in("1.5\none\ntwo\n2.5\n") == (1.5, 2.5, "one\ntwo")
    assert times_in("1.5\n2.5\n") == (1.5, 2.5, "")
    with pytest.raises(BenchError):
        times_in("1.5\nfailed: the link is down\n")
