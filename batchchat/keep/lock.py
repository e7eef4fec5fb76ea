"""One live run per checkpoint: an operating system's lock that dies with its owner."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batchchat.errors import CheckpointError, CheckpointLockedError

MODE = 0o600


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
        message = f"{path}: the lock file cannot be made: {error.strerror}"
        raise CheckpointError(message) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another process"
            message = f"{checkpoint} is in use by a live run ({owner}); wait for it to end, or stop it"
            raise CheckpointLockedError(message) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def is_locked(checkpoint: Path) -> bool:
    """Whether a live process holds the checkpoint."""
    try:
        descriptor = os.open(lock_path(checkpoint), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
