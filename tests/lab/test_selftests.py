"""KVM selftests of the lab kernel's own source run on it, and end as they are known to.

An unexpected failure is red, and so is an unexpected pass: then the reason noted here is out of
date.
"""

import dataclasses
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from lab.artifacts import selftests
from lab.host import Host

FOLDER = "/selftests"
TIMEOUT_S = 240
SKIPPED = 4  # the kernel's convention, KSFT_SKIP


@dataclasses.dataclass(frozen=True)
class Selftest:
    """A selftest with its parameters; `fails` is why it is known to fail, or None; `prefix` is a
    command that starts it."""

    name: str
    arguments: str = ""
    fails: str | None = None
    prefix: str = ""

    @property
    def title(self) -> str:
        return " ".join([self.name.rpartition("/")[2], self.arguments]).strip()


SELFTESTS = [
    Selftest("get-reg-list"),
    Selftest("aarch64/psci_test"),
    Selftest("aarch64/vgic_irq"),
    # Adds 32767 slots, each with an SRCU grace period. The worker that ends it polls, and takes the
    # processor from the test (30 times slower) unless the test has a real-time priority.
    Selftest("set_memory_region_test", prefix="chrt -f 1"),
    Selftest("kvm_binary_stats_test"),
    # -m 3: guests with 4K pages and 48 bits; few and short iterations.
    Selftest("dirty_log_test", "-m 3 -M dirty-log -i 6 -I 20"),
    Selftest("dirty_log_test", "-m 3 -M clear-log -i 6 -I 20"),
    Selftest("aarch64/vgic_init", fails="KVM bugs the VM"),
    Selftest("aarch64/set_id_regs", fails="its mask of an ID_AA64MMFR0_EL1 field is wrong"),
]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Exit status of a selftest and the end of what it printed."""

    status: int
    output: str


@pytest.fixture(scope="module")
def selftest_host() -> Iterator[Host]:
    """A host with the selftests in its RAM: several open their own file by the path they have."""
    with Host.start(extra_files={FOLDER: selftests()}) as host:
        yield host


@pytest.fixture(scope="module")
def outcomes(selftest_host: Host) -> dict[str, Outcome]:
    """All of them, two at a time: as many as the host has processors."""
    # The long ones first, so that the short ones fill the other processor.
    ordered = sorted(SELFTESTS, key=lambda item: "dirty_log" not in item.name)
    with ThreadPoolExecutor(max_workers=2) as workers:
        return dict(workers.map(lambda item: (item.title, run_one(selftest_host, item)), ordered))


def run_one(host: Host, item: Selftest) -> Outcome:
    """Run a selftest to its end, or to the end of its time (status 143)."""
    command = f"timeout {TIMEOUT_S} {item.prefix} {FOLDER}/{item.name} {item.arguments} 2>&1"
    begun = time.monotonic()
    done = host.run(command, timeout=TIMEOUT_S + 30, check=False)
    print(f"{item.title}: status {done.returncode}, {time.monotonic() - begun:.1f} s")
    return Outcome(done.returncode, done.stdout[-1500:] + done.stderr[-500:])


@pytest.mark.parametrize("item", SELFTESTS, ids=lambda item: item.title)
def test_selftest_ends_as_known(outcomes: dict[str, Outcome], item: Selftest) -> None:
    outcome = outcomes[item.title]
    report = f"{item.title}: status {outcome.status}\n{outcome.output}"
    assert outcome.status != SKIPPED, f"skipped itself\n{report}"
    if item.fails is None:
        assert outcome.status == 0, report
        return
    assert outcome.status != 0, f"passes, though known to fail ({item.fails})\n{report}"
    pytest.xfail(item.fails)
