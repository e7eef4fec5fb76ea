"""The frozen values that tell of runs: what the checkpoint knows of each, and how one ended."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from batchchat.records import Progress, Settled


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run as the checkpoint knows it; times are unix seconds, `ended_at` None for one that runs or was killed."""

    run: int
    started_at: float
    updated_at: float
    ended_at: float | None
    end_reason: str | None
    pid: int
    host: str
    rows_total: int
    progress: Progress

    @property
    def run_id(self) -> str:
        """What tells this run from any other: when it began, and its number."""
        began = datetime.fromtimestamp(self.started_at, UTC)
        return f"{began:%Y%m%dT%H%M%S}Z-{self.run}"

    @property
    def lost_in_flight(self) -> int:
        """How many of its requests may have been billed without an answer, if it was killed."""
        return self.progress.in_flight_bound if self.ended_at is None else 0


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """How many stored failures have the same kind and message, and the names of some of their rows."""

    kind: str
    message: str
    count: int
    rows: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JobStatus:
    """The newest run of a job (None: there was none), and what its checkpoint holds.

    `state` is `running`, `finished`, `stopped` (it said why), `killed` (it could not) or `damaged` (the checkpoint is
    not as it was written; the next run saves what can be).
    """

    job: str
    checkpoint: str
    state: str
    run: RunRecord | None
    answers_stored: int
    failures: tuple[FailureGroup, ...]


@dataclass(frozen=True, slots=True)
class JobTotals:
    """What all runs of a checkpoint made together; fields as in `Progress`.

    `possibly_billed` includes what was in flight as runs were killed.
    """

    runs: int = 0
    requests_sent: int = 0
    rate_limited: int = 0
    possibly_billed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: float = 0.0
    requests_unpriced: int = 0
    held_usd: float = 0.0
    held_tokens: int = 0

    def plus(self, progress: Progress, lost_in_flight: int = 0) -> JobTotals:
        """Return these with one more run, which lost so many requests when it was killed."""
        names = [one.name for one in fields(self) if one.name != "runs"]
        sums = {name: getattr(self, name) + getattr(progress, name) for name in names}
        sums["possibly_billed"] += lost_in_flight
        return JobTotals(runs=self.runs + 1, **sums)


@dataclass(frozen=True, slots=True)
class RunSummary:
    """How a run ended: `outcome` is `finished`, `refused`, `interrupted`, `stopped` or `failed`; `reason` says why.

    `run_id` tells the run from any other, `started_at` (unix seconds) is when it began. `limits` is what is known of
    the endpoint after it. `totals` are those of all runs of the checkpoint, this one included.
    `answers_gone` is how many answers of the last finished run's output no row of this one asks for any more.

    `lost_in_flight` is how many requests of the run before, which was killed, may have been billed without an answer.
    `told` are the notes of its progress that were said while it ran.
    """

    job: str
    outcome: str
    reason: str | None
    progress: Progress
    rows_total: int
    duration_s: float
    output: str | None
    checkpoint: str
    lost_in_flight: int = 0
    run_id: str = ""
    started_at: float = 0.0
    limits: Settled = field(default_factory=Settled)
    totals: JobTotals = JobTotals()
    answers_gone: int = 0
    first_rows: Sequence[Mapping[str, Any]] = ()
    told: Collection[str] = ()
