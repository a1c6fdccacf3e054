"""The lines of the memory-dirtying load in a guest (guest-images/README.md), and what they tell."""

import bisect
import re
from collections.abc import Sequence

from lab.errors import LabError

Line = dict[str, float]
_FIELD = re.compile(r"(\w+)=(-?[\d.]+)")


def fields(line: str) -> Line:
    """The key=number pairs of a line."""
    return {key: float(value) for key, value in _FIELD.findall(line)}


def parse_lines(text: str) -> list[Line]:
    """The fields of each of the load's lines; what is no whole line of it is left out."""
    return [fields(line) for line in text.splitlines()
            if line.startswith("workload: t_ms=") and "clock_back=" in line]


def pages_at(lines: Sequence[Line], when: float) -> float:
    """Pages that the load had written at a time of its wall clock, between two of its lines. Raises
    LabError for a time outside of them."""
    walls = [line["wall"] for line in lines]
    place = bisect.bisect_left(walls, when)
    if place == 0 or place == len(lines):
        raise LabError("the load in the guest was not running all the time")
    one, two = lines[place - 1], lines[place]
    share = (when - one["wall"]) / (two["wall"] - one["wall"])
    return one["pages"] + share * (two["pages"] - one["pages"])


def rate(lines: Sequence[Line], begin: float, end: float) -> float:
    """Pages a second that the load has written between two times."""
    return (pages_at(lines, end) - pages_at(lines, begin)) / (end - begin)


def longest_gap(lines: Sequence[Line], begin: float, end: float) -> float:
    """The longest time in seconds that the load did not run, by its own clock."""
    return max((line["tick_us"] for line in lines if begin <= line["wall"] <= end), default=0.0) / 1e6
