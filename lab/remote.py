"""Commands and files in a running host, over one SSH connection that all commands share.

The connection ends with QEMU, and with it the ssh process that carries it.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab.errors import LabError
from lab.hostroot import ssh_key

CONFIG = """\
Host host
    HostName 127.0.0.1
    Port {port}
    User root
    IdentityFile {key}
    IdentitiesOnly yes
    BatchMode yes
    ConnectTimeout 30
    GSSAPIAuthentication no
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    LogLevel ERROR
    ControlPath {directory}/ssh.sock
    ControlMaster no
"""
SSH_FAILED = 255
COPY_TIMEOUT_S = 300.0
END_TIMEOUT_S = 10.0
# Directory shared with the host: below the host's directory here, below /lab there.
EXCHANGE = "exchange"


class CommandFailed(LabError):
    """A command in the host ended with a status other than 0; `result` has all of it."""

    def __init__(self, text: str, result: subprocess.CompletedProcess[str]) -> None:
        super().__init__(text)
        self.result = result


class CommandTimeout(LabError):
    """A command in the host did not end in time."""


class Remote:
    """Access to the host whose files are in `directory`. May be used by several threads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._base = ["ssh", "-F", str(directory / "ssh_config")]

    def argv(self, cmd: str | Sequence[str], tty: bool = False) -> list[str]:
        """The local command that runs `cmd` (a string goes to the host's shell) in the host."""
        text = cmd if isinstance(cmd, str) else shlex.join(str(word) for word in cmd)
        return [*self._base, *(["-t"] if tty else []), "host", text]

    def run(
        self, cmd: str | Sequence[str], timeout: float, check: bool, data: str | bytes | None
    ) -> subprocess.CompletedProcess[str]:
        """See lab.host.Host.run."""
        shown = cmd if isinstance(cmd, str) else shlex.join(str(word) for word in cmd)
        raw = data.encode() if isinstance(data, str) else data
        source = {"stdin": subprocess.DEVNULL} if raw is None else {"input": raw}
        mark = f"LAB_RUN={uuid.uuid4().hex}"
        # By its own exit the shell tells which signal ended a command (128 + number); SSH would only say 255.
        script = f"export {mark}; {shown}\nexit $?"
        try:
            done = subprocess.run(
                self.argv(script), capture_output=True, timeout=timeout, check=False, **source,
            )
        except subprocess.TimeoutExpired as error:
            output = (error.stdout or b"")[-400:].decode(errors="replace")
            ended = "" if self._end(mark) else " (and it could not be ended)"
            raise CommandTimeout(
                f"'{shown}' did not end within {timeout:g} s{ended}: {output}"
            ) from None
        result = subprocess.CompletedProcess(
            shown, done.returncode, done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
        )
        if result.returncode == SSH_FAILED and not self.connected():
            raise LabError(f"lost the host while running '{shown}': {result.stderr.strip()}")
        if check and result.returncode != 0:
            tail = (result.stderr or result.stdout).strip()[-400:]
            raise CommandFailed(f"'{shown}' failed with status {result.returncode}: {tail}", result)
        return result

    def _end(self, mark: str) -> bool:
        """Kill all processes of a command, known by what run() put into their environment."""
        script = (
            "for p in /proc/[0-9]*; do if [ $p != /proc/$$ ] && "
            f"grep -qs {mark} $p/cmdline $p/environ; then kill -9 ${{p#/proc/}}; fi; done"
        )
        try:
            return subprocess.run(
                self.argv(script), capture_output=True, timeout=END_TIMEOUT_S, check=False
            ).returncode != SSH_FAILED
        except subprocess.TimeoutExpired:
            return False

    def connected(self) -> bool:
        """Whether the shared connection is up."""
        return subprocess.run(
            [*self._base, "-O", "check", "host"], capture_output=True, check=False
        ).returncode == 0

    def put(self, source: Path, target: str) -> None:
        """See lab.host.Host.put."""
        quoted = shlex.quote(target)
        if not source.exists():
            raise LabError(f"cannot copy {source} to the host: no such file or directory")
        with self._exchanged() as (here, there):
            if source.is_dir():
                _local(["tar", "-C", str(source), "-cf", str(here), "."])
                script = f"mkdir -p {quoted} && tar -C {quoted} -xf {there}"
            else:
                shutil.copyfile(source, here)
                mode = f"{source.stat().st_mode & 0o777:o}"
                folder = shlex.quote(os.path.dirname(target) or ".")
                # Through a new file, because a program that is running cannot be written to.
                script = (f"mkdir -p {folder} && dd if={there} of={quoted}.part bs=256k && "
                          f"chmod {mode} {quoted}.part && mv -f {quoted}.part {quoted}")
            self.run(script, COPY_TIMEOUT_S, True, None)

    def get(self, source: str, target: Path) -> None:
        """See lab.host.Host.get."""
        quoted = shlex.quote(source)
        with self._exchanged() as (here, there):
            script = (f"if test -d {quoted}; then tar -C {quoted} -cf {there} . && echo directory; "
                      f"else dd if={quoted} of={there} bs=256k; fi")
            if self.run(script, COPY_TIMEOUT_S, True, None).stdout:
                target.mkdir(parents=True, exist_ok=True)
                _local(["tar", "-C", str(target), "-xf", str(here)])
            else:
                partial = target.with_name(f".{target.name}.part")
                shutil.copyfile(here, partial)
                partial.rename(target)

    @contextlib.contextmanager
    def _exchanged(self) -> Iterator[tuple[Path, str]]:
        """A name in the directory shared with the host: its path here and there; gone afterwards.

        Several times faster than a copy through SSH, whose ciphers are slow under emulation.
        """
        name = uuid.uuid4().hex
        here = self._directory / EXCHANGE / name
        try:
            yield here, f"/lab/{EXCHANGE}/{name}"
        finally:
            here.unlink(missing_ok=True)


def _local(argv: list[str]) -> None:
    """Run a command of this machine."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        raise LabError(f"{argv[0]} failed: {done.stderr.decode(errors='replace').strip()[-400:]}")


def connect(directory: Path, port: int) -> Remote:
    """Open the shared connection to the host that listens at 127.0.0.1:`port`.

    It goes on in the background until the host ends. Raises LabError if the host refuses it.
    """
    config = directory / "ssh_config"
    config.write_text(CONFIG.format(port=port, key=ssh_key(), directory=directory))
    log = directory / "ssh.log"
    with log.open("wb") as stream:
        done = subprocess.run(
            ["ssh", "-F", str(config), "-o", "ControlMaster=yes", "-N", "-f", "host"],
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, check=False,
        )
    if done.returncode != 0:
        raise LabError(f"no SSH connection to the host: {log.read_text(errors='replace').strip()}")
    return Remote(directory)
