"""Taking out of a checkpoint what no recent run used or made.

What cannot be told apart from what is in use stays: answers were paid for.
"""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from batchchat.checkpoint.files import FILE_MODE, shrinking_mark, sync_folder
from batchchat.checkpoint.sqlite import PAGE_BYTES, connected, damaged, translated
from batchchat.checkpoint.tables import COLUMNS, is_whole, run_of
from batchchat.checkpoint.used_answers import KINDS, UNREADABLE, empty, is_marked, marks_of
from batchchat.runs import RunRecord

GROUP = 4096
"""Rows that are looked at, and removed, in one transaction."""

_RUNS = f"SELECT {', '.join(COLUMNS['runs'])} FROM runs WHERE run > 0 ORDER BY run"  # noqa: S608


@dataclass(frozen=True, slots=True)
class Pruned:
    """What went: answers, failures, and the bytes by which the file is shorter.

    `reason` says why nothing could go; empty where nothing had to, or something went.
    """

    answers: int = 0
    failures: int = 0
    freed_bytes: int = 0
    reason: str = ""


def prune(path: Path, older_than_s: float) -> Pruned:
    """Remove the answers and failures that runs made before that many seconds ago and none has used since.

    What the newest finished run's output has stays however old that run is, and so does what was made after it.

    Raises:
        CheckpointDamagedError: what the runs used cannot be read.
        CheckpointError: it cannot be written.
    """
    with connected(path, is_read_only=False) as connection, translated(path):
        connection.execute("PRAGMA synchronous = FULL")
        runs = [run_of(row) for row in connection.execute(_RUNS).fetchall() if is_whole("runs", row)]
        newest = next((run for run in reversed(runs) if run.end_reason == "finished"), None)
        if newest is None:
            return Pruned(reason="no run has finished, so nothing tells which answers are of no use any more")
        since = time.time() - older_than_s
        recent = [run.run for run in runs if run is newest or run.updated_at >= since]
        if reason := _unknown(connection, [run for run in runs if run.run in recent]):
            return Pruned(reason=reason)
        old = frozenset(run.run for run in runs if run.run < newest.run and run.run not in recent)
        try:
            answers, failures = (_remove(connection, kind, old, recent) for kind in KINDS)
        except UNREADABLE as error:
            raise damaged(path, f"what the runs used cannot be read: {error}") from error
        # What only they used is gone, and the rest is marked by others: to a prune that goes back less far, too.
        connection.execute("BEGIN IMMEDIATE")
        empty(connection, [run.run for run in runs if run.run in old and run.end_reason == "finished"])
        connection.execute("COMMIT")
        return Pruned(answers, failures, _shrink(path, connection))


def _unknown(connection: sqlite3.Connection, recent: Sequence[RunRecord]) -> str:
    """Return a sentence about recent runs that finished without a record of what they used, or nothing."""
    known = {row[0] for row in connection.execute("SELECT DISTINCT run FROM uses")}
    unknown = [run for run in recent if run.end_reason == "finished" and run.run not in known]
    if not unknown:
        return ""
    last = time.strftime("%Y-%m-%d", time.localtime(unknown[-1].updated_at))
    return f"which answers the run of {last} used is not recorded: the checkpoint was damaged"


def _remove(connection: sqlite3.Connection, kind: str, old: frozenset[int], recent: Sequence[int]) -> int:
    marks = marks_of(connection, kind, recent)
    count = 0
    for rows in _groups(connection, kind):
        going = [(row,) for row, run in rows if run in old and not is_marked(marks, row)]
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(f"DELETE FROM {kind} WHERE rowid = ?", going)  # noqa: S608
        connection.execute("COMMIT")
        count += len(going)
    return count


def _groups(connection: sqlite3.Connection, kind: str) -> Iterator[list[tuple[int, int]]]:
    """Yield number and run of all rows, some at a time."""
    select = f"SELECT rowid, run FROM {kind} WHERE rowid > ? ORDER BY rowid LIMIT {GROUP}"  # noqa: S608
    last = -1
    while rows := connection.execute(select, (last,)).fetchall():
        yield rows
        last = rows[-1][0]


def _shrink(path: Path, connection: sqlite3.Connection) -> int:
    """Give free pages back to the system; return their bytes.

    The rows keep their numbers, which `VACUUM` would not see to.
    """
    free = int(connection.execute("PRAGMA freelist_count").fetchone()[0])
    mark = shrinking_mark(path)
    mark.touch(FILE_MODE)
    sync_folder(path.parent)
    connection.executescript("PRAGMA incremental_vacuum")  # it gives a row for each page, without columns to fetch
    is_busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if not is_busy:  # by somebody who reads; the next prune takes the mark away
        mark.unlink(missing_ok=True)
    return free * PAGE_BYTES
