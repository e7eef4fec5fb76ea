"""A damaged checkpoint -> a new one with everything in it that can still be read.

The answers were paid for. A kill at any moment leaves either the damaged file in its place or a complete new one, and
the next run goes on from there.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from batchchat.checkpoint import schema as migrations
from batchchat.checkpoint.files import beside, complete_path, create, put_in_place, shrinking_mark, sync_folder
from batchchat.checkpoint.schema import migrate
from batchchat.checkpoint.sqlite import PAGE_BYTES, connected, damaged, ended_by_damage, translated, version_of
from batchchat.checkpoint.sqlite_pages import carve
from batchchat.checkpoint.store import Checkpoint, open_checkpoint
from batchchat.checkpoint.tables import COLUMNS
from batchchat.checkpoint.wal_cutoff import CUT_OFF, has_wal, lacks_answers
from batchchat.crash_points import crash_point
from batchchat.errors import CheckpointDamagedError, CheckpointForeignError

_HEADER_BYTES = 100

_SAVE = {
    table: f"INSERT INTO {table} VALUES ({', '.join('?' * len(COLUMNS[table]))}) ON CONFLICT DO {update}"  # noqa: S608
    for table, update in {
        "answers": "NOTHING",
        # A run is written at each commit: its newest state is the right one.
        "runs": "UPDATE SET (updated_at, ended_at, end_reason, progress, checksum) = (excluded.updated_at,"
        " excluded.ended_at, excluded.end_reason, excluded.progress, excluded.checksum)"
        " WHERE excluded.updated_at >= updated_at",
        # Any state of these is a place to start from; the last one that is met is most likely the newest.
        "settled": "UPDATE SET (fields, checksum) = (excluded.fields, excluded.checksum)",
        "segments": "NOTHING",  # they are those of a file with a certain content, for ever
    }.items()
}


@contextmanager
def open_whole(path: Path) -> Iterator[Checkpoint]:
    """Open a checkpoint for writing; of one that is damaged, a new one with what can be read, and a note on that.

    The file is searched for damage when it may have some: when the run before did not come to its end.

    Raises:
        CheckpointForeignError: nothing of a checkpoint can be read from it.
        CheckpointError: as `open_checkpoint`; or there is no room for the new one.
    """
    with ExitStack() as stack:
        aside = put_in_place(path)
        try:
            _search(path)
            checkpoint = stack.enter_context(open_checkpoint(path))
        except CheckpointDamagedError as damage:
            aside = _salvage(path, damage)
            checkpoint = stack.enter_context(open_checkpoint(path))
        if aside is not None:
            note = f"the checkpoint was damaged: {checkpoint.answer_count():,} answers could be read and are kept"
            checkpoint.notes = (
                f"{note}, what is missing or had failed is asked again; the damaged file is now {aside}",
            )
        yield checkpoint


@contextmanager
def salvaged_copy(path: Path, damage: CheckpointDamagedError) -> Iterator[Path]:
    """Make a whole checkpoint elsewhere, for as long as the block lasts, of what can be read from a damaged one.

    Raises:
        CheckpointForeignError: that is nothing.
        CheckpointError: there is no room for it.
    """
    with ExitStack() as stack:
        with translated(Path(tempfile.gettempdir())):
            copy = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="batchchat-")), path.name)
            _save_rows(path, copy, damage)
        yield copy


def _search(path: Path) -> None:
    """Raise CheckpointDamagedError if SQLite finds damage; changes nothing, and does not look where all seems well."""
    if not path.exists() or path.stat().st_size == 0:
        return
    _check_header(path)
    is_logged = has_wal(path)
    # A connection that only reads: another would write the WAL into the file when it is closed, whatever is in it.
    with connected(path, is_read_only=True) as connection, translated(path):
        version = version_of(path, connection)
        if is_logged and lacks_answers(path, connection):
            raise damaged(path, CUT_OFF)
        run = Checkpoint(path, connection).last_run() if version == len(migrations.MIGRATIONS) else None
        if version == 0 or (run and run.end_reason == "finished" and not is_logged):
            return
        found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
    if path.stat().st_size > pages * PAGE_BYTES and not shrinking_mark(path).exists():  # its WAL is of a smaller file
        raise damaged(path, "it is longer than its WAL says")
    if found != "ok" or (run and ended_by_damage(run.end_reason)):
        raise damaged(path, " ".join(found.split()))


def _check_header(path: Path) -> None:
    """Raise CheckpointDamagedError for what SQLite takes for an empty file, or for one that may only be read."""
    with translated(path), path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES or header[18:20] not in (b"\1\1", b"\2\2"):
        raise damaged(path, "its header is not that of a checkpoint")


def _salvage(path: Path, damage: CheckpointDamagedError) -> Path:
    """Put a new checkpoint in a damaged one's place, and return where that is now."""
    building = beside(path, ".salvaging")
    with translated(path):
        building.unlink(missing_ok=True)
        _save_rows(path, building, damage)
        crash_point("in-salvage")
        building.replace(complete_path(path))
        sync_folder(path.parent)
        crash_point("after-salvage")
    aside = put_in_place(path)
    assert aside is not None
    return aside


def _save_rows(path: Path, new: Path, damage: CheckpointDamagedError) -> None:
    """Make a checkpoint of the answers, runs, settled values and segments that can be read; complete and on the disk.

    Of failures none: one may have been answered since, and the answer be what was lost; to ask again costs little. Nor
    what runs used: an answer has another rowid now.
    """
    create(new)
    with connected(new, is_read_only=False) as connection, translated(new):
        connection.execute("PRAGMA journal_mode = OFF")  # a file that is not complete is thrown away
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        migrate(connection)
        connection.execute("BEGIN")
        for table, row in carve(path):
            connection.execute(_SAVE[table], row)
        is_empty = not connection.execute("SELECT count(*) FROM runs").fetchone()[0]
        is_empty &= not connection.execute("SELECT count(*) FROM answers").fetchone()[0]
        connection.execute("COMMIT")
    if is_empty:
        with suppress(OSError):
            new.unlink()
        message = (
            f"{path} is damaged or not a checkpoint ({damage.__cause__ or damage}); nothing of one can be read from it."
            " Restore it from a backup, move it away to start anew, or name another file in checkpoint.path"
        )
        raise CheckpointForeignError(message) from damage
