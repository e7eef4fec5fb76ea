"""Which rows of an output file are from which input, for each content that the file was given.

It is a table of the checkpoint's file, over a connection of its own, so that `export` can write it while a run goes on.
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from batchchat.checkpoint.sqlite import BUSY_TIMEOUT_S, connected, translated
from batchchat.checkpoint.tables import COLUMNS, is_whole, with_checksum
from batchchat.records import Segment

_SELECT = f"SELECT {', '.join(COLUMNS['segments'])} FROM segments WHERE output = ? ORDER BY first_row"  # noqa: S608


class Segments:
    """An open memory of segments; one thread at a time."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    def known(self, output: Path) -> Mapping[bytes, Sequence[Segment]]:
        """Return the segments of each content that a file is known to have had, by its digest, in their order.

        Raises:
            CheckpointError: the checkpoint cannot be read.
        """
        found: dict[bytes, list[Segment]] = {}
        with translated(self.path):
            for row in self._connection.execute(_SELECT, (_stored(output),)).fetchall():
                if is_whole("segments", row):
                    found.setdefault(row[1], []).append(Segment(*row[2:5]))
        return found

    def record(self, output: Path, content: bytes, segments: Sequence[Segment]) -> None:
        """Make durable what a file will have once it has that content; what is known of its others stays.

        Raises:
            CheckpointError: it is not stored.
        """
        name = _stored(output)
        rows = [(name, content, one.input, one.first_row, one.row_count) for one in segments]
        with self._transaction() as connection:
            connection.execute("DELETE FROM segments WHERE output = ? AND file = ?", (name, content))
            statement = "INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?)"
            connection.executemany(statement, [with_checksum("segments", row) for row in rows])

    def settle(self, output: Path, content: bytes) -> None:
        """Forget every content of a file but the one that it has now.

        Raises:
            CheckpointError: they are still known, which does no harm.
        """
        with self._transaction() as connection:
            connection.execute("DELETE FROM segments WHERE output = ? AND file <> ?", (_stored(output), content))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with translated(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


@contextmanager
def open_segments(path: Path, *, is_read_only: bool = False) -> Iterator[Segments]:
    """Open the memory in the checkpoint at `path`, which is there and migrated.

    Raises:
        CheckpointError: the system refuses it.
    """
    with connected(path, is_read_only=is_read_only) as connection:
        with translated(path):
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
        yield Segments(path, connection)


def _stored(output: Path) -> str:
    """Return a path as a text of its own; one that is not UTF-8 with escapes."""
    return os.fsencode(output).decode("utf-8", "backslashreplace")
