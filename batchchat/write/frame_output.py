"""Source batches and their answers as rows in memory: all of them as one frame, or only the first few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from batchchat.records import Batch
from batchchat.write.columns import OutputPlan, empty_output
from batchchat.write.format import Joiner, joined


class Collector:
    """Takes the output's rows, and gives them back as one frame."""

    def __init__(self, plan: OutputPlan, schema: pl.Schema) -> None:
        self._joiner = Joiner(plan)
        self._frames = [empty_output(plan, schema)]

    def write(self, batch: Batch, answers: pl.DataFrame) -> None:
        """Take a batch and its new columns."""
        self._frames.append(self._joiner.join(batch, answers))

    def frame(self) -> pl.DataFrame:
        """Return everything taken, in order."""
        return pl.concat(self._frames)


class FirstRows:
    """Takes the output's rows and keeps the first `count` of them, as plain values, for people to look at.

    Of the input columns it keeps only those in `shown`.
    """

    def __init__(self, plan: OutputPlan, shown: Sequence[str], count: int) -> None:
        self._plan = replace(plan, keep=tuple(column for column in plan.keep if column in shown))
        self._count = count
        self.rows: list[dict[str, Any]] = []

    def write(self, batch: Batch, answers: pl.DataFrame) -> None:
        """Take a batch and its new columns."""
        missing = self._count - len(self.rows)
        if missing > 0:
            self.rows += joined(batch, answers, self._plan).head(missing).to_dicts()
