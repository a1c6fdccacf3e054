"""What the transport benchmark makes of what the programs say: runs natively."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from benchlib import BenchError
from transport_runs import (
    FILL_MIB, Transfer, Transfers, best, fill_places, iperf_wall, meter_result, process_cpu,
    qemu_wall,
)


def transfers(*runs: Transfer) -> Transfers:
    made = Transfers()
    made.runs.extend(runs)
    return made


def test_best_is_by_the_median_of_what_is_asked() -> None:
    quick = transfers(Transfer(1, 3, 3), Transfer(9, 3, 3), Transfer(1, 3, 3))
    frugal = transfers(Transfer(2, 1, 1), Transfer(2, 1, 1), Transfer(2, 9, 9))
    kinds = {"quick": quick, "frugal": frugal}
    assert best(kinds, lambda run: run.wall) is quick
    assert best(kinds, lambda run: run.cpu) is frugal


def test_meter_line() -> None:
    line = "wall_s=1.2500 send_cpu_s=0.5000 receive_cpu_s=0.7500 sent_mib=3072.1\n"
    assert meter_result(line) == Transfer(1.25, 0.5, 0.75)
    assert meter_result(line).cpu == 1.25
    with pytest.raises(BenchError, match="nothing"):
        meter_result("")


def test_qemus_time_counts_once_all_has_been_sent() -> None:
    done = {"status": "completed", "total-time": 1940, "ram": {"normal-bytes": 3 << 30}}
    assert qemu_wall({"status": "active"}, 1) is None
    assert qemu_wall({}, 1) is None
    assert qemu_wall(done | {"total-time": 0}, 1) is None
    assert qemu_wall(done, 3 << 30) == 1.94
    with pytest.raises(BenchError, match="not"):
        qemu_wall(done, (3 << 30) + 1)
    with pytest.raises(BenchError, match="no route"):
        qemu_wall({"status": "failed", "error-desc": "no route"}, 1)


def test_fill_stays_within_the_guest_and_leaves_little() -> None:
    places = fill_places(3072)
    assert [after - before for before, after in zip(places, places[1:])] == [FILL_MIB << 20] * 2
    end, ram_end = places[-1] + (FILL_MIB << 20), (1024 + 3072) << 20
    assert ram_end - (8 << 20) < end <= ram_end


def test_cpu_time_of_a_process_whose_name_is_odd() -> None:
    stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 150 25 0 0 20 0 1 0 5 9 9"
    assert process_cpu(stat, 100) == 1.75


def test_iperfs_time_is_that_of_all_bytes() -> None:
    text = json.dumps({"end": {"sum_received": {"seconds": 1.5, "bytes": 750}}})
    assert iperf_wall(text, 1000) == 2.0
    for wrong in ("", json.dumps({"error": "unable to connect", "end": {}})):
        with pytest.raises(BenchError):
            iperf_wall(wrong, 1000)
