"""Keeps one emulated host: QEMU lives as long as its owner, and its files no longer than both.

Started by lab.host as a program of its own, in its own session, so that whatever kills the owner does
not kill it too. It holds the lock of the host's directory; a directory whose lock is free belongs to
nobody and is swept by the next lab command. QEMU in turn dies with the keeper (parent-death signal).

Arguments: DIRECTORY LOCK_FD OWNER_FD QEMU_ARGV…; OWNER_FD is the read end of a pipe that the owner keeps
open. A byte in it releases the host: it then outlives its owner, until the keeper gets SIGTERM.
"""

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """In a child of this single-threaded process: be killed when this process ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def start_qemu(directory: str, argv: list[str]) -> subprocess.Popen[bytes]:
    """Start QEMU with its messages in qemu.log."""
    with open(os.path.join(directory, "qemu.log"), "wb") as log:
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent
        )


class Events:
    """What can end a host: its owner goes, a stop is asked for, QEMU ends."""

    def __init__(self, owner: int, stop: int) -> None:
        self._poll = select.poll()
        self._owner = owner
        self._watch(owner)
        self._watch(stop)

    def _watch(self, descriptor: int) -> None:
        self._poll.register(descriptor, select.POLLIN | select.POLLHUP)

    def wait(self, qemu: subprocess.Popen[bytes] | None) -> bool:
        """Wait for the first event; True if it is that `qemu` (if given) ended by itself."""
        child = os.pidfd_open(qemu.pid) if qemu else -1
        if qemu:
            self._watch(child)
        while True:
            ready = {descriptor for descriptor, _ in self._poll.poll()}
            if self._owner in ready and os.read(self._owner, 1):
                self._poll.unregister(self._owner)
                self._owner = -1
                continue
            if qemu:
                self._poll.unregister(child)
                os.close(child)
            return ready == {child}


def write(directory: str, name: str, text: str) -> None:
    """Write a small file so that readers see it whole."""
    path = os.path.join(directory, name)
    with open(path + ".tmp", "w", encoding="utf-8") as stream:
        stream.write(text)
    os.rename(path + ".tmp", path)


def main() -> None:
    """Run until the host is to go, then leave nothing."""
    directory, owner, argv = sys.argv[1], int(sys.argv[3]), sys.argv[4:]
    stop_read, stop_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(stop_write)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    events = Events(owner, stop_read)
    qemu = start_qemu(directory, argv)
    write(directory, "keeper.pid", f"{os.getpid()}\n")
    write(directory, "qemu.pid", f"{qemu.pid}\n")
    if events.wait(qemu):
        write(directory, "exit", f"{qemu.wait()}\n")
        # The console log stays for the owner, who ends the rest.
        events.wait(None)
    qemu.kill()
    qemu.wait()
    shutil.rmtree(directory, ignore_errors=True)


main()
