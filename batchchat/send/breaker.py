"""Refusals that may be the whole job's, held until they show whose they are; arithmetic only.

What passes in are rows that the endpoint refused, each with what identifies the refusal, and word of everything else
that was concluded; what comes out are the refusals that are the rows' own, or that it is time to stop. A parameter that
the model does not know would fail every row of the table, one after the other. Outcomes of requests that started before
the first of the refusals say nothing about them.
"""

import math
from collections.abc import Hashable
from typing import Generic, TypeVar

FIRST_ROWS = 20
"""Refusals of one kind, and nothing else so far, after which they are the job's."""
ROWS_IN_A_ROW = 50
"""Refusals of one kind in a row, whatever was before, after which they are the job's."""

T = TypeVar("T")


class Breaker(Generic[T]):
    """Holds at most `ROWS_IN_A_ROW` refused rows; none of them costs anything, since a refusal is not billed."""

    def __init__(self) -> None:
        self._held: list[T] = []
        self._signature: Hashable = None
        self._held_since = math.inf
        self._has_other = False

    def __len__(self) -> int:
        return len(self._held)

    def is_tripped(self, *, has_worked: bool = False) -> bool:
        """Whether the refusals that are held are the job's; `has_worked`: it had answers before."""
        return len(self._held) >= (ROWS_IN_A_ROW if self._has_other or has_worked else FIRST_ROWS)

    def hold(self, row: T, signature: Hashable, now: float) -> list[T]:
        """Hold one more row, refused just now; return those that it shows to be the rows' own."""
        released = [] if signature == self._signature else self.release()
        self._signature, self._held_since = signature, min(self._held_since, now)
        self._held.append(row)
        self._has_other = self._has_other or bool(released)
        return released

    def note_other(self, started_at: float) -> list[T]:
        """Note another outcome, of a request that started then; return the refusals that it shows to be the rows'."""
        self._has_other = True
        return self.release() if started_at >= self._held_since else []

    def release(self) -> list[T]:
        """Return what is held: nothing more comes that could show whose it is."""
        held, self._held = self._held, []
        self._signature, self._held_since = None, math.inf
        return held
