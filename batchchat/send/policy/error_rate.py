"""How many of a run's rows fail, and whether that is more than the job allows."""

from collections import Counter

from batchchat.errors import LimitReachedError
from batchchat.records import FailedRow
from batchchat.send.state.counts import Counts

FEWEST_ROWS = 50
"""Rows that the first ones count as: a rate of fewer is none."""


class ErrorRate:
    """One run's rate; `most` None: any is allowed. Rows whose failure an earlier run found do not count."""

    def __init__(self, most: float | None, counts: Counts) -> None:
        self._most = most
        self._counts = counts
        self._kinds: Counter[str] = Counter()

    def note(self, row: FailedRow) -> None:
        """Note why a row is given up."""
        self._kinds[row.failure.kind] += 1

    @property
    def excess(self) -> LimitReachedError | None:
        """What ends the run, if too many rows failed."""
        return None if self._most is None else self._excess(self._most)

    def _excess(self, most: float) -> LimitReachedError | None:
        counts = self._counts
        failed = counts.rows_failed - counts.rows_failed_before
        finished = counts.rows_answered - counts.rows_reused + failed
        if failed <= most * max(finished, FEWEST_ROWS):
            return None
        kind, count = max(self._kinds.items(), key=lambda item: item[1], default=("template", failed))
        message = (
            f"limits.max_error_rate: {failed:,} of {finished:,} rows failed ({failed / finished:.1%}), more than"
            f" {most:.4g} allows; most often for {kind} ({count:,}); see to that (`batchchat status` has the"
            " reasons) or raise limits.max_error_rate, and the same command goes on"
        )
        return LimitReachedError("max_error_rate", message)
