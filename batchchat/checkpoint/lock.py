"""One live run per checkpoint: an operating system's lock that dies with its owner."""

import fcntl
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from batchchat.crash_points import crash_point
from batchchat.errors import CheckpointError, CheckpointLockedError, remedy

MODE = 0o600
PATIENCE_S = 0.1
LOOKERS_PATIENCE_S = 30.0
"""Seconds for which a lock is tried that no live run has: another process looks at it by `is_locked`, for an instant
that a busy machine may draw out."""
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.01, 0.5


def lock_path(checkpoint: Path) -> Path:
    """Return the lock file of a checkpoint: beside it, and never removed, for removing one is a race."""
    return checkpoint.with_name(f"{checkpoint.name}.lock")


@contextmanager
def locked(checkpoint: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the checkpoint's lock; a live process that has it is waited for, at most `wait_s`.

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
        _take(descriptor, checkpoint, wait_s)
        with suppress(OSError):  # a full disk: the lock holds, only its owner is not named
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"pid {os.getpid()} on {socket.gethostname()}".encode(), 0)
        crash_point("after-lock")
        try:
            yield
        finally:
            with suppress(OSError):
                os.ftruncate(descriptor, 0)  # nobody holds it from here on
    finally:
        os.close(descriptor)


def _take(descriptor: int, checkpoint: Path, wait_s: float) -> None:
    """Take the lock. A longer wait is not the system's, which only a signal could end in time: those are the run's."""
    started_at, pause_s = time.monotonic(), SHORTEST_PAUSE_S
    try:
        while not _try(descriptor):
            patience_s = PATIENCE_S if _has_live_owner(descriptor) else LOOKERS_PATIENCE_S
            left_s = started_at + max(wait_s, patience_s) - time.monotonic()
            if left_s <= 0:
                raise _in_use(descriptor, checkpoint)
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    except OSError as error:
        message = f"{checkpoint}: its lock cannot be taken on this file system: {error.strerror}"
        raise CheckpointError(message) from error


def _has_live_owner(descriptor: int) -> bool:
    """Return whether the lock file names a process that lives, as far as that can be known from this machine."""
    owner = re.fullmatch(rb"pid (\d+) on (.*)", os.pread(descriptor, 200, 0))
    if owner is None:
        return False
    return owner[2] != socket.gethostname().encode() or _lives(int(owner[1]))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def _in_use(descriptor: int, checkpoint: Path) -> CheckpointLockedError:
    owner = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another process"
    return CheckpointLockedError(f"{checkpoint} is in use by a live run ({owner}); wait for it to end, or stop it")


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
