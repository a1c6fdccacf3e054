"""One migration of a guest under load within one emulated host, by vmm or by QEMU, and what the load
in the guest noticed of it."""

import dataclasses
import re
import shlex
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(REPOSITORY), str(Path(__file__).parent)]
from benchlib import BenchError  # noqa: E402
from lab.guest_shell import ANSWERS, CMDLINE, NOW, Clocks, GuestShell  # noqa: E402
from lab.host import Host  # noqa: E402
from lab.job import Job  # noqa: E402
from lab.load_lines import longest_gap, rate  # noqa: E402
from lab.moving import MovingGuest, Outcome, end_all, make_bridge  # noqa: E402
from vmms import QEMU_MACHINE  # noqa: E402

BRIDGE_ADDRESS = "10.77.0.1"
TAPS = ("tap0", "tap1")  # of the process that the guest leaves, and of the one that it goes to
MAC = "52:54:00:88:00:03"
LOOPBACK = ("127.0.0.1", "127.0.0.1")
MEMORY_MIB = 512
VCPUS = 1
# As fast as it can over 128 MiB: more than the channel carries, so that rounds do not converge by
# themselves. A look at the clock every ms.
WORKLOAD = "--size 128M --tick 1 --interval 20 --wall"
WARM_UP_S = 3.0
BEFORE_S = 2.0
AFTER_S = 0.3  # until the load has printed the line that has the gap
LIMIT_S = 90
FREE_MIB = 3400  # of the host's 4 GiB
CONFIG = f"""\
name = "load"
vcpus = {VCPUS}
memory = "{MEMORY_MIB}M"
[boot]
kernel = "/image/Image"
initrd = "/image/initrd.gz"
cmdline = "console=ttyAMA0 {CMDLINE}"
[[net]]
id = "lan"
tap = "{{tap}}"
mac = "{MAC}"
"""
MONITOR, PORT = (5555, 5556), 4445
# Bash: migrates by QEMU's monitor; prints the time, the state when it is over, and the time again.
# "migrate" ends with the migration, and the command after it waits.
QEMU_MIGRATE = f"""
exec 3<>/dev/tcp/127.0.0.1/{MONITOR[0]}
echo 'migrate_set_parameter max-bandwidth 64G' >&3
{NOW}
printf 'migrate tcp:127.0.0.1:{PORT}\\ninfo migrate\\n' >&3
while IFS= read -r -t {LIMIT_S} line <&3; do
    case $line in
    'Migration status'*) end=$({NOW}); echo "$line" ;;
    *total\\ time:* | downtime:* | 'transferred ram'* | 'dirty sync'*) echo "$line" ;;
    'page size'*) break ;;
    esac
done
echo "$end"
"""


@dataclasses.dataclass(frozen=True)
class Run:
    """One migration. Times in seconds. Progress is the rate of the load's writes until the guest was
    stopped, and during the bulk rounds alone, as a fraction of the rate before; gap the longest time
    that the load did not run."""

    progress: float
    bulk_progress: float
    gap: float
    total: float
    downtime: float
    rounds: int
    sent_mib: float


@dataclasses.dataclass(frozen=True)
class Timing:
    """When a migration began, by the host's wall clock, when its bulk rounds began and ended, when the
    guest stopped, and when the command ended."""

    begin: float
    bulk_begin: float
    bulk_end: float
    stop: float
    end: float


def timing_of(report: dict[str, Any], begin: float, end: float) -> Timing:
    """The timing that a report tells. The bulk is the rounds that are logged like the first; the last
    of all rounds is sent while the guest stands, unless the guest stayed."""
    rounds = report["rounds"][:-1] if report["result"] == "migrated" else report["rounds"]
    stop = begin + (report["total_ms"] - report["downtime_ms"]) / 1000
    bulk_begin = stop - sum(item["ms"] for item in rounds) / 1000
    bulk = sum(item["ms"] for item in rounds if item["mode"] == rounds[0]["mode"]) / 1000
    return Timing(begin, bulk_begin, bulk_begin + bulk, stop, end)


def times_in(text: str) -> tuple[float, float, str]:
    """The times in the first and last line of an output, and what stands between them."""
    first, _, rest = text.strip().partition("\n")
    between, _, last = rest.rpartition("\n")
    try:
        return float(first), float(last), between
    except ValueError as error:
        raise BenchError(f"no times around the output: {text[-800:]!r}") from error


def prepare(host: Host) -> None:
    """The bridge that guests are reached over."""
    make_bridge(host, BRIDGE_ADDRESS, TAPS)


def write_free_memory(host: Host) -> None:
    """Has the emulator forget what the host's free memory was. A page that it has yet to get from its
    own host, or that held a guest's code that it has translated, takes several times as long to write:
    without this a run depends on which pages the runs before it happened to leave."""
    host.run(["sh", "-ec", f"mount -t tmpfs -o huge=always,size={FREE_MIB}M none /mnt; "
              f"dd if=/dev/zero of=/mnt/free bs=2M count={FREE_MIB // 2}; umount /mnt"], LIMIT_S)


class Bench:
    """Migrations in one host. Each has a guest of its own."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.clocks = Clocks([host])

    def vmm(self, *options: str) -> Run:
        """vmm moves the guest from one process to another."""
        write_free_memory(self.host)
        guest = MovingGuest([self.host, self.host], "load",
                            [CONFIG.format(tap=tap) for tap in TAPS], LOOPBACK)
        guest.start()
        receiver = guest.listen("--name", "moved")
        ahead = self._warm_up(guest)
        command = shlex.join(guest.migrate_command(*options))
        script = f"{NOW}; {command} || echo status=$?; {NOW}"
        begin, end, output = times_in(self._bash(script))
        report = Outcome(0, output, output).report
        control = "--control-run" in options
        if control == (report["result"] == "migrated") or "status=" in output and not control:
            raise BenchError(f"{command}: {output} {receiver.read('stderr')}")
        timing = timing_of(report, begin, end)
        sent = sum(item["sent_bytes"] for item in report["rounds"]) / (1 << 20)
        return self._result(guest, ahead, timing, report["total_ms"] / 1000,
                            report["downtime_ms"] / 1000, len(report["rounds"]), sent)

    def qemu(self) -> Run:
        """QEMU does the same."""
        write_free_memory(self.host)
        guest = GuestShell([self.host])
        jobs = [self._start_qemu(end) for end in (0, 1)]
        jobs[0].until(ANSWERS, LIMIT_S)
        ahead = self._warm_up(guest)
        begin, end, output = times_in(self._bash(QEMU_MIGRATE))
        if "completed" not in output:
            raise BenchError(f"QEMU did not migrate: {output} {jobs[1].read('stderr')}")
        total, downtime, sent, rounds = (
            float(re.search(rf"{name}: (\d+)", output).group(1))  # type: ignore[union-attr]
            for name in ("total time", "downtime", "transferred ram", "dirty sync count"))
        stop = begin + (total - downtime) / 1000
        return self._result(guest, ahead, Timing(begin, begin, stop, stop, end), total / 1000,
                            downtime / 1000, int(rounds), sent / 1024)

    def _start_qemu(self, end: int) -> Job:
        job = Job(self.host, f"qemu{end}", [
            *QEMU_MACHINE, "-smp", str(VCPUS), "-m", str(MEMORY_MIB), "-monitor",
            f"tcp:127.0.0.1:{MONITOR[end]},server=on,wait=off", "-serial", "null",
            "-global", "virtio-mmio.force-legacy=false", "-netdev",
            f"tap,id=lan,ifname={TAPS[end]},script=no,downscript=no,vhost=off",
            "-device", f"virtio-net-device,netdev=lan,mac={MAC}",
            "-kernel", "/image/Image", "-initrd", "/image/initrd.gz",
            "-append", f"console=ttyAMA0 {CMDLINE}",
            *(["-incoming", f"tcp:127.0.0.1:{PORT}"] if end == 1 else [])])
        job.until(f"grep -q ':{MONITOR[end]:04X} 00000000:0000 0A' /proc/net/tcp", 30)
        return job

    def _warm_up(self, guest: GuestShell) -> float:
        """Start the load; seconds by which the guest's clock is ahead of the host's."""
        ahead = guest.clock_ahead(self.clocks)
        guest.start_workload(WORKLOAD)
        time.sleep(WARM_UP_S)
        return ahead - self.clocks.ahead[0]

    def _bash(self, script: str) -> str:
        done = self.host.run(["bash", "-c", script], LIMIT_S + 30)
        return done.stdout

    def _result(
        self, guest: GuestShell, ahead: float, timing: Timing, total: float, downtime: float,
        rounds: int, sent_mib: float,
    ) -> Run:
        """What the load noticed. Ends the guest."""
        lines = guest.workload_lines_until(timing.end + AFTER_S, ahead)
        last = guest.stop_workload()
        if last != "workload: done result=ok":
            raise BenchError(f"the memory or clock of the guest was wrong: {last}")
        # Time that its clock has lost is time it did not run, and no clock of its own shows that.
        lost = ahead - (guest.clock_ahead(self.clocks) - self.clocks.ahead[0])
        end_all([self.host], "qemu-system-aarch64")
        before = rate(lines, timing.begin - BEFORE_S, timing.begin)
        return Run(
            rate(lines, timing.begin, timing.stop) / before,
            rate(lines, timing.bulk_begin, timing.bulk_end) / before,
            longest_gap(lines, timing.begin, timing.end + AFTER_S) + max(lost, 0.0),
            total, downtime, rounds, sent_mib)
