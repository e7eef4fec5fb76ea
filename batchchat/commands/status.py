"""How far a job is, from its checkpoint alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from batchchat.checkpoint.lock import is_locked
from batchchat.checkpoint.salvage import salvaged_copy
from batchchat.checkpoint.sqlite import ended_by_damage
from batchchat.checkpoint.store import open_checkpoint
from batchchat.errors import CheckpointDamagedError, CheckpointMissingError
from batchchat.job.file import LoadedJob
from batchchat.runs import JobStatus, RunRecord

FAILURE_GROUPS = 10


def job_status(loaded: LoadedJob) -> JobStatus:
    """Read a job's status; takes no lock and changes nothing. Of a damaged checkpoint it says what can be read.

    Raises:
        CheckpointError: it, or anything of it, cannot be read.
    """
    path = loaded.job.checkpoint.path
    assert path is not None
    try:
        return _status(loaded, path)
    except CheckpointMissingError:
        return JobStatus(loaded.job.name, str(path), _state(None, is_live=False), None, 0, ())
    except CheckpointDamagedError as damage:
        with salvaged_copy(path, damage) as copy:
            return replace(_status(loaded, copy), checkpoint=str(path), state="damaged")


def _status(loaded: LoadedJob, path: Path) -> JobStatus:
    with open_checkpoint(path, is_read_only=True) as checkpoint:
        run = checkpoint.last_run()
        return JobStatus(
            job=loaded.job.name,
            checkpoint=str(path),
            state=_state(run, is_live=is_locked(path)),
            run=run,
            answers_stored=checkpoint.answer_count(),
            failures=tuple(checkpoint.failure_groups(FAILURE_GROUPS)),
        )


def _state(run: RunRecord | None, *, is_live: bool) -> str:
    if run is None:
        return "not started"
    if run.ended_at is None:
        return "running" if is_live else "killed"
    if ended_by_damage(run.end_reason):
        return "damaged"
    return "finished" if run.end_reason == "finished" else "stopped"
