"""A source tree that follows a patch series with as few changed files as possible.

make decides by time stamps, so going from one series to another must leave every file alone whose
content stays the same. The tree therefore keeps the original of each file that a series touched:
a new series is applied to copies of the originals aside, and only files that differ are written.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

from lab.cache import file_hash, remove_tree
from lab.errors import LabError

_NAME = re.compile(r"^(?:---|\+\+\+) (?:[ab]/)?(\S+)", re.M)
_RENAME = re.compile(r"^rename (?:from|to) (\S+)", re.M)
REJECT_LINES = 40


def series(directory: Path) -> list[Path]:
    """The patches of a directory in the order they apply."""
    return sorted(directory.glob("*.patch"))


def touched(patch: Path) -> set[str]:
    """Paths, relative to the source tree, that a patch creates, changes, moves or removes."""
    text = patch.read_text(errors="replace")
    names = set(_NAME.findall(text)) | set(_RENAME.findall(text))
    return names - {"/dev/null"}


def fingerprint(patches: list[Path]) -> list[list[str]]:
    """Name and content hash of each patch, for cache keys."""
    return [[patch.name, file_hash(patch)] for patch in patches]


class PatchedTree:
    """The tree at `source`; originals and state are kept in `state` beside it.

    One process at a time: callers hold a lock. An interrupted apply() is put right by the next one.
    """

    def __init__(self, source: Path, state: Path) -> None:
        self.source = source
        self._originals = state / "originals"
        self._staging = state / "staging"
        self._record = state / "touched.json"
        self._originals.mkdir(parents=True, exist_ok=True)

    def apply(self, patches: list[Path]) -> list[str]:
        """Make the tree carry exactly `patches`; returns the files written or removed.

        Raises LabError naming the patch and showing the rejected hunks; the tree is unchanged then.
        """
        before = self._touched()
        after = {name for patch in patches for name in touched(patch)}
        for name in after - before:
            if (self.source / name).is_file():
                _copy(self.source / name, self._originals / name)
        self._record.write_text(json.dumps(sorted(before | after)))
        self._stage(patches, before | after)
        changed = [name for name in sorted(before | after) if self._sync(name)]
        remove_tree(self._staging)
        return changed

    def _touched(self) -> set[str]:
        """Files that differ from the original tree, or may."""
        return set(json.loads(self._record.read_text())) if self._record.exists() else set()

    def _stage(self, patches: list[Path], names: set[str]) -> None:
        """Apply the series to copies of the originals of `names`."""
        remove_tree(self._staging)
        self._staging.mkdir()
        for name in names:
            if (self._originals / name).is_file():
                _copy(self._originals / name, self._staging / name)
        for patch in patches:
            result = subprocess.run(
                ["patch", "-p1", "--fuzz=0", "--batch", "--forward", "--no-backup-if-mismatch",
                 "-i", str(patch.resolve())],
                cwd=self._staging, capture_output=True, text=True, check=False,
            )
            if result.returncode != 0:
                raise LabError(
                    f"patch {patch.name} does not apply to {self.source.name}:\n"
                    + result.stdout + result.stderr + self._rejects()
                )

    def _rejects(self) -> str:
        """The rejected hunks of the failed patch."""
        lines: list[str] = []
        for reject in sorted(self._staging.rglob("*.rej")):
            lines += reject.read_text(errors="replace").splitlines()
        cut = [] if len(lines) <= REJECT_LINES else [f"… {len(lines) - REJECT_LINES} more lines"]
        return "\n".join(lines[:REJECT_LINES] + cut)

    def _sync(self, name: str) -> bool:
        """Bring one file of the tree to its staged content; True if it had to change."""
        want, have = self._staging / name, self.source / name
        if not want.is_file():
            existed = have.is_file()
            have.unlink(missing_ok=True)
            return existed
        if have.is_file() and have.read_bytes() == want.read_bytes():
            return False
        have.parent.mkdir(parents=True, exist_ok=True)
        partial = have.with_name(have.name + ".partial")
        shutil.copyfile(want, partial)
        shutil.copymode(want, partial)
        partial.rename(have)
        return True


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)
