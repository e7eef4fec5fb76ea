"""Prove that a job's output is right: each row of it against its input row and the outcome of its request.

It sends and changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from batchchat.checkpoint.output_segments import open_segments
from batchchat.checkpoint.shared_cost import SharedCost
from batchchat.checkpoint.store import Checkpoint, open_checkpoint
from batchchat.commands.output import outcomes_of
from batchchat.commands.plan import Plan, remembering
from batchchat.records import Answer, Batch, FailedRow, Outcome
from batchchat.show.printable import on_one_line, one_line
from batchchat.write.append import content_digest
from batchchat.write.columns import answer_columns
from batchchat.write.compare import Comparison, Difference

_NAME_CHARACTERS = 60

_NO_OUTCOME = (
    "is neither answered nor failed in the checkpoint: it has no outcome of this row's request, of which the input or"
    " the job may have changed since; `batchchat run` asks it"
)


@dataclass(slots=True)
class Verification:
    """What became of comparing an output with its input and checkpoint.

    `differences` has the first one; without any, the output is what it should be. Rows are counted up to its batch.
    `rows_unasked` have no outcome, because the last run did not come to its end, of which `note` says why.
    """

    job: str
    output: str
    checkpoint: str
    rows_total: int
    rows_answered: int = 0
    rows_failed: int = 0
    rows_unasked: int = 0
    note: str | None = None
    differences: list[Difference] = field(default_factory=list)


def verify(plan: Plan) -> Verification:
    """Compare the output of a job with what its input and its checkpoint give, in the memory of a batch.

    Raises:
        CheckpointError: there is no checkpoint, or it cannot be read.
        OutputError: there is no output, or it cannot be read.
        InputError: the input changed meanwhile.
    """
    path = plan.job.output.path
    assert path is not None
    found = Verification(plan.job.name, str(path), str(plan.checkpoint_path), plan.source.total_rows)
    with (
        open_checkpoint(plan.checkpoint_path, is_read_only=True) as checkpoint,
        remembering(plan, is_read_only=True) as knowing,
    ):
        found.note = _unfinished(checkpoint)
        part = _part_of(plan, path) if plan.job.output.mode == "append" else WHOLE
        first = Difference(part) if isinstance(part, str) else _compare_files(knowing, checkpoint, part, found)
    found.differences = [first] if first else []
    return found


@dataclass(frozen=True, slots=True)
class Part:
    """Which rows of an output file are those to be compared; None: all that follow."""

    first_row: int
    row_count: int | None


WHOLE = Part(0, None)


def _part_of(plan: Plan, path: Path) -> Part | str:
    """Return which rows of an output that others were appended to are this input's; else why nobody knows."""
    if not path.is_file():
        return WHOLE  # which is missed there
    with open_segments(plan.checkpoint_path, is_read_only=True) as segments:
        known = segments.known(Path(os.path.realpath(path)))
    written = known.get(content_digest(path))
    if written is None:
        return "the file is not as batchchat wrote it: its content is none that the checkpoint knows"
    input_digest = plan.source.digest()
    own = next((one for one in written if one.input == input_digest), None)
    if own is None:
        return "the file has no rows of this input, or the input has changed since; `batchchat run` appends them"
    is_last = own is written[-1]
    return Part(own.first_row, None if is_last else own.row_count)


def _compare_files(plan: Plan, checkpoint: Checkpoint, part: Part, found: Verification) -> Difference | None:
    """Compare every output file with the rows that it should have: one file, or one for each of the input's."""
    media = replace(plan.prompt.media, as_read=True)
    plan = replace(plan, prompt=replace(plan.prompt, media=media))
    batches = plan.source.batches(values_of=plan.prompt.template.columns)
    outcomes_for = partial(outcomes_of, plan, checkpoint, billed=SharedCost())
    if not plan.is_output_folder:
        return _compare(plan, plan.outputs[0], part, ((one, outcomes_for(one)) for one in batches), found)
    by_file = groupby(batches, key=lambda batch: batch.file)
    waiting = next(by_file, None)
    for number, output in enumerate(plan.outputs):
        own: Iterable[Batch] = ()
        is_own = waiting is not None and waiting[0] == number
        if waiting is not None and is_own:
            own = waiting[1]
        if not output.exists() and any(one.exists() for one in plan.outputs):
            return Difference(f"{output}: is missing, and others of the input's files have theirs")
        if difference := _compare(plan, output, part, ((one, outcomes_for(one)) for one in own), found):
            return _in_file(output.name, difference)
        if is_own:
            waiting = next(by_file, None)
    return None


def _unfinished(checkpoint: Checkpoint) -> str | None:
    """Return what to say of a last run that did not come to its end: rows may have no outcome then."""
    run = checkpoint.last_run()
    if run is None or run.end_reason == "finished":
        return None
    return f"the last run did not come to its end ({run.end_reason or 'it was killed, or runs'})"


def _in_file(name: str, one: Difference) -> Difference:
    if one.row is None:
        return replace(one, problem=f"{name}: {one.problem}")
    return replace(one, row=f"{one.row} of {name}")


def _compare(
    plan: Plan,
    output: Path,
    part: Part,
    batches: Iterable[tuple[Batch, Sequence[Outcome | None]]],
    found: Verification,
) -> Difference | None:
    row_count = 0
    with Comparison(output, plan.output, plan.source.schema) as comparison:
        if difference := comparison.begin() or comparison.skip(part.first_row):
            return difference
        for batch, outcomes in batches:
            _count(outcomes, found)
            row_count += len(outcomes)
            if part.row_count is not None and row_count > part.row_count:
                return Difference(f"the file has {part.row_count:,} rows of this input, fewer than there are")
            if not found.note and None in outcomes:
                return Difference(_NO_OUTCOME, batch.rows[outcomes.index(None)].name)
            if difference := comparison.compare(batch, answer_columns(outcomes, plan.output)):
                return difference
        if part.row_count is None:
            return comparison.finish()
    if row_count < part.row_count:
        return Difference(f"the file has {part.row_count:,} rows of this input, which has {row_count:,}")
    return None


def _count(outcomes: Sequence[Outcome | None], found: Verification) -> None:
    found.rows_answered += sum(isinstance(outcome, Answer) for outcome in outcomes)
    found.rows_failed += sum(isinstance(outcome, FailedRow) for outcome in outcomes)
    found.rows_unasked += outcomes.count(None)


def as_object(verification: Verification) -> dict[str, Any]:
    """Return what was found as plain values; `verified` says in one word that the output is what it should be."""
    return {"verified": not verification.differences, **asdict(verification)}


def as_lines(verification: Verification) -> list[str]:
    """Return what was found for people: one line when all is right, else the first difference and one line more."""
    path, note = verification.output, verification.note
    if verification.differences:
        last = f"{path} is not what {verification.checkpoint} gives for the input"
        lines = [*map(_line, verification.differences), f"{last}; {note}" if note else last]
    else:
        counts = f"{verification.rows_answered:,} answered, {verification.rows_failed:,} failed"
        unasked = f", {verification.rows_unasked:,} not asked yet: {note}" if verification.rows_unasked else ""
        lines = [f"verified {verification.rows_total:,} rows: {counts}{unasked}; {path}"]
    return [on_one_line(line) for line in lines]


def _line(one: Difference) -> str:
    if one.row is None:
        return one.problem
    row = f"row {one_line(one.row, _NAME_CHARACTERS)}"
    if one.column is None:
        return f"{row}: {one.problem}"
    more = f", and {one.columns_more} columns more of this row" if one.columns_more else ""
    column = one_line(one.column, _NAME_CHARACTERS)
    return f"{row}: {column}: expected {_visible(one.expected or '')}, found {_visible(one.found or '')}{more}"


def _visible(text: str) -> str:
    """Return a value's text with its white space as escapes: two values may differ in nothing else."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
