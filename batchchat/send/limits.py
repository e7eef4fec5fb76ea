"""Requests and tokens a minute: reserve, settle, learn; arithmetic only.

What passes in is `now`, in seconds of any steady clock; what comes out is the moment from which a request may start.
It does not wait, and knows neither requests nor replies.
"""

import math
from dataclasses import dataclass

from batchchat.records import Usage

MARGIN = 0.99
"""Share of an allowance that is used: the endpoint's clock and the network's delays are not ours."""

CATCH_UP_S = 0.05
"""Seconds of allowance that may be made up for at once after the loop was busy; more would be a burst."""

_FIRST_BYTES_PER_TOKEN = 4.0
_FIRST_COMPLETION_TOKENS = 256.0
_SMOOTHING = 0.05


class Pace:
    """Spreads an allowance of units a minute evenly (the generic cell rate algorithm), with no burst at the start.

    In any 60 s, units taken one by one never exceed the allowance; larger takes exceed it by one take at most.
    """

    def __init__(self, units_per_minute: float) -> None:
        self._seconds_per_unit = 60.0 / (units_per_minute * MARGIN)
        self._free_at = -math.inf

    def opens_at(self) -> float:
        """Return the moment from which the next units may be taken."""
        return self._free_at

    def take(self, now: float, units: float) -> None:
        """Reserve units from `now` on."""
        self._free_at = max(self._free_at, now - CATCH_UP_S) + units * self._seconds_per_unit

    def give_back(self, units: float) -> None:
        """Settle a reservation that was too high (or, with negative units, too low)."""
        self._free_at -= units * self._seconds_per_unit


@dataclass(slots=True)
class TokenEstimate:
    """What a request will cost in tokens, learned from the usage of this job's own replies."""

    bytes_per_token: float = _FIRST_BYTES_PER_TOKEN
    completion_tokens: float = _FIRST_COMPLETION_TOKENS

    def tokens(self, body_bytes: int) -> float:
        """Return the tokens to reserve for a request: its prompt by size, its completion by the mean so far."""
        return body_bytes / self.bytes_per_token + self.completion_tokens

    def learn(self, body_bytes: int, usage: Usage) -> None:
        """Follow a reply's usage; what it does not report teaches nothing."""
        if usage.prompt_tokens:
            self.bytes_per_token += _SMOOTHING * (body_bytes / usage.prompt_tokens - self.bytes_per_token)
        if usage.completion_tokens is not None:
            self.completion_tokens += _SMOOTHING * (usage.completion_tokens - self.completion_tokens)


class RateLimits:
    """A job's two allowances; either may be absent."""

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        self._requests = Pace(requests_per_minute) if requests_per_minute else None
        self._tokens = Pace(tokens_per_minute) if tokens_per_minute else None
        self._estimate = TokenEstimate()

    def opens_at(self) -> float:
        """Return the moment from which a request may start."""
        return max(pace.opens_at() if pace else -math.inf for pace in (self._requests, self._tokens))

    def reserve(self, now: float, body_bytes: int) -> float:
        """Take one request and its estimated tokens; return the tokens reserved."""
        if self._requests:
            self._requests.take(now, 1)
        if not self._tokens:
            return 0.0
        tokens = self._estimate.tokens(body_bytes)
        self._tokens.take(now, tokens)
        return tokens

    def give_back(self, reserved: float) -> None:
        """Return the tokens of a request that was turned away or never sent; the request itself stays counted."""
        if self._tokens:
            self._tokens.give_back(reserved)

    def settle(self, reserved: float, body_bytes: int, usage: Usage | None) -> None:
        """Replace a reservation by what the reply reports; None (no reply with usage) keeps it: it may have counted."""
        if not self._tokens or usage is None:
            return
        self._estimate.learn(body_bytes, usage)
        used = (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)
        if used:
            self._tokens.give_back(reserved - used)
