"""How far a job is, from its checkpoint alone."""

from __future__ import annotations

from batchchat.jobfile import LoadedJob
from batchchat.keep.checkpoint import exists, open_checkpoint
from batchchat.keep.lock import is_locked
from batchchat.records import JobStatus, RunRecord

FAILURE_GROUPS = 10


def job_status(loaded: LoadedJob) -> JobStatus:
    """Read a job's status; takes no lock and changes nothing.

    Raises:
        CheckpointError: it cannot be read.
    """
    path = loaded.job.checkpoint.path
    assert path is not None
    if not exists(path):
        return JobStatus(loaded.job.name, str(path), _state(None, is_live=False), None, 0, ())
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
    return "finished" if run.end_reason == "finished" else "stopped"
