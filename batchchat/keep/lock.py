"""One live run per checkpoint: an operating system's lock that dies with its owner."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from batchchat.crashpoint import crash_point
from batchchat.errors import CheckpointError, CheckpointLockedError, remedy

MODE = 0o600
TRIES = 5
TRY_AGAIN_S = 0.02


def lock_path(checkpoint: Path) -> Path:
    """Return the lock file of a checkpoint: beside it, and never removed, for removing one is a race."""
    return checkpoint.with_name(f"{checkpoint.name}.lock")


@contextmanager
def locked(checkpoint: Path) -> Iterator[None]:
    """Hold the checkpoint's lock.

    Raises:
        CheckpointLockedError: a live process holds it; the message names its process id and host.
        CheckpointError: the lock file cannot be made.
    """
    path = lock_path(checkpoint)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
    except OSError as error:
        message = f"{path}: the lock file cannot be made: {error.strerror}{remedy(error)}"
        raise CheckpointError(message) from error
    try:
        with suppress(OSError):  # a lock file of another user; the umask may have taken our own rights
            os.fchmod(descriptor, MODE)
        crash_point("before-lock")
        _take(descriptor, checkpoint)
        with suppress(OSError):  # a full disk: the lock holds, only its owner is not named
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"pid {os.getpid()} on {socket.gethostname()}".encode(), 0)
        crash_point("after-lock")
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, checkpoint: Path) -> None:
    try:
        for _ in range(TRIES):
            if _try(descriptor):
                return
            time.sleep(TRY_AGAIN_S)  # `is_locked` in another process may have had it, for an instant
    except OSError as error:
        message = f"{checkpoint}: its lock cannot be taken on this file system: {error.strerror}"
        raise CheckpointError(message) from error
    owner = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another process"
    message = f"{checkpoint} is in use by a live run ({owner}); wait for it to end, or stop it"
    raise CheckpointLockedError(message)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(checkpoint: Path) -> bool:
    """Whether a live process holds the checkpoint."""
    try:
        descriptor = os.open(lock_path(checkpoint), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _try(descriptor)
    finally:
        os.close(descriptor)
