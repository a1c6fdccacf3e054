"""A writer of the newc cpio format, for initial RAM file systems."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

ALIGN = 4
# Directories that newer Debian releases have merged into /usr; packages of older ones still use them.
MERGED = ("bin", "sbin", "lib")


class CpioWriter:
    """Writes one archive to a stream; directories above a file are added as needed.

    All entries belong to root and carry no time stamp, so equal input gives equal archives.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._inode = 0
        self._directories: set[str] = set()

    def _entry(
        self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        self._inode += 1
        raw = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(raw), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        self._padded(header + raw)
        self._padded(data)

    def _padded(self, data: bytes) -> None:
        self._stream.write(data)
        self._stream.write(b"\0" * (-len(data) % ALIGN))

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Add a directory and those above it; adding one twice is fine."""
        path = path.strip("/")
        if not path or path in self._directories:
            return
        self.directory(os.path.dirname(path))
        self._directories.add(path)
        self._entry(path, stat.S_IFDIR | mode)

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        path = path.strip("/")
        self.directory(os.path.dirname(path))
        self._entry(path, stat.S_IFREG | mode, data)

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        path = path.strip("/")
        self.directory(os.path.dirname(path))
        self._entry(path, stat.S_IFLNK | 0o777, target.encode())

    def device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device node."""
        path = path.strip("/")
        self.directory(os.path.dirname(path))
        self._entry(path, stat.S_IFCHR | mode, device=(major, minor))

    def merged_usr(self) -> None:
        """Add /bin, /sbin and /lib as links into /usr."""
        for name in MERGED:
            self.directory(f"usr/{name}")
            self.link(name, f"usr/{name}")

    def tree(self, source: Path, target: str) -> None:
        """Add the file `source`, or all that is below the directory `source`, at `target`."""
        if not source.is_dir():
            self._add(source, target)
            return
        for folder, subfolders, files in os.walk(source):
            relative = os.path.relpath(folder, source)
            base = target if relative == "." else f"{target}/{relative}"
            self.directory(base, stat.S_IMODE(os.stat(folder).st_mode))
            links = [name for name in subfolders if (Path(folder) / name).is_symlink()]
            subfolders.sort()
            for name in sorted([*files, *links]):
                self._add(Path(folder) / name, f"{base}/{name}")

    def _add(self, source: Path, path: str) -> None:
        if source.is_symlink():
            self.link(path, os.readlink(source))
        elif source.is_file():
            self.file(path, source.read_bytes(), stat.S_IMODE(source.stat().st_mode))

    def finish(self) -> None:
        """Write the trailer; archives may be concatenated after it."""
        self._entry("TRAILER!!!", 0)
        self._stream.write(b"\0" * (-self._stream.tell() % 512))

