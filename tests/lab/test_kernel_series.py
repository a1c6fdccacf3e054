"""The kernel series in the lab: its own selftests, and that it breaks no other.

The short core runs with every test run. The matrix is marked `full`: every selftest of the source that
passes without the series, with hardware dirty logging never used and forced on, with and without VHE;
protected mode; the long forms on the kernel with debug checks; CPUs that have and that lack what it takes.
"""

from collections.abc import Iterator

import pytest

from kernel_series import (
    BASELINE, FOLDER, INTERFACE, LOG_MODES, PROTECTED_BASELINE, STRESS, STRESS_CORE,
    VHE_BASELINE, Selftest, check, prepare, run_selftest,
)
from lab.artifacts import selftests
from lab.host import DEFAULT_CPU, Host

# CPUs on which the capability must be absent, and why.
UNSUPPORTED = {
    "cortex-a57": "has no dirty bit management",
    "max,midr=0x410fd050,lpa2=off,pauth-impdef=on": "is taken for a Cortex-A55 r0p0, erratum 1024718",
}
ABSENT = Selftest("aarch64/hw_dirty_log_test", "-t unsupported", passes=r"^ok 1 unsupported$")
# Without the feature, the tests that need it have to say so and pass over.
PASSED_OVER = Selftest("aarch64/hw_dirty_log_test", passes=r"^# Totals: pass:1 fail:0 .* skip:23 ")
DEBUG_SLOWDOWN = 8
BOOT_MODES = {"vhe": "", "nvhe": "kvm-arm.mode=nvhe"}


def start(**options: object) -> Host:
    """A host with the selftests in its RAM: several open their own file by the path they have."""
    return Host.start(extra_files={FOLDER: selftests()}, **options)


@pytest.fixture(scope="module")
def series_host() -> Iterator[Host]:
    """The lab kernel with swap and huge pages."""
    with start() as host:
        prepare(host)
        yield host


def test_every_promise_of_the_interface(series_host: Host) -> None:
    check(INTERFACE, run_selftest(series_host, INTERFACE))


@pytest.mark.parametrize("test", STRESS_CORE, ids=lambda test: test.arguments.split()[1])
def test_no_write_is_lost(series_host: Host, test: Selftest) -> None:
    check(test, run_selftest(series_host, test))


@pytest.mark.parametrize("test", LOG_MODES, ids=lambda test: test.arguments.split()[3])
def test_dirty_log_test_in_hardware(series_host: Host, test: Selftest) -> None:
    check(test, run_selftest(series_host, test))


def test_other_selftests_with_hardware_logging_forced_on(series_host: Host) -> None:
    for test in (Selftest("set_memory_region_test"), Selftest("kvm_binary_stats_test"),
                 Selftest("dirty_log_perf_test", "-m 3 -b 32M -v 2",
                          passes="Hardware dirty logging forced on")):
        check(test, run_selftest(series_host, test, forced=True))


@pytest.mark.parametrize("cpu", UNSUPPORTED, ids=["no-dbm", "erratum"])
def test_absent_where_the_cpu_rules_it_out(cpu: str) -> None:
    with start(cpu=cpu) as host:
        check(ABSENT, run_selftest(host, ABSENT))
        forced = run_selftest(host, PASSED_OVER, forced=True)
        check(PASSED_OVER, forced)


@pytest.fixture(scope="module", params=BOOT_MODES)
def mode_host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """The lab kernel as hypervisor at EL2, and with its small part at EL2 only."""
    with start(append=BOOT_MODES[request.param]) as host:
        prepare(host)
        yield host


@pytest.mark.full
@pytest.mark.parametrize("forced", [False, True], ids=["unused", "forced"])
@pytest.mark.parametrize("test", BASELINE, ids=lambda test: test.title)
def test_selftest_passes_as_without_the_series(mode_host: Host, test: Selftest, forced: bool) -> None:
    check(test, run_selftest(mode_host, test, forced=forced))


@pytest.mark.full
@pytest.mark.parametrize("forced", [False, True], ids=["unused", "forced"])
@pytest.mark.parametrize("test", VHE_BASELINE, ids=lambda test: test.title)
def test_selftest_passes_at_el2_as_without_the_series(
    series_host: Host, test: Selftest, forced: bool
) -> None:
    check(test, run_selftest(series_host, test, forced=forced))


@pytest.mark.full
@pytest.mark.parametrize("test", [INTERFACE, *STRESS, *LOG_MODES], ids=lambda test: test.title)
def test_series_with_and_without_vhe(mode_host: Host, test: Selftest) -> None:
    check(test, run_selftest(mode_host, test))


@pytest.fixture(scope="module")
def protected_host() -> Iterator[Host]:
    """The lab kernel with protected KVM, whose hypervisor does not trust the host."""
    with start(append="kvm-arm.mode=protected") as host:
        assert "Protected" in host.run("dmesg | grep 'kvm.*initialized'").stdout
        prepare(host)
        yield host


@pytest.mark.full
@pytest.mark.parametrize("test", [ABSENT, *PROTECTED_BASELINE], ids=lambda test: test.title)
def test_protected_mode_is_as_before(protected_host: Host, test: Selftest) -> None:
    check(test, run_selftest(protected_host, test))


@pytest.mark.full
def test_absent_in_protected_mode_also_if_forced(protected_host: Host) -> None:
    check(PASSED_OVER, run_selftest(protected_host, PASSED_OVER, forced=True))


@pytest.fixture(scope="module")
def debug_host() -> Iterator[Host]:
    """The kernel with lockdep, KASAN and DEBUG_VM."""
    with start(kernel="debug", memory_mib=6144) as host:
        prepare(host)
        yield host


@pytest.mark.full
@pytest.mark.parametrize("test", [INTERFACE, *LOG_MODES], ids=lambda test: test.title)
def test_series_on_the_debug_kernel(debug_host: Host, test: Selftest) -> None:
    check(test, run_selftest(debug_host, test, slower=DEBUG_SLOWDOWN))


@pytest.mark.full
@pytest.mark.parametrize("test", STRESS, ids=lambda test: test.arguments.split()[1])
def test_no_write_is_lost_on_the_debug_kernel(debug_host: Host, test: Selftest) -> None:
    check(test, run_selftest(debug_host, test, slower=DEBUG_SLOWDOWN))


@pytest.mark.full
@pytest.mark.parametrize("forced", [False, True], ids=["unused", "forced"])
@pytest.mark.parametrize("test", BASELINE, ids=lambda test: test.title)
def test_selftest_passes_on_the_debug_kernel(debug_host: Host, test: Selftest, forced: bool) -> None:
    check(test, run_selftest(debug_host, test, forced=forced, slower=DEBUG_SLOWDOWN))


@pytest.mark.full
@pytest.mark.parametrize("lpa2", ["on", "off"])
def test_series_with_either_descriptor_format(lpa2: str) -> None:
    with start(cpu=DEFAULT_CPU.replace("lpa2=off", f"lpa2={lpa2}")) as host:
        prepare(host)
        check(INTERFACE, run_selftest(host, INTERFACE))
        for test in STRESS_CORE:
            check(test, run_selftest(host, test))
