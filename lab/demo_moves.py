"""The guest of ./demo and its moves between two emulated hosts."""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from lab.demo_tables import Move
from lab.errors import LabError
from lab.guest_shell import CMDLINE, NOW, Clocks
from lab.host import Host
from lab.load_lines import longest_gap, rate
from lab.moving import EchoClient, MovingGuest, Outcome, devices

TAP = "tap0"
DISK = "/dev/vda"
NAME = "web1"
MEMORY_MIB = 128
# As fast as it can over a quarter of the memory, with a line every 50 ms.
LOAD = "--size 32M --tick 1 --interval 50 --wall"
CONFIG = f"""\
name   = "{NAME}"
vcpus  = 1
memory = "{MEMORY_MIB}M"

[boot]
kernel  = "/images/tiny/Image"
initrd  = "/images/tiny/initrd.gz"
cmdline = "console=ttyAMA0 {CMDLINE}"

{devices([DISK], TAP)}"""
# A load that writes as fast as it can does not converge by itself on so slow a network: the last
# round is sent with the guest stopped, however long that takes.
OPTIONS = ("--verify", "--max-rounds", "6", "--on-timeout", "stop-and-copy")
# Hardware logging is for the bulk: towards the stop it is turned off.
LOGGING = {"hw": ["--require-hw"], "wp": ["--dirty-log", "wp"]}
BEFORE_S = 2.0
AFTER_S = 0.5
# In the guest: a record a line, each on the disk before the next.
RECORDS = "/mnt/records"
RECORDER = f"""
mount -t ext4 {DISK} /mnt
setsid sh -c 'n=0; while :; do n=$((n + 1)); echo $n >>{RECORDS}; sync {RECORDS}; usleep 50000; done' \\
    </dev/null >/dev/null 2>&1 &
"""


class DemoGuest:
    """A guest with disk, network and load."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self.hosts = hosts
        self.clocks = Clocks(hosts)
        self.guest = MovingGuest(hosts, NAME, [CONFIG, CONFIG])

    def start(self) -> float:
        """Boot it in the first host and start its loads; seconds until its shell answered."""
        begun = time.monotonic()
        self.guest.start()
        seconds = time.monotonic() - begun
        self.ahead = self.guest.clock_ahead(self.clocks)
        self.guest.run(RECORDER)
        self.guest.start_workload(LOAD)
        time.sleep(BEFORE_S)
        return seconds

    def move(self, mode: str) -> Move:
        """Move it to the other host under load, with a TCP client in the host it leaves."""
        guest, source = self.guest, self.guest.at
        way = f"host{source + 1} -> host{2 - source}"
        client = EchoClient(self.hosts[source])
        time.sleep(BEFORE_S)
        receiver = guest.listen()
        command = shlex.join(guest.migrate_command(*LOGGING[mode], *OPTIONS))
        done = guest.host.run(["bash", "-c", f"{NOW}; {command}; status=$?; {NOW}; exit $status"], 120,
                              False)
        if done.returncode != 0:
            raise LabError(f"{command} ended with status {done.returncode}: {done.stderr.strip()}\n"
                           f"the receiver said: {receiver.read('stderr').strip()}")
        begin, *output, end = done.stdout.strip().splitlines()
        report = Outcome(0, "\n".join(output), done.stderr).report
        guest.arrived(receiver)
        replies = client.stop()
        progress, gap = self._noticed(source, float(begin), float(end), report)
        return Move(mode, way, report, progress, gap * 1000, int(replies["sent"]),
                    int(replies["lost"]), self._records())

    def _noticed(self, source: int, begin: float, end: float, report: dict) -> tuple[float, float]:
        """(progress of the load, its longest stall in seconds) during a move, whose times are by the
        wall clock of the host that the guest has left."""
        lines = self.guest.workload_lines_until(end + AFTER_S, self.ahead - self.clocks.ahead[source])
        stop = begin + (report["total_ms"] - report["downtime_ms"] - report["verify"]["ms"]) / 1000
        before = rate(lines, begin - BEFORE_S, begin)
        # The guest stands still while digests are compared, which no migration without that does.
        gap = longest_gap(lines, begin, end + AFTER_S) - report["verify"]["ms"] / 1000
        return rate(lines, begin, stop) / before, max(gap, 0.0)

    def _records(self) -> int:
        """How many records are on the disk. Raises LabError if one is missing."""
        return int(self.guest.run(f"""
echo 3 >/proc/sys/vm/drop_caches
awk '$1 != NR {{ exit 1 }} END {{ print NR }}' {RECORDS}"""))

    def finish(self) -> str:
        """Check memory and clock of the guest once more, and end it by its power key."""
        verdict = self.guest.stop_workload()
        self.guest.host.run(["vmm", "stop"], 60)
        status = self.guest.job.wait(30)
        if status != 0:
            raise LabError(f"the guest's process ended with status {status}")
        return verdict


def make_disk(folder: Path) -> Path:
    """The disk that both hosts share."""
    from guest_images.disk import format_disk  # the guests' recipes are made importable late

    disk = folder / "shared.img"
    format_disk(disk, 64)
    return disk
