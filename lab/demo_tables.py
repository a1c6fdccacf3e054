"""The tables of ./demo: pure text of what the moves reported."""

import dataclasses
from collections.abc import Sequence

MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Move:
    """One migration of the demo. `progress` is the rate of the guest's writes until it was stopped,
    as a fraction of its rate before; `gap_ms` the longest time that the load did not run, without that
    in which digests were compared."""

    mode: str
    way: str
    report: dict
    progress: float
    gap_ms: float
    sent: int
    lost: int
    disk_records: int


def aligned(rows: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """Rows of cells in columns, the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        lines.append(indent + "  ".join(cells).rstrip())
    return "\n".join(lines)


def rounds_table(report: dict) -> str:
    """The rounds of one migration."""
    rows = [("round", "log", "dirty pages", "sent", "zero pages", "time", "read log", "clear log")]
    for item in report["rounds"]:
        rows.append((
            str(item["n"]), item["mode"], str(item["dirty_pages"]),
            f"{item['sent_bytes'] / MIB:.1f} MiB", str(item["zero_pages"]), f"{item['ms']:.0f} ms",
            f"{item['get_us'] / 1000:.1f} ms", f"{item['clear_us'] / 1000:.1f} ms"))
    return aligned(rows)


def downtime_line(report: dict) -> str:
    """The parts of the downtime."""
    parts = ", ".join(f"{name} {ms:.1f}" for name, ms in report["downtime"].items())
    return f"  guest stopped for {report['downtime_ms']:.1f} ms ({parts})"


def digest_lines(report: dict) -> str:
    """Digests of guest memory on both sides."""
    verify = report["verify"]
    same = "equal" if verify["source"] == verify["destination"] else "DIFFERENT"
    return (f"  SHA-256 of guest memory, source       {verify['source']}\n"
            f"  SHA-256 of guest memory, destination  {verify['destination']}  {same}")


def comparison(moves: Sequence[Move]) -> str:
    """All moves side by side."""

    def row(label: str, cell: object) -> tuple[str, ...]:
        return (label, *(cell(move) for move in moves))  # type: ignore[operator]

    def sent(move: Move) -> float:
        return sum(item["sent_bytes"] for item in move.report["rounds"]) / MIB

    def total_s(move: Move) -> float:
        return (move.report["total_ms"] - move.report["verify"]["ms"]) / 1000

    return aligned([
        row("dirty logging", lambda move: {"hw": "hardware", "wp": "write-protect"}[move.mode]),
        row("from, to", lambda move: move.way),
        row("guest's writes meanwhile", lambda move: f"{move.progress * 100:.1f} %"),
        row("rounds", lambda move: str(len(move.report["rounds"]))),
        row("memory sent", lambda move: f"{sent(move):.0f} MiB"),
        row("total time", lambda move: f"{total_s(move):.2f} s"),
        row("downtime", lambda move: f"{move.report['downtime_ms']:.0f} ms"),
        row("longest stall of the load", lambda move: f"{move.gap_ms:.0f} ms"),
        row("comparing digests, not in these", lambda move: f"{move.report['verify']['ms']:.0f} ms"),
        row("TCP replies lost", lambda move: f"{move.lost} of {move.sent}"),
        row("records on disk, all there", lambda move: str(move.disk_records)),
    ])
