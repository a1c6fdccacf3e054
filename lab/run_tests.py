"""./test: builds what the tests need and runs them all under ctest."""

import argparse
import os
import sys

from lab import packages
from lab.artifacts import guest_image, kernel, kernel_headers, selftests
from lab.background import Background
from lab.build import (
    build_arm64, build_dir, build_preset, configure_preset, python_with_pytest,
)
from lab.errors import LabError
from lab.progress import note
from lab.source import REPOSITORY

# Labels whose tests need only the native builds, the cross build and the build with clang.
NATIVE_LABELS = {"unit", "fuzz"}
LAB_LABELS = {"lab", "kvm"}
FUZZ_LABELS = {"fuzz"}
# ctest runs what this file in build/ names, so that one run and one summary cover all builds.
SUITES = ("dev", "asan")


def parse() -> argparse.Namespace:
    """The command line of ./test."""
    parser = argparse.ArgumentParser(
        prog="./test", description="Run all tests; the last lines are ctest's summary.",
    )
    parser.add_argument("-L", "--label", action="append", default=[],
                        help="only tests with this label (unit, kvm, lab, fuzz, full); repeatable")
    parser.add_argument("-R", "--regex", help="only tests whose names match")
    parser.add_argument("--full", action="store_true", help="also the long tests (label full)")
    parser.add_argument("--shard", metavar="I/N", help="the I-th of N parts, each to be run alone")
    return parser.parse_args()


def ctest_arguments(arguments: argparse.Namespace) -> list[str]:
    """ctest's selection for the command line. Raises LabError for a malformed shard."""
    selection: list[str] = []
    if arguments.label:
        selection += ["-L", "^(" + "|".join(arguments.label) + ")$"]
    if not arguments.full and "full" not in arguments.label:
        selection += ["-LE", "^full$"]
    if arguments.regex:
        selection += ["-R", arguments.regex]
    if arguments.shard:
        part, _, parts = arguments.shard.partition("/")
        if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
            raise LabError(f"--shard {arguments.shard}: give I/N with 1 <= I <= N")
        selection += ["-I", f"{part},,{parts}"]
    return selection


def prepare_lab() -> None:
    """Everything the emulated hosts need. The kernel headers come first: the cross build waits."""
    kernel_headers()
    kernel("lab")
    selftests()
    kernel("debian")


def build(with_lab: bool, with_native: bool, with_fuzz: bool) -> None:
    """Build the suites; kernel and cross build go on beside them."""
    variables: dict[str, object] = {
        "VMM_LAB_TESTS": "ON" if with_lab else "OFF", "Python3_EXECUTABLE": python_with_pytest(),
    }
    if with_lab:
        lab = Background(prepare_lab)
        arm64 = build_arm64()
    if with_native:
        for suite in SUITES:
            build_preset(suite, variables if suite == "dev" else {})
    else:
        configure_preset("dev", variables)
    if with_fuzz:
        build_preset("fuzz", {})
    if with_lab:
        lab.result()
        for image in ("tiny", "debian"):
            guest_image(image, arm64)
    folders = (*(SUITES if with_native else ("dev",)), *(("fuzz",) if with_fuzz else ()))
    suites = "".join(f'subdirs("{build_dir(preset)}")\n' for preset in folders)
    (REPOSITORY / "build" / "CTestTestfile.cmake").write_text(suites)


def main() -> int:
    """Run ./test; returns ctest's status."""
    arguments = parse()
    try:
        selection = ctest_arguments(arguments)
        labels = set(arguments.label)
        with_lab = not labels or bool(labels - NATIVE_LABELS)
        with_native = not labels or bool(labels - LAB_LABELS - FUZZ_LABELS)
        with_fuzz = bool(labels & FUZZ_LABELS) or (arguments.full and not labels)
        packages.ensure(
            "build", "test", *(["lab"] if with_lab else []), *(["fuzz"] if with_fuzz else []),
        )
        build(with_lab, with_native, with_fuzz)
    except LabError as error:
        print(f"./test: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("./test: interrupted; what was built stays and the next run goes on from there",
              file=sys.stderr)
        return 130
    note("running the tests")
    sys.stderr.flush()
    os.execvp("ctest", [
        "ctest", "--test-dir", str(REPOSITORY / "build"), "--output-on-failure", "--no-tests=error",
        "-j", str(os.cpu_count() or 1), *selection,
    ])


if __name__ == "__main__":
    sys.exit(main())
