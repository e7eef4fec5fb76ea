"""The journey of a job, top to bottom: read -> prompt -> send -> keep -> write.

What passes in is a loaded job; what comes out is how it ended. The rooms do not know one another: values pass between
them here.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchchat.apikey import explained
from batchchat.asking import Asking, StopSwitch
from batchchat.checkpoint.files import prepare_folder, set_aside
from batchchat.checkpoint.lock import locked
from batchchat.checkpoint.media_digests import open_digests
from batchchat.checkpoint.salvage import open_whole, salvaged_copy
from batchchat.checkpoint.store import Checkpoint, open_checkpoint
from batchchat.errors import (
    BatchchatError,
    CheckpointDamagedError,
    CheckpointError,
    InterruptedRunError,
    JobError,
    Problem,
    StopSignal,
    StorageError,
    TemplateError,
    is_of_the_system,
    remedy,
)
from batchchat.jobfile import LoadedJob
from batchchat.prompt.media import MediaFolder, MediaMemory, Unremembered, require_pillow
from batchchat.prompt.request import Prompt, compile_prompt
from batchchat.read.location import folder_of
from batchchat.read.source import Source, frame_source, open_source
from batchchat.records import ChatRequest, Chunk, Failure, Progress, Row
from batchchat.redaction import without_keys
from batchchat.runs import RunSummary
from batchchat.runsummary import begin
from batchchat.send.structured.judge import Structure
from batchchat.show.progress import LogFormat, Observer, shown
from batchchat.spending import known_prices, require_max_tokens
from batchchat.write.collector import Collector, FirstRows
from batchchat.write.columns import OutputPlan, plan_output
from batchchat.writing import Target, check_before_asking, checked_outputs, is_folder, write_output

if TYPE_CHECKING:
    import polars as pl

    from batchchat.job import Job
    from batchchat.send.http.transport import AsyncBaseTransport

CHUNK_ROWS = 256
CHUNK_BYTES = 4 * 2**20
CHUNK_MEDIA_BYTES = 32 * 2**20
"""Rows, bytes of their requests, and of the files that they name, which the feed prepares at a time."""

FIRST_ROWS = 5
"""Rows of the output that a summary shows."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A job of which everything is known that can be known without sending.

    `outputs` are the files that are written, with `is_output_folder` one for each input file, in their order.
    """

    job: Job
    source: Source
    prompt: Prompt
    output: OutputPlan
    checkpoint_path: Path
    structure: Structure | None
    outputs: tuple[Path, ...] = ()
    is_output_folder: bool = False


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
        notes = write_output(_as_read(plan), checkpoint, targets)
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
    """Say of what the system has none left of, wherever it is missed, that it is so."""
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


def prepare(loaded: LoadedJob, frame: pl.DataFrame | pl.LazyFrame | None = None, *, is_read_only: bool = False) -> Plan:
    """Find out everything that can be known before the first request; nothing is left behind.

    Raises:
        UsageError: the job, the input, a template or the output is wrong.
    """
    job = loaded.job
    require_max_tokens(loaded)
    source = _source(loaded, frame)
    try:
        prompt = compile_prompt(
            job.request.as_body(),
            source.columns,
            endpoint_name=job.endpoint.resolved_name,
            dedupe=job.checkpoint.dedupe,
            media=_media_folder(loaded),
        )
    except TemplateError as error:
        raise loaded.locate(error) from error
    schema = job.request.schema_of_answers
    structure = _structure(loaded, schema)
    output = plan_output(
        source.columns,
        keep=job.output.keep,
        rename=job.output.columns,
        prefix=job.output.prefix,
        schema=schema,
        extra=job.request.optional_columns | ({"raw"} if job.output.raw else set()),
    )
    assert job.checkpoint.path is not None
    outputs = checked_outputs(loaded, source, is_read_only=is_read_only)
    # One file has one lock, by whatever link it is reached.
    path = Path(os.path.realpath(job.checkpoint.path))
    return Plan(
        job=job,
        source=source,
        prompt=prompt,
        output=replace(output, spreadsheet_safe=job.output.spreadsheet_safe),
        checkpoint_path=path,
        structure=structure,
        outputs=outputs,
        is_output_folder=is_folder(loaded),
    )


def _media_folder(loaded: LoadedJob) -> MediaFolder:
    """Return where rows may name images and videos, of which nothing is known yet."""
    wanted = loaded.job.input
    if wanted.media_root is not None and not wanted.media_root.is_dir():
        raise loaded.problem(("input", "media_root"), f"{wanted.media_root} is not a folder")
    if wanted.max_image_side is not None:
        require_pillow()
    root = wanted.media_root or (folder_of(wanted.path) if wanted.path else None)
    return MediaFolder(
        root, max_bytes=int(wanted.max_media_bytes), max_image_side=wanted.max_image_side, memory=Unremembered()
    )


def _structure(loaded: LoadedJob, schema: Any) -> Structure | None:
    if schema is None:
        return None
    try:
        return Structure(schema)
    except ValueError as error:
        is_short = loaded.job.request.response_schema is not None
        raise loaded.problem(("request", "response_schema" if is_short else "response_format"), str(error)) from error


def _source(loaded: LoadedJob, frame: pl.DataFrame | pl.LazyFrame | None) -> Source:
    wanted = loaded.job.input
    if frame is not None:
        return frame_source(frame, where=wanted.where, limit=wanted.limit, id_column=wanted.id)
    if wanted.path is None:
        raise JobError([Problem(loaded.label, "input.path", "is required: the file, glob or folder to read")])
    return open_source(wanted.path, format=wanted.format, where=wanted.where, limit=wanted.limit, id_column=wanted.id)


@contextmanager
def opened(plan: Plan, *, is_fresh: bool = False, wait_lock_s: float = 0.0) -> Iterator[Checkpoint]:
    """Open the job's checkpoint for this process alone; of one that is damaged, save what can be read.

    A live run that has it is waited for, at most so long.

    Raises:
        CheckpointError: it is locked by a live run, no checkpoint, newer, or cannot be made.
    """
    with ExitStack() as stack:
        prepare_folder(plan.checkpoint_path)
        stack.enter_context(locked(plan.checkpoint_path, wait_lock_s))
        if is_fresh:
            set_aside(plan.checkpoint_path)
        yield stack.enter_context(open_whole(plan.checkpoint_path))


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


@contextmanager
def remembering(plan: Plan, *, is_read_only: bool = False) -> Iterator[Plan]:
    """Let a plan know the content of the media that were read before, and remember what it reads, in its checkpoint."""
    with open_digests(plan.checkpoint_path, is_read_only=is_read_only) as digests:
        yield _with_memory(plan, digests)


def _with_memory(plan: Plan, memory: MediaMemory, *, look_only: bool = False, as_read: bool = False) -> Plan:
    media = replace(plan.prompt.media, memory=memory, look_only=look_only, as_read=as_read)
    return replace(plan, prompt=replace(plan.prompt, media=media))


def _as_read(plan: Plan) -> Plan:
    """Return the plan with the media that it names as they were when they were read, for what is written in the end."""
    return _with_memory(plan, plan.prompt.media.memory, as_read=True)


def chunks(plan: Plan) -> Iterator[Chunk]:
    """Yield the requests of all rows in input order, a bounded number at a time."""
    memory = plan.prompt.media.memory
    requests: list[ChatRequest] = []
    failed_row_count = held_bytes = media_bytes = 0
    for _, made in prepared_rows(plan):
        if isinstance(made, Failure):
            failed_row_count += 1
        else:
            requests.append(made)
            held_bytes += made.held_bytes
            media_bytes += sum(one.size_bytes for one in made.media) if made.media else 0
        row_count = len(requests) + failed_row_count
        if row_count >= CHUNK_ROWS or held_bytes >= CHUNK_BYTES or media_bytes >= CHUNK_MEDIA_BYTES:
            memory.flush()
            yield Chunk(requests, failed_row_count)
            requests, failed_row_count, held_bytes, media_bytes = [], 0, 0, 0
    memory.flush()
    if requests or failed_row_count:
        yield Chunk(requests, failed_row_count)


def prepared_rows(plan: Plan) -> Iterator[tuple[Row, ChatRequest | Failure]]:
    """Yield every row, with only the columns that the templates read, and the request or the failure that it makes."""
    for row in plan.source.rows(plan.prompt.template.columns):
        yield row, plan.prompt.request(row)


def export(plan: Plan) -> Sequence[str]:
    """Write the output from what is there now; rows that were not asked have nulls. Works while a run goes on.

    A damaged checkpoint gives what can be read of it; what is returned are sentences about that, and about the output.

    Raises:
        CheckpointError: there is no checkpoint, or nothing of it can be read.
        OutputError: the output cannot be written.
        StorageError: the system cannot write it just now.
    """
    path = plan.checkpoint_path
    try:
        damaged_count, notes = _export(plan)
    except CheckpointDamagedError as damage:
        if plan.job.output.mode == "append":
            raise  # whose rows stand where in the output has to be known, and kept
        with salvaged_copy(path, damage) as copy:
            _export(replace(plan, checkpoint_path=copy))
        return [f"{damage}", "What can be read of it is written; the next run saves that, and asks the rest again."]
    if damaged_count:
        notes.append(
            f"{path} is damaged: {damaged_count:,} outcomes cannot be read; the next run asks their rows again"
        )
    return notes


def _export(plan: Plan) -> tuple[int, list[str]]:
    """Write what the checkpoint has; return how many outcomes in it were damaged, and sentences about the output."""
    with (
        open_checkpoint(plan.checkpoint_path, is_read_only=True) as checkpoint,
        remembering(plan, is_read_only=True) as knowing,
    ):
        notes = write_output(_as_read(knowing), checkpoint, is_partial=True)
        return checkpoint.damaged_count, notes


def unaskable_rows(plan: Plan) -> Iterator[tuple[Row, Failure]]:
    """Yield every row that cannot be turned into a request, and why; of its media only the beginning is read."""
    for row, made in prepared_rows(_with_memory(plan, Unremembered(), look_only=True)):
        if isinstance(made, Failure):
            yield row, made
