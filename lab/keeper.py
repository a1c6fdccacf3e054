"""Keeps one emulated host: QEMU lives as long as its owner, and its files no longer than both.

Started by lab.host as a program of its own, in its own session, so that whatever kills the owner does
not kill it too. It holds the lock of the host's directory; a directory whose lock is free belongs to
nobody and is swept by the next lab command. QEMU in turn dies with the keeper (parent-death signal).

Arguments: DIRECTORY LOCK_FD OWNER_FD QEMU_ARGV…; OWNER_FD is the read end of a pipe that the owner keeps
open, or -1 for a host that outlives the command that started it.
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


def wait_for(owner: int, stop: int, qemu: subprocess.Popen[bytes]) -> bool:
    """Wait until the owner goes, a stop is asked for, or QEMU ends; True in the last case."""
    poll = select.poll()
    child = os.pidfd_open(qemu.pid)
    for descriptor in (owner, stop, child):
        if descriptor >= 0:
            poll.register(descriptor, select.POLLIN | select.POLLHUP)
    ready = {descriptor for descriptor, _ in poll.poll()}
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
    qemu = start_qemu(directory, argv)
    write(directory, "keeper.pid", f"{os.getpid()}\n")
    write(directory, "qemu.pid", f"{qemu.pid}\n")
    if wait_for(owner, stop_read, qemu):
        # The owner may want the console log; it, or `down`, ends the rest.
        write(directory, "exit", f"{qemu.wait()}\n")
        poll = select.poll()
        for descriptor in (owner, stop_read):
            if descriptor >= 0:
                poll.register(descriptor, select.POLLIN | select.POLLHUP)
        poll.poll()
    qemu.kill()
    qemu.wait()
    shutil.rmtree(directory, ignore_errors=True)


main()
