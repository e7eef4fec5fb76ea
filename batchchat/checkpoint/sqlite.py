"""The way to a checkpoint's file: connections to it, and SQLite's errors as those of the checkpoint."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batchchat.checkpoint import schema as migrations
from batchchat.checkpoint.tables import COLUMNS
from batchchat.errors import (
    CheckpointDamagedError,
    CheckpointError,
    CheckpointForeignError,
    CheckpointNewerError,
    CheckpointOlderError,
    remedy,
)

BUSY_TIMEOUT_S = 30.0
PAGE_BYTES = 4096

# What SQLite says when the file is not what was written. SQLITE_ERROR is about a statement: ours are fixed, so it is
# the schema that has changed under them.
_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT", "SQLITE_ERROR", "SQLITE_MISMATCH", "SQLITE_TOOBIG")
_IS_DAMAGED = " is damaged: "


@contextmanager
def connected(path: Path, *, is_read_only: bool) -> Iterator[sqlite3.Connection]:
    """Connect to a file that is there.

    Raises:
        CheckpointError: the system refuses it.
    """
    with translated(path):
        mode = _reading_mode(path) if is_read_only else "mode=rw"
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?{mode}",
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
    connection.text_factory = _text
    try:
        yield connection
    finally:
        with translated(path):
            connection.close()


def _text(data: bytes) -> str:
    """Return a stored text; one that is damaged has a wrong checksum, and need not raise."""
    return data.decode("utf-8", "replace")


def _reading_mode(path: Path) -> str:
    """Return how to open a checkpoint for reading; in a folder that cannot be written to, as one that never changes."""
    has_wal = path.with_name(f"{path.name}-wal").exists()
    is_writable = os.access(path.parent, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
    return "mode=ro" if has_wal or is_writable else "mode=ro&immutable=1"


def version_of(path: Path, connection: sqlite3.Connection) -> int:
    """Return a checkpoint's version, 0 for a file that has nothing in it yet.

    Raises:
        CheckpointForeignError: another program's file.
        CheckpointNewerError: a newer batchchat wrote it.
        CheckpointOlderError: a development version wrote it.
        CheckpointDamagedError: it is a checkpoint that does not say so any more.
    """
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if application == migrations.OLDER_APPLICATION_ID:
        message = (
            f"{path} was written by an earlier development version of batchchat, and cannot be used."
            " `batchchat run --fresh` renames it and asks every row again; or name another file in checkpoint.path"
        )
        raise CheckpointOlderError(message)
    version, newest = int(connection.execute("PRAGMA user_version").fetchone()[0]), len(migrations.MIGRATIONS)
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    if application != migrations.APPLICATION_ID and tables >= {"answers", "failures", "runs"}:
        raise damaged(path, "its header is not that of a checkpoint")
    if application != migrations.APPLICATION_ID and tables:
        message = f"{path} is a SQLite file, but not a checkpoint of batchchat; name another in checkpoint.path"
        raise CheckpointForeignError(message)
    if application == migrations.APPLICATION_ID and version > newest:
        message = (
            f"{path} has version {version}, written by a newer batchchat; this one reads up to version"
            f" {newest}. Upgrade batchchat, or name another file in checkpoint.path"
        )
        raise CheckpointNewerError(message)
    if version == newest:
        for table, columns in COLUMNS.items():  # a schema that has changed is damage, and costs little to see
            connection.execute(f"SELECT {', '.join(columns)} FROM {table} LIMIT 0")  # noqa: S608
    return version


def damaged(path: Path, why: str) -> CheckpointDamagedError:
    """Return the error that says of a checkpoint that it is not what was written."""
    return CheckpointDamagedError(f"{path}{_IS_DAMAGED}{why}")


def ended_by_damage(reason: str | None) -> bool:
    """Whether a run ended by an error that `damaged` made."""
    return reason is not None and _IS_DAMAGED in reason


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's and the system's errors into the checkpoint's, at this one place."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorname", "") or ""
        if code.startswith(_DAMAGE) or type(error) is sqlite3.DatabaseError:
            raise damaged(path, f"SQLite says: {error}") from error
        message = f"{path}: the checkpoint cannot be used: {_reason(path, code, error)}"
        raise CheckpointError(message) from error
    except OSError as error:
        message = f"{path}: the checkpoint cannot be used: {error.strerror}{remedy(error)}"
        raise CheckpointError(message) from error
    except MemoryError as error:  # SQLite's own, for a length that no row ever had
        raise damaged(path, "there is no memory for what it seems to hold") from error


def _reason(path: Path, code: str, error: sqlite3.Error) -> str:
    """Return what the system has against the file, and what to do; SQLite keeps the system's own words to itself."""
    if code.startswith("SQLITE_FULL"):
        return f"{error}; free some space there"
    if code.startswith("SQLITE_IOERR"):
        return f"{error} ({code}); see to the disk, to the space on it and to the limits on file sizes (ulimit -f)"
    if code.startswith("SQLITE_READONLY"):
        return f"{error}; make the file and its folder writable"
    if code.startswith("SQLITE_BUSY"):
        return f"{error} by another program for {BUSY_TIMEOUT_S:.0f} s; end it"
    if code.startswith("SQLITE_CANTOPEN"):
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as cause:
            return f"{error}: {cause.strerror}{remedy(cause)}"
    return str(error)
