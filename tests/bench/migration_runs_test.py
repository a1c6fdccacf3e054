"""What the migration benchmark makes of a run's output: runs natively."""

import dataclasses
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from benchlib import BenchError
from migration_runs import times_in, timing_of

def test_times_stand_around_the_output() -> None:
    assert times_in("1.5\none\ntwo\n2.5\n") == (1.5, 2.5, "one\ntwo")
    assert times_in("1.5\n2.5\n") == (1.5, 2.5, "")
    with pytest.raises(BenchError):
        times_in("1.5\nfailed: the link is down\n")


ROUNDS = [{"mode": "hw", "ms": 400.0}, {"mode": "hw", "ms": 100.0}, {"mode": "wp", "ms": 50.0},
          {"mode": "wp", "ms": 5.0}]


def test_the_bulk_begins_when_the_first_round_does() -> None:
    report = {"result": "migrated", "total_ms": 800.0, "downtime_ms": 50.0, "rounds": ROUNDS}
    timing = timing_of(report, 10.0, 11.0)
    assert dataclasses.astuple(timing) == pytest.approx((10.0, 10.2, 10.7, 10.75, 11.0))


def test_all_of_a_run_without_a_stop_is_bulk() -> None:
    report = {"result": "control-run", "total_ms": 500.0, "downtime_ms": 0.0, "rounds": ROUNDS[:1]}
    timing = timing_of(report, 10.0, 11.0)
    assert dataclasses.astuple(timing) == pytest.approx((10.0, 10.1, 10.5, 10.5, 11.0))
