"""A job of which everything is known that can be known without sending, and the requests of its rows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchchat.checkpoint.files import prepare_folder, set_aside
from batchchat.checkpoint.lock import locked
from batchchat.checkpoint.media_digests import open_digests
from batchchat.checkpoint.salvage import open_whole
from batchchat.checkpoint.store import Checkpoint
from batchchat.commands.output import checked_outputs, is_folder
from batchchat.engines.budget_of import require_max_tokens
from batchchat.errors import (
    JobError,
    Problem,
    TemplateError,
)
from batchchat.job.file import LoadedJob
from batchchat.prompt.media.folder import MediaFolder, MediaMemory, Unremembered, require_pillow
from batchchat.prompt.request import Prompt, compile_prompt
from batchchat.read.paths import folder_of
from batchchat.read.source import Source, frame_source, open_source
from batchchat.records import ChatRequest, Chunk, Failure, Row
from batchchat.send.structured.judge import Structure
from batchchat.write.columns import OutputPlan, plan_output

if TYPE_CHECKING:
    import polars as pl

    from batchchat.job.job import Job


CHUNK_ROWS = 256
CHUNK_BYTES = 4 * 2**20
CHUNK_MEDIA_BYTES = 32 * 2**20
"""Rows, bytes of their requests, and of the files that they name, which the feed prepares at a time."""


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


@contextmanager
def remembering(plan: Plan, *, is_read_only: bool = False) -> Iterator[Plan]:
    """Let a plan know the content of the media that were read before, and remember what it reads, in its checkpoint."""
    with open_digests(plan.checkpoint_path, is_read_only=is_read_only) as digests:
        yield _with_memory(plan, digests)


def _with_memory(plan: Plan, memory: MediaMemory, *, look_only: bool = False, as_read: bool = False) -> Plan:
    media = replace(plan.prompt.media, memory=memory, look_only=look_only, as_read=as_read)
    return replace(plan, prompt=replace(plan.prompt, media=media))


def as_read(plan: Plan) -> Plan:
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


def unaskable_rows(plan: Plan) -> Iterator[tuple[Row, Failure]]:
    """Yield every row that cannot be turned into a request, and why; of its media only the beginning is read."""
    for row, made in prepared_rows(_with_memory(plan, Unremembered(), look_only=True)):
        if isinstance(made, Failure):
            yield row, made
