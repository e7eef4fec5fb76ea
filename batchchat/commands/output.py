"""The last part of a job's journey: every row's outcome, from the checkpoint into the output.

Which of these it is, and where they may be, is decided here.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol

from batchchat.checkpoint.files import own_files
from batchchat.checkpoint.output_segments import open_segments
from batchchat.checkpoint.shared_cost import SharedCost
from batchchat.checkpoint.sqlite import damaged
from batchchat.errors import InputError, OutputError
from batchchat.read.paths import folder_of, would_read
from batchchat.records import Batch, ChatRequest, FailedRow, Failure, Outcome
from batchchat.runtime import undisturbed
from batchchat.write.append import appending, check_append
from batchchat.write.columns import answer_columns
from batchchat.write.output_folder import FolderSink, check_output_folder, left_behind, output_files
from batchchat.write.sink import Sink, check_output

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

    from batchchat.checkpoint.store import Checkpoint
    from batchchat.commands.plan import Plan
    from batchchat.job.file import LoadedJob
    from batchchat.read.source import Source


class Target(Protocol):
    """Something that takes the output's rows, in input order."""

    def write(self, batch: Batch, answers: pl.DataFrame) -> None:
        """Take a batch and its new columns, of the same height."""


def checked_outputs(loaded: LoadedJob, source: Source, *, is_read_only: bool = False) -> tuple[Path, ...]:
    """Find out whether the output can be written where the job says; return its files, none without `output.path`.

    With `is_read_only` it is there already, and may be in a place where nobody can write.

    Raises:
        JobError: it cannot be written in the way that `output.mode` says, or not into a folder.
        OutputError: it cannot be written there, or is the input or the checkpoint, or would be read by the next run.
        StorageError: the system cannot write it just now.
    """
    path = loaded.job.output.path
    if path is None:
        outputs: tuple[Path, ...] = ()
    elif is_folder(loaded):
        outputs = _outputs_in_folder(loaded, source, path, is_read_only=is_read_only)
    else:
        if not is_read_only:
            check_output(path, source.files)
        outputs = (path,)
    if path is not None and loaded.job.output.mode == "append" and not source.files:
        text = "is append, which needs input.path: rows of a frame in Python have nothing that tells them from others"
        raise loaded.problem(("output", "mode"), text)
    _check_places(loaded, source, outputs)
    return outputs


def is_folder(loaded: LoadedJob) -> bool:
    """Whether the output is a folder: one that is there, or is named with a slash at the end and no suffix."""
    path = loaded.job.output.path
    return path is not None and (path.is_dir() or (loaded.is_output_folder and not path.suffix))


def _outputs_in_folder(loaded: LoadedJob, source: Source, folder: Path, *, is_read_only: bool) -> tuple[Path, ...]:
    if loaded.job.input.path is None or source.format is None:
        text = f"{folder} is a folder, for one file per input file, which rows of a frame have not; name a file"
        raise loaded.problem(("output", "path"), text)
    if loaded.job.output.mode == "append":
        text = f"is append, which needs a file; {folder} is a folder, where each input file has an output of its own"
        raise loaded.problem(("output", "mode"), text)
    outputs = output_files(folder, source.files, folder_of(loaded.job.input.path), source.format)
    if not is_read_only:
        check_output_folder(folder, outputs, source.files)
    return outputs


def _check_places(loaded: LoadedJob, source: Source, outputs: Collection[Path]) -> None:
    """Refuse a checkpoint that is the output or an input file, and an output that the next run would read as input."""
    checkpoint, read = loaded.job.checkpoint.path, loaded.job.input.path
    assert checkpoint is not None
    taken = {os.path.realpath(path) for path in (*source.files, *outputs)}
    for path in own_files(checkpoint):
        if os.path.realpath(path) in taken:
            raise OutputError(f"checkpoint.path: {path} is a file of the input or the output; name another")
    for output in outputs:
        if read is not None and source.files and would_read(read, output):
            message = (
                f"{output} is among the files that input.path names, so the next run would read it; write it elsewhere"
            )
            raise OutputError(message)


def check_before_asking(plan: Plan) -> None:
    """Find out what only the checkpoint tells: whether the rows can be appended to the output that is there.

    Raises:
        OutputError: they cannot.
    """
    path = plan.job.output.path
    if path is None or plan.job.output.mode != "append":
        return

    def is_all_null(column: str) -> bool:
        return all(batch.frame[column].is_null().all() for batch in plan.source.batches([column]))

    with open_segments(plan.checkpoint_path) as segments:
        check_append(path, plan.source.digest(), segments, plan.output, plan.source.schema, is_all_null)


def write_output(
    plan: Plan,
    checkpoint: Checkpoint,
    targets: Sequence[Target] = (),
    *,
    is_partial: bool = False,
) -> list[str]:
    """Write the output, each file complete or not at all, when the job names one; and the same rows to every target.

    Return sentences for the user on what became of it. A run (that is, not `is_partial`) notes what it has used.

    Raises:
        OutputError: it cannot be written.
        StorageError: the system cannot write it just now.
        InputError: a row has no outcome, because the input changed under the run; with `is_partial` it has nulls.
        CheckpointDamagedError: an outcome cannot be read any more; with `is_partial` its row has nulls.
    """
    damaged_count, billed = checkpoint.damaged_count, SharedCost()
    with undisturbed(), _output(plan) as output:
        for batch in plan.source.batches(values_of=plan.prompt.template.columns):
            outcomes = outcomes_of(plan, checkpoint, batch, billed, notes_use=not is_partial)
            if not is_partial:
                _require_all(checkpoint, batch, outcomes, damaged_count)
            answers = answer_columns(outcomes, plan.output)
            for target in (*targets, *output):
                target.write(batch, answers)
    return _notes(plan)


@contextmanager
def _output(plan: Plan) -> Iterator[list[Target]]:
    """Yield what writes the output file or files; nothing where the job names none."""
    path, columns, schema = plan.job.output.path, plan.output, plan.source.schema
    with ExitStack() as stack:
        if path is None:
            yield []
        elif plan.is_output_folder:
            yield [stack.enter_context(FolderSink(plan.outputs, columns, schema))]
        elif plan.job.output.mode == "append":
            segments = stack.enter_context(open_segments(plan.checkpoint_path))
            put = appending(path, plan.source.digest(), segments)
            yield [stack.enter_context(Sink(path, columns, schema, put))]
        else:
            yield [stack.enter_context(Sink(path, columns, schema))]


def outcomes_of(
    plan: Plan, checkpoint: Checkpoint, batch: Batch, billed: SharedCost, *, notes_use: bool = False
) -> list[Outcome | None]:
    """Return the outcome of each row of a batch, None where the checkpoint has none; what is `billed` costs no more."""
    made = [plan.prompt.request(row) for row in batch.rows]
    keys = [request.key if isinstance(request, ChatRequest) else None for request in made]
    stored = checkpoint.outcomes(keys, with_replies=plan.job.output.raw, billed=billed, notes_use=notes_use)
    return [
        FailedRow(request, is_transient=False, latency_s=None, attempts=0) if isinstance(request, Failure) else outcome
        for request, outcome in zip(made, stored, strict=True)
    ]


def _require_all(checkpoint: Checkpoint, batch: Batch, outcomes: Sequence[Outcome | None], damaged_count: int) -> None:
    if None not in outcomes:
        return
    if checkpoint.damaged_count > damaged_count:
        raise damaged(checkpoint.path, "an outcome that was whole when the run began is not any more")
    name = batch.rows[outcomes.index(None)].name
    raise InputError(f"row {name} has no answer: the input changed while the job ran; run it again to ask what is new")


def _notes(plan: Plan) -> list[str]:
    folder = plan.job.output.path
    if folder is None or not plan.is_output_folder:
        return []
    count = left_behind(folder, plan.outputs)
    what = "1 file is" if count == 1 else f"{count:,} files are"
    return [f"{what} in the output folder whose input is not there any more; left as they were"] if count else []
