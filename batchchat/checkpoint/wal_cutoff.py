"""Whether damage in a checkpoint's WAL cuts off answers: SQLite ends a log there, and finds nothing amiss.

It changes nothing.
"""

import sqlite3
from pathlib import Path

from batchchat.checkpoint.sqlite import connected, damaged, translated, version_of
from batchchat.checkpoint.sqlite_pages import carve_behind_the_log

CUT_OFF = "its WAL is broken off before its last answers"


def search_log(path: Path) -> None:
    """Raise CheckpointDamagedError if answers in the WAL are cut off by damage in it; changes nothing."""
    if not has_wal(path):
        return
    with connected(path, is_read_only=True) as connection, translated(path):
        version_of(path, connection)
        if lacks_answers(path, connection):
            raise damaged(path, CUT_OFF)


def lacks_answers(path: Path, connection: sqlite3.Connection) -> bool:
    """Whether whole answers stand in the WAL behind its end that are not in the checkpoint.

    A write that a kill or a power cut tore leaves frames there too; they are damage only when something is lost.
    """
    keys = [row[0] for table, row in carve_behind_the_log(path) if table == "answers"]
    if not keys or not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'answers'").fetchone():
        return bool(keys)
    return any(not connection.execute("SELECT 1 FROM answers WHERE key = ?", (key,)).fetchone() for key in keys)


def has_wal(path: Path) -> bool:
    """Whether the last process that wrote did not close the file."""
    wal = path.with_name(f"{path.name}-wal")
    return wal.exists() and wal.stat().st_size > 0
