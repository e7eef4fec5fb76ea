"""Old answers out of a job's checkpoint, and a sentence on what went."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from batchchat.checkpoint.files import exists
from batchchat.checkpoint.lock import locked
from batchchat.checkpoint.prune import Pruned, prune
from batchchat.checkpoint.salvage import open_whole
from batchchat.job.file import LoadedJob


def prune_job(loaded: LoadedJob, older_than_s: float) -> str:
    """Remove the answers and failures that no run has made or used for that long; return what went, in words.

    Raises:
        CheckpointError: the checkpoint is locked by a live run, or cannot be used.
    """
    assert loaded.job.checkpoint.path is not None
    path = Path(os.path.realpath(loaded.job.checkpoint.path))
    if not exists(path):
        return "there is no checkpoint yet; nothing was removed"
    with ExitStack() as stack:
        stack.enter_context(locked(path))
        with open_whole(path) as checkpoint:
            notes = checkpoint.notes
        return "; ".join((*notes, _words(prune(path, older_than_s))))


def _words(pruned: Pruned) -> str:
    if pruned.reason:
        return f"nothing was removed: {pruned.reason}"
    went = f"{pruned.answers:,} answers and {pruned.failures:,} failures removed"
    return f"{went}; the checkpoint is {_size(pruned.freed_bytes)} smaller"


def _size(count: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if count < 1000:
            return f"{count:,.0f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"
