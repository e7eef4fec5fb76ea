"""Keep the limits of requests and tokens a minute exactly; the caller passes the time in.

A log of the last minute, not a leaking bucket: in no window of 60 s is more let in than the limit, and the whole limit
may come at once. A request that comes a moment too early is let in at the right instant instead of being refused, so
that a client which paces evenly at exactly the limit is not refused for a millisecond of jitter.
"""

from collections import deque
from dataclasses import dataclass

WINDOW_S = 60.0
# What counts as a moment: longer than a scheduler's jitter, and shorter than anyone would call a wait.
HOLD_S = 0.1


class SlidingWindow:
    """What was let in during the last minute, and how much more fits."""

    def __init__(self, limit_per_minute: float) -> None:
        self._limit = max(limit_per_minute, 1.0)
        # Less than one a minute is one in more than a minute.
        self._window_s = WINDOW_S * max(1.0, 1.0 / limit_per_minute)
        self._entries: deque[tuple[float, float]] = deque()
        self._used = 0.0

    def fits_ever(self, amount: float) -> bool:
        """Tell whether the amount is within the limit at all."""
        return amount <= self._limit

    def free_at(self, now: float, amount: float) -> float:
        """Return the first instant, not before `now`, at which the amount fits."""
        self._forget(now)
        excess = self._used + amount - self._limit
        if excess <= 0:
            return now
        for at, taken in self._entries:
            excess -= taken
            if excess <= 0:
                return at + self._window_s
        return now + self._window_s

    def take(self, at: float, amount: float) -> None:
        """Count the amount as let in at `at`, which is not before anything taken so far."""
        self._entries.append((at, amount))
        self._used += amount

    def _forget(self, now: float) -> None:
        while self._entries and self._entries[0][0] + self._window_s <= now:
            self._used -= self._entries.popleft()[1]


@dataclass(frozen=True, slots=True)
class QuotaDecision:
    """Let in at the instant `at` when `is_admitted`; else that is when to come again."""

    is_admitted: bool
    at: float


class Quota:
    """The limits of one server; None is no limit."""

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        self._requests = SlidingWindow(requests_per_minute) if requests_per_minute else None
        self._tokens = SlidingWindow(tokens_per_minute) if tokens_per_minute else None
        self._last_at = float("-inf")

    def fits_ever(self, tokens: int) -> bool:
        """Tell whether a request of so many tokens can be let in at any time."""
        return self._tokens is None or self._tokens.fits_ever(tokens)

    def admit(self, now: float, tokens: int) -> QuotaDecision:
        """Let a request in, at once or within `HOLD_S`, or say when it would fit; a refused one costs nothing."""
        # Nobody overtakes a request that is held: the log stays in order, so it can be summed from its old end.
        at = max(now, self._last_at) if self._requests or self._tokens else now
        if self._requests:
            at = max(at, self._requests.free_at(now, 1))
        if self._tokens:
            at = max(at, self._tokens.free_at(now, tokens))
        if at - now > HOLD_S:
            return QuotaDecision(is_admitted=False, at=at)
        self._last_at = at
        if self._requests:
            self._requests.take(at, 1)
        if self._tokens:
            self._tokens.take(at, tokens)
        return QuotaDecision(is_admitted=True, at=at)
