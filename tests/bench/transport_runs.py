"""Single transfers of memory over loopback: by vmm's own sender and receiver, by QEMU, by iperf3."""

import contextlib
import dataclasses
import json
import mmap
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(REPOSITORY), str(Path(__file__).parent)]
from benchlib import BenchError  # noqa: E402
from lab.errors import LabError  # noqa: E402
from lab.qmp import Qmp  # noqa: E402

QEMU = "qemu-system-aarch64"
ADDRESS = "127.0.0.1"
# QEMU's virt machine has RAM from 1 GiB on, and its device tree in the first MiB of it.
FILL_START = 0x40200000
FILL_MIB = 1022  # its loader takes no file of 2 GiB or more
LIMIT_S = 300
_UNLIMITED = 1 << 40  # bytes a second: QEMU's 0 is not as fast

_METER_LINE = re.compile(r"wall_s=([\d.]+) send_cpu_s=([\d.]+) receive_cpu_s=([\d.]+) sent_mib=")


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Seconds of one transfer, and CPU seconds of either side."""

    wall: float
    send_cpu: float
    receive_cpu: float

    @property
    def cpu(self) -> float:
        """CPU seconds of both sides."""
        return self.send_cpu + self.receive_cpu


class Transfers:
    """The transfers of one kind, in the order of the runs."""

    def __init__(self) -> None:
        self.runs: list[Transfer] = []

    def of(self, what: Callable[[Transfer], float]) -> list[float]:
        return [what(run) for run in self.runs]


def best(kinds: Mapping[str, Transfers], what: Callable[[Transfer], float]) -> Transfers:
    """Those whose median of `what` is the least."""
    return min(kinds.values(), key=lambda item: statistics.median(item.of(what)))


def meter_result(text: str) -> Transfer:
    """What transport_meter printed. Raises BenchError where it is something else."""
    match = _METER_LINE.match(text)
    if match is None:
        raise BenchError(f"transport_meter said: {text.strip() or 'nothing'}")
    return Transfer(*map(float, match.groups()))


def qemu_wall(status: Mapping, least_bytes: int) -> float | None:
    """Seconds of a migration by the answer to query-migrate; None while it is under way.

    Raises BenchError where it failed, or sent less than `least_bytes` of contents.
    """
    state = status.get("status")
    if state == "failed":
        raise BenchError(f"QEMU's migration failed: {status.get('error-desc', 'it does not say why')}")
    # QEMU tells that it is done a little before it tells how long that took.
    if state != "completed" or status["total-time"] == 0:
        return None
    sent = status["ram"]["normal-bytes"]
    if sent < least_bytes:
        raise BenchError(f"QEMU sent {sent} bytes of memory, not {least_bytes}")
    return status["total-time"] / 1000


def process_cpu(stat: str, ticks_per_s: int) -> float:
    """CPU seconds of a process, ended threads included, by its /proc/PID/stat."""
    fields = stat[stat.rindex(")") + 2:].split()
    return (int(fields[11]) + int(fields[12])) / ticks_per_s


def iperf_wall(text: str, size: int) -> float:
    """Seconds that `size` bytes take by the JSON that iperf3's client printed.

    Its server stops counting when the client has sent all, a little before all has arrived.
    """
    try:
        received = json.loads(text)["end"]["sum_received"]
        return received["seconds"] * size / received["bytes"]
    except (ValueError, KeyError, ZeroDivisionError) as error:
        raise BenchError(f"iperf3 said: {text.strip()[-300:] or 'nothing'}") from error


def write_free_memory(mib: int) -> None:
    """Has this machine's kernel hand out memory that it already has. In a virtual machine a page that
    was free for some time may have been taken back, and its next use costs several times the rest of
    a transfer: without this a run depends on how long ago the one before it ended."""
    with mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for page in range(0, len(memory), mmap.PAGESIZE):
            memory[page] = 1


def vmm_transfer(meter: Path, mib: int, channels: int, how: Sequence[str]) -> Transfer:
    """One run of transport_meter."""
    done = subprocess.run([str(meter), str(mib), str(channels), *how], capture_output=True, text=True,
                          timeout=LIMIT_S, check=False)
    if done.returncode != 0:
        raise BenchError(done.stderr.strip() or f"{meter} ended with status {done.returncode}")
    return meter_result(done.stdout)


class _Guest:
    """A paused QEMU guest."""

    def __init__(self, folder: Path, name: str, mib: int, options: Sequence[str]) -> None:
        monitor = folder / f"{name}.qmp"
        self._process = subprocess.Popen(
            [QEMU, "-M", "virt", "-cpu", "cortex-a57", "-S", "-m", str(mib), "-nodefaults", "-display", "none",
             "-qmp", f"unix:{monitor},server=on,wait=off", *options],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            self.monitor = self._connect(monitor)
        except BaseException:
            self.end()
            raise

    def _connect(self, path: Path) -> Qmp:
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError, ConnectionError):
                return Qmp(path, timeout=LIMIT_S)
            if self._process.poll() is not None:
                raise BenchError(f"{QEMU}: {self._process.stderr.read().strip()}")
            time.sleep(0.02)
        raise BenchError(f"{QEMU} did not open its monitor")

    def cpu(self) -> float:
        stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        return process_cpu(stat, os.sysconf("SC_CLK_TCK"))

    def set_up(self, multifd: int) -> None:
        """Unlimited bandwidth, and so many channels besides the main one (0: without multifd)."""
        self.monitor.command("migrate-set-capabilities", capabilities=[
            {"capability": "multifd", "state": multifd > 0}])
        parameters = {"multifd-channels": multifd} if multifd else {}
        self.monitor.command("migrate-set-parameters", **{
            "max-bandwidth": _UNLIMITED, **parameters})

    def migration(self) -> Mapping:
        return self.monitor.command("query-migrate")

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def _guest(*arguments: object) -> Iterator[_Guest]:
    guest = _Guest(*arguments)
    try:
        yield guest
    finally:
        guest.end()


def qemu_transfer(folder: Path, fill: Path, mib: int, multifd: int) -> Transfer:
    """One migration of a fresh guest whose RAM is filled with copies of the file `fill`."""
    places = fill_places(mib)
    options = [word for place in places
               for word in ("-device", f"loader,file={fill},force-raw=on,addr={place:#x}")]
    least_bytes = len(places) * FILL_MIB << 20
    try:
        with (_guest(folder, "source", mib, options) as source,
              _guest(folder, "target", mib, ["-incoming", "defer"]) as target):
            source.set_up(multifd)
            target.set_up(multifd)
            uri = f"tcp:{ADDRESS}:{free_port()}"
            target.monitor.command("migrate-incoming", uri=uri)
            before = source.cpu(), target.cpu()
            source.monitor.command("migrate", uri=uri)
            deadline = time.monotonic() + LIMIT_S
            while (wall := qemu_wall(source.migration(), least_bytes)) is None:
                _pause_until(deadline)
            while target.migration().get("status") != "completed":
                _pause_until(deadline)
            return Transfer(wall, source.cpu() - before[0], target.cpu() - before[1])
    except (LabError, OSError) as error:
        raise BenchError(f"{QEMU}: {error}") from error


def _pause_until(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise BenchError(f"QEMU's migration did not end in {LIMIT_S} s")
    time.sleep(0.05)


def iperf_transfer(mib: int) -> Transfer:
    """One stream of as many bytes by iperf3."""
    port = str(free_port())
    server = subprocess.Popen(["iperf3", "-s", "-1", "-B", ADDRESS, "-p", port, "--forceflush"],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        for line in server.stdout:
            if "Server listening" in line:
                break
        before = os.times()
        done = subprocess.run(["iperf3", "-c", ADDRESS, "-p", port, "-n", f"{mib}M", "-J"],
                              capture_output=True, text=True, timeout=LIMIT_S, check=False)
        between = os.times()
        server.communicate(timeout=LIMIT_S)
        after = os.times()
    finally:
        server.kill()
        server.wait()
    return Transfer(iperf_wall(done.stdout, mib << 20), _children(before, between),
                    _children(between, after))


def _children(before: os.times_result, after: os.times_result) -> float:
    """CPU seconds of the children that were waited for in between."""
    return (after.children_user - before.children_user
            + after.children_system - before.children_system)


def fill_places(mib: int) -> list[int]:
    """Guest addresses of the copies of FILL_MIB that fill a guest of `mib`, but for a few MiB."""
    return [FILL_START + (copy * FILL_MIB << 20) for copy in range((mib - 2) // FILL_MIB)]


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return probe.getsockname()[1]
