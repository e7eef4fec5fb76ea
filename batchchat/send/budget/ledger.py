"""How much may still be spent, in dollars and in tokens at once."""

from batchchat.send.state.row_cost import NOTHING, WITHOUT_LIMIT, Amount


def smaller(first: Amount, second: Amount) -> Amount:
    """Return the smaller of each."""
    return Amount(min(first.usd, second.usd), min(first.tokens, second.tokens))


def larger(first: Amount, second: Amount) -> Amount:
    """Return the larger of each."""
    return Amount(max(first.usd, second.usd), max(first.tokens, second.tokens))


class Budget:
    """What was spent (`before`, by earlier runs), what may have been (`held`), what may yet be (`reserved`).

    The three never exceed `limit` in sum, as long as nothing costs more than was reserved for it. Nor do they exceed
    what the store was last told (`cap`): after a kill nobody knows more than that.
    """

    def __init__(self, limit: Amount = WITHOUT_LIMIT, before: Amount = NOTHING) -> None:
        self.limit = limit
        self.before = before
        self.spent = self.held = self.reserved = NOTHING
        self._cap = self._told = before

    @property
    def total(self) -> Amount:
        """All that is gone, or may be."""
        return self.before + self.spent + self.held + self.reserved

    @property
    def left(self) -> Amount:
        """What nobody has a claim to."""
        return self.limit.without(self.total)

    def fits(self, worst: Amount) -> bool:
        """Whether the limit has room for one more worst case."""
        return (self.total + worst).is_within(self.limit)

    def is_covered(self, worst: Amount) -> bool:
        """Whether the store has been told that so much more may be gone."""
        return (self.total + worst).is_within(self._cap)

    def reserve(self, worst: Amount) -> None:
        """Set a worst case aside, before anything is sent."""
        self.reserved += worst

    def give_back(self, reserved: Amount) -> None:
        """Free what was set aside, and not spent."""
        self.reserved = self.reserved.without(reserved)

    def spend(self, reserved: Amount, cost: Amount) -> None:
        """Put what something cost in the place of what was set aside for it."""
        self.give_back(reserved)
        self.spent += cost

    def hold(self, reserved: Amount) -> None:
        """Keep what was set aside as gone for good: nobody knows whether it was spent."""
        self.give_back(reserved)
        self.held += reserved

    # What the store knows

    def tell(self, allowance: Amount) -> None:
        """Note that the store is about to be told how much may be gone until it is told again.

        That is what is gone or set aside now, and an `allowance` for what will be. Until it has the word, both this
        bound and the one before it hold.
        """
        self._told = smaller(larger(self.total, self.total + allowance), larger(self.limit, self.total))
        self._cap = smaller(self._cap, self._told)

    def has_told(self) -> None:
        """Note that the store has the bound."""
        self._cap = self._told

    @property
    def told(self) -> Amount:
        """The most of this run that may be gone until the store is told again, as it was last told."""
        return self._told.without(self.before)
