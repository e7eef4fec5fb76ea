"""Write the output from what the checkpoint has now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from batchchat.checkpoint.salvage import salvaged_copy
from batchchat.checkpoint.store import open_checkpoint
from batchchat.commands.output import write_output
from batchchat.errors import (
    CheckpointDamagedError,
)

if TYPE_CHECKING:
    pass

from batchchat.commands.plan import Plan, as_read, remembering


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
        notes = write_output(as_read(knowing), checkpoint, is_partial=True)
        return checkpoint.damaged_count, notes
