"""The map from request to answer, in SQLite.

A commit returns when its outcomes are on the disk (WAL, synchronous FULL). What has not the checksum that it was stored
with counts as not there.
"""

import os
import socket
import sqlite3
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache, reduce
from heapq import nsmallest
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from batchchat.checkpoint import schema as migrations
from batchchat.checkpoint.files import create, exists
from batchchat.checkpoint.schema import migrate
from batchchat.checkpoint.shared_cost import SharedCost
from batchchat.checkpoint.sqlite import PAGE_BYTES, connected, translated, version_of
from batchchat.checkpoint.tables import (
    COLUMNS,
    Stored,
    answer_of,
    answer_row,
    failed_row_of,
    failure_row,
    is_whole,
    run_of,
    run_row,
    settled_key,
    settled_of,
    settled_row,
)
from batchchat.checkpoint.used_answers import KINDS, UsedAnswers
from batchchat.crash_points import crash_point
from batchchat.errors import CheckpointError, CheckpointMissingError
from batchchat.records import Answer, FailedRow, Outcome, Progress, Settled
from batchchat.runs import FailureGroup, JobTotals, RunRecord

OUTSIDE_RUNS = 0
"""The run of what no run asked."""
GROUP = 256
"""Keys that are looked up in one statement."""

_SELECT = {table: f"SELECT {', '.join(columns)} FROM {table}" for table, columns in COLUMNS.items()}  # noqa: S608
_LOOK_UP = {
    table: f"SELECT rowid, {', '.join(COLUMNS[table])} FROM {table} WHERE key IN ({', '.join('?' * GROUP)})"  # noqa: S608
    for table in KINDS
}
_PUT = {
    table: f"INSERT OR REPLACE INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608
    for table, columns in COLUMNS.items()
}
MOST_PUT_AT_ONCE = 64
"""Rows that one statement puts in place: with one statement for each, Python's lock changes hands each time."""

_STANDING_FAILURES = (
    f"{_SELECT['failures']} WHERE run = :newest OR :has_earlier AND (run > :finished OR NOT is_transient)"
    " ORDER BY kind, message, rowid"
)
EXAMPLE_ROWS = 5
"""Rows that are named of each group of failures."""

_LAST_FINISHED = "SELECT max(run) FROM runs WHERE end_reason = 'finished'"


class Checkpoint:
    """An open checkpoint; one thread at a time.

    `damaged_count` is how many damaged outcomes its reader has met: they count as not there. `notes` are sentences for
    the user on what became of it when it was opened.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self.damaged_count = 0
        self._connection = connection
        self._run: RunRecord | None = None
        self._uses = UsedAnswers(connection)

    def start_run(self, rows_total: int, *, is_aside: bool = False) -> RunRecord | None:
        """Begin a run; return the one before it, or None.

        One that `is_aside` asks some rows to look at: what it spends counts, but the last run is still that before it.
        """
        before = self.last_run()
        now = time.time()
        with self._guarded(), self._transaction() as connection:
            first, last = connection.execute("SELECT min(run), max(run) FROM runs").fetchone()
            number = min(first or 0, 0) - 1 if is_aside else max(last or 0, 0) + 1
            host = socket.gethostname()
            progress = Progress(reached=before.progress.reached if before else "")
            self._run = RunRecord(
                run=number,
                started_at=now,
                updated_at=now,
                ended_at=None,
                end_reason=None,
                pid=os.getpid(),
                host=host,
                rows_total=rows_total,
                progress=progress,
            )
            connection.execute(_PUT["runs"], run_row(self._run))
        return before

    def end_run(self, reason: str) -> None:
        """Note that the run ended by itself, and why."""
        assert self._run is not None
        with self._guarded(), self._transaction() as connection:
            self._run = replace(self._run, ended_at=time.time(), end_reason=reason)
            connection.execute(_PUT["runs"], run_row(self._run))

    def commit(self, outcomes: Sequence[tuple[bytes, Outcome]], progress: Progress) -> None:
        """Make outcomes and progress durable, all or none; an answer takes the place of a failure, never the reverse.

        Raises:
            CheckpointError: nothing of it is stored.
        """
        run = max(OUTSIDE_RUNS, self._run.run) if self._run else OUTSIDE_RUNS
        answers = [answer_row(key, run, outcome) for key, outcome in outcomes if isinstance(outcome, Answer)]
        failures = [failure_row(key, run, outcome) for key, outcome in outcomes if isinstance(outcome, FailedRow)]
        crash_point("before-commit")
        with self._guarded(), self._transaction() as connection:
            for start in range(0, len(answers), MOST_PUT_AT_ONCE):
                group = answers[start : start + MOST_PUT_AT_ONCE]
                connection.execute(_put_answers(len(group)), list(chain.from_iterable(group)))
            if self._has_failures():
                connection.executemany("DELETE FROM failures WHERE key = ?", [row[:1] for row in answers])
            if failures:
                connection.executemany(_PUT["failures"], failures)
            if self._run is not None:
                self._run = replace(self._run, updated_at=time.time(), progress=progress)
                connection.execute(_PUT["runs"], run_row(self._run))
            crash_point("in-commit")
        crash_point("after-commit")

    def find(self, keys: Sequence[bytes], *, retries_final: bool | Collection[str] = False) -> dict[bytes, bool | None]:
        """Return what is known of keys: True for an answer, False for a failure that stands, None for one to retry.

        A failure stands when this run made it, or when it is final; with `retries_final` only when this run made it.
        That may also be the kinds of final failures to retry.
        """
        kinds = () if isinstance(retries_final, bool) else retries_final
        this_run = self._run.run if self._run else -1
        with self._guarded():
            known: dict[bytes, bool | None] = {row[0]: True for _, row in self._whole_rows("answers", keys)}
            rest = [key for key in keys if key not in known]
            for _, (key, run, is_transient, _, _, kind, *_) in self._whole_failures(rest):
                is_retried = is_transient or retries_final is True or kind in kinds
                known[key] = None if is_retried and run != this_run else False
        return known

    def made_outside_runs(self, keys: Sequence[bytes]) -> set[bytes]:
        """Return those of the keys whose outcome no run made: they were asked to look at, or as a sample."""
        with self._guarded():
            found = chain(self._whole_rows("answers", keys), self._whole_failures(keys))
            return {row[0] for _, row in found if row[1] == OUTSIDE_RUNS}

    def some_answers(self, limit: int) -> list[Answer]:
        """Return at most so many answers: a random choice, for keys are digests, and always the same."""
        with self._guarded():
            rows = self._connection.execute(f"{_SELECT['answers']} ORDER BY key LIMIT ?", (limit,))
            return [answer_of(row, with_reply=False) for row in rows if is_whole("answers", row)]

    def outcomes(
        self,
        keys: Sequence[bytes | None],
        *,
        with_replies: bool = False,
        billed: SharedCost | None = None,
        notes_use: bool = False,
    ) -> list[Outcome | None]:
        """Return each key's outcome, in order; None for a key that is None or has none.

        Their `reply` stays empty, but for `with_replies`. An outcome that `billed` has met before costs nothing again.
        With `notes_use` they are noted as those of the run's output.
        """
        wanted = [key for key in dict.fromkeys(keys) if key is not None]
        found: dict[bytes | None, Outcome] = {}
        places: dict[bytes | None, Stored] = {}
        with self._guarded():
            for place, row in self._whole_rows("answers", wanted):
                found[row[0]], places[row[0]] = answer_of(row, with_reply=with_replies), place
            for place, row in self._whole_failures([key for key in wanted if key not in found]):
                found[row[0]], places[row[0]] = failed_row_of(row, with_reply=with_replies), place
        if notes_use:
            for place in places.values():
                self._uses.mark(place)
        return [found.get(key) for key in keys] if billed is None else billed.shared_out(keys, found, places)

    def _whole_rows(self, table: str, keys: Sequence[bytes]) -> Iterator[tuple[Stored, Sequence[Any]]]:
        """Yield the undamaged rows of some keys, each with its place, and count the others."""
        for start in range(0, len(keys), GROUP):
            group = keys[start : start + GROUP]
            for rowid, *row in self._connection.execute(_LOOK_UP[table], (*group, *[None] * (GROUP - len(group)))):
                if is_whole(table, row):
                    yield Stored(table, rowid), row
                else:
                    self.damaged_count += 1

    def _whole_failures(self, keys: Sequence[bytes]) -> Iterator[tuple[Stored, Sequence[Any]]]:
        return self._whole_rows("failures", keys if self._has_failures() else ())

    def _has_failures(self) -> bool:
        """Whether there is any failure: most checkpoints have none, and need no search for each key."""
        return self._connection.execute("SELECT 1 FROM failures LIMIT 1").fetchone() is not None

    def record_uses(self) -> int:
        """Keep what `outcomes` noted as what this run's output has; return how many the last finished run had besides.

        Raises:
            CheckpointError: it is not stored.
        """
        assert self._run is not None
        with self._guarded():
            before = self._connection.execute(_LAST_FINISHED).fetchone()[0]
            with self._transaction():
                self._uses.record(self._run.run)
            return self._uses.gone(before)

    def remember(self, endpoint: str, model: str, settled: Settled) -> None:
        """Make what was learned of an endpoint and model durable, in place of what was known before.

        Raises:
            CheckpointError: it is not stored.
        """
        with self._guarded(), self._transaction() as connection:
            connection.execute(_PUT["settled"], settled_row(endpoint, model, settled))

    def remembered(self, endpoint: str, model: str) -> Settled | None:
        """Return what was learned of an endpoint and model; None where there is nothing, or it was damaged."""
        key = settled_key(endpoint, model)
        with self._guarded():
            row = self._connection.execute(f"{_SELECT['settled']} WHERE endpoint = ? AND model = ?", key).fetchone()
            # With the key that was asked for: a damaged index may have led to another row.
            return settled_of(row) if row is not None and is_whole("settled", (*key, *row[2:])) else None

    def last_run(self) -> RunRecord | None:
        """Return the newest run that can be read, none that was aside."""
        with self._guarded():
            rows = self._connection.execute(f"{_SELECT['runs']} WHERE run > 0 ORDER BY run DESC")
            return next((run_of(row) for row in rows if is_whole("runs", row)), None)

    def runs(self) -> list[RunRecord]:
        """Return every run that can be read, those that were aside first."""
        with self._guarded():
            rows = self._connection.execute(f"{_SELECT['runs']} ORDER BY run")
            return [run_of(row) for row in rows if is_whole("runs", row)]

    def totals(self) -> JobTotals:
        """Return what all runs that can be read made together; those that were killed lost what was in flight."""
        return reduce(lambda sums, run: sums.plus(run.progress, run.lost_in_flight), self.runs(), JobTotals())

    def answer_count(self) -> int:
        """Return the number of answers stored, of this and earlier forms of the job."""
        with self._guarded():
            return int(self._connection.execute("SELECT count(*) FROM answers").fetchone()[0])

    def failure_groups(self, limit: int) -> list[FailureGroup]:
        """Return the most frequent failures that stand, each with the rows of its oldest; of each kind at least one.

        That is what the newest run gave up, and what an earlier one did and none has asked again: what is final, and
        what is not but came after the last finished run. Where the newest finished, and met no failure of an earlier
        run, those are of rows that are not asked any more, and left out.
        """
        run = self.last_run()
        with self._guarded():
            finished = self._connection.execute("SELECT max(run) FROM runs WHERE end_reason = 'finished'").fetchone()[0]
            is_all_new = run is not None and run.end_reason == "finished" and not run.progress.rows_failed_before
            values = {"newest": run.run if run else 0, "finished": finished or 0, "has_earlier": not is_all_new}
            rows = (row for row in self._connection.execute(_STANDING_FAILURES, values) if is_whole("failures", row))
            alike = groupby(rows, key=lambda row: (row[5], row[6]))
            return _most_telling(limit, (_group(*reason, found) for reason, found in alike))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # what went wrong first is told
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        with translated(self.path):
            yield


def _group(kind: str, message: str, rows: Iterator[Sequence[Any]]) -> FailureGroup:
    names: list[str] = []
    count = 0
    for row in rows:
        count += 1
        if len(names) < EXAMPLE_ROWS and row[-2] is not None:
            names.append(row[-2])
    return FailureGroup(kind, message, count, tuple(names))


def _most_telling(limit: int, groups: Iterator[FailureGroup]) -> list[FailureGroup]:
    """Return the most frequent group of each kind, then of all; those of a kind come one after the other."""
    by_kind = [
        nsmallest(limit, of_kind, key=_most_frequent) for _, of_kind in groupby(groups, key=lambda group: group.kind)
    ]
    others = [group for of_kind in by_kind for group in of_kind[1:]]
    chosen = [of_kind[0] for of_kind in by_kind] + nsmallest(max(limit - len(by_kind), 0), others, key=_most_frequent)
    return sorted(chosen, key=_most_frequent)


def _most_frequent(group: FailureGroup) -> tuple[int, str, str]:
    return -group.count, group.kind, group.message


@cache
def _put_answers(count: int) -> str:
    """Return the statement that puts so many answers in their places."""
    columns = COLUMNS["answers"]
    row = f"({', '.join('?' * len(columns))})"
    return f"INSERT OR REPLACE INTO answers ({', '.join(columns)}) VALUES {', '.join([row] * count)}"  # noqa: S608


@contextmanager
def open_checkpoint(path: Path, *, is_read_only: bool = False) -> Iterator[Checkpoint]:
    """Open a checkpoint, for writing make and migrate it; the caller holds its lock when it writes.

    Raises:
        CheckpointDamagedError: it is not what was written.
        CheckpointForeignError: it is another program's file.
        CheckpointNewerError: a newer batchchat wrote it.
        CheckpointOlderError: a development version wrote it that is read no more.
        CheckpointMissingError: there is none, or nothing in it (read only).
        CheckpointError: the system refuses it.
    """
    if is_read_only and not exists(path):
        message = f"{path}: there is no checkpoint; `batchchat run` makes one"
        raise CheckpointMissingError(message)
    if not is_read_only:
        create(path)
    with connected(path, is_read_only=is_read_only) as connection:
        with translated(path):
            version = version_of(path, connection)
            if is_read_only:
                _require_newest(path, version)
            else:
                connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
                # For `prune`; a file that is there stays as it is.
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                migrate(connection)
        yield Checkpoint(path, connection)


def _require_newest(path: Path, version: int) -> None:
    """Refuse to read what only a writer may bring up to date; version 0 is a file that a run has just made."""
    if version == 0:
        message = f"{path}: there is nothing in the checkpoint yet; `batchchat run` begins it"
        raise CheckpointMissingError(message)
    if version < len(migrations.MIGRATIONS):
        message = f"{path} was written by an older batchchat (version {version}); `batchchat run` brings it up to date"
        raise CheckpointError(message)
