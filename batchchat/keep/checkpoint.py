"""The map from request to answer, in SQLite.

What passes in are keys with their outcomes; what comes out are the outcomes that stand. It does not know rows, requests
or columns. A commit returns when its outcomes are on the disk (WAL, synchronous FULL).
"""

import os
import secrets
import socket
import sqlite3
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from batchchat.errors import CheckpointDamagedError, CheckpointError, CheckpointMissingError, CheckpointNewerError
from batchchat.keep.migrations import APPLICATION_ID, MIGRATIONS, migrate
from batchchat.records import (
    Answer,
    Completion,
    FailedRow,
    Failure,
    FailureGroup,
    Outcome,
    Progress,
    RunRecord,
    ToolCall,
    Usage,
)

FILE_MODE = 0o600
FOLDER_MODE = 0o700
BUSY_TIMEOUT_S = 30.0
_COMPRESSION = 1

_ANSWER_COLUMNS = "latency_s, attempts, fields, first_token_s"
_FAILURE_COLUMNS = "is_transient, latency_s, attempts, kind, message, status, code, request_id, fields"


class Checkpoint:
    """An open checkpoint; one thread at a time."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._run = 0

    def start_run(self, rows_total: int) -> RunRecord | None:
        """Begin a run; return the one before it, or None."""
        with self._guarded():
            before = self.last_run()
            now = time.time()
            self._connection.execute(
                "INSERT INTO runs (started_at, updated_at, pid, host, rows_total, progress) VALUES (?, ?, ?, ?, ?, ?)",
                (now, now, os.getpid(), socket.gethostname(), rows_total, orjson.dumps(Progress())),
            )
            self._run = self._connection.execute("SELECT max(run) FROM runs").fetchone()[0]
            return before

    def end_run(self, reason: str) -> None:
        """Note that the run ended by itself, and why."""
        with self._guarded():
            self._connection.execute(
                "UPDATE runs SET ended_at = ?, end_reason = ? WHERE run = ?", (time.time(), reason, self._run)
            )

    def commit(self, outcomes: Sequence[tuple[bytes, Outcome]], progress: Progress) -> None:
        """Make outcomes and progress durable, all or none; an answer takes the place of a failure, never the reverse.

        Raises:
            CheckpointError: nothing of it is stored.
        """
        answers = [self._answer_row(key, outcome) for key, outcome in outcomes if isinstance(outcome, Answer)]
        failures = [self._failure_row(key, outcome) for key, outcome in outcomes if isinstance(outcome, FailedRow)]
        with self._guarded(), self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)", answers)
            connection.executemany("DELETE FROM failures WHERE key = ?", [(row[0],) for row in answers])
            connection.executemany(
                "INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", failures
            )
            connection.execute(
                "UPDATE runs SET updated_at = ?, progress = ? WHERE run = ?",
                (time.time(), orjson.dumps(progress), self._run),
            )

    def find(self, keys: Sequence[bytes], *, retries_final: bool = False) -> dict[bytes, bool]:
        """Return the keys that need no request: True for an answer, False for a failure that stands.

        A failure stands when this run made it, or when it is final; with `retries_final` only when this run made it.
        """
        stands = "run = ?" if retries_final else "(run = ? OR NOT is_transient)"
        with self._guarded():
            run = self._connection.execute
            found = {}
            for key in keys:
                if run("SELECT 1 FROM answers WHERE key = ?", (key,)).fetchone():
                    found[key] = True
                elif run(f"SELECT 1 FROM failures WHERE key = ? AND {stands}", (key, self._run or -1)).fetchone():  # noqa: S608
                    found[key] = False
            return found

    def outcomes(self, keys: Sequence[bytes | None], *, with_replies: bool = False) -> list[Outcome | None]:
        """Return each key's outcome, in order; None for a key that is None or has none.

        Their `reply` stays empty, but for `with_replies`.
        """
        reply = "reply" if with_replies else "NULL"
        answers = f"SELECT {_ANSWER_COLUMNS}, {reply} FROM answers WHERE key = ?"  # noqa: S608
        failures = f"SELECT {_FAILURE_COLUMNS}, {reply} FROM failures WHERE key = ?"  # noqa: S608
        with self._guarded():
            return [None if key is None else self._outcome(key, answers, failures) for key in keys]

    def _outcome(self, key: bytes, answers: str, failures: str) -> Outcome | None:
        row = self._connection.execute(answers, (key,)).fetchone()
        if row is not None:
            with self._readable():
                return Answer(_read_completion(row[2]), _unpacked(row[4]), row[0], row[1], row[3])
        row = self._connection.execute(failures, (key,)).fetchone()
        with self._readable():
            return None if row is None else _failed_row(row)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Say of a stored value that cannot be read that the file is damaged."""
        try:
            yield
        except (ValueError, TypeError, KeyError, zlib.error) as error:
            message = f"{self.path} is damaged: a stored value cannot be read ({error}). Restore it from a backup"
            raise CheckpointDamagedError(message) from error

    def reply(self, key: bytes) -> bytes | None:
        """Return the body of the reply that answered a key, as received."""
        with self._guarded():
            row = self._connection.execute("SELECT reply FROM answers WHERE key = ?", (key,)).fetchone()
        with self._readable():
            return None if row is None else zlib.decompress(row[0])

    def last_run(self) -> RunRecord | None:
        """Return the newest run."""
        with self._guarded():
            row = self._connection.execute(
                "SELECT run, started_at, updated_at, ended_at, end_reason, pid, host, rows_total, progress"
                " FROM runs ORDER BY run DESC LIMIT 1"
            ).fetchone()
        with self._readable():
            return None if row is None else _run_record(row)

    def answer_count(self) -> int:
        """Return the number of answers stored, of this and earlier forms of the job."""
        with self._guarded():
            return int(self._connection.execute("SELECT count(*) FROM answers").fetchone()[0])

    def failure_groups(self, limit: int) -> list[FailureGroup]:
        """Return the most frequent failures that the newest run made."""
        query = (
            "SELECT kind, message, count(*) AS n FROM failures WHERE run = (SELECT max(run) FROM runs)"
            " GROUP BY kind, message ORDER BY n DESC, kind, message LIMIT ?"
        )
        with self._guarded():
            return [FailureGroup(*row) for row in self._connection.execute(query, (limit,))]

    def _answer_row(self, key: bytes, answer: Answer) -> tuple[Any, ...]:
        fields, reply = orjson.dumps(answer.completion), zlib.compress(answer.reply, _COMPRESSION)
        return (key, self._run, answer.latency_s, answer.attempts, fields, reply, answer.first_token_s)

    def _failure_row(self, key: bytes, row: FailedRow) -> tuple[Any, ...]:
        failure = row.failure
        reason = (failure.kind, failure.message, failure.status, failure.code, failure.request_id)
        fields = None if row.completion is None else orjson.dumps(row.completion)
        reply = zlib.compress(row.reply, _COMPRESSION) if row.reply else None
        return (key, self._run, row.is_transient, row.latency_s, row.attempts, *reason, fields, reply)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        with translated(self.path):
            yield


@contextmanager
def open_checkpoint(path: Path, *, is_read_only: bool = False) -> Iterator[Checkpoint]:
    """Open a checkpoint, for writing make and migrate it; the caller holds its lock when it writes.

    Raises:
        CheckpointDamagedError: it is not a checkpoint, or cannot be read as one.
        CheckpointNewerError: a newer batchchat wrote it.
        CheckpointError: it is not there (read only), or the system refuses it.
    """
    if is_read_only and not exists(path):
        message = f"{path}: there is no checkpoint; `batchchat run` makes one"
        raise CheckpointMissingError(message)
    if not is_read_only and not exists(path):
        _create(path)
    with translated(path):
        mode = opening_mode(path) if is_read_only else "mode=rw"
        uri = f"{path.absolute().as_uri()}?{mode}"
        connection = sqlite3.connect(
            uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
    try:
        with translated(path):
            version = _check_version(path, connection)
            if is_read_only:
                _require_newest(path, version)
            else:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                migrate(connection)
        yield Checkpoint(path, connection)
    finally:
        with translated(path):
            connection.close()


def exists(path: Path) -> bool:
    """Whether there is a file at `path`.

    Raises:
        CheckpointError: the folder may not be looked into.
    """
    try:
        return path.exists()
    except OSError as error:
        message = f"{path}: the checkpoint cannot be reached: {error.strerror}"
        raise CheckpointError(message) from error


def own_files(path: Path) -> list[Path]:
    """Return the files that a checkpoint at `path` is made of."""
    return [path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", ".lock"))]


def prepare_folder(path: Path) -> None:
    """Make the checkpoint's folder, for its owner alone.

    Raises:
        CheckpointError: it cannot be made.
    """
    try:
        path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    except OSError as error:
        message = f"{path.parent}: the checkpoint's folder cannot be made: {error.strerror}"
        raise CheckpointError(message) from error


def set_aside(path: Path) -> Path | None:
    """Rename a checkpoint so that the next run starts without answers; return its new path, None if there was none.

    The caller holds its lock. Answers were paid for: they are kept, under a name with the time.
    """
    if not path.exists():
        return None
    with translated(path), closing(sqlite3.connect(path, timeout=1.0)) as connection:
        _check_version(path, connection)
        # What stands in the WAL must go along, and cannot while somebody reads it.
        is_busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if is_busy:
        message = f"{path} is being read by another process, so it cannot be set aside; try again when that has ended"
        raise CheckpointError(message)
    aside = path.with_name(f"{path.stem}.{time.strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(4)}{path.suffix}")
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return aside


def _create(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, FILE_MODE))
    except FileExistsError:
        return
    except OSError as error:
        message = f"{path}: the checkpoint cannot be made: {error.strerror}"
        raise CheckpointError(message) from error


def _is_writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def opening_mode(path: Path) -> str:
    """Return how to open a checkpoint for reading; in a folder that cannot be written to, as one that never changes."""
    has_wal = path.with_name(f"{path.name}-wal").exists()
    return "mode=ro" if has_wal or _is_writable(path.parent) else "mode=ro&immutable=1"


def _check_version(path: Path, connection: sqlite3.Connection) -> int:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    is_empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if application != APPLICATION_ID and not is_empty:
        message = f"{path} is a SQLite file, but not a checkpoint of batchchat; name another in checkpoint.path"
        raise CheckpointDamagedError(message)
    if application == APPLICATION_ID and version > len(MIGRATIONS):
        message = (
            f"{path} has version {version}, written by a newer batchchat; this one reads up to version"
            f" {len(MIGRATIONS)}. Upgrade batchchat, or name another file in checkpoint.path"
        )
        raise CheckpointNewerError(message)
    return int(version)


def _require_newest(path: Path, version: int) -> None:
    """Refuse to read what only a writer may bring up to date; version 0 is a file that a run has just made."""
    if 0 < version < len(MIGRATIONS):
        message = f"{path} was written by an older batchchat (version {version}); `batchchat run` brings it up to date"
        raise CheckpointError(message)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into the checkpoint's, at this one place."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorname", "") or ""
        if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or type(error) is sqlite3.DatabaseError:
            message = (
                f"{path} is damaged or not a checkpoint ({error}); nothing was changed."
                " Restore it from a backup, or move it away to start without its answers"
            )
            raise CheckpointDamagedError(message) from error
        message = f"{path}: the checkpoint cannot be used: {error}"
        raise CheckpointError(message) from error


def _read_completion(fields: bytes) -> Completion:
    data = orjson.loads(fields)
    calls = tuple(ToolCall(**call) for call in data["tool_calls"])
    completions = tuple(data.get("completions", ()))
    return Completion(**{**data, "tool_calls": calls, "completions": completions, "usage": Usage(**data["usage"])})


def _failed_row(row: tuple[Any, ...]) -> FailedRow:
    is_transient, latency_s, attempts, kind, message, status, code, request_id, fields, reply = row
    failure = Failure(kind, message, status, code, request_id=request_id)
    completion = None if fields is None else _read_completion(fields)
    return FailedRow(failure, bool(is_transient), latency_s, attempts, completion, _unpacked(reply))


def _unpacked(reply: bytes | None) -> bytes:
    return b"" if reply is None else zlib.decompress(reply)


def _run_record(row: Sequence[Any]) -> RunRecord:
    run, started_at, updated_at, ended_at, end_reason, pid, host, rows_total, progress = row
    fields = orjson.loads(progress)
    counts = replace(Progress(), **{**fields, "notes": tuple(fields.get("notes", ()))})
    return RunRecord(run, started_at, updated_at, ended_at, end_reason, pid, host, rows_total, counts)
