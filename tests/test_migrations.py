"""The checkpoint's schema: one step a version, whole or not at all."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from batchchat.keep.checkpoint import open_checkpoint
from batchchat.keep.connection import connected
from batchchat.keep.migrations import APPLICATION_ID, MIGRATIONS, migrate
from batchchat.keep.rows import COLUMNS, failure_row, is_whole, run_row
from batchchat.records import Answer, Completion, FailedRow, Failure, Outcome, Progress, Settled, ToolCall, Usage
from batchchat.runs import FailureGroup, RunRecord
from tests.running import ROOT

# What a released version has made is on people's disks: a new column is a new step, not a change of an old one.
V1_COLUMNS = {
    "answers": ["key", "run", "latency_s", "attempts", "fields", "reply"],
    "failures": [
        "key",
        "run",
        "is_transient",
        "latency_s",
        "attempts",
        "kind",
        "message",
        "status",
        "code",
        "request_id",
    ],
    "runs": ["run", "started_at", "updated_at", "ended_at", "end_reason", "pid", "host", "rows_total", "progress"],
}
V2_COLUMNS = {
    **V1_COLUMNS,
    "answers": [*V1_COLUMNS["answers"], "first_token_s"],
    "failures": [*V1_COLUMNS["failures"], "fields", "reply"],
    "media": ["path", "size_bytes", "mtime_ns", "digest", "mime_type"],
}
V3_COLUMNS = {table: [*columns, "checksum"] for table, columns in V2_COLUMNS.items()}
# Rows as the third version wrote them, every field of a completion with its name, and how they are read.
V3_ROWS = {
    "answers": (
        *(b"key", 1, 0.5, 2),
        (
            b'{"content":"yes","tool_calls":[{"id":"c","name":"f","arguments":"{}"}],"reasoning":"hm","refusal":null,'
            b'"finish_reason":"stop","usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,'
            b'"cached_tokens":null,"reasoning_tokens":0},"model":"m","response_id":"i","parsed":"{\\"a\\":1}",'
            b'"completions":["yes",null],"logprobs":"[]"}'
        ),
        b"x\x01\xabV\xcaLQ\xb2RP\xaaP\xaa\xad\xc6\xca\x04\x00\xa0;\t^",
        *(0.25, b"\xb3\xa5\xfe\xa9\xe8\xc8\x90\x97"),
    ),
    "failures": (
        *(b"no", 1, 1, None, 2, "schema", "no \u20ac", 200, "c", "r"),
        (
            b'{"content":"no","tool_calls":[],"reasoning":null,"refusal":null,"finish_reason":null,'
            b'"usage":{"prompt_tokens":null,"completion_tokens":null,"total_tokens":null,"cached_tokens":null,'
            b'"reasoning_tokens":null},"model":null,"response_id":null,"parsed":null,"completions":[],"logprobs":null}'
        ),
        *(b"x\x01\xab\xae\x05\x00\x01u\x00\xf9", b"\xd6\xa4\x87a\x1c\xf7\xd2\xc8"),
    ),
}
V3_OUTCOMES: list[Outcome] = [
    Answer(
        Completion(
            *("yes", (ToolCall("c", "f", "{}"),), "hm", None, "stop", Usage(1, 2, 3, None, 0)),
            *("m", "i", '{"a":1}', ("yes", None), "[]"),
        ),
        *(b'{"id": "x"}' * 3, 0.5, 2, 0.25),
    ),
    FailedRow(Failure("schema", "no \u20ac", 200, "c", request_id="r"), True, None, 2, Completion("no"), b"{}"),
]
V4_COLUMNS = {**V3_COLUMNS, "settled": ["endpoint", "model", "fields", "checksum"]}
# As the fourth version wrote them.
V4_SETTLED = (
    *("https://one", ""),
    (
        b'{"concurrency":64,"requests_per_minute":null,"tokens_per_minute":null,"bytes_per_token":null,'
        b'"completion_tokens":null}'
    ),
    b"\xce\x16\x94\xc2\x9a\xd81\x9b",
)
V5_COLUMNS = {
    **V4_COLUMNS,
    "failures": [*V4_COLUMNS["failures"], "row_name"],
    "uses": ["run", "kind", "part", "marks"],
    "segments": ["output", "file", "input", "first_row", "row_count", "checksum"],
}
NEWEST_COLUMNS = V5_COLUMNS

# Migrates a new file, and kills itself when a statement is about to begin.
KILLED = """
import os, signal, sqlite3, sys
from batchchat.keep.migrations import migrate

def kill_before(statement):
    if statement.strip().startswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode = WAL")
connection.set_trace_callback(kill_before)
migrate(connection)
"""


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a file as `open_checkpoint` does; make it when it is not there."""
    path.touch()
    with connected(path, is_read_only=False) as connection:
        yield connection


def pragma(connection: sqlite3.Connection, name: str) -> int:
    """Return a pragma's value."""
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def tables(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """Return the columns of each table."""
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    return {name: [row[1] for row in connection.execute(f"PRAGMA table_info({name})")] for name in names}


def test_new_file_gets_the_newest_version(tmp_path: Path) -> None:
    """A new file has the tables, the version and the application id after one call."""
    with opened(tmp_path / "c.sqlite") as connection:
        migrate(connection)
        assert tables(connection) == NEWEST_COLUMNS
        assert pragma(connection, "user_version") == len(MIGRATIONS)
        assert pragma(connection, "application_id") == APPLICATION_ID == int.from_bytes(b"bcht", "big")
        assert not connection.in_transaction


def test_newest_version_is_left_as_it_is(tmp_path: Path) -> None:
    """A second call runs no step."""
    with opened(tmp_path / "c.sqlite") as connection:
        migrate(connection)
    before = (tmp_path / "c.sqlite").read_bytes()
    with opened(tmp_path / "c.sqlite") as connection:
        migrate(connection)
    assert (tmp_path / "c.sqlite").read_bytes() == before


def test_step_that_fails_leaves_no_trace(tmp_path: Path) -> None:
    """A step that fails at its last table has made none of the others."""
    with opened(tmp_path / "c.sqlite") as connection:
        connection.execute("CREATE TABLE runs (other)")
        with pytest.raises(sqlite3.OperationalError, match="table runs already exists"):
            migrate(connection)
    with opened(tmp_path / "c.sqlite") as connection:
        assert tables(connection) == {"runs": ["other"]}
        assert (pragma(connection, "user_version"), pragma(connection, "application_id")) == (0, 0)


@pytest.mark.parametrize(
    "statement",
    ["CREATE TABLE answers", "CREATE TABLE runs", "PRAGMA application_id", "PRAGMA user_version = 1", "COMMIT"],
)
def test_kill_within_a_step_leaves_the_old_version(tmp_path: Path, statement: str) -> None:
    """A process that is killed within a step leaves the version before it, from which the next one goes on."""
    path = tmp_path / "c.sqlite"
    command = [sys.executable, "-c", KILLED, str(path), statement]
    killed = subprocess.run(command, cwd=ROOT, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    with opened(path) as connection:
        assert (tables(connection), pragma(connection, "user_version")) == ({}, 0)
        migrate(connection)
        assert (tables(connection), pragma(connection, "user_version")) == (NEWEST_COLUMNS, len(MIGRATIONS))


def write_version_2(path: Path, *, answers: int = 1) -> None:
    """Write a checkpoint as the second version left it, with rows in every table."""
    run = RunRecord(1, 1.0, 2.0, 3.0, "finished", 4, "here", 5, Progress(rows_answered=answers))
    failure = FailedRow(Failure("server", "no \u20ac", 500), is_transient=False, latency_s=None, attempts=2)
    with opened(path) as connection:
        connection.executescript("".join(MIGRATIONS[:2]))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 2")
        for number in range(answers):
            fields = json.dumps(asdict(Completion(f"yes {number}"))).encode()
            row = (b"%d" % number, 1, 2.0, 1, fields, zlib.compress(b"{}"), None)
            connection.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        row = failure_row(b"no", 1, failure)[:-2]
        connection.execute("INSERT INTO failures VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        connection.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", run_row(run)[:-1])
        connection.execute("INSERT INTO media VALUES ('/a.png', 1, 2, x'03', 'image/png')")


def test_older_version_keeps_its_rows(tmp_path: Path) -> None:
    """A checkpoint of the first version gets the columns of the newest, and its answers stay as they were."""
    with opened(tmp_path / "c.sqlite") as connection:
        connection.executescript(f"{MIGRATIONS[0]} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1;")
        assert tables(connection) == V1_COLUMNS
        connection.execute("INSERT INTO answers VALUES (x'01', 1, 0.5, 2, x'7b7d', x'02')")
        migrate(connection)
        assert tables(connection) == NEWEST_COLUMNS
        (row,) = connection.execute("SELECT * FROM answers")
    assert row[:-1] == (b"\x01", 1, 0.5, 2, b"{}", b"\x02", None)
    assert is_whole("answers", row)


def test_every_row_of_version_2_gets_its_checksum(tmp_path: Path) -> None:
    """What was stored before there were checksums is read as before, and a change of it is seen from now on."""
    path = tmp_path / "c.sqlite"
    write_version_2(path)
    with open_checkpoint(path) as checkpoint:
        answer, failed = checkpoint.outcomes([b"0", b"no"])
        assert isinstance(answer, Answer)
        assert isinstance(failed, FailedRow)
        assert (answer.completion.content, failed.failure.message) == ("yes 0", "no \u20ac")
        run = checkpoint.last_run()
        assert run is not None
        assert (run.end_reason, run.progress.rows_answered, checkpoint.damaged_count) == ("finished", 1, 0)
    with opened(path) as connection:
        for table in V2_COLUMNS:
            select = f"SELECT {', '.join(COLUMNS[table])} FROM {table}"
            assert [is_whole(table, row) for row in connection.execute(select)] == [True]


@pytest.mark.parametrize("statement", ["UPDATE answers", "ALTER TABLE media", "UPDATE media", "COMMIT"])
def test_kill_while_checksums_are_made_leaves_version_2(tmp_path: Path, statement: str) -> None:
    """A process that is killed among them leaves the version before, whole; the next one makes them all."""
    path = tmp_path / "c.sqlite"
    write_version_2(path, answers=300)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), statement], cwd=ROOT, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    with opened(path) as connection:
        assert (tables(connection), pragma(connection, "user_version")) == (V2_COLUMNS, 2)
    with open_checkpoint(path) as checkpoint:
        assert None not in checkpoint.outcomes([b"%d" % number for number in range(300)])


def write_version_3(path: Path) -> None:
    """Write a checkpoint as the third version left it, with an answer and a failure."""
    with opened(path) as connection:
        connection.executescript("".join(MIGRATIONS[:3]))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 3")
        assert tables(connection) == V3_COLUMNS
        for table, row in V3_ROWS.items():
            connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)


def test_outcomes_of_version_3_are_read_as_before(tmp_path: Path) -> None:
    """Their checksums hold, what they say is the same, and an answer and settled values may be added."""
    path = tmp_path / "c.sqlite"
    write_version_3(path)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.find([b"key", b"no"]) == {b"key": True, b"no": None}
        assert checkpoint.outcomes([b"key", b"no"], with_replies=True) == V3_OUTCOMES
        assert checkpoint.remembered("https://one", "") is None
        checkpoint.remember("https://one", "", Settled(64))
        checkpoint.commit([(b"no", V3_OUTCOMES[0])], Progress())
        assert checkpoint.outcomes([b"key", b"no"], with_replies=True) == [V3_OUTCOMES[0]] * 2
        assert (checkpoint.remembered("https://one", ""), checkpoint.damaged_count) == (Settled(64), 0)


@pytest.mark.parametrize("statement", ["CREATE TABLE settled", "PRAGMA user_version = 4", "COMMIT"])
def test_kill_while_settled_values_get_their_table_leaves_version_3(tmp_path: Path, statement: str) -> None:
    """A process that is killed there leaves the version before, whole, and the next one goes on."""
    path = tmp_path / "c.sqlite"
    write_version_3(path)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), statement], cwd=ROOT, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    with opened(path) as connection:
        assert (tables(connection), pragma(connection, "user_version")) == (V3_COLUMNS, 3)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.outcomes([b"key", b"no"], with_replies=True) == V3_OUTCOMES


def write_version_4(path: Path) -> None:
    """Write a checkpoint as the fourth version left it: with what the third had, and settled values."""
    write_version_3(path)
    with opened(path) as connection:
        connection.executescript(f"{MIGRATIONS[3]} PRAGMA user_version = 4;")
        connection.execute("INSERT INTO settled VALUES (?, ?, ?, ?)", V4_SETTLED)
        assert tables(connection) == V4_COLUMNS


def test_failures_of_version_4_stay_whole(tmp_path: Path) -> None:
    """They have no name of a row, and the checksum that they had; a new one has both, and is told from the old."""
    path = tmp_path / "c.sqlite"
    write_version_4(path)
    named = FailedRow(Failure("schema", "no"), False, None, 1, row_name="T-1")
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.outcomes([b"key", b"no"], with_replies=True) == V3_OUTCOMES
        assert checkpoint.remembered("https://one", "") == Settled(64)
        assert checkpoint.failure_groups(10) == [FailureGroup("schema", "no \u20ac", 1)]
        checkpoint.start_run(1)
        checkpoint.commit([(b"new", named)], Progress())
        assert checkpoint.outcomes([b"new", b"no"], with_replies=True) == [named, V3_OUTCOMES[1]]
        assert checkpoint.damaged_count == 0
    with opened(path) as connection:
        connection.execute("UPDATE failures SET row_name = 'T-2'")
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.outcomes([b"new", b"no"]) == [None, None]


@pytest.mark.parametrize("statement", ["ALTER TABLE failures", "CREATE TABLE segments", "COMMIT"])
def test_kill_while_failures_get_names_leaves_version_4(tmp_path: Path, statement: str) -> None:
    """A process that is killed there leaves the version before, whole, and the next one goes on."""
    path = tmp_path / "c.sqlite"
    write_version_4(path)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), statement], cwd=ROOT, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    with opened(path) as connection:
        assert (tables(connection), pragma(connection, "user_version")) == (V4_COLUMNS, 4)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.outcomes([b"key", b"no"], with_replies=True) == V3_OUTCOMES
