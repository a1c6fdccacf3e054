"""The bench contract itself: runs natively, `pytest tests/bench/benchlib_test.py`."""

import argparse
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import benchlib


def test_figure_is_the_median_with_extremes() -> None:
    item = benchlib.figure("boot.x", [3.0, 1.0, 2.0], "s", "<= 2", peer=4.0)
    assert (item.value, item.minimum, item.maximum, item.runs) == (2.0, 1.0, 3.0, 3)
    assert item.met is True


@pytest.mark.parametrize("value, target, expected", [
    (1.0, "<= 1.0", True), (1.01, "<= 1.0", False), (2, ">= 2", True), (2, "> 2", False),
    (1, "< 2", True), (0, "== 0", True)])
def test_targets(value: float, target: str, expected: bool) -> None:
    assert benchlib.meets(value, target) is expected


def test_malformed_target_is_an_error() -> None:
    with pytest.raises(ValueError):
        benchlib.meets(1, "about 1")


def test_json_carries_numbers_and_the_contract_keys(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    benchlib.report([benchlib.figure("a.b", [1.5], "ratio", "<= 1"),
                     benchlib.figure("a.c", [2], "MiB")], out)
    first, second = json.loads(out.read_text())
    assert first == {"name": "a.b", "value": 1.5, "unit": "ratio", "target": "<= 1", "met": False,
                     "runs": 1, "min": 1.5, "max": 1.5, "peer": None}
    assert second["target"] is None and second["met"] is None


def test_what_cannot_be_measured_is_one_line_and_status_1(
        capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(_: argparse.Namespace) -> list[benchlib.Figure]:
        return [benchlib.figure("a.b", [], "s")]

    monkeypatch.setattr(sys, "argv", ["bench"])
    assert benchlib.main(measure, benchlib.argument_parser("text", 3)) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_missed_target_still_exits_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bench"])
    figures = [benchlib.figure("a.b", [5], "s", "<= 1")]
    assert benchlib.main(lambda _: figures, benchlib.argument_parser("text", 3)) == 0
