"""An emulated arm64 host: started, used by commands and files, stopped; and two joined by a network."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from lab import remote
from lab.errors import LabError
from lab.hostroot import write_initrd
from lab.kernel import kernel as kernel_artifact
from lab.machine import Lan, devices, lan_end, machine
from lab.packages import need_tool
from lab.qmp import Qmp
from lab.remote import Remote
from lab.runtime import claim, is_live, sweep

KEEPER = Path(__file__).with_name("keeper.py")
DEFAULT_CPU = "max,lpa2=off,pauth-impdef=on"
READY_MARK = "lab: ready"
CONSOLE_TAIL_LINES = 25
# Many times what a quiet machine takes, for those where much else runs.
START_TIMEOUT_S = {"lab": 120.0, "debian": 180.0, "debug": 300.0}
POLL_S = 0.01


def _wait_ready(directory: Path, keeper: subprocess.Popen[bytes], deadline: float) -> None:
    """Wait for the host's ready mark on its console."""
    console = directory / "console.log"
    while True:
        text = console.read_text(errors="replace") if console.exists() else ""
        if READY_MARK in text:
            return
        ended = keeper.poll() is not None or (directory / "exit").exists()
        if ended or time.monotonic() > deadline:
            reason = "ended while starting" if ended else "did not become ready in time"
            raise LabError(f"the emulated host {reason}:\n{_diagnosis(directory, text)}")
        time.sleep(POLL_S)


def _diagnosis(directory: Path, console: str) -> str:
    """What QEMU said and the end of the console."""
    lines = console.splitlines()[-CONSOLE_TAIL_LINES:]
    for name in ("keeper.log", "qemu.log"):
        if (directory / name).exists():
            lines = (directory / name).read_text(errors="replace").splitlines() + lines
    return "\n".join(lines) or "(no output)"


def _terminate_keeper(directory: Path) -> None:
    """Ask the keeper of a detached host to end it."""
    if is_live(directory):
        os.kill(int((directory / "keeper.pid").read_text()), signal.SIGTERM)
    else:
        sweep()


class Host:
    """One emulated host. Not thread-safe, except that run(), popen(), put() and get() may overlap.

    It ends with stop(), with the `with` block, or with this process, however that ends, unless it was
    detached.
    """

    def __init__(self, directory: Path, remote_end: Remote, owner: int, boot_seconds: float) -> None:
        self.directory = directory
        self.remote = remote_end
        self.boot_seconds = boot_seconds
        self._owner = owner

    @classmethod
    def start(
        cls,
        kernel: str = "lab",
        cpus: int = 2,
        memory_mib: int = 4096,
        cpu: str = DEFAULT_CPU,
        append: str = "",
        extra_files: dict[str, Path] | None = None,
        shares: dict[str, Path] | None = None,
        disks: Sequence[Path] = (),
        qemu_args: Sequence[str] = (),
        icount: bool = False,
        lan: Lan | None = None,
        name: str | None = None,
    ) -> "Host":
        """Start a host and wait until it takes commands.

        `kernel` is "lab", "debug" or "debian"; `append` is added to the kernel command line;
        `extra_files` maps paths in the host to files or directories copied into its RAM, `shares`
        mount points to directories of this machine mounted read-only; `disks` are raw images, which
        two hosts may share. With `icount` the clock counts instructions, on one CPU; measure under
        lab-exact in the host. Raises LabError with the end of the console if the host does not
        come up.
        """
        need_tool("qemu-system-aarch64", "qemu-system-arm")
        need_tool("ssh", "openssh-client")
        artifact = kernel_artifact(kernel)
        shares = shares or {}
        directory, lock = claim(name)
        try:
            (directory / remote.EXCHANGE).mkdir()
            settings = {
                "LAB_SPIN": "1" if icount else "",
                "LAB_TIME": str(int(time.time())),
                "LAB_HOSTNAME": f"host{lan.number if lan else 1}",
                "LAB_ADDRESS": lan.address if lan else "",
            }
            write_initrd(directory / "initrd", artifact, settings, shares, extra_files or {})
            argv = machine(cpu, 1 if icount else cpus, memory_mib, icount)
            argv += ["-kernel", str(artifact.image), "-initrd", str(directory / "initrd")]
            argv += ["-append", f"console=ttyAMA0 panic=-1 {append}".strip()]
            argv += devices(directory, shares, disks, lan) + list(qemu_args)
            return cls._launch(directory, lock, argv, START_TIMEOUT_S[kernel])
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        finally:
            os.close(lock)

    @classmethod
    def _launch(
        cls, directory: Path, lock: int, argv: list[str], timeout: float
    ) -> "Host":
        """Start the keeper with QEMU below it and wait for the host."""
        begun = time.monotonic()
        owner_read, owner_write = os.pipe()
        with (directory / "keeper.log").open("wb") as log:
            keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", str(KEEPER), str(directory), str(lock),
                 str(owner_read), *argv],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                pass_fds=(lock, owner_read),
            )
        os.close(owner_read)
        # Reap the keeper in the background; whoever wants it gone only closes the pipe.
        threading.Thread(target=keeper.wait, daemon=True).start()
        try:
            _wait_ready(directory, keeper, begun + timeout)
            with Qmp(directory / "qmp.sock") as monitor:
                port = monitor.forwarded_port()
            remote_end = remote.connect(directory, port)
        except BaseException:
            os.close(owner_write)
            keeper.terminate()
            keeper.wait()
            raise
        return cls(directory, remote_end, owner_write, time.monotonic() - begun)

    @classmethod
    def attach(cls, directory: Path) -> "Host":
        """A running host that was detached, by its directory."""
        return cls(directory, Remote(directory), -1, 0.0)

    def run(
        self, cmd: str | Sequence[str], timeout: float = 60, check: bool = True,
        input: str | bytes | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command (a string goes to the shell) and return its output and status.

        Raises CommandFailed if `check` and the status is not 0, CommandTimeout after `timeout`
        seconds, LabError if the host is gone.
        """
        return self.remote.run(cmd, timeout, check, input)

    def popen(self, cmd: str | Sequence[str], **options: object) -> subprocess.Popen[bytes]:
        """Start a command and return the local process that carries its input, output and status."""
        return subprocess.Popen(self.remote.argv(cmd), **options)  # type: ignore[call-overload]

    def put(self, src: Path | str, dst: str) -> None:
        """Copy a file, with its permissions, or the content of a directory to `dst` in the host."""
        self.remote.put(Path(src), dst)

    def get(self, src: str, dst: Path | str) -> None:
        """Copy a file or the content of a directory of the host to `dst` here."""
        self.remote.get(src, Path(dst))

    def console_log(self) -> str:
        """All that the host wrote to its console so far."""
        return (self.directory / "console.log").read_text(errors="replace")

    def is_running(self) -> bool:
        """Whether QEMU is still there."""
        return self.directory.is_dir() and not (self.directory / "exit").exists()

    def monitor(self) -> Qmp:
        """A connection to QEMU's monitor; close it after use."""
        return Qmp(self.directory / "qmp.sock")

    def set_link(self, up: bool) -> None:
        """Plug or unplug the cable of the private network."""
        with self.monitor() as monitor:
            monitor.command("set_link", name="lan", up=up)

    def detach(self) -> None:
        """Let the host outlive this process."""
        os.write(self._owner, b"d")
        os.close(self._owner)
        self._owner = -1

    def stop(self) -> None:
        """End the host at once, like pulling its plug, and wait until nothing of it is left."""
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1
        else:
            _terminate_keeper(self.directory)
        deadline = time.monotonic() + 10
        while self.directory.exists():
            if time.monotonic() > deadline:
                raise LabError(f"host in {self.directory} did not end within 10 s")
            time.sleep(POLL_S)

    def __enter__(self) -> "Host":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Pair:
    """Two hosts joined by a private network; `pair[0]` is 10.77.0.1 and `pair[1]` 10.77.0.2."""

    def __init__(self, hosts: list[Host]) -> None:
        self.hosts = hosts

    @classmethod
    def start(
        cls, prefix: str | None = None, each: Sequence[dict[str, object]] = ({}, {}),
        **options: object,
    ) -> "Pair":
        """Start both hosts at once; `options` are those of Host.start, `each` has more of them for
        either host."""
        # Names are fixed beforehand, because each host must know the other's socket.
        prefix = prefix or f"pair-{os.getpid()}-{time.monotonic_ns()}"
        names = [f"{prefix}-{number}" for number in (1, 2)]
        started: dict[int, Host] = {}
        errors: list[BaseException] = []

        def start(number: int) -> None:
            try:
                lan = lan_end(number, names)
                started[number] = Host.start(
                    lan=lan, name=names[number - 1],
                    **{**options, **each[number - 1]})  # type: ignore[arg-type]
            except BaseException as error:  # noqa: BLE001 - handed to the caller below
                errors.append(error)

        threads = [threading.Thread(target=start, args=(number,), daemon=True) for number in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            for host in started.values():
                host.stop()
            raise errors[0]
        return cls([started[1], started[2]])

    def __getitem__(self, index: int) -> Host:
        return self.hosts[index]

    def stop(self) -> None:
        """End both hosts."""
        for host in self.hosts:
            host.stop()

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
