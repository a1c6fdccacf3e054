"""A command in the host on a terminal of its own, as a person would run it."""

import os
import pty
import select
import subprocess
import time

from lab.host import Host

CTRL_RIGHT_BRACKET = b"\x1d"


class Terminal:
    """Runs a shell script in the host on a pseudo-terminal; use as a context manager."""

    def __init__(self, host: Host, script: str) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            host.remote.argv(script, tty=True), stdin=slave, stdout=slave, stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        os.close(slave)
        self._shown = ""

    @property
    def text(self) -> str:
        """All that has been shown, with plain line ends."""
        return self._shown.replace("\r\n", "\n")

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def send(self, data: bytes) -> None:
        """Type something."""
        os.write(self._master, data)

    def wait(self, text: str, timeout: float = 90) -> str:
        """Wait until `text` has been shown; returns all that has been shown."""
        deadline = time.monotonic() + timeout
        while text not in self.text:
            left = deadline - time.monotonic()
            if left <= 0 or not self._read(left):
                raise AssertionError(f"no '{text}' on the terminal; it shows:\n{self.text[-1500:]}")
        return self.text

    def end(self, timeout: float = 90) -> str:
        """Wait for the end of the script; returns all that has been shown."""
        deadline = time.monotonic() + timeout
        while self._read(deadline - time.monotonic()):
            pass
        assert self._process.wait(max(deadline - time.monotonic(), 1)) is not None
        return self.text

    def _read(self, timeout: float) -> bool:
        """Take what comes within `timeout` seconds; False at the end or when nothing comes."""
        if not select.select([self._master], [], [], max(timeout, 0))[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: the other side is closed
            return False
        self._shown += data.decode(errors="replace")
        return bool(data)
