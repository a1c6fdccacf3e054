"""The tables of ./demo: need no host."""

from lab.demo_tables import Move, comparison, digest_lines, downtime_line, rounds_table

ROUND = {"n": 1, "mode": "hw", "dirty_pages": 9000, "sent_bytes": 3 << 20, "zero_pages": 12, "ms": 480.0,
         "get_us": 1500, "clear_us": 2500}
REPORT = {"rounds": [ROUND, {**ROUND, "n": 2, "mode": "wp"}], "total_ms": 1500.0, "downtime_ms": 30.5,
          "downtime": {"pause": 1.0, "harvest": 2.5},
          "verify": {"source": "ab", "destination": "ab", "ms": 700.0}}
MOVE = Move("hw", "host1 -> host2", REPORT, 0.934, 31.0, 40, 0, 17)


def test_each_round_is_a_line() -> None:
    lines = rounds_table(REPORT).splitlines()
    assert len(lines) == 3 and len({len(line) for line in lines}) == 1
    assert lines[1].split() == ["1", "hw", "9000", "3.0", "MiB", "12", "480", "ms", "1.5", "ms", "2.5",
                                "ms"]


def test_downtime_is_shown_with_its_parts() -> None:
    assert downtime_line(REPORT) == "  guest stopped for 30.5 ms (pause 1.0, harvest 2.5)"


def test_digests_that_differ_are_called_so() -> None:
    assert digest_lines(REPORT).endswith("  equal")
    other = {**REPORT, "verify": {"source": "ab", "destination": "cd", "ms": 1.0}}
    assert digest_lines(other).endswith("  DIFFERENT")


def test_moves_stand_side_by_side() -> None:
    cells = [line.split("  ") for line in comparison([MOVE, MOVE]).splitlines()]
    rows = {words[0]: words[1:] for words in ([cell.strip() for cell in row if cell.strip()]
                                              for row in cells)}
    assert rows["guest's writes meanwhile"] == ["93.4 %", "93.4 %"]
    assert rows["total time"] == ["0.80 s", "0.80 s"]  # without the comparison of digests
    assert rows["TCP replies lost"] == ["0 of 40", "0 of 40"]
    assert rows["memory sent"] == ["6 MiB", "6 MiB"]
