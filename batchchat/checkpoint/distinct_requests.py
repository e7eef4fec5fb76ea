"""Every distinct request of a table, once, in a temporary file: a table may have more of them than fit in memory.

The file is gone with the process.
"""

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from batchchat.checkpoint.sqlite import translated

CACHE_KB = 16_000
"""Memory for what is in use of the file: a million requests take 40 MB there, and some 4 s."""

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE requests (
    key BLOB PRIMARY KEY,
    place INTEGER NOT NULL,     -- which request of the table it was
    size_bytes INTEGER NOT NULL,
    max_tokens INTEGER,
    standing TEXT NOT NULL,
    row_count INTEGER NOT NULL DEFAULT 1
) WITHOUT ROWID;
BEGIN;
"""
# The key is a digest: the smallest of each part is one at random, and the same one each time.
_SPREAD = """
SELECT min(key) FROM (SELECT key, ntile(?) OVER (ORDER BY place) AS part FROM requests WHERE standing IN ({}))
GROUP BY part
"""
_SOME = "SELECT key, size_bytes FROM requests WHERE standing IN ({}) ORDER BY key LIMIT ?"
_PUT = """
INSERT INTO requests (key, place, size_bytes, max_tokens, standing) VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET row_count = row_count + 1
"""
_TOTALS = """
SELECT count(*), total(row_count), total(size_bytes), count(max_tokens), total(max_tokens) FROM requests
WHERE standing = ?
"""


@dataclass(frozen=True, slots=True)
class Counted:
    """A request as it is counted: `size_bytes` are sent, `max_tokens` allowed to its completion."""

    key: bytes
    size_bytes: int
    max_tokens: int | None
    standing: str


@dataclass(frozen=True, slots=True)
class Totals:
    """Requests of one standing together, and the rows that make them; `max_tokens` is None unless each says its own."""

    count: int
    row_count: int
    size_bytes: int
    max_tokens: int | None


class DistinctRequests:
    """The requests counted so far; one thread at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._place = 0

    def count(self, requests: Iterable[Counted]) -> None:
        """Count the requests of rows, in the table's order; one that was counted before has one more row."""
        rows = [
            (one.key, place, one.size_bytes, one.max_tokens, one.standing)
            for place, one in enumerate(requests, start=self._place)
        ]
        self._place += len(rows)
        with _guarded():
            self._connection.executemany(_PUT, rows)

    def totals(self, standing: str) -> Totals:
        """Return the requests of a standing together."""
        with _guarded():
            count, row_count, size_bytes, limited, allowed = self._connection.execute(_TOTALS, (standing,)).fetchone()
        return Totals(count, int(row_count), int(size_bytes), int(allowed) if limited == count else None)

    def spread(self, count: int, standings: Sequence[str]) -> list[bytes]:
        """Return so many keys of some standings, or all: one from each of as many equal parts of their requests.

        Which one of its part it is depends on nothing but the requests themselves.
        """
        with _guarded():
            rows = self._connection.execute(_SPREAD.format(_marks(standings)), (count, *standings))
            return [row[0] for row in rows]

    def some(self, limit: int, standings: Sequence[str]) -> list[tuple[bytes, int]]:
        """Return keys and sizes of at most so many requests of some standings: a random choice, always the same."""
        with _guarded():
            return list(self._connection.execute(_SOME.format(_marks(standings)), (*standings, limit)))

    def sizes(self, keys: Iterable[bytes]) -> dict[bytes, int]:
        """Return the sizes of requests that were counted."""
        query = "SELECT key, size_bytes FROM requests WHERE key = ?"
        with _guarded():
            return dict(self._connection.execute(query, (key,)).fetchone() for key in keys)

    def move(self, keys: Iterable[bytes], standing: str) -> None:
        """Give requests another standing."""
        with _guarded():
            self._connection.executemany(
                "UPDATE requests SET standing = ? WHERE key = ?", [(standing, k) for k in keys]
            )


def _marks(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))


@contextmanager
def taken_census() -> Iterator[DistinctRequests]:
    """Begin a census, for as long as the block lasts.

    Raises:
        CheckpointError: the system's folder for temporary files cannot be used.
    """
    with _guarded():
        connection = sqlite3.connect("", isolation_level=None)
    try:
        with _guarded():
            connection.execute(f"PRAGMA cache_size = -{CACHE_KB}")
            connection.executescript(_SCHEMA)
        yield DistinctRequests(connection)
    finally:
        connection.close()


@contextmanager
def _guarded() -> Iterator[None]:
    with translated(Path(tempfile.gettempdir())):
        yield
