"""A command that goes on in an emulated host by itself."""

import shlex
from collections.abc import Sequence

from lab.errors import LabError
from lab.host import Host

FOLDER = "/tmp/jobs"
SHOWN = 1500  # characters of its output in an error


class Job:
    """A command that goes on in a host by itself, with its output in files in a folder there."""

    def __init__(self, host: Host, name: str, argv: Sequence[str]) -> None:
        self.host = host
        self.argv = list(argv)
        self.folder = f"{FOLDER}/{name}"
        # The inner shell becomes the command, so that its process id is known beforehand.
        inner = f"echo $$ >{self.folder}/pid; exec {shlex.join(argv)}"
        host.run(
            f"rm -rf {self.folder}; mkdir -p {self.folder}\n"
            f"{{ setsid sh -c {shlex.quote(inner)} </dev/null >{self.folder}/stdout "
            f"2>{self.folder}/stderr; echo $? >{self.folder}/status; }} >/dev/null 2>&1 &\n"
            f"until [ -s {self.folder}/pid ]; do usleep 20000; done")

    def read(self, name: str) -> str:
        """Contents of one of its files, such as stdout or stderr, or nothing."""
        text = self.host.run(f"cat {self.folder}/{name} 2>/dev/null", check=False).stdout
        return text.replace("\r\n", "\n")

    def pid(self) -> int:
        """Its process id."""
        return int(self.read("pid"))

    def signal(self, name: str) -> None:
        """Send it a signal, if it is still there."""
        self.host.run(f"kill -{name} {self.pid()} 2>/dev/null", check=False)

    def running(self) -> bool:
        """Whether it has not ended."""
        return not self.read("status").strip()

    def until(self, condition: str, timeout: float) -> None:
        """Wait until a shell condition holds in the host. Raises LabError when that takes too long,
        or the job ends without it."""
        ended = f"[ -s {self.folder}/status ]"
        script = f"until {condition}; do {ended} && {{ {condition} && exit 0; exit 3; }}; usleep 50000; done"
        done = self.host.run(["timeout", str(timeout), "sh", "-c", script], timeout + 30, False)
        if done.returncode != 0:
            why = "it ended" if done.returncode == 3 else f"not within {timeout:.0f} s"
            raise LabError(f"{shlex.join(self.argv)}: {why}\n--- stdout\n{self.read('stdout')[-SHOWN:]}"
                           f"\n--- stderr\n{self.read('stderr')[-SHOWN:]}")

    def wait(self, timeout: float = 60) -> int:
        """Wait for its end; its status."""
        self.until(f"[ -s {self.folder}/status ]", timeout)
        return int(self.read("status"))
