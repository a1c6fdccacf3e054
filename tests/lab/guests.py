"""Guests in an emulated host, as the lab tests use them."""

import dataclasses
import itertools
import json
import shlex
import subprocess
from collections.abc import Sequence

from lab.host import Host

ROOT = "/tmp/guests"
MEMORY = {"tiny": "96M", "debian": "384M"}
KERNEL = {"tiny": "Image", "debian": "vmlinuz"}
INIT_REACHED = "vmm-guest: init reached"
READY = "vmm-guest: ready"
_numbers = itertools.count(1)


def toml(value: object) -> str:
    """A value in TOML; what JSON writes for strings, numbers, booleans and lists is TOML too."""
    return json.dumps(value, ensure_ascii=False)


def table(kind: str, **values: object) -> str:
    """One device of a guest configuration: table("[[disk]]", id="root", path="/dev/vda")."""
    return "\n".join([kind, *(f"{key} = {toml(value)}" for key, value in values.items())]) + "\n"


def guest_config(
    name: str,
    image: str = "tiny",
    vcpus: int = 1,
    memory: str | None = None,
    cmdline: str = "quiet",
    features: Sequence[str] = (),
    console_file: str | None = None,
    kernel: str | None = None,
    devices: str = "",
) -> str:
    """Text of a guest configuration for an image; `cmdline` comes after the console parameter,
    `devices` are tables that stand as they are at the end."""
    lines = [
        f"name = {toml(name)}",
        f"vcpus = {vcpus}",
        f"memory = {toml(memory or MEMORY[image])}",
        "[boot]",
        f"kernel = {toml(kernel or f'/images/{image}/{KERNEL[image]}')}",
        f"initrd = {toml(f'/images/{image}/initrd.gz')}",
        f"cmdline = {toml(f'console=ttyAMA0 {cmdline}'.strip())}",
        "[cpu]",
        f"features = {toml(list(features))}",
    ]
    if console_file is not None:
        lines += ["[console]", f"file = {toml(console_file)}"]
    return "\n".join(lines) + "\n" + devices


def run_command(command: str) -> str:
    """Kernel parameters that make a guest run `command` and power off. Kernel parameters know no
    escapes, so that `command` cannot hold double quotes."""
    assert '"' not in command
    return f'quiet vmm.run="{command}"'


@dataclasses.dataclass
class Guest:
    """A guest started with `vmm run` in the background; its files are in a folder in the host."""

    vmm: "VmmHost"
    name: str
    folder: str
    # File in the folder that has the console's output, if not what `vmm run` writes.
    output: str = "console"

    def wait(self, text: str, timeout: float = 120, count: int = 1) -> str:
        """Wait until the console has shown `text` on `count` lines; returns the console's text."""
        shown = f"[ \"$(grep -cF -- {shlex.quote(text)} {self.folder}/{self.output})\" -ge {count} ]"
        script = (
            f"shown() {{ {shown}; }}; until shown; do "
            # The end is seen before the last output is: look once more.
            f"if [ -s {self.folder}/status ]; then shown && exit 0; exit 3; fi; "
            "usleep 100000; done"
        )
        done = self.vmm.shell(f"timeout {timeout} sh -c {shlex.quote(script)}", timeout + 15)
        console = self.console()
        if done.returncode != 0:
            reason = "the guest ended" if done.returncode == 3 else f"not within {timeout} s"
            raise AssertionError(f"{self.name}: no '{text}' ({reason})\n{self._diagnosis(console)}")
        return console

    def wait_started(self, timeout: float = 60) -> None:
        """Wait until the guest takes commands; its kernel may not have said anything yet."""
        script = f"until vmm stats {self.name} >/dev/null 2>&1; do usleep 100000; done"
        done = self.vmm.shell(f"timeout {timeout} sh -c {shlex.quote(script)}", timeout + 15)
        if done.returncode != 0:
            raise AssertionError(f"{self.name}: not started\n{self._diagnosis(self.console())}")

    def console(self) -> str:
        """What the guest has written to its console."""
        return self.vmm.read(f"{self.folder}/{self.output}")

    def stderr(self) -> str:
        """What `vmm run` has written to standard error."""
        return self.vmm.read(f"{self.folder}/stderr")

    def exit_status(self, timeout: float = 120) -> int:
        """Wait for the end of `vmm run` and return its status."""
        script = f"until [ -s {self.folder}/status ]; do usleep 100000; done"
        done = self.vmm.shell(f"timeout {timeout} sh -c {shlex.quote(script)}", timeout + 15)
        if done.returncode != 0:
            raise AssertionError(f"{self.name}: still running\n{self._diagnosis(self.console())}")
        return int(self.vmm.read(f"{self.folder}/status"))

    def is_running(self) -> bool:
        """Whether `vmm run` has not ended."""
        return self.vmm.shell(f"[ -s {self.folder}/status ]").returncode != 0

    def pid(self) -> int:
        """Process id of `vmm run`."""
        return int(self.vmm.read(f"{self.folder}/pid"))

    def signal(self, name: str) -> None:
        """Send a signal to `vmm run`."""
        self.vmm.host.run(f"kill -{name} {self.pid()}")

    def _diagnosis(self, console: str) -> str:
        return f"--- console (end)\n{console[-1500:]}\n--- stderr\n{self.stderr()[-1500:]}"


class VmmHost:
    """An emulated host with `vmm` installed. Guests get folders of their own below ROOT."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def shell(
        self, script: str, timeout: float = 60, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell script in the host; its status is the caller's business."""
        return self.host.run(script, timeout=timeout, check=False, input=text)

    def read(self, path: str) -> str:
        """Contents of a file in the host, with the line ends of a terminal made plain."""
        return self.host.run(["cat", path]).stdout.replace("\r\n", "\n")

    def __call__(self, *arguments: str, timeout: float = 90) -> subprocess.CompletedProcess[str]:
        """Run vmm with arguments."""
        return self.shell(shlex.join(["vmm", *arguments]), timeout)

    def json(self, *arguments: str) -> object:
        """Run vmm with arguments and --json, expect success, and return what it printed."""
        done = self(*arguments, "--json")
        assert done.returncode == 0, f"vmm {arguments}: {done.returncode} {done.stderr}"
        return json.loads(done.stdout)

    def write(self, name: str, text: str) -> str:
        """Write a file below ROOT; returns its path."""
        path = f"{ROOT}/{name}"
        self.host.run(f"mkdir -p $(dirname {path}) && cat >{path}", input=text)
        return path

    def start(self, name: str | None = None, prefix: str = "", **settings: object) -> Guest:
        """Start a guest in the background; `settings` are those of guest_config, `prefix` is put
        before the command (an environment variable, a wrapper)."""
        name = name or f"guest{next(_numbers)}"
        folder = f"{ROOT}/{name}"
        config = guest_config(name, **settings)  # type: ignore[arg-type]
        # The inner shell becomes vmm, so that its process id is known beforehand.
        inner = f"echo $$ >{folder}/pid; exec {prefix} vmm run {folder}/guest.cfg"
        script = (
            f"rm -rf {folder}; mkdir -p {folder}; cat >{folder}/guest.cfg; : >{folder}/console\n"
            f"{{ setsid sh -c {shlex.quote(inner)} </dev/null >{folder}/console 2>{folder}/stderr; "
            f"echo $? >{folder}/status; }} >/dev/null 2>&1 &\n"
            f"until [ -s {folder}/pid ]; do usleep 20000; done"
        )
        self.host.run(script, input=config)
        return Guest(self, name, folder)

    def end_all(self) -> None:
        """Kill whatever vmm still runs and remove what it left, so that tests do not meet."""
        self.host.run(
            "killall -9 vmm 2>/dev/null; while pidof vmm >/dev/null; do usleep 20000; done; "
            "rm -rf /run/vmm"
        )
