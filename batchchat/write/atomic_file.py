"""A file that appears complete or not at all.

Errors are the system's own (OSError).

A process that is killed leaves its temporary file. It has a lock that died with it, and is removed by the next who
writes into that folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path

from batchchat.crash_points import crash_point

_PREFIX, _SUFFIX = ".batchchat-", ".tmp"


@dataclass(frozen=True, slots=True)
class Replacement:
    """A temporary file beside the file that it is going to be."""

    target: Path
    temporary: Path
    file: BufferedWriter


def open_replacement(path: Path) -> Replacement:
    """Create a hidden file with a name nobody can guess, beside `path` or beside the file that a link there leads to.

    It gets the mode of the file that it is going to replace, or that of any new file.
    """
    target = Path(os.path.realpath(path))
    _remove_left_behind(target.parent)
    temporary, descriptor = _create_locked(target.parent)
    replacement = Replacement(target, temporary, os.fdopen(descriptor, "wb"))
    try:
        with contextlib.suppress(FileNotFoundError):
            os.fchmod(descriptor, stat.S_IMODE(target.stat().st_mode))
    except BaseException:
        discard(replacement)
        raise
    return replacement


def _create_locked(folder: Path) -> tuple[Path, int]:
    while True:
        temporary = folder / f"{_PREFIX}{secrets.token_hex(12)}{_SUFFIX}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        # Until it is locked, another process may take it for one that was left behind.
        if _lock(descriptor) is not False and os.fstat(descriptor).st_nlink:
            return temporary, descriptor
        os.close(descriptor)


def _lock(descriptor: int) -> bool | None:
    """Take a file's lock; False when a live process has it, None where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove_left_behind(folder: Path) -> None:
    """Remove the temporary files of processes that have died; what cannot be removed is no reason not to write."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and entry.name.endswith(_SUFFIX):
                with contextlib.suppress(OSError):
                    _remove_if_left_behind(entry.path)


def _remove_if_left_behind(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and _lock(descriptor):
            Path(path).unlink()
    finally:
        os.close(descriptor)


def commit(replacement: Replacement) -> None:
    """Put the file in its place; when this returns, it outlives a power cut."""
    replacement.file.flush()
    os.fsync(replacement.file.fileno())
    crash_point("before-rename")
    # Still open, and so locked: until it has its name, another process may take it for one that was left behind.
    replacement.temporary.replace(replacement.target)
    replacement.file.close()
    crash_point("after-rename")
    _sync_folder(replacement.target.parent)


def discard(replacement: Replacement) -> None:
    """Remove the temporary file; what stands at the path stays as it is."""
    # Closing writes what is still buffered, which fails again on a full disk; and whatever goes wrong here must not
    # stand before the error that led here.
    with contextlib.suppress(OSError):
        replacement.file.close()
    with contextlib.suppress(OSError):
        replacement.temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the rename in the folder durable, where the file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        return  # a folder to write into but not to look into; the file is in its place
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder; the file itself is synced and in its place.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
