"""A file that appears complete or not at all.

What passes in is the path to write; what comes out is a file object whose bytes stand at the path once it is committed,
or are gone once it is discarded. It does not know what is written. Errors are the system's own (OSError).
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path


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
    temporary = target.parent / f".batchchat-{secrets.token_hex(12)}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    replacement = Replacement(target, temporary, os.fdopen(descriptor, "wb"))
    try:
        with contextlib.suppress(FileNotFoundError):
            os.fchmod(descriptor, stat.S_IMODE(target.stat().st_mode))
    except BaseException:
        discard(replacement)
        raise
    return replacement


def commit(replacement: Replacement) -> None:
    """Put the file in its place; when this returns, it outlives a power cut."""
    replacement.file.flush()
    os.fsync(replacement.file.fileno())
    replacement.file.close()
    replacement.temporary.replace(replacement.target)
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
