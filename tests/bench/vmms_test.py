"""What the benchmarks make of a run's output: runs natively, `pytest tests/bench/vmms_test.py`."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import benchlib
import vmms


class FakeHost:
    """A host in which every command prints the same."""

    def __init__(self, stdout: str, status: int = 0) -> None:
        self.result = subprocess.CompletedProcess([], status, stdout, "an error")
        self.commands: list[str] = []

    def run(self, command: str, **_: object) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        return self.result


SETUP = vmms.Setup("load a && load b", "", [])
OUTPUT = ("a count=200 us=1000 cpu_us=3000 guest_us=10000\r\n"
          "b count=50 us=2000 cpu_us=100 guest_us=0\n"
          "private_kib=2048\n")


def test_samples_are_rates_and_cpu_time_by_load() -> None:
    host = FakeHost(OUTPUT)
    samples = SETUP.measure(host, 2, ["lab-exact"])
    for program in ("vmm", "qemu"):
        assert samples[program].rates("a") == [200_000, 200_000]
        assert samples[program].cpu("a") == [15, 15]
        assert samples[program].rates("b") == [25_000, 25_000]
        assert samples[program].private_mib == [2, 2]


def test_the_programs_take_turns() -> None:
    host = FakeHost(OUTPUT)
    SETUP.measure(host, 2)
    assert ["qemu-system" in command for command in host.commands] == [False, True, False, True]


@pytest.mark.parametrize("host", [FakeHost(OUTPUT, status=1), FakeHost("a count=1\n")])
def test_a_run_that_fails_is_an_error_with_its_output(host: FakeHost) -> None:
    with pytest.raises(benchlib.BenchError, match="an error"):
        SETUP.measure(host, 1)


def test_the_ratio_is_that_of_the_medians() -> None:
    item = vmms.ratio("x", [1, 2, 9], [2, 4, 3], ">= 1.0")
    assert item.value == pytest.approx(2 / 3)
    assert (item.minimum, item.maximum, item.runs, item.peer) == (0.5, 3, 3, 1.0)


@pytest.mark.parametrize("target, value", [(">= 1.0", 0.8), ("<= 1.0", 1.3)])
def test_the_worst_ratio_is_furthest_from_its_target(target: str, value: float) -> None:
    figures = [vmms.ratio(name, [own], [1], target)
               for name, own in (("a", 1.3), ("b", 0.8), ("c", 1.0))]
    item = vmms.worst("all", figures)
    assert (item.name, item.value) == ("all", value)
