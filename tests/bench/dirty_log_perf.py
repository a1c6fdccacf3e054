"""Running the kernel's dirty_log_perf_test in the lab and reading what it prints."""

import dataclasses
import re
import statistics
from collections.abc import Sequence

from benchlib import BenchError
from lab.host import Host

PROGRAM = "/selftests/dirty_log_perf_test"
WIDTH = "/sys/module/kvm/parameters/hw_dirty_scan_width"
PAGE_BYTES = 4096
SKIPPED = 4  # the kernel's convention, KSFT_SKIP
_TIME = r"(\d+)\.(\d{9})s"


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of the test: MiB of memory for each vCPU, with the guest's memory on `backing`.

    `exact` is for hosts whose clock counts instructions: nothing else runs there meanwhile.
    """

    mib: int
    vcpus: int = 1
    hardware: bool = False
    backing: str = "anonymous"
    iterations: int = 2
    exact: bool = False

    @property
    def pages(self) -> int:
        """Pages of the guest, all of which it writes in every iteration."""
        return self.vcpus * self.mib * (1 << 20) // PAGE_BYTES

    def command(self) -> str:
        """The command line: guests with 4K pages and 48 bits.

        Hardware logging is switched off at the end, which is timed.
        """
        exact = "lab-exact " if self.exact else ""
        hardware = " -H -D" if self.hardware else ""
        return (f"{exact}{PROGRAM} -m 3 -i {self.iterations} -b {self.mib}M -v {self.vcpus} "
                f"-s {self.backing}{hardware}")


@dataclasses.dataclass(frozen=True)
class PerfRun:
    """What one run printed: times in nanoseconds, per iteration where it is a list.

    In the first iteration all of the log is set to begin with, so that nothing is logged and the
    first CLEAR is the one that splits blocks. The others are the steady state.
    """

    job: Job
    populate: int
    enable: int
    dirty: list[int]
    exits: list[int]
    get: list[int]
    clear: list[int]
    scanned: list[int]
    disable: int
    disable_hardware: int | None

    def rewrite_exits_per_page(self) -> float:
        """Exits for each page written after the first CLEAR, but for the one that reports the end."""
        return max(0, steady(self.exits) - self.job.vcpus) / self.job.pages


def steady(values: list[int]) -> float:
    """The median of all iterations but the first."""
    return statistics.median(values[1:])


def comparable(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Of a step's values those that wait for readers of the memory slots, all where none does. That
    wait triples a short step, or is over before it begins, by chance and on any kernel."""
    least = min(*values, *others)
    return [value for value in values if value > 2 * least] or list(values)


def parse(job: Job, text: str) -> PerfRun:
    """Reads the output of a run. Raises BenchError when something is missing from it."""
    hardware = _time(text, "Disabling hardware dirty logging time") if job.hardware else None
    return PerfRun(
        job=job,
        populate=_time(text, "Populate memory time"),
        enable=_time(text, "Enabling dirty logging time"),
        dirty=_times(job, text, "dirty memory time"),
        exits=_counts(job, text, "dirty memory exits"),
        get=_times(job, text, "get dirty log time"),
        clear=_times(job, text, "clear dirty log time"),
        scanned=_counts(job, text, r"hardware scans: \d+ PTEs scanned") if job.hardware else [],
        disable=_time(text, "Disabling dirty logging time"),
        disable_hardware=hardware,
    )


def _time(text: str, what: str) -> int:
    match = re.search(rf"^{what}: {_TIME}", text, re.M)
    if match is None:
        raise BenchError(f"{PROGRAM} printed no '{what}'")
    return int(match[1]) * 10**9 + int(match[2])


def _times(job: Job, text: str, what: str) -> list[int]:
    found = re.findall(rf"^Iteration \d+ {what}: {_TIME}", text, re.M)
    return [int(seconds) * 10**9 + int(rest) for seconds, rest in _all(job, found, what)]


def _counts(job: Job, text: str, what: str) -> list[int]:
    found = re.findall(rf"^Iteration \d+ {what}: (\d+)", text, re.M)
    return [int(number) for number in _all(job, found, what)]


def _all(job: Job, found: list, what: str) -> list:
    """The values of all iterations."""
    if len(found) != job.iterations:
        raise BenchError(f"{PROGRAM} printed '{what}' {len(found)} times in {job.iterations} iterations")
    return found


def run(host: Host, job: Job, timeout: float = 300) -> PerfRun:
    """Runs the test on a host. Raises BenchError when it fails or does not support the job."""
    done = host.run(f"{job.command()} 2>&1", timeout=timeout, check=False)
    if done.returncode == SKIPPED and job.hardware:
        raise BenchError("the kernel of the lab offers no hardware dirty logging")
    if done.returncode != 0:
        end = " / ".join(done.stdout.strip().splitlines()[-3:])
        raise BenchError(f"'{job.command()}' ended with status {done.returncode}: {end}")
    return parse(job, done.stdout)
