"""Which answers and failures the output of each finished run has, as one bit for each.

A million answers take 125 KB before compression. Where a row's number is given out anew, an older run's mark keeps it
at most for longer.
"""

import sqlite3
import zlib
from collections.abc import Collection, Iterable

from batchchat.checkpoint.tables import Stored

PART_ROWS = 65_536
"""Rows of which the marks are stored together."""

KINDS = ("answers", "failures")
"""The tables that have marks."""

UNREADABLE = (zlib.error, TypeError)
"""What is raised for marks that are not what was stored."""

Marks = dict[int, bytearray]
"""Bits by part."""


class UsedAnswers:
    """What the output that is being written has, over a connection to the checkpoint."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._noted: dict[str, Marks] = {kind: {} for kind in KINDS}

    def mark(self, stored: Stored) -> None:
        """Mark an outcome."""
        marks = self._noted[stored.table]
        part, at = divmod(stored.rowid, PART_ROWS)
        bits = marks.get(part)
        if bits is None:
            bits = marks[part] = bytearray(PART_ROWS // 8)
        bits[at >> 3] |= 1 << (at & 7)

    def record(self, run: int) -> None:
        """Store the marks as those of a run, within the transaction that is open."""
        self._noted["answers"].setdefault(0, bytearray(PART_ROWS // 8))  # none too is something that is known
        rows = [
            (run, kind, part, zlib.compress(marks, 1))
            for kind, parts in self._noted.items()
            for part, marks in parts.items()
        ]
        self._connection.execute("DELETE FROM uses WHERE run = ?", (run,))
        self._connection.executemany("INSERT INTO uses VALUES (?, ?, ?, ?)", rows)

    def gone(self, before: int | None) -> int:
        """Return how many answers that the output of another run had are not in this one's; 0 where that is unknown."""
        try:
            marks = marks_of(self._connection, "answers", [] if before is None else [before])
        except UNREADABLE:
            return 0
        now = self._noted["answers"]
        return sum(
            _bits(had).bit_count() - (_bits(had) & _bits(now.get(part, b""))).bit_count() for part, had in marks.items()
        )


def marks_of(connection: sqlite3.Connection, kind: str, runs: Iterable[int]) -> Marks:
    """Return what the outputs of some runs have in all.

    Raises:
        UNREADABLE: it is not what was stored.
    """
    found: Marks = {}
    for run in runs:
        query = "SELECT part, marks FROM uses WHERE run = ? AND kind = ?"
        for part, marks in connection.execute(query, (run, kind)):
            bits = _bits(zlib.decompress(marks)) | _bits(found.get(part, b""))
            found[part] = bytearray(bits.to_bytes(PART_ROWS // 8, "little"))
    return found


def empty(connection: sqlite3.Connection, runs: Collection[int]) -> None:
    """Let the outputs of some runs have nothing any more, which is something that is known."""
    connection.executemany("DELETE FROM uses WHERE run = ?", [(run,) for run in runs])
    none = zlib.compress(bytes(PART_ROWS // 8), 1)
    connection.executemany("INSERT INTO uses VALUES (?, ?, 0, ?)", [(run, KINDS[0], none) for run in runs])


def is_marked(marks: Marks, row: int) -> bool:
    """Whether a row's number is marked."""
    part, at = divmod(row, PART_ROWS)
    return part in marks and bool(marks[part][at >> 3] & 1 << (at & 7))


def _bits(marks: bytes | bytearray) -> int:
    return int.from_bytes(marks, "little")
