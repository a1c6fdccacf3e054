"""Progress of long steps: title and elapsed time on a terminal, plain lines elsewhere, a log per step.

Everything goes to stderr, so that stdout carries only what a command was asked for. Steps may run in
several threads at once.
"""

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lab.cache import cache_root
from lab.errors import LabError

PLAIN_INTERVAL_S = 30.0
LOG_TAIL_LINES = 12

_lock = threading.Lock()
_active: list["Step"] = []
_ticker: threading.Thread | None = None


def elapsed_text(seconds: float) -> str:
    """12.3 s below a minute, 4:05 min above."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"


class Step:
    """One long step: its title, start time and log file."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.started = time.monotonic()
        self.reported = self.started
        slug = re.sub(r"[^a-z0-9.]+", "-", title.lower()).strip("-")
        logs = cache_root() / "logs"
        logs.mkdir(exist_ok=True)
        self.log = logs / f"{slug}.log"
        self.log.write_text("")

    def elapsed(self) -> float:
        """Seconds since the step began."""
        return time.monotonic() - self.started

    def run(
        self,
        argv: Sequence[str | Path],
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: object = subprocess.DEVNULL,
    ) -> None:
        """Run a command with its output in the log. Raises LabError when it fails.

        `env` is added to the environment. The command is told to end when the calling thread does,
        whatever ends it, so that no build goes on alone.
        """
        words = [str(word) for word in argv]
        with self.log.open("ab") as log:
            log.write(("$ " + " ".join(words) + "\n").encode())
            log.flush()
            try:
                process = subprocess.Popen(
                    ["setpriv", "--pdeathsig", "TERM", *words], cwd=cwd, stdin=stdin, stdout=log,
                    stderr=subprocess.STDOUT, env={**os.environ, **(env or {})},
                )
            except OSError as error:
                raise LabError(f"cannot start setpriv: {error.strerror}") from error
            try:
                status = process.wait()
            except BaseException:
                process.terminate()
                process.wait()
                raise
        if status != 0:
            raise LabError(f"{' '.join(words[:3])} … failed with status {status}")


def _say(line: str) -> None:
    """Print one line, over the status line if there is one."""
    clear = "\r\033[K" if sys.stderr.isatty() else ""
    sys.stderr.write(f"{clear}{line}\n")
    sys.stderr.flush()


def _tick() -> None:
    """Body of the ticker thread; it lives while a step is active."""
    global _ticker
    while True:
        with _lock:
            if not _active:
                _ticker = None
                return
            now = time.monotonic()
            if sys.stderr.isatty():
                status = " · ".join(f"{s.title} {elapsed_text(s.elapsed())}" for s in _active)
                sys.stderr.write(f"\r\033[K{status[:110]}")
                sys.stderr.flush()
            else:
                for step in _active:
                    if now - step.reported >= PLAIN_INTERVAL_S:
                        step.reported = now
                        _say(f"… {step.title}: {elapsed_text(step.elapsed())}")
        time.sleep(0.2)


def _begin(current: Step) -> None:
    global _ticker
    with _lock:
        _active.append(current)
        if not sys.stderr.isatty():
            _say(f"{current.title} …")
        if _ticker is None:
            _ticker = threading.Thread(target=_tick, daemon=True)
            _ticker.start()


@contextlib.contextmanager
def step(title: str) -> Iterator[Step]:
    """Show `title` and its elapsed time until the block ends; on failure say where the log is."""
    current = Step(title)
    _begin(current)
    try:
        yield current
    except BaseException as error:
        with _lock:
            _active.remove(current)
            _say(f"FAILED after {elapsed_text(current.elapsed())}: {title}")
            if isinstance(error, Exception):
                for line in log_tail(current.log):
                    _say(f"    {line}")
            _say(f"    log: {current.log}")
        raise
    else:
        with _lock:
            _active.remove(current)
            _say(f"{title}: {elapsed_text(current.elapsed())}")


def log_tail(log: Path) -> list[str]:
    """The last lines of a log file."""
    return log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]


def note(line: str) -> None:
    """Print one line between steps, or during them."""
    with _lock:
        _say(line)
