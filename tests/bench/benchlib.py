"""The one contract of the benchmarks: `tests/bench/NAME [--runs N] [--json FILE]`.

A benchmark measures samples, turns each set into a Figure and calls report(). It exits 0 when it
could measure, whatever the figures say, and 1 with one clear line when it could not.
"""

import argparse
import dataclasses
import json
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

_TARGET = re.compile(r"(<=|>=|<|>|==)\s*(-?\d+(?:\.\d+)?)")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": lambda value, limit: value <= limit,
    ">=": lambda value, limit: value >= limit,
    "<": lambda value, limit: value < limit,
    ">": lambda value, limit: value > limit,
    "==": lambda value, limit: value == limit,
}


class BenchError(Exception):
    """The benchmark could not measure; the text is one line for the user."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """One measured figure. `peer` is what it is compared with, in the same unit, or None."""

    name: str
    value: float
    unit: str
    target: str | None
    runs: int
    minimum: float
    maximum: float
    peer: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target."""
        return None if self.target is None else meets(self.value, self.target)

    def as_json(self) -> dict:
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "target": self.target,
            "met": self.met,
            "runs": self.runs,
            "min": self.minimum,
            "max": self.maximum,
            "peer": self.peer,
        }


def meets(value: float, target: str) -> bool:
    """Whether `value` satisfies a target such as "<= 0.5". Raises ValueError on any other text."""
    match = _TARGET.fullmatch(target.strip())
    if match is None:
        raise ValueError(f"not a target: {target!r} (expected for example '<= 0.5')")
    return _COMPARE[match.group(1)](value, float(match.group(2)))


def figure(
    name: str,
    samples: Sequence[float],
    unit: str,
    target: str | None = None,
    peer: float | None = None,
) -> Figure:
    """The median of `samples` with their count and extremes. Raises BenchError without samples."""
    if not samples:
        raise BenchError(f"{name}: no samples")
    median = statistics.median(samples)
    return Figure(name, median, unit, target, len(samples), min(samples), max(samples), peer)


def argument_parser(description: str, runs: int) -> argparse.ArgumentParser:
    """A parser with the options every benchmark has; `runs` is the default of --runs."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--runs", type=_positive, default=runs, metavar="N",
                        help=f"measured runs of each kind (default {runs})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON here")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def table(figures: Sequence[Figure]) -> str:
    """The figures as an aligned text table."""
    rows = [("figure", "value", "unit", "min", "max", "runs", "peer", "target", "met")]
    for item in figures:
        met = {None: "-", True: "yes", False: "no"}[item.met]
        rows.append((item.name, _number(item.value), item.unit, _number(item.minimum),
                     _number(item.maximum), str(item.runs),
                     "-" if item.peer is None else _number(item.peer), item.target or "-", met))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
                     for row in rows)


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.0f}"


def report(figures: Sequence[Figure], json_file: Path | None) -> None:
    """Prints the table and, where asked, writes the JSON list; BenchError if that fails."""
    print(table(figures), flush=True)
    if json_file is None:
        return
    text = json.dumps([item.as_json() for item in figures], indent=2) + "\n"
    try:
        json_file.write_text(text)
    except OSError as error:
        raise BenchError(f"cannot write {json_file}: {error.strerror}") from error


def main(measure: Callable[[argparse.Namespace], Sequence[Figure]],
         parser: argparse.ArgumentParser) -> int:
    """Parses the command line, measures and reports; returns the exit status."""
    args = parser.parse_args()
    try:
        report(measure(args), args.json)
    except BenchError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    return 0
