"""What the migration benchmark makes of a run's output: runs natively."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from benchlib import BenchError
from migration_runs import times_in

def test_times_stand_around_the_output() -> None:
    assert times_in("1.5\none\ntwo\n2.5\n") == (1.5, 2.5, "one\ntwo")
    assert times_in("1.5\n2.5\n") == (1.5, 2.5, "")
    with pytest.raises(BenchError):
        times_in("1.5\nfailed: the link is down\n")
