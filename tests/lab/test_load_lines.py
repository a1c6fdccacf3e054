"""What the load's lines tell about a migration: needs no host."""

import pytest

from lab.errors import LabError
from lab.load_lines import longest_gap, pages_at, parse_lines, rate

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
        with pytest.raises(LabError):
            pages_at(LINES, when)


def test_rate_is_that_between_the_two_times() -> None:
    assert rate(LINES, 10.5, 11.5) == pytest.approx(1000)
    assert rate(LINES, 11.5, 12.5) == pytest.approx(550)


def test_longest_gap_is_of_the_lines_in_the_time() -> None:
    assert longest_gap(LINES, 11.0, 13.5) == pytest.approx(0.3)
    assert longest_gap(LINES, 11.0, 14.0) == pytest.approx(0.4)


def test_only_whole_lines_of_the_load_count() -> None:
    line = "workload: t_ms=10 pages=7 tick_us=3 clock_back=0 wall=5.5"
    assert parse_lines(f"# echo\n{line}\nworkload: t_ms=20 pag\n") == [
        {"t_ms": 10, "pages": 7, "tick_us": 3, "clock_back": 0, "wall": 5.5}]
