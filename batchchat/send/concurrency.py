"""How many requests may be in flight: starts low, finds the endpoint's own limit, follows it; arithmetic only.

It looks at rounds: as many replies as the limit allows in flight. While a doubled limit brings more replies a second it
doubles again; when it does not, the limit goes back to the knee and is probed gently from there. A burst of rate limits
cuts it by a fifth, once; it then recovers by a quarter each round, to a little below where it was cut. A round of which
a fifth meets an overloaded endpoint counts as such a burst.
"""

import math
from dataclasses import dataclass
from typing import Literal

FIRST_LIMIT = 8
LARGEST_LIMIT = 1_024
CUT = 0.8
RECOVERY = 1.25
CEILING_AFTER_CUT = 0.95
"""Share of the limit at which a burst came that is tried again without probing; never below the first limit."""
WORTHWHILE_GAIN = 1.2
"""Replies a second, relative to the last round, that make a doubling worth keeping."""
OVERLOADED_SHARE = 0.2
FEWEST_OVERLOADS = 3
"""Replies of a round that must say that the endpoint is overloaded before the limit is cut: one may be chance."""
PROBE = 1.1
PROBE_GAIN = 1.03
ROUNDS_BETWEEN_PROBES = 8


@dataclass(slots=True)
class Round:
    """The replies since `started_at`, and whether the limit was what held requests back."""

    started_at: float
    replies: int = 0
    overloads: int = 0
    is_saturated: bool = False


class Concurrency:
    """The limit on requests in flight; a number given by the user never changes, and `largest` bounds any other."""

    def __init__(self, setting: Literal["auto"] | int, now: float, *, largest: int = LARGEST_LIMIT) -> None:
        self._is_fixed = setting != "auto"
        self.limit: int = min(FIRST_LIMIT, largest) if setting == "auto" else setting
        self._largest = largest
        self._round = Round(now)
        self._is_doubling = True
        self._previous_limit = self.limit
        self._previous_rate = 0.0
        self._rounds_held = 0
        self._recover_to = 0
        self._cut_at = -math.inf

    def on_full(self) -> None:
        """Note that a request is waiting for nothing but a slot."""
        self._round.is_saturated = True

    def on_reply(self, now: float) -> None:
        """Note one reply of any kind but a rate limit."""
        self._round.replies += 1
        if self._is_fixed or self._round.replies < max(self.limit, FIRST_LIMIT):
            return
        if self._round.is_saturated:
            self._end_round(self._round.replies / max(now - self._round.started_at, 1e-9))
        self._round = Round(now)

    def on_rate_limit(self, now: float) -> None:
        """Cut the limit; to be called once for each burst."""
        if self._is_fixed:
            return
        self._cut_at = now
        self._recover_to = max(min(FIRST_LIMIT, self._largest), int(self.limit * CEILING_AFTER_CUT))
        self.limit = max(1, int(self.limit * CUT))
        self._is_doubling = False
        self._previous_limit, self._previous_rate, self._rounds_held = self.limit, 0.0, 0
        self._round = Round(now)

    def on_overload(self, started_at: float, now: float) -> None:
        """Note one reply by which the endpoint says that it has too much to do, to a request from `started_at`."""
        if started_at < self._cut_at:
            return  # the limit is lower already than the one under which this request started
        self._round.overloads += 1
        if self._round.overloads >= max(FEWEST_OVERLOADS, OVERLOADED_SHARE * self.limit):
            self.on_rate_limit(now)

    def _end_round(self, rate: float) -> None:
        if self._is_doubling:
            self._end_doubling_round(rate)
        elif self.limit < self._recover_to:
            self.limit = min(self._recover_to, max(self.limit + 1, int(self.limit * RECOVERY)))
            self._previous_limit, self._previous_rate = self.limit, 0.0
        elif self.limit > self._previous_limit:
            self._end_probe(rate)
        else:
            self._previous_rate = max(rate, 0.9 * self._previous_rate)
            self._rounds_held += 1
            if self._rounds_held >= ROUNDS_BETWEEN_PROBES:
                self.limit = min(self._largest, max(self.limit + 1, int(self.limit * PROBE)))

    def _end_doubling_round(self, rate: float) -> None:
        if rate < WORTHWHILE_GAIN * self._previous_rate:
            self._is_doubling = False
            self.limit = self._previous_limit
            return
        self._previous_limit, self._previous_rate = self.limit, rate
        self.limit = min(self._largest, 2 * self.limit)
        self._is_doubling = self.limit > self._previous_limit

    def _end_probe(self, rate: float) -> None:
        if rate < PROBE_GAIN * self._previous_rate:
            self.limit = self._previous_limit
        else:
            self._previous_limit, self._previous_rate = self.limit, rate
        self._rounds_held = 0
