"""Selftests of the kernel series in the lab: what is run, and how an outcome is judged."""

import dataclasses
import re

from lab.host import Host

FOLDER = "/selftests"
SKIPPED = 4  # the kernel's convention, KSFT_SKIP
FORCED = "KVM_ARM_HW_DIRTY_LOG=1"
# What the kernel prints when it found something wrong with itself.
SPLAT = re.compile(r"WARNING: |BUG: |KASAN|UBSAN|Oops|Internal error|INFO: task|possible .*deadlock|RCU stall")
# Swap, huge pages and quiet logs: what the tests of the series need of the host.
PREPARE = """
set -e
[ -e /sys/block/zram0 ]
echo 256M > /sys/block/zram0/disksize
mkswap /dev/zram0 > /dev/null
swapon /dev/zram0
echo 160 > /proc/sys/vm/nr_hugepages
"""


@dataclasses.dataclass(frozen=True)
class Selftest:
    """A selftest with its parameters and the time it may take, in seconds, on the lab kernel.

    That is many times what it takes on a quiet machine: a limit for one that hangs.

    `passes` is a line of its output without which an exit status of 0 is not believed.
    """

    name: str
    arguments: str = ""
    seconds: int = 60
    passes: str | None = None

    @property
    def title(self) -> str:
        """Name for a report, without the architecture's folder."""
        return " ".join([self.name.rpartition("/")[2], self.arguments]).strip()


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Exit status of a selftest, its output, what the kernel said and what of that are complaints."""

    status: int
    output: str
    log: list[str]

    @property
    def complaints(self) -> list[str]:
        """What the kernel found wrong with itself."""
        return [line for line in self.log if SPLAT.search(line)]

    def report(self, test: Selftest) -> str:
        """All of it, for a failed assertion."""
        kernel = "\n".join(self.log)[-2500:] or "(nothing)"
        return f"{test.title}: status {self.status}\n{self.output[-2500:]}\nkernel: {kernel}"


def prepare(host: Host) -> None:
    """Give the host swap and huge pages."""
    host.run(PREPARE)


def run_selftest(host: Host, test: Selftest, forced: bool = False, slower: int = 1) -> Outcome:
    """Run a selftest to its end or to the end of its time, which is `slower` times as long (status 143).

    With `forced`, hardware dirty logging is on for every VM that can have it.
    """
    limit = test.seconds * slower
    variable = f"env {FORCED} " if forced else ""
    before = len(kernel_log(host))
    done = host.run(f"timeout {limit} {variable}{FOLDER}/{test.name} {test.arguments} 2>&1",
                    timeout=limit + 60, check=False)
    return Outcome(done.returncode, done.stdout, kernel_log(host)[before:])


def kernel_log(host: Host) -> list[str]:
    """All lines of the kernel on the console so far."""
    return host.console_log().splitlines()


def check(test: Selftest, outcome: Outcome) -> None:
    """Assert that the test passed: it ended well, skipped nothing as a whole, the kernel kept quiet."""
    assert outcome.status == 0, outcome.report(test)
    assert not outcome.complaints, outcome.report(test)
    if test.passes is not None:
        assert re.search(test.passes, outcome.output, re.M), outcome.report(test)


# The tests of the series itself.
INTERFACE = Selftest("aarch64/hw_dirty_log_test", seconds=240, passes=r"^# Totals: pass:23 fail:0 .* skip:1 ")
SCENARIOS = ["quiet", "dontneed", "pageout", "mprotect", "fork", "ksm", "collapse", "migrate", "slots", "pressure"]


def stress(scenario: str, run_ms: int) -> Selftest:
    """A scenario with every backing, so many milliseconds each."""
    return Selftest("aarch64/hw_dirty_log_stress_test", f"-t {scenario} -d {run_ms}", seconds=240,
                    passes=rf"^ok \d+ {scenario} ")


STRESS = [stress(scenario, 1000) for scenario in SCENARIOS]
# Without "pressure", where two VMs thrash, which takes minutes on a loaded machine.
STRESS_CORE = [stress(scenario, 300) for scenario in SCENARIOS[:-1]]
LOG_MODES = [
    Selftest("dirty_log_test", f"-m 3 -M {mode} -i 6 -I 20", seconds=60)
    for mode in ("dirty-log-hw", "clear-log-hw")
]

# Every selftest that passes on the kernel without the series, with parameters that fit the lab.
BASELINE = [
    Selftest("get-reg-list"),
    Selftest("aarch64/vgic_irq"),
    Selftest("aarch64/vgic_lpi_stress"),
    Selftest("aarch64/psci_test"),
    Selftest("aarch64/smccc_filter"),
    Selftest("aarch64/hypercalls"),
    Selftest("aarch64/vcpu_width_config"),
    Selftest("aarch64/vpmu_counter_access"),
    Selftest("aarch64/debug-exceptions", seconds=180),
    Selftest("aarch64/no-vgic-v3"),
    Selftest("set_memory_region_test"),
    Selftest("steal_time"),
    Selftest("kvm_binary_stats_test"),
    Selftest("kvm_create_max_vcpus"),
    Selftest("guest_print_test"),
    Selftest("coalesced_io_test"),
    Selftest("dirty_log_test", "-m 3 -i 6 -I 20", seconds=480),
    Selftest("dirty_log_test", "-m 4 -i 6 -I 20", seconds=480),
    Selftest("dirty_log_perf_test", "-m 3 -b 64M -v 2"),
    Selftest("kvm_page_table_test", "-m 3 -b 64M -v 2", seconds=120),
    Selftest("demand_paging_test", "-m 3 -b 64M -v 2", seconds=120),
    Selftest("memslot_perf_test", "-l 1 -s 256 -d -e 4", seconds=180),
    Selftest("memslot_modification_stress_test", "-m 3 -b 64M -v 2 -i 20", seconds=120),
    Selftest("rseq_test", seconds=480),
]
# Its last part waits ten seconds for the guest to write half a GiB, which takes longer where KVM is
# not at EL2 as a whole, also without the series.
VHE_BASELINE = [Selftest("memslot_perf_test", "-l 1 -s 256 -d -f 5", seconds=180)]
# Those that pass in protected mode without the series, as far as they were tried.
PROTECTED_BASELINE = [
    test for test in BASELINE
    if test.title in (
        "get-reg-list", "vgic_irq", "psci_test", "smccc_filter", "hypercalls", "vcpu_width_config",
        "debug-exceptions", "no-vgic-v3", "steal_time", "kvm_binary_stats_test",
        "kvm_create_max_vcpus", "guest_print_test", "coalesced_io_test",
        "dirty_log_perf_test -m 3 -b 64M -v 2",
    )
]
