"""Command line of the lab."""

import argparse
import sys

from lab import artifacts, packages
from lab.errors import LabError


def command_setup(arguments: argparse.Namespace) -> int:
    """Install the build machine's packages."""
    packages.ensure(*arguments.groups or packages.GROUPS)
    return 0


def command_path(arguments: argparse.Namespace) -> int:
    """Print where an artifact is, after building it if need be."""
    print(artifacts.path_of(arguments.name))
    return 0


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(prog="lab/lab", description="Emulated arm64 hosts and what they need.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    setup = commands.add_parser("setup", help="install the packages this machine needs")
    setup.add_argument("groups", nargs="*", choices=[*packages.GROUPS, []], metavar="GROUP")
    setup.set_defaults(run=command_setup)
    path = commands.add_parser("path", help="build an artifact if need be and print its path")
    path.add_argument("name", help=", ".join(sorted(artifacts.NAMED)))
    path.set_defaults(run=command_path)
    return top


def main() -> int:
    """Run the command line; errors are one line on stderr and exit status 1."""
    arguments = parser().parse_args()
    try:
        return arguments.run(arguments)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: interrupted", file=sys.stderr)
        return 130
