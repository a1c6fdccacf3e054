"""Directories of running hosts: made, locked, found again and swept."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lab.errors import LabError


def runtime_root() -> Path:
    """Directory of all hosts of this user; private, on a local file system, with a short path."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    root = Path(base) / "vmm-lab" if base else Path(tempfile.gettempdir()) / f"vmm-lab-{os.getuid()}"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = root.stat()
    if state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise LabError(f"{root} must belong to this user alone; remove it and run again")
    return root


def claim(name: str | None) -> tuple[Path, int]:
    """Make and lock a host's directory: one called `name`, or an unnamed one.

    Returns the directory and the descriptor of the lock. Raises LabError if the name is in use.
    """
    root = runtime_root()
    sweep()
    with _guard():
        if name is None:
            directory = Path(tempfile.mkdtemp(prefix=f"host-{os.getpid()}-", dir=root))
        else:
            directory = root / name
            try:
                directory.mkdir(mode=0o700)
            except FileExistsError:
                raise LabError(f"{name} is already up (lab/lab status, lab/lab down)") from None
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
    return directory, lock


@contextlib.contextmanager
def _guard() -> Iterator[None]:
    """Keeps sweep() and the making of directories apart, over all processes."""
    with (runtime_root() / ".guard").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield


def is_live(directory: Path) -> bool:
    """Whether a process holds the directory's lock."""
    try:
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(lock)


def sweep() -> list[str]:
    """Remove directories that nobody holds; returns their names."""
    removed = []
    with _guard():
        for directory in [path for path in runtime_root().iterdir() if path.is_dir()]:
            if not is_live(directory):
                shutil.rmtree(directory, ignore_errors=True)
                removed.append(directory.name)
    return removed


def live_hosts() -> list[Path]:
    """Directories of the named hosts (those of `lab/lab up`) that are up, in order."""
    return sorted(p for p in runtime_root().glob("up-*") if is_live(p))
