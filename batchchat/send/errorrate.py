"""How many of a run's rows fail, and whether that is more than the job allows; arithmetic only."""

from collections import Counter
from collections.abc import Callable

from batchchat.errors import LimitReachedError
from batchchat.records import FailedRow
from batchchat.send.tally import Tally

FEWEST_ROWS = 50
"""Rows that the first ones count as: a rate of fewer is none."""


class ErrorRate:
    """One run's rate; `most` None: any is allowed. Rows whose failure an earlier run found do not count."""

    def __init__(self, most: float | None, tally: Tally) -> None:
        self._most = most
        self._tally = tally
        self._kinds: Counter[str] = Counter()

    def note(self, row: FailedRow) -> None:
        """Note why a row is given up."""
        self._kinds[row.failure.kind] += 1

    def check(self, stop: Callable[[LimitReachedError], None]) -> None:
        """Stop the run, if too many rows failed."""
        if self._most is not None and (excess := self._excess(self._most)) is not None:
            stop(excess)

    def _excess(self, most: float) -> LimitReachedError | None:
        tally = self._tally
        failed = tally.rows_failed - tally.rows_failed_before
        finished = tally.rows_answered - tally.rows_reused + failed
        if failed <= most * max(finished, FEWEST_ROWS):
            return None
        kind, count = max(self._kinds.items(), key=lambda item: item[1], default=("template", failed))
        message = (
            f"limits.max_error_rate: {failed:,} of {finished:,} rows failed ({failed / finished:.1%}), more than"
            f" {most:.4g} allows; most often for {kind} ({count:,}); see to that (`batchchat status` has the"
            " reasons) or raise limits.max_error_rate, and the same command goes on"
        )
        return LimitReachedError("max_error_rate", message)
