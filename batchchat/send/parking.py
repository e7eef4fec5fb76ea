"""Rows whose last attempt failed as it would if the endpoint were down; arithmetic only.

What passes in are such rows; what comes out is what became of them, once it shows: an outage takes the attempts back,
and they are asked again; anything that gets through leaves the failures with the rows.
"""

from collections.abc import Callable
from dataclasses import dataclass

from batchchat.records import Failure
from batchchat.send.pacing import Pending


@dataclass(frozen=True, slots=True)
class Parked:
    """A row with its last failure, and the attempts that it had when it was parked."""

    pending: Pending
    failure: Failure
    latency_s: float
    attempts: int


class Parking:
    """Holds as many rows as it takes to know an outage, and no more."""

    def __init__(self) -> None:
        self._parked: list[Parked] = []

    def __len__(self) -> int:
        return len(self._parked)

    def park(self, pending: Pending, failure: Failure, latency_s: float) -> None:
        """Take a row that is about to be given up."""
        self._parked.append(Parked(pending, failure, latency_s, pending.attempts))

    def leave(self, is_open: Callable[[Pending], bool]) -> tuple[list[Pending], list[Parked]]:
        """Return the rows to ask again, and those to give up; `is_open` says for which nothing is known yet."""
        again = [row.pending for row in self._parked if row.pending.attempts < row.attempts]
        over = [row for row in self._parked if row.pending.attempts == row.attempts and not is_open(row.pending)]
        left = {id(pending) for pending in again} | {id(row.pending) for row in over}
        self._parked = [row for row in self._parked if id(row.pending) not in left]
        return again, over
