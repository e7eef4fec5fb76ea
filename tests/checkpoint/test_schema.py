"""The checkpoint's schema: one step a version, whole or not at all; what an earlier development version left."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from batchchat.checkpoint import schema as migrations
from batchchat.checkpoint.files import set_aside
from batchchat.checkpoint.schema import APPLICATION_ID, MIGRATIONS, migrate
from batchchat.checkpoint.sqlite import connected
from batchchat.checkpoint.store import open_checkpoint
from batchchat.checkpoint.tables import COLUMNS
from batchchat.errors import CheckpointError, CheckpointOlderError
from batchchat.records import Answer, Completion, Progress
from tests.running import ROOT, batchchat, write_csv, write_job

# A version to come.
NEXT = "ALTER TABLE runs ADD COLUMN remark TEXT; CREATE TABLE remarks (run INTEGER);"

# Migrates a file to a version to come, and kills itself when a statement is about to begin.
KILLED = f"""
import os, signal, sqlite3, sys
from batchchat.checkpoint import schema as migrations

def kill_before(statement):
    if statement.strip().startswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

migrations.MIGRATIONS += ({NEXT!r},)
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode = WAL")
connection.set_trace_callback(kill_before)
migrations.migrate(connection)
"""


@pytest.fixture
def has_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be a version to come."""
    monkeypatch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, NEXT))


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
    """A new file has the tables, the version and the application id after one call; a second call changes nothing."""
    path = tmp_path / "c.sqlite"
    with opened(path) as connection:
        migrate(connection)
        found = tables(connection)
        assert set(found) == {*COLUMNS, "uses"}
        assert {table: found[table] for table in COLUMNS} == {table: list(names) for table, names in COLUMNS.items()}
        assert pragma(connection, "user_version") == len(MIGRATIONS)
        assert pragma(connection, "application_id") == APPLICATION_ID == int.from_bytes(b"bchk", "big")
        assert not connection.in_transaction
    before = path.read_bytes()
    with opened(path) as connection:
        migrate(connection)
    assert path.read_bytes() == before


def test_step_that_fails_leaves_no_trace(tmp_path: Path) -> None:
    """A step that fails at its last table has made none of the others."""
    with opened(tmp_path / "c.sqlite") as connection:
        connection.execute("CREATE TABLE segments (other)")
        with pytest.raises(sqlite3.OperationalError, match="table segments already exists"):
            migrate(connection)
    with opened(tmp_path / "c.sqlite") as connection:
        assert tables(connection) == {"segments": ["other"]}
        assert (pragma(connection, "user_version"), pragma(connection, "application_id")) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("statement", ["CREATE TABLE runs", "PRAGMA application_id", "PRAGMA user_version = 1"])
def test_kill_within_the_first_step_leaves_an_empty_file(tmp_path: Path, statement: str) -> None:
    """A process that is killed while it makes a checkpoint leaves nothing, from which the next one goes on."""
    path = tmp_path / "c.sqlite"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), statement], cwd=ROOT, check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    with opened(path) as connection:
        assert (tables(connection), pragma(connection, "user_version")) == ({}, 0)
        migrate(connection)
        assert pragma(connection, "user_version") == len(MIGRATIONS)


ANSWER = Answer(Completion("yes"), b"{}", 1.0, 1)


def answered(path: Path) -> None:
    """Write a checkpoint of the newest version, with an answer."""
    with open_checkpoint(path) as checkpoint:
        checkpoint.start_run(1)
        checkpoint.commit([(b"key", ANSWER)], Progress())


@pytest.mark.slow
@pytest.mark.usefixtures("has_next")
@pytest.mark.parametrize("statement", ["CREATE TABLE remarks", "PRAGMA user_version = 2", "COMMIT"])
def test_kill_within_the_next_step_leaves_the_version_before(tmp_path: Path, statement: str) -> None:
    """A process that is killed within a later step leaves every answer, and the next one goes on."""
    path = tmp_path / "c.sqlite"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", MIGRATIONS)
        answered(path)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), statement], cwd=ROOT, check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    with opened(path) as connection:
        assert (pragma(connection, "user_version"), "remarks" in tables(connection)) == (1, False)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.outcomes([b"key"], with_replies=True) == [ANSWER]
    with opened(path) as connection:
        assert (pragma(connection, "user_version"), "remarks" in tables(connection)) == (2, True)


def test_version_before_is_not_read_before_it_is_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who only reads may not bring a file up to date, and says what does."""
    path = tmp_path / "c.sqlite"
    answered(path)
    monkeypatch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, NEXT))
    words = r"older batchchat \(version 1\); `batchchat run` brings it up to date"
    with pytest.raises(CheckpointError, match=words), open_checkpoint(path, is_read_only=True):
        pass
    with open_checkpoint(path):
        pass
    with open_checkpoint(path, is_read_only=True) as checkpoint:
        assert checkpoint.answer_count() == 1


# A checkpoint as the first and the fifth development version made it.
DEVELOPMENT = {
    1: "CREATE TABLE answers (key BLOB PRIMARY KEY, run INTEGER, latency_s REAL, attempts INTEGER, fields BLOB, reply);"
    "CREATE TABLE failures (key BLOB PRIMARY KEY, run INTEGER, is_transient INTEGER, kind TEXT, message TEXT);"
    "CREATE TABLE runs (run INTEGER PRIMARY KEY, started_at REAL, updated_at REAL, ended_at REAL, progress BLOB);"
    "INSERT INTO answers VALUES (x'01', 1, 0.5, 2, x'7b7d', x'02');",
    5: "CREATE TABLE answers (key BLOB PRIMARY KEY, run INTEGER, latency_s REAL, attempts INTEGER, fields BLOB, reply"
    " BLOB, first_token_s REAL, checksum BLOB);"
    "CREATE TABLE failures (key BLOB PRIMARY KEY, run INTEGER, kind TEXT, row_name TEXT, checksum BLOB);"
    "CREATE TABLE runs (run INTEGER PRIMARY KEY, started_at REAL, progress BLOB, checksum BLOB);"
    "CREATE TABLE media (path TEXT PRIMARY KEY, digest BLOB, checksum BLOB);"
    "CREATE TABLE settled (endpoint TEXT, model TEXT, fields BLOB, checksum BLOB, PRIMARY KEY (endpoint, model));"
    "INSERT INTO answers VALUES (x'01', 1, 0.5, 2, x'5b5d', x'02', NULL, x'03');",
}


def write_development(path: Path, version: int) -> None:
    """Write what a development version left."""
    path.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(DEVELOPMENT[version])
        connection.executescript(f"PRAGMA application_id = {0x62636874}; PRAGMA user_version = {version};")


@pytest.mark.slow
@pytest.mark.parametrize("version", DEVELOPMENT)
def test_checkpoint_of_a_development_version_is_named_by_every_command(tmp_path: Path, version: int) -> None:
    """It is not taken for damaged, nor for another program's; nothing of it is changed until `--fresh` renames it."""
    write_csv(tmp_path / "rows.csv", ["one", "two"])
    job = write_job(tmp_path)
    path = tmp_path / ".batchchat" / "job.sqlite"
    write_development(path, version)
    before = path.read_bytes()
    for words in (["status"], ["export"], ["verify"], ["run"], ["prune", "--older-than", "1d"], ["estimate"]):
        ended = batchchat(words[0], job, *words[1:])
        assert (ended.code, ended.stdout) == (3, ""), ended.stderr
        assert f"{path} was written by an earlier development version of batchchat" in ended.stderr
        assert "`batchchat run --fresh`" in ended.stderr
        assert "run the same command to go on" not in ended.stderr
        assert path.read_bytes() == before
    assert batchchat("run", job, "--fresh", "--quiet").code == 0
    assert '"answers_stored":2' in batchchat("status", job, "--json").stdout
    (aside,) = set(path.parent.glob("job.*.sqlite"))
    assert aside.read_bytes() == before


def test_journal_of_a_development_version_goes_with_it(tmp_path: Path) -> None:
    """One that was killed has rows in its WAL: that gets the new name too, as it is."""
    path = tmp_path / "c.sqlite"
    write_development(path, 5)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO answers VALUES (x'02', 1, 0.5, 2, x'5b5d', x'02', NULL, x'03')")
        connection.commit()
        left = [path.with_name(path.name + suffix).read_bytes() for suffix in ("", "-wal")]
    for suffix, content in zip(("", "-wal"), left, strict=True):
        path.with_name(path.name + suffix).write_bytes(content)
    with pytest.raises(CheckpointOlderError), open_checkpoint(path, is_read_only=True):
        pass
    aside = set_aside(path)
    assert aside is not None
    assert [aside.with_name(aside.name + suffix).read_bytes() for suffix in ("", "-wal")] == left
    assert not path.exists()
