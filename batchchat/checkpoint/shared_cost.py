"""Which stored outcomes one pass over the rows has met: identical rows share an answer, and one of them its cost."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from batchchat.checkpoint.tables import Stored
from batchchat.records import Outcome

_PAGE_BITS = 15


class SharedCost:
    """The outcomes that were met, as a bit for each of their rows."""

    def __init__(self) -> None:
        self._pages: dict[tuple[str, int], bytearray] = {}

    def shared_out(
        self, keys: Sequence[bytes | None], found: Mapping[bytes | None, Outcome], places: Mapping[bytes | None, Stored]
    ) -> list[Outcome | None]:
        """Return each key's outcome, in order, with its cost where this pass has not met it before."""
        again = {key: _free(outcome) for key, outcome in found.items() if self._has_met(places[key])}
        if not again and len(found) == len(keys):
            return [found[key] for key in keys]
        outcomes: list[Outcome | None] = []
        once: set[bytes | None] = set()
        for key in keys:
            outcome = again.get(key) or found.get(key)
            if key not in once:
                once.add(key)
            elif outcome is not None and key not in again:
                outcome = again[key] = _free(outcome)
            outcomes.append(outcome)
        return outcomes

    def _has_met(self, stored: Stored) -> bool:
        """Whether an outcome was met before; it is from now on."""
        number = stored.rowid
        page = self._pages.setdefault((stored.table, number >> _PAGE_BITS), bytearray())
        if not page:
            page.extend(bytes(1 << _PAGE_BITS - 3))
        at, bit = (number >> 3) & len(page) - 1, 1 << (number & 7)
        if page[at] & bit:
            return True
        page[at] |= bit
        return False


def _free(outcome: Outcome) -> Outcome:
    completion = outcome.completion
    if completion is None or not completion.usage.cost_usd:
        return outcome
    return replace(outcome, completion=replace(completion, usage=replace(completion.usage, cost_usd=0.0)))
