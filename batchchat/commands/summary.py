"""A run's beginning and its end -> its summary, and the object that tells others of it."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchchat.errors import (
    EXIT_ANSWERED,
    EXIT_INTERNAL,
    EXIT_ROWS_FAILED,
    BatchchatError,
    InterruptedRunError,
    StopSignal,
)
from batchchat.records import Progress, Settled
from batchchat.redaction import without_keys
from batchchat.runs import JobTotals, RunRecord, RunSummary
from batchchat.send.http.webhook import post
from batchchat.show.json_lines import json_text
from batchchat.show.summary import as_object, unbegun_object

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchchat.checkpoint.store import Checkpoint
    from batchchat.job.job import Job


@dataclass(frozen=True, slots=True)
class Beginning:
    """A run that has begun: `record` is it as the checkpoint knows it, `began_at` when by the monotonic clock.

    `before` are the totals of all runs before it, of which the last, when it was killed, lost `lost_in_flight`.
    """

    job: Job
    checkpoint: str
    record: RunRecord
    began_at: float
    before: JobTotals
    lost_in_flight: int

    def summary(self, progress: Progress, limits: Settled) -> RunSummary:
        """Return the summary of the run, as finished now with this progress; it reads nothing, and so cannot fail."""
        path = self.job.output.path
        return RunSummary(
            job=self.job.name,
            outcome="finished",
            reason=None,
            progress=progress,
            rows_total=self.record.rows_total,
            duration_s=time.monotonic() - self.began_at,
            output=str(path) if path else None,
            checkpoint=self.checkpoint,
            lost_in_flight=self.lost_in_flight,
            run_id=self.record.run_id,
            started_at=self.record.started_at,
            limits=limits,
            totals=self.before.plus(progress),
        )


def begin(job: Job, rows_total: int, checkpoint: Checkpoint) -> Beginning:
    """Begin a run in the checkpoint.

    Raises:
        CheckpointError: it cannot be noted, or the runs before cannot be read.
    """
    began_at, totals = time.monotonic(), checkpoint.totals()
    before = checkpoint.start_run(rows_total)
    record = checkpoint.last_run()
    assert record is not None
    lost_in_flight = before.lost_in_flight if before else 0
    return Beginning(job, str(checkpoint.path), record, began_at, totals, lost_in_flight)


def ended_object(ended: RunSummary | BaseException, job: str | None) -> dict[str, Any]:
    """Return the object of a run, given its summary or what ended it; `job` is its name, if that is known."""
    if isinstance(ended, RunSummary):
        return as_object(ended, EXIT_ROWS_FAILED if ended.progress.rows_failed else EXIT_ANSWERED)
    if isinstance(ended, KeyboardInterrupt | StopSignal):
        ended = InterruptedRunError(ended.number if isinstance(ended, StopSignal) else signal.SIGINT)
    if not isinstance(ended, BatchchatError):
        return unbegun_object(job, "failed", without_keys(f"{type(ended).__name__}: {ended}"), EXIT_INTERNAL)
    if ended.summary is None:
        return unbegun_object(job, ended.outcome, str(ended), ended.exit_code)
    return as_object(ended.summary, ended.exit_code)


def notify(job: Job, ended: Mapping[str, Any]) -> str | None:
    """Post the object of a run to whom the job says; return what went wrong, in a sentence. It never raises."""
    if job.notify is None:
        return None
    problem = post(job.notify.url, json_text(ended).encode(), job.notify.timeout_s)
    return None if problem is None else f"notify: {problem}"
