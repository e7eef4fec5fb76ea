"""The files that a checkpoint is made of: their names, their modes, and how they are put aside.

Files and folders that are made here are their owner's alone, whatever the umask; a folder that was there is left as it
is.
"""

import errno
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from batchchat.checkpoint.sqlite import connected, translated, version_of
from batchchat.checkpoint.wal_cutoff import search_log
from batchchat.crash_points import crash_point
from batchchat.errors import CheckpointDamagedError, CheckpointError, CheckpointOlderError, remedy

FILE_MODE = 0o600
FOLDER_MODE = 0o700
PATIENCE_MS = 1000
"""How long a checkpoint that is to be set aside may be read by somebody else."""


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


def beside(path: Path, suffix: str) -> Path:
    """Return the path of a file that goes with the checkpoint."""
    return path.with_name(path.name + suffix)


def own_files(path: Path) -> list[Path]:
    """Return the files that a checkpoint at `path` is made of."""
    return [
        path,
        *(beside(path, suffix) for suffix in ("-wal", "-shm", ".lock", ".salvaging", ".salvaged", ".shrinking")),
    ]


def shrinking_mark(path: Path) -> Path:
    """Return the file that is there while a checkpoint may be longer than its WAL says, as it is being made shorter."""
    return beside(path, ".shrinking")


def prepare_folder(path: Path) -> None:
    """Make the checkpoint's folder, and those above it that are missing, for their owner alone.

    Raises:
        CheckpointError: it cannot be made.
    """
    folder = path.parent
    try:
        missing = [one for one in (folder, *folder.parents) if not one.exists()]
        for one in reversed(missing):
            _make_folder(one)
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        message = f"{folder}: the checkpoint's folder cannot be made: {error.strerror}{remedy(error)}"
        raise CheckpointError(message) from error


def _make_folder(folder: Path) -> None:
    with suppress(FileExistsError):  # of two that start at once, one makes it
        folder.mkdir(FOLDER_MODE)
        folder.chmod(FOLDER_MODE)
        sync_folder(folder.parent)


def create(path: Path) -> None:
    """Make an empty file, unless there is one.

    Raises:
        CheckpointError: it cannot be made.
    """
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, FILE_MODE)
    except FileExistsError:
        return
    except OSError as error:
        message = f"{path}: the checkpoint cannot be made: {error.strerror}{remedy(error)}"
        raise CheckpointError(message) from error
    try:
        os.fchmod(descriptor, FILE_MODE)
    finally:
        os.close(descriptor)


def set_aside(path: Path) -> Path | None:
    """Rename a checkpoint so that the next run starts without answers; return its new path, None if there was none.

    The caller holds its lock. Answers were paid for: they are kept, under a name with the time. One that is damaged or
    of an earlier development version is put aside as it is; where a new one was made of it that is not yet in its
    place, that goes too.
    """
    put_in_place(path)
    if not exists(path):
        return None
    aside = aside_path(path, f"{time.strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(4)}")
    try:
        search_log(path)
        is_busy = _fold_wal(path)
    except (CheckpointDamagedError, CheckpointOlderError):
        put_aside(path, aside)
        path.unlink(missing_ok=True)
        return aside
    if is_busy:
        message = f"{path} is being read by another process, so it cannot be set aside; try again when that has ended"
        raise CheckpointError(message)
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        beside(path, suffix).unlink(missing_ok=True)
    return aside


def _fold_wal(path: Path) -> bool:
    """Write what stands in the WAL into the file; return whether somebody's reading prevents it."""
    with connected(path, is_read_only=False) as connection, translated(path):
        connection.execute(f"PRAGMA busy_timeout = {PATIENCE_MS}")
        version_of(path, connection)
        return bool(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])


def aside_path(path: Path, stamp: str) -> Path:
    """Return the path under which a checkpoint is kept when another takes its place."""
    return path.with_name(f"{path.stem}.{stamp}{path.suffix}")


def put_aside(path: Path, aside: Path) -> None:
    """Give a damaged checkpoint a second name, and its WAL only that; may be repeated after a kill."""
    if path.exists() and not aside.exists():
        try:
            aside.hardlink_to(path)
        except OSError:  # a file system without links
            path.rename(aside)
    wal = beside(path, "-wal")
    if wal.exists():
        wal.rename(beside(aside, "-wal"))
    beside(path, "-shm").unlink(missing_ok=True)
    sync_folder(path.parent)


def complete_path(path: Path) -> Path:
    """Return where a new checkpoint stands from when it is complete until it is in the place of a damaged one."""
    return beside(path, ".salvaged")


def put_in_place(path: Path) -> Path | None:
    """Let a complete new checkpoint take the place of the damaged one, now or after a kill; return where that is."""
    with translated(path):
        beside(path, ".salvaging").unlink(missing_ok=True)
        new = complete_path(path)
        if not new.exists():
            return None
        # The same name, however often a kill interrupts this.
        made_ns = new.stat().st_mtime_ns
        stamp = time.strftime("%Y%m%dT%H%M%S", time.localtime(made_ns // 10**9))
        aside = aside_path(path, f"damaged-{stamp}-{made_ns % 10**9:09d}")
        # The WAL goes first: it must never lie beside the new file, which it would be written into.
        put_aside(path, aside)
        crash_point("before-replacement")
        new.replace(path)
        sync_folder(path.parent)
        crash_point("after-replacement")
        return aside


def sync_folder(folder: Path) -> None:
    """Make what was made or renamed in a folder outlive a power cut, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
