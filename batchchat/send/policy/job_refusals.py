"""Hold refusals until they show whether the job or the rows cause them.

A parameter that the model does not know would fail every row of the table, one after the other. Refusals come back
sooner than answers: "in a row" means that nothing which started between them was answered, or still may be.
"""

from bisect import bisect
from collections.abc import Hashable
from typing import Generic, TypeVar

FIRST_ROWS = 20
"""Refusals of one kind in a row, with no answer so far, after which they are the job's."""
ROWS_IN_A_ROW = 50
"""Refusals of one kind in a row, whatever was before, after which they are the job's."""
MOST_HELD = 2_000
"""Refused rows that are held at most; that many, with requests under way among them all, are the rows' own."""

T = TypeVar("T")


class JobRefusals(Generic[T]):
    """Holds refused rows; none of them costs anything, since a refusal is not billed."""

    def __init__(self) -> None:
        self._started = 0
        self._under_way: set[int] = set()
        self._held: dict[int, T] = {}
        self._signature: Hashable = None
        self._has_other = False

    def __len__(self) -> int:
        return len(self._held)

    def start(self) -> int:
        """Note that a request starts; return its place in the order."""
        self._started += 1
        self._under_way.add(self._started)
        return self._started

    def end(self, place: int) -> None:
        """Note that a request is no longer under way, whatever came of it."""
        self._under_way.discard(place)

    def hold(self, row: T, signature: Hashable, place: int) -> list[T]:
        """Hold one more refused row; return those that are shown to be the rows' own."""
        released: list[T] = []
        if signature != self._signature or len(self._held) >= MOST_HELD:
            released = self.release()
            self._has_other = self._has_other or bool(released)
        self._signature = signature
        self._held[place] = row
        return released

    def note_other(self, place: int) -> list[T]:
        """Note another outcome; return the refusals of requests that started before it: they are the rows' own."""
        self._has_other = True
        if not self._held:
            return []
        earlier = [held for held in self._held if held < place]
        return [self._held.pop(held) for held in earlier]

    def release(self) -> list[T]:
        """Return what is held: nothing more comes that could show whose it is."""
        held, self._held = self._held, {}
        return list(held.values())

    def in_a_row(self) -> int:
        """Return how many of the refusals that are held follow one another, with nothing under way between them."""
        longest = count = 0
        under_way = sorted(self._under_way)
        before = -1
        for place in sorted(self._held):
            gap = bisect(under_way, place)
            count = count + 1 if gap == before else 1
            before, longest = gap, max(longest, count)
        return longest

    def is_tripped(self, *, has_worked: bool = False) -> bool:
        """Whether the refusals that are held are the job's; `has_worked`: it had answers before."""
        wanted = ROWS_IN_A_ROW if self._has_other or has_worked else FIRST_ROWS
        return len(self._held) >= wanted and self.in_a_row() >= wanted
