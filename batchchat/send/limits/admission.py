"""Whether the next request may start, and what holds it back.

It asks the gates, the rates and the limit on requests in flight, tells the last when it is what holds requests back,
and keeps account of what does.
"""

import math
from typing import Protocol

from batchchat.send.limits.bottleneck import Bottleneck, Hold
from batchchat.send.limits.concurrency import Concurrency
from batchchat.send.limits.rate_limits import RateLimits


class Cooldowns(Protocol):
    """When the pool may start requests, as the trouble with the endpoint decides."""

    @property
    def opens_at(self) -> float:
        """Monotonic time before which no request may start."""

    @property
    def is_holding(self) -> bool:
        """Whether the endpoint is taken to be down, and only one probe may be under way."""


class Admission:
    """One run's rule for starting requests; `bound` knows what has held them back."""

    def __init__(self, cooldowns: Cooldowns, rates: RateLimits, concurrency: Concurrency, bound: Bottleneck) -> None:
        self._cooldowns = cooldowns
        self._rates = rates
        self._concurrency = concurrency
        self.bound = bound

    def opens_at(self, now: float, due_at: float, taken: int, limit: int, probes: int = 0) -> float:
        """Return when the next request may start: `now` or before, later, or never: then it waits for a slot.

        A row is due at `due_at`; `taken` of `limit` slots are, and `probes` of an endpoint that is down are under way.
        """
        cooldown_until, rates_at = self._cooldowns.opens_at, self._rates.opens_at()
        opens_at = max(due_at, cooldown_until, rates_at)
        if opens_at > now and (taken < limit or due_at > now):
            self._hold(Hold.RATE if opens_at > due_at and not self._cooldowns.is_holding else Hold.ROWS, now)
            return opens_at
        if self._cooldowns.is_holding:
            return now if not probes and taken < limit else math.inf
        if taken < limit:
            return now
        self._concurrency.on_full()
        self.bound.hold(Hold.SLOTS, now)
        return math.inf

    def on_dry(self, now: float) -> None:
        """Note that there is no row to be asked."""
        self._hold(Hold.INPUT, now)

    def on_crowded(self, now: float) -> None:
        """Note that the requests in flight leave no room for another one's bytes."""
        self._hold(Hold.BYTES, now)

    def on_unpaid(self, now: float) -> None:
        """Note that the budget has no room for another request yet."""
        self._hold(Hold.ROWS, now)

    def _hold(self, hold: Hold, now: float) -> None:
        self._concurrency.on_free()
        self.bound.hold(hold, now)
