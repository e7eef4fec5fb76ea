"""Requests and tokens a minute: reserve, settle, learn.

A limit that the job gives wins over what the endpoint tells; what the endpoint does in fact refuse counts beside both.
"""

import math
from dataclasses import dataclass, replace

from batchchat.records import Settled, Usage
from batchchat.send.limits.inferred_rate import InferredRate
from batchchat.send.limits.leaky_bucket import LeakyBucket
from batchchat.send.limits.token_estimate import TokenEstimate

TOKENS_CATCH_UP_S = 0.5
"""Seconds of tokens that may be made up for: what is given back in lumps would be lost otherwise."""
TOKENS_MARGIN = 0.97
"""Share of the tokens' allowance that is used: completions are known only when they are there."""
TRUSTED_S = 10.0
"""Seconds for which an earlier run's limits hold although the endpoint neither tells nor refuses anything."""
WINDOW_SIGN = 1.5
"""A budget that is to be whole again faster than it can be earned comes back all at once, when a window ends."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What an endpoint tells of its limits for this key and model; None is what it does not tell.

    `_left` is what remains of the budget of the present minute, `_reset_s` the seconds until it is whole again.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    requests_left: float | None = None
    tokens_left: float | None = None
    requests_reset_s: float | None = None
    tokens_reset_s: float | None = None


class RateLimits:
    """The two allowances, each given by the job, told by the endpoint, or absent; and what refusals show.

    `before` is what an earlier run learned; the endpoint's first word replaces it.
    """

    def __init__(
        self, requests_per_minute: float | None, tokens_per_minute: float | None, before: Settled | None = None
    ) -> None:
        before = before or Settled()
        self._are_given = (requests_per_minute is not None, tokens_per_minute is not None)
        self._requests = LeakyBucket(requests_per_minute) if requests_per_minute else None
        self._tokens = _token_pace(tokens_per_minute) if tokens_per_minute else None
        self._told = Allowance()
        self._inferred = InferredRate(None if requests_per_minute else before.requests_per_minute)
        self._estimate = TokenEstimate(before)
        self._remembers_requests = not requests_per_minute and before.requests_per_minute is not None
        self._remembers_tokens = not tokens_per_minute and before.tokens_per_minute is not None
        self._trusts_until = math.inf
        if not self._tokens and before.tokens_per_minute:
            self._tell_tokens(before.tokens_per_minute)

    @property
    def counts_tokens(self) -> bool:
        """Whether a request's tokens matter."""
        return self._tokens is not None

    def opens_at(self) -> float:
        """Return the monotonic time before which no request may start."""
        opens_at = -math.inf if self._requests is None else self._requests.opens_at()
        tokens_at = -math.inf if self._tokens is None else self._tokens.opens_at()
        inferred_at = self._inferred.opens_at()
        if self._remembers_tokens:
            tokens_at = min(tokens_at, self._trusts_until)
        if self._remembers_requests:
            inferred_at = min(inferred_at, self._trusts_until)
        return max(opens_at, tokens_at, inferred_at)

    def reserve(self, now: float, body_bytes: int, max_tokens: int | None = None) -> float:
        """Take one request and its estimated tokens; return the tokens reserved.

        `body_bytes` are sent, media included; `max_tokens` is what the request allows its completion.
        """
        if self._remembers_requests or self._remembers_tokens:
            self._trust(now)
        self._inferred.on_start(now)
        if self._requests:
            self._requests.take(now, 1)
        if not self._tokens:
            return 0.0
        tokens = self._estimate.tokens(body_bytes, max_tokens)
        self._tokens.take(now, tokens)
        return tokens

    def _trust(self, now: float) -> None:
        """Let go of what an earlier run learned, unless this one has met it within its first seconds."""
        self._trusts_until = min(self._trusts_until, now + TRUSTED_S)
        if now < self._trusts_until:
            return
        if self._remembers_tokens:
            self._tokens, self._told = None, replace(self._told, tokens_per_minute=None)
        if self._remembers_requests:
            self._inferred.forget()
        self._remembers_requests = self._remembers_tokens = False

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

    def is_chance(self, started_at: float, now: float, in_flight: int) -> bool:
        """Whether a rate limit that begins a burst has nothing to do with how much is asked; if not, it is counted."""
        return self._inferred.is_chance(started_at, now, in_flight)

    @property
    def is_noisy(self) -> bool:
        """Whether the endpoint is known to refuse some requests by chance."""
        return self._inferred.is_noisy

    def on_refusal(self, started_at: float, now: float, in_flight: int, *, is_new: bool) -> bool:
        """Note a rate limit; return whether it is taken for a rate's, and not for the number of requests in flight.

        `is_new` says that a burst begins with it, `in_flight` what was under way as it started: 0 for a number that
        cannot be what the endpoint objects to.
        """
        self._remembers_requests = self._remembers_tokens = False  # they are as real as ever
        return self._inferred.on_refusal(started_at, now, in_flight, is_new=is_new)

    def note(self, told: Allowance, now: float) -> None:
        """Follow what the endpoint tells of its limits, where the job gives none."""
        requests_are_given, tokens_are_given = self._are_given
        if told.requests_per_minute and not requests_are_given:
            self._remembers_requests = False
            self._tell_requests(told.requests_per_minute, now)
            _hold_back(
                self._requests,
                told.requests_per_minute,
                left=told.requests_left,
                reset_s=told.requests_reset_s,
                now=now,
            )
        if told.tokens_per_minute and not tokens_are_given:
            self._remembers_tokens = False
            self._tell_tokens(told.tokens_per_minute)
            _hold_back(
                self._tokens, told.tokens_per_minute, left=told.tokens_left, reset_s=told.tokens_reset_s, now=now
            )

    def _tell_requests(self, per_minute: float, now: float) -> None:
        if per_minute == self._told.requests_per_minute:
            return
        self._told = replace(self._told, requests_per_minute=per_minute)
        if self._requests is None:
            self._requests = LeakyBucket(per_minute)
            count, since = self._inferred.lately(now)
            self._requests.wait_until(since + count * self._requests.seconds_per_unit)  # as if known from the start
            self._inferred.forget()
        self._requests.set_rate(per_minute)

    def _tell_tokens(self, per_minute: float) -> None:
        if per_minute == self._told.tokens_per_minute:
            return
        self._told = replace(self._told, tokens_per_minute=per_minute)
        if self._tokens is None:
            self._tokens = _token_pace(per_minute)
        self._tokens.set_rate(per_minute)

    @property
    def binding(self) -> str:
        """The limit that opens last, in words; empty where there is none."""
        paces = [pace for pace in (self._requests, self._tokens, self._inferred.pace) if pace]
        if not paces:
            return ""
        last = max(paces, key=LeakyBucket.opens_at)
        requests_are_given, tokens_are_given = self._are_given
        if last is self._inferred.pace:
            about = float(f"{60.0 / last.seconds_per_unit:.2g}")
            return f"the endpoint's limit of about {about:,.12g} requests/min"
        if last is self._tokens:
            if tokens_are_given:
                return f"limits.tokens_per_minute: {self._tokens.units_per_minute:,.12g}"
            return f"the endpoint's {self._tokens.units_per_minute:,.12g} tokens/min"
        if requests_are_given:
            return f"limits.requests_per_minute: {last.units_per_minute:,.12g}"
        return f"the endpoint's {last.units_per_minute:,.12g} requests/min"

    def settled(self) -> Settled:
        """Return what the next run can start from; the number of requests in flight is not known here."""
        return Settled(
            None,
            requests_per_minute=self._told.requests_per_minute or self._inferred.requests_per_minute,
            tokens_per_minute=self._told.tokens_per_minute,
            bytes_per_token=self._estimate.bytes_per_token,
            completion_tokens=self._estimate.completion_tokens,
        )


def _token_pace(per_minute: float) -> LeakyBucket:
    return LeakyBucket(per_minute, catch_up_s=TOKENS_CATCH_UP_S, margin=TOKENS_MARGIN)


def _hold_back(
    pace: LeakyBucket | None, per_minute: float, left: float | None, reset_s: float | None, now: float
) -> None:
    """Wait, where what is left of a window would not last until its end; a bucket that refills all the time lasts."""
    if pace is None or left is None or not reset_s:
        return
    if (per_minute - left) / reset_s > WINDOW_SIGN * per_minute / 60.0:
        pace.wait_until(now + reset_s - max(0.0, left) * pace.seconds_per_unit)
