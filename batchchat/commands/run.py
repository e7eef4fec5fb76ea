"""The journey of a job, top to bottom: read -> prompt -> send -> keep -> write.

The rooms do not know one another: values pass between them here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from batchchat.checkpoint.store import Checkpoint
from batchchat.commands.output import Target, check_before_asking, write_output
from batchchat.commands.plan import Plan, as_read, chunks, opened, remembering
from batchchat.commands.summary import begin
from batchchat.engines.budget_of import known_prices
from batchchat.engines.in_process import Asking, StopSwitch
from batchchat.errors import (
    BatchchatError,
    CheckpointError,
    InterruptedRunError,
    StopSignal,
    StorageError,
    is_of_the_system,
    remedy,
)
from batchchat.job.api_key import explained
from batchchat.records import Chunk, Progress
from batchchat.redaction import without_keys
from batchchat.runs import RunSummary
from batchchat.show.progress import LogFormat, Observer, shown
from batchchat.write.frame_output import Collector, FirstRows

if TYPE_CHECKING:
    from batchchat.send.http.transport import AsyncBaseTransport


FIRST_ROWS = 5
"""Rows of the output that a summary shows."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to run: `retries_errors` asks final failures again, all or of these kinds; `is_fresh` begins anew.

    `wait_lock_s` is how long another run of the checkpoint is waited for; progress is shown as `log_format` says.
    `transport` is to be used.
    """

    retries_errors: bool | Collection[str] = False
    is_fresh: bool = False
    is_quiet: bool = False
    log_format: LogFormat = "text"
    wait_lock_s: float = 0.0
    stop_switch: StopSwitch = field(default_factory=StopSwitch)
    transport: AsyncBaseTransport | None = None


def run(plan: Plan, api_key: str | None, options: RunOptions, collector: Collector | None = None) -> RunSummary:
    """Run or resume a job: ask what has no answer yet, then write the output (to `collector` too, when there is one).

    Raises:
        BatchchatError: the run was stopped or could not start; once it has begun, the error carries its `summary`.
    """
    # What a program gives to be asked through is the only thing that is.
    prices = known_prices(plan.job, api_key if options.transport is None else None)
    with (
        opened(plan, is_fresh=options.is_fresh, wait_lock_s=options.wait_lock_s) as checkpoint,
        remembering(plan) as plan,
    ):
        check_before_asking(plan)
        beginning = begin(plan.job, plan.source.total_rows, checkpoint)
        asking = Asking(
            plan.job,
            api_key,
            checkpoint=checkpoint,
            structure=plan.structure,
            prices=prices,
            retries_final=options.retries_errors,
        )
        first_rows = FirstRows(plan.output, _columns_to_look_at(plan), FIRST_ROWS)
        targets: list[Target] = [first_rows, collector] if collector else [first_rows]
        told = set[str]()
        try:
            outcome = _ask_and_write(plan, asking, options, targets=targets, told=told)
        except BatchchatError as error:
            summary = beginning.summary(_noted(asking.progress, checkpoint), asking.limits_found)
            error.summary = replace(summary, outcome=error.outcome, reason=str(error), output=None, told=told)
            error.is_resumable = True
            raise
        checkpoint.end_run("finished")
        summary = beginning.summary(_noted(asking.progress, checkpoint, outcome.notes), asking.limits_found)
    return replace(summary, first_rows=first_rows.rows, answers_gone=outcome.answers_gone, told=told)


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What became of a run that finished.

    `notes` are sentences on the output, `answers_gone` the answers that the last finished run's output had and this
    one's has not.
    """

    notes: Sequence[str]
    answers_gone: int


def _ask_and_write(
    plan: Plan, asking: Asking, options: RunOptions, *, targets: Sequence[Target], told: set[str]
) -> RunOutcome:
    """Ask what has no answer yet, then write the output; what stops that is recorded and raised.

    `told` gets the notes that are shown meanwhile. What is raised must be on its way until everything is closed: only
    then is a second signal ignored.
    """
    job, checkpoint = plan.job, asking.checkpoint
    log = shown(job.name, plan.source.total_rows, options.log_format, is_quiet=options.is_quiet, told=told)
    try:
        with log as observe, explained(job.endpoint, asking.api_key), storage_errors():
            observe(_noted(asking.progress, checkpoint))
            asking.ask(chunks(plan), observe, stop_switch=options.stop_switch, instead=options.transport)
        notes = write_output(as_read(plan), checkpoint, targets)
        answers_gone = checkpoint.record_uses()
    except (BatchchatError, StopSignal) as stop:
        error = InterruptedRunError(stop.number) if isinstance(stop, StopSignal) else stop
        with suppress(CheckpointError):  # it may be what stopped the run
            checkpoint.end_run(_storable(error))
        raise error from (stop if stop is not error else None)
    except Exception as error:
        with suppress(CheckpointError):
            checkpoint.end_run(f"internal error: {without_keys(_storable(error))}")
        raise
    # What the rows of earlier inputs use is in a file that is appended to for good.
    return RunOutcome(notes, 0 if job.output.mode == "append" else answers_gone)


@contextmanager
def storage_errors() -> Iterator[None]:
    """Translate ENOSPC, EMFILE and the like into StorageError."""
    try:
        yield
    except OSError as error:
        if not is_of_the_system(error):
            raise
        where = f"{error.filename}: " if error.filename else ""
        raise StorageError(f"{where}{error.strerror}{remedy(error)}") from error


def _storable(error: BaseException) -> str:
    """Return an error's words as UTF-8 has them: the name of a file may be of other bytes."""
    return str(error).encode("utf-8", "backslashreplace").decode()


def _noted(progress: Progress, checkpoint: Checkpoint, more: Sequence[str] = ()) -> Progress:
    """Return the progress with what is to be said about the checkpoint, and more."""
    notes = [*checkpoint.notes, *more]
    if checkpoint.damaged_count:
        notes.append(f"{checkpoint.damaged_count:,} stored outcomes were damaged; their rows were asked again")
    return replace(progress, notes=(*notes, *progress.notes)) if notes else progress


def _columns_to_look_at(plan: Plan) -> list[str]:
    """Return the few input columns that say best which row it is, and what was asked."""
    name = plan.job.input.id or plan.source.columns[0]
    asked = [column for column in plan.source.columns if column in (plan.prompt.template.columns or ())]
    return [name, *[column for column in asked if column != name][-1:]]


def ask_aside(
    asking: Asking, requests: Iterator[Chunk], row_count: int, observe: Observer = lambda _: None
) -> Progress:
    """Ask some requests as no run of the job: `status` and the next run still tell how the last one ended."""
    checkpoint = asking.checkpoint
    checkpoint.start_run(row_count, is_aside=True)
    try:
        with explained(asking.job.endpoint, asking.api_key), storage_errors():
            asking.ask(requests, observe, StopSwitch())
    except BaseException as error:
        with suppress(CheckpointError):
            checkpoint.end_run(without_keys(_storable(error)))
        raise
    checkpoint.end_run("aside")
    return asking.progress
