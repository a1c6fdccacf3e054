"""Command line of the lab."""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lab import artifacts, packages
from lab.errors import LabError
from lab.host import DEFAULT_CPU, Host, Pair
from lab.progress import note, step
from lab.runtime import live_hosts, runtime_root, sweep

UP = "up"
FOLLOW_INTERVAL_S = 0.1


def host_directory(number: int) -> Path:
    """Directory of the running host `number`. Raises LabError if it is not up."""
    directory = runtime_root() / f"{UP}-{number}"
    if directory not in live_hosts():
        raise LabError(f"host {number} is not up (start it with lab/lab up)")
    return directory


def command_setup(arguments: argparse.Namespace) -> int:
    """Install the build machine's packages."""
    packages.ensure(*arguments.groups or packages.GROUPS)
    return 0


def command_path(arguments: argparse.Namespace) -> int:
    """Print where an artifact is, after building it if need be."""
    print(artifacts.path_of(arguments.name))
    return 0


def parse_shares(words: list[str]) -> dict[str, Path]:
    """MOUNTPOINT=DIRECTORY words as a mapping."""
    shares: dict[str, Path] = {}
    for word in words:
        mount, _, folder = word.partition("=")
        path = Path(folder).resolve()
        if not mount.startswith("/") or not path.is_dir():
            raise LabError(f"--share {word}: give /MOUNTPOINT=DIRECTORY, and the directory must exist")
        shares[mount] = path
    return shares


def command_up(arguments: argparse.Namespace) -> int:
    """Start one or two hosts that stay until `down`."""
    options: dict[str, object] = {
        "kernel": arguments.kernel, "cpus": arguments.cpus, "memory_mib": arguments.memory,
        "cpu": arguments.cpu, "append": arguments.append, "icount": arguments.icount,
        "shares": parse_shares(arguments.share), "qemu_args": arguments.qemu_arg,
        "disks": [Path(disk).resolve() for disk in arguments.disk],
    }
    with step(f"start {arguments.hosts} host(s) with the {arguments.kernel} kernel"):
        if arguments.hosts == 2:
            hosts = Pair.start(prefix=UP, **options).hosts
        else:
            hosts = [Host.start(name=f"{UP}-1", **options)]  # type: ignore[arg-type]
    for host in hosts:
        host.detach()
    note("run commands with lab/lab run [-h N] -- CMD, end with lab/lab down")
    return 0


def command_run(arguments: argparse.Namespace) -> int:
    """Run a command with this terminal's input and output; exits with its status."""
    words = arguments.cmd[1:] if arguments.cmd[:1] == ["--"] else arguments.cmd
    if not words:
        raise LabError("run: no command given")
    host = Host.attach(host_directory(arguments.host))
    cmd = words[0] if len(words) == 1 else words
    argv = host.remote.argv(cmd)
    os.execvp(argv[0], argv)


def command_shell(arguments: argparse.Namespace) -> int:
    """Open an interactive shell."""
    argv = Host.attach(host_directory(arguments.host)).remote.argv("exec bash -l", tty=True)
    os.execvp(argv[0], argv)


def command_put(arguments: argparse.Namespace) -> int:
    """Copy to a host."""
    Host.attach(host_directory(arguments.host)).put(arguments.source, arguments.target)
    return 0


def command_get(arguments: argparse.Namespace) -> int:
    """Copy from a host."""
    Host.attach(host_directory(arguments.host)).get(arguments.source, arguments.target)
    return 0


def command_console(arguments: argparse.Namespace) -> int:
    """Print a host's console log; with --follow go on until the host ends."""
    directory = host_directory(arguments.host)
    with (directory / "console.log").open("rb") as log:
        while True:
            sys.stdout.buffer.write(log.read())
            sys.stdout.flush()
            if not arguments.follow or not directory.exists():
                return 0
            time.sleep(FOLLOW_INTERVAL_S)


def command_down(_: argparse.Namespace) -> int:
    """End all hosts that `up` started."""
    for directory in live_hosts():
        Host.attach(directory).stop()
        note(f"host {directory.name.removeprefix(UP + '-')} is down")
    sweep()
    return 0


def command_status(_: argparse.Namespace) -> int:
    """List the hosts that `up` started."""
    for name in sweep():
        note(f"removed what was left of {name}")
    for directory in live_hosts():
        exited = directory / "exit"
        state = f"ended with status {exited.read_text().strip()}" if exited.exists() else "up"
        print(f"host {directory.name.removeprefix(UP + '-')}: {state}")
    if not live_hosts():
        print("no host is up")
    return 0


Handler = Callable[[argparse.Namespace], int]


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="lab/lab", description="Emulated arm64 hosts and what they need; see docs/lab.md."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, handler: Handler, text: str, host: bool = False) -> argparse.ArgumentParser:
        # -h selects the host, as the commands are used often; --help is there too.
        command = commands.add_parser(name, help=text, description=text, add_help=not host)
        command.set_defaults(handler=handler)
        if host:
            command.add_argument("--help", action="help", help="show this text")
            command.add_argument("-h", "--host", type=int, default=1, choices=(1, 2), help="default 1")
        return command

    setup = add("setup", command_setup, "install the packages this machine needs")
    setup.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(packages.GROUPS))
    path = add("path", command_path, "build an artifact if need be and print its path")
    path.add_argument("name", help=", ".join(sorted(artifacts.NAMED)))
    up = add("up", command_up, "start one host, or two joined by a network")
    up.add_argument("--hosts", type=int, default=1, choices=(1, 2))
    up.add_argument("--kernel", default="lab", choices=("lab", "debian", "debug"))
    up.add_argument("--cpus", type=int, default=2)
    up.add_argument("--memory", type=int, default=4096, metavar="MIB")
    up.add_argument("--cpu", default=DEFAULT_CPU, help=f"QEMU's -cpu (default {DEFAULT_CPU})")
    up.add_argument("--append", default="", help="more for the kernel command line")
    up.add_argument("--icount", action="store_true", help="clock counts instructions; one CPU")
    up.add_argument("--share", action="append", default=[], metavar="/MOUNTPOINT=DIRECTORY",
                    help="mount a directory of this machine read-only")
    up.add_argument("--disk", action="append", default=[], metavar="IMAGE", help="raw disk image")
    up.add_argument("--qemu-arg", action="append", default=[], metavar="ARG")
    run = add("run", command_run, "run a command in a host", host=True)
    run.add_argument("cmd", nargs=argparse.REMAINDER, metavar="-- CMD")
    add("shell", command_shell, "open a shell in a host", host=True)
    put = add("put", command_put, "copy a file or directory to a host", host=True)
    put.add_argument("source")
    put.add_argument("target")
    get = add("get", command_get, "copy a file or directory from a host", host=True)
    get.add_argument("source")
    get.add_argument("target")
    console = add("console", command_console, "print a host's console log", host=True)
    console.add_argument("-f", "--follow", action="store_true")
    add("status", command_status, "list the hosts that are up")
    add("down", command_down, "end all hosts")
    return top


def main() -> int:
    """Run the command line; errors are one line on stderr and exit status 1."""
    arguments = parser().parse_args()
    try:
        unknown = [g for g in getattr(arguments, "groups", []) if g not in packages.GROUPS]
        if unknown:
            raise LabError(f"no package group '{unknown[0]}'; there are: {', '.join(packages.GROUPS)}")
        return arguments.handler(arguments)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: interrupted", file=sys.stderr)
        return 130
