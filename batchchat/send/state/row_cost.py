"""What a row may cost: amounts, the size of its request, and what is set aside for it."""

import math
from dataclasses import dataclass

from batchchat.records import ChatRequest


@dataclass(frozen=True, slots=True)
class Amount:
    """Dollars, and prompt and completion tokens."""

    usd: float = 0.0
    tokens: float = 0.0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.usd + other.usd, self.tokens + other.tokens)

    def __mul__(self, count: float) -> "Amount":
        return Amount(self.usd * count, self.tokens * count)

    def without(self, other: "Amount") -> "Amount":
        """Return what is left when the other is taken away; never less than nothing."""
        return Amount(max(0.0, self.usd - other.usd), max(0.0, self.tokens - other.tokens))

    def is_within(self, other: "Amount") -> bool:
        """Whether neither is more than in the other."""
        return self.usd <= other.usd and self.tokens <= other.tokens


NOTHING = Amount()


WITHOUT_LIMIT = Amount(math.inf, math.inf)


@dataclass(frozen=True, slots=True)
class Size:
    """What a request's cost depends on: tokens of its prompt at most, images beside them, and what it asks for."""

    model: str
    prompt_tokens: float
    images: int
    max_tokens: int
    choices: int


@dataclass(frozen=True, slots=True)
class Reserved:
    """What is set aside for a row: for its request that is under way, and for those that may follow from the reply."""

    now: Amount
    later: Amount

    @property
    def whole(self) -> Amount:
        """Both."""
        return self.now + self.later


@dataclass(slots=True)
class RowCost:
    """What one row's requests may cost: their size, once that is known, and what is set aside for them."""

    request: ChatRequest
    size: Size | None = None
    charge: Reserved | None = None
