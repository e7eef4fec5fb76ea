"""Which stored outcomes one pass over the rows has met: identical rows share an answer, and one of them its cost.

What passes in are outcomes with the places of their rows in the checkpoint; what comes out are the same, without a cost
from the second time on. It does not know SQLite.
"""

from dataclasses import replace

from batchchat.records import Outcome

_PAGE_BITS = 15


class Billed:
    """The outcomes that were met, as a bit for each: an eighth of a byte, of whatever table it is."""

    def __init__(self) -> None:
        self._pages: dict[tuple[str, int], bytearray] = {}

    def once(self, table: str, rowid: int, outcome: Outcome) -> Outcome:
        """Return an outcome with its cost the first time, and with a cost of nothing after that."""
        place = (table, rowid >> _PAGE_BITS)
        page = self._pages.get(place)
        if page is None:
            page = self._pages[place] = bytearray(1 << _PAGE_BITS - 3)
        at, bit = (rowid >> 3) & len(page) - 1, 1 << (rowid & 7)
        if page[at] & bit:
            return _free(outcome)
        page[at] |= bit
        return outcome


def _free(outcome: Outcome) -> Outcome:
    completion = outcome.completion
    if completion is None or not completion.usage.cost_usd:
        return outcome
    return replace(outcome, completion=replace(completion, usage=replace(completion.usage, cost_usd=0.0)))
