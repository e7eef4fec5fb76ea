"""The digests of the image and video files that a job has read, so that a resume reads none of them again.

It is a table of the checkpoint's file, over a connection of its own: another one commits answers while files are read.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from batchchat.checkpoint.sqlite import connected, translated
from batchchat.checkpoint.tables import COLUMNS, is_whole, with_checksum
from batchchat.errors import CheckpointError

GATHERED = 256
"""Digests that are written in one transaction."""

_INT64 = 2**63

_Known = tuple[int, int, bytes, str]


class Digests:
    """An open memory of digests; one thread at a time. One that is read only finds, and remembers nothing new."""

    def __init__(self, path: Path, connection: sqlite3.Connection, *, is_read_only: bool) -> None:
        self.path = path
        self.is_read_only = is_read_only
        self._connection = connection
        self._gathered: dict[str | bytes, _Known] = {}
        self._fleeting: dict[str | bytes, _Known] = {}

    def find(self, path: str, size_bytes: int, mtime_ns: int) -> tuple[bytes, str] | None:
        """Return digest and MIME type of a file whose size and time are those remembered, or None.

        Raises:
            CheckpointError: the checkpoint cannot be read.
        """
        name = _stored_name(path)
        known = self._gathered.get(name) or self._stored(name)
        return known[2:] if known is not None and known[:2] == (size_bytes, mtime_ns) else None

    def recall(self, path: str) -> tuple[int, int, bytes, str] | None:
        """Return size, time, digest and MIME type of a file as it was when last read, whatever it is now, or None.

        Raises:
            CheckpointError: the checkpoint cannot be read.
        """
        name = _stored_name(path)
        return self._fleeting.get(name) or self._gathered.get(name) or self._stored(name)

    def remember(
        self, path: str, size_bytes: int, mtime_ns: int, digest: bytes, mime_type: str, *, lasts: bool = True
    ) -> None:
        """Keep a file's digest and MIME type, in place of what was known of that path.

        What does not last is only recalled, and only from this open memory.

        Raises:
            CheckpointError: as `flush`, which it calls when enough have gathered.
        """
        name, known = _stored_name(path), (size_bytes, mtime_ns, digest, mime_type)
        # SQLite has no integer for a time after 2262; such a file is read in each run.
        if not lasts or self.is_read_only or not -_INT64 <= mtime_ns < _INT64:
            self._fleeting[name] = known
            return
        self._fleeting.pop(name, None)
        self._gathered[name] = known
        if len(self._gathered) >= GATHERED:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered, all or nothing.

        Raises:
            CheckpointError: it cannot be written, and so neither could answers; what has gathered stays.
        """
        rows = [with_checksum("media", (name, *known)) for name, known in self._gathered.items()]
        if not rows:
            return
        with translated(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany("INSERT OR REPLACE INTO media VALUES (?, ?, ?, ?, ?, ?)", rows)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        self._gathered.clear()

    def _stored(self, name: str | bytes) -> _Known | None:
        """Return what is stored of a path; a row that is damaged is none, and the file is read again."""
        query = f"SELECT {', '.join(COLUMNS['media'])} FROM media WHERE path = ?"  # noqa: S608
        with translated(self.path):
            row = self._connection.execute(query, (name,)).fetchone()
        return row[1:-1] if row is not None and is_whole("media", (name, *row[1:])) else None


@contextmanager
def open_digests(path: Path, *, is_read_only: bool = False) -> Iterator[Digests]:
    """Open the memory in the checkpoint at `path`, which is there and migrated; write what has gathered at the end.

    A digest is written without waiting for the disk: what a power cut takes is read again.

    Raises:
        CheckpointError: the system refuses it.
    """
    with connected(path, is_read_only=is_read_only) as connection:
        with translated(path):
            connection.execute("PRAGMA synchronous = NORMAL")
        yield from _flushed(Digests(path, connection, is_read_only=is_read_only))


def _flushed(digests: Digests) -> Iterator[Digests]:
    try:
        yield digests
    except BaseException:
        with suppress(CheckpointError):  # what ends the run is told; these digests cost only a second reading
            digests.flush()
        raise
    digests.flush()


def _stored_name(path: str) -> str | bytes:
    """Return a path as SQLite can hold it: one that is not UTF-8 as the bytes that it is."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path
