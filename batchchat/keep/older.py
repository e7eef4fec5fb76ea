"""The rows of a damaged checkpoint of a version that had no checksums: what SQLite can still read of them.

What passes in is the checkpoint's path; what comes out are rows as the newest version has them. Without a checksum a
row counts as whole when every value in it can be read.
"""

import sqlite3
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from batchchat.errors import CheckpointError
from batchchat.keep.connection import connected
from batchchat.keep.migrations import APPLICATION_ID, WITH_CHECKSUMS
from batchchat.keep.rows import COLUMNS, Row, answer_of, run_of, with_checksum

_LEAST_ROW_BYTES = 100
_READERS: dict[str, Callable[[Row], Any]] = {"answers": partial(answer_of, with_reply=True), "runs": run_of}
_UNREADABLE = (sqlite3.Error, MemoryError, OverflowError)


def is_older(path: Path) -> bool:
    """Whether a file's header is that of a checkpoint without checksums."""
    with path.open("rb") as file:
        header = file.read(100)
    is_ours = int.from_bytes(header[68:72]) == APPLICATION_ID
    return is_ours and 0 < int.from_bytes(header[60:64]) < WITH_CHECKSUMS


def older_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield table and row, with a checksum, of every answer and run that can be read; nothing of a newer version."""
    with suppress(CheckpointError, *_UNREADABLE), connected(path, is_read_only=True) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if not 0 < version < WITH_CHECKSUMS:
            return
        wal = path.with_name(f"{path.name}-wal")
        size_bytes = path.stat().st_size + (wal.stat().st_size if wal.exists() else 0)
        for table, read in _READERS.items():
            for values in _readable_rows(connection, table, version, size_bytes // _LEAST_ROW_BYTES):
                row = with_checksum(table, values)
                if row[-1] is not None and _can(read, row):
                    yield table, row


def _can(read: Callable[[Row], Any], row: Row) -> bool:
    try:
        read(row)
    except (ValueError, TypeError, KeyError, AttributeError, zlib.error):
        return False
    return True


def _readable_rows(connection: sqlite3.Connection, table: str, version: int, most: int) -> Iterator[Row]:
    """Yield what stands on undamaged pages: a range of rows that cannot be read is halved until it can, or is one."""
    columns = ["NULL" if version == 1 and name == "first_token_s" else name for name in COLUMNS[table][:-1]]
    select = f"SELECT {', '.join(columns)} FROM {table} WHERE rowid BETWEEN ? AND ?"  # noqa: S608
    ranges = [(1, min(_last_row(connection, table), most))]
    while ranges:
        first, last = ranges.pop()
        try:
            if last - first < 64:
                rows = connection.execute(select, (first, last)).fetchall()
                yield from rows
                continue
        except _UNREADABLE:
            if first == last:
                continue
        middle = (first + last) // 2
        ranges += [(middle + 1, last), (first, middle)]


def _last_row(connection: sqlite3.Connection, table: str) -> int:
    try:
        return int(connection.execute(f"SELECT max(rowid) FROM {table}").fetchone()[0])  # noqa: S608
    except (*_UNREADABLE, TypeError):
        return sys.maxsize
