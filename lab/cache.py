"""Content-keyed cache of everything that is expensive to make.

An entry is a directory named after its kind and a hash of its inputs. It appears by rename, so it is
either whole or absent; whoever comes second waits for a file lock and finds the work done.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

KEEP_PER_KIND = 8
KEEP_SECONDS = 14 * 24 * 3600


def cache_root() -> Path:
    """Directory of all entries, made on demand."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    root = Path(base) / "vmm"
    root.mkdir(parents=True, exist_ok=True)
    return root


def key_hash(key: object) -> str:
    """First 16 hex digits of the SHA-256 of `key` (anything JSON can hold)."""
    text = json.dumps(key, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the exclusive lock `name`; says so and waits while another process holds it.

    The lock belongs to the open file, so it also excludes other threads and ends with the process.
    """
    path = cache_root() / f"{name}.lock"
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # progress.note() would do, but that module builds on this one.
            print(f"waiting for another process that works on {name} …", file=sys.stderr, flush=True)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def cached(kind: str, key: object, build: Callable[[Path], None]) -> Path:
    """Return the entry for (kind, key), calling `build(directory)` to fill it if it is absent.

    `build` gets an empty temporary directory; if it raises, nothing stays. Safe to call from several
    threads and processes at once. `kind` may contain letters, digits, dots and dashes.
    """
    name = f"{kind}-{key_hash(key)}"
    entry = cache_root() / name
    if entry.is_dir():
        os.utime(entry)
        return entry
    with locked(name):
        if entry.is_dir():
            return entry
        sweep_unfinished()
        work = cache_root() / f"{name}.tmp"
        remove_tree(work)
        work.mkdir()
        try:
            build(work)
        except BaseException:
            remove_tree(work)
            raise
        (cache_root() / f"{name}.key").write_text(json.dumps(key, indent=1, default=str) + "\n")
        work.rename(entry)
    prune(kind, entry)
    return entry


def remove_tree(path: Path) -> None:
    """Remove a directory tree, also one whose directories are not writable; absent is fine."""
    if not path.exists():
        return
    for directory, _, _ in os.walk(path):
        os.chmod(directory, 0o700)
    shutil.rmtree(path)


def sweep_unfinished() -> None:
    """Remove what builds that were killed left, whatever they were building."""
    for work in cache_root().glob("*.tmp"):
        with work.with_suffix(".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            remove_tree(work)


def prune(kind: str, used: Path, keep: int = KEEP_PER_KIND) -> None:
    """Drop entries of `kind` beyond the newest `keep` that nobody asked for in two weeks."""
    pattern = f"{kind}-" + "[0-9a-f]" * 16
    entries = [p for p in cache_root().glob(pattern) if p.is_dir() and p != used]
    entries.sort(key=lambda p: p.stat().st_mtime, reverse=True)
    for old in entries[keep:]:
        if time.time() - old.stat().st_mtime > KEEP_SECONDS:
            remove_tree(old)
            for suffix in (".key", ".lock"):
                old.with_name(old.name + suffix).unlink(missing_ok=True)
