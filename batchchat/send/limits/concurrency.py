"""How many requests may be in flight: starts low, finds the endpoint's own limit, follows it.

It looks at rounds, each as many replies as the limit was when it began. While a larger limit brings more requests or
tokens a second it grows by one for each reply, so it doubles each round; where it brings no more, it goes back to the
knee and is held, and probed from time to time: upwards, or downwards where requests seem to queue at the endpoint.
Delivered throughput decides: a latency that rises slows the growth, and suggests a lower limit, but a batching
endpoint's rises as well.

A burst of rate limits cuts the limit by a fifth, once, and not below what works; it then grows back to just below the
number in flight that was refused. A round of which a fifth meets an overloaded endpoint counts as such a burst. Rounds
in which something else held requests back (the input, a rate limit) say nothing.
"""

import math
import sys
from dataclasses import dataclass
from enum import Enum
from typing import Literal

FIRST_LIMIT = 8
MOST_AT_ONCE = 512
"""A remembered limit is not trusted with more at the very start; the rest follows within a few rounds."""
REMEMBERED_SHARE = 0.8
CUT = 0.8
BELOW_WALL = 0.98
"""Share of the number in flight that was refused at which the limit is held after a cut."""
ABOVE_WALL = 1.02
HEADROOM = 1.1
"""What is held above the knee: requests that wait at the endpoint while answers are on their way and are committed."""
WORTHWHILE = 0.2
"""Least growth of the throughput, as a power of the limit's: a doubling must bring 15 %."""
NEARLY_ALL = 1.2
"""Throughput at the knee, relative to that at a lower limit, for which the lower one may count as the knee."""
LEAST_STEP = 1.4
SURE_REPLIES = 96
"""Rounds that look flat may do so by chance, and are only believed when they have brought so many replies together."""
SLOWED = 1.5
"""Latency, relative to the round before, above which the limit does not grow within a round."""
PROBE = 1.25
SMALL_PROBE = 1.5
SMALL_LIMIT = 64
PROBE_GAIN = 0.4
"""Share of a probe's step by which the throughput must grow for the limit to go on from there."""
PROBE_REPLIES = 256
QUEUEING = 1.35
"""Share of the limit above what the shortest latency explains, from which on a lower limit is tried."""
CONGESTED = 3.0
"""Times the shortest latency at which a lower limit is tried at once."""
DEEPEST_PROBE = 0.7
PROBE_LOSS = 0.95
FEWEST_ROUNDS_HELD = 4
MOST_ROUNDS_HELD = 64
ROUNDS_AT_WALL = 16
"""Rounds after a cut before more is tried: there it costs refusals."""
SHORTEST_ROUND_S = 0.05
SATURATED_SHARE = 0.9
IN_USE_SHARE = 0.8
"""Share of the limit that must be in flight at a rate limit for the limit to have to do with it."""
HARDLY_FEWER = 0.97
OVERLOADED_SHARE = 0.2
FEWEST_OVERLOADS = 3
"""Replies of a round that must say that the endpoint is overloaded before the limit is cut: one may be chance."""


class Phase(Enum):
    """What the limit does: grow while that pays, stand at the knee, try another, or come back after a cut."""

    GROWING = "growing"
    HOLDING = "holding"
    PROBING = "probing"
    RETURNING = "returning"


@dataclass(slots=True)
class Round:
    """The replies since `started_at`: it ends with `size` of them; `full` of them came while requests wanted slots."""

    size: int
    started_at: float
    replies: int = 0
    full: int = 0
    tokens: int = 0
    latency_s: float = 0.0
    overloads: int = 0


@dataclass(slots=True)
class Delivered:
    """What rounds at one limit brought together: `limit` is that at which the first of them began."""

    limit: int
    replies: int = 0
    tokens: int = 0
    latency_s: float = 0.0
    took_s: float = 0.0
    rounds: int = 0

    def add(self, this: Round, now: float) -> None:
        """Count a round that ends now."""
        self.replies += this.replies
        self.tokens += this.tokens
        self.latency_s += this.latency_s
        self.took_s += max(now - this.started_at, 1e-9)
        self.rounds += 1

    @property
    def rate(self) -> float:
        """Replies a second."""
        return self.replies / self.took_s

    @property
    def mean_latency_s(self) -> float:
        """Seconds from a request's start to its reply."""
        return self.latency_s / self.replies

    def gain_over(self, other: "Delivered") -> float:
        """Return the throughput relative to another's, in requests or in tokens a second, whichever grew more."""
        requests = self.rate / other.rate
        if not (self.tokens and other.tokens):
            return requests
        return max(requests, (self.tokens / self.took_s) / (other.tokens / other.took_s))


class Concurrency:
    """The limit on requests in flight; a number given by the user never changes, and `largest` bounds any other.

    `remembered` is what an earlier run settled at: this one starts a little below it and checks it.
    """

    def __init__(
        self,
        setting: Literal["auto"] | int,
        now: float,
        *,
        largest: int = sys.maxsize,
        remembered: int | None = None,
    ) -> None:
        self.is_fixed = setting != "auto"
        self.largest = largest
        self.limit: int = setting if setting != "auto" else _first_limit(largest, remembered)
        self._is_full = False
        self._round = Round(max(self.limit, FIRST_LIMIT), now)
        self._phase = Phase.RETURNING if remembered else Phase.GROWING
        self._grow_to = min(largest, remembered or 2 * self.limit)
        self._slow_s = math.inf
        self._before: Delivered | None = None  # the last round whose growth paid
        self._grown: list[Delivered] = []  # all of them
        self._flat_replies = 0
        self._held = Delivered(self.limit)
        self._anchor: Delivered | None = None  # where the limit was last held, while it is tried elsewhere
        self._probed = Delivered(self.limit)
        self._rounds_to_hold = FEWEST_ROUNDS_HELD
        self._rounds_to_skip = 0
        self._has_looked_up = self._was_congested = False
        self._is_unchecked = remembered is not None
        self._shortest_s = math.inf
        self._wall = math.inf  # in flight when a request was last refused
        self._works = 0
        self._cut_at = -math.inf

    @property
    def settled(self) -> int | None:
        """The limit that served best so far; None where it was given, or where slots never held requests back."""
        if self.is_fixed or not self._works:
            return None
        return min(self._works, self._anchor.limit) if self._anchor else self._works

    def on_full(self) -> None:
        """Note that a request is waiting for nothing but a slot."""
        self._is_full = True

    def on_free(self) -> None:
        """Note that something else than slots holds requests back."""
        self._is_full = False

    def on_reply(self, now: float, latency_s: float, tokens: int = 0) -> None:
        """Note one reply of any kind but a rate limit: the seconds that it took, the tokens that it used."""
        if self.is_fixed:
            return
        this = self._round
        took_s = now - this.started_at
        if took_s * this.replies >= this.latency_s and took_s >= SHORTEST_ROUND_S and this.replies >= FIRST_LIMIT:
            self._end_round(now)
            this = self._round
        this.replies += 1
        this.tokens += tokens
        this.latency_s += latency_s
        if self._is_full:
            this.full += 1
            if self.limit < self._grow_to and not self._is_slowed():
                self.limit += 1

    def on_rate_limit(self, now: float, in_flight: int | None = None) -> None:
        """Cut the limit; to be called once for each burst. `in_flight` were under way as the refused one started.

        Where these were far fewer than the limit allows, it is not their number that the endpoint objects to.
        """
        if self.is_fixed:
            return
        level = self.limit if in_flight is None else min(in_flight, self.limit)
        self._cut_at = now
        self._start_round(now)
        if not self.may_be_too_many(level):
            self._wall, self._rounds_to_hold = math.inf, FEWEST_ROUNDS_HELD
            return
        if self._phase is Phase.PROBING and self.limit > self._held.limit and level >= self._held.limit:
            self._wall = level
            self._hold_on()
        else:
            self._cut(level)
        self._start_round(now)

    def _cut(self, level: int) -> None:
        """Go below a number in flight that was refused, by a fifth but not below what works, and back to it."""
        is_lower = level < self._wall * CUT
        if level <= self._works:
            self._works = int(CUT * level)
        self._wall, share = level, BELOW_WALL if not is_lower and self._wall < math.inf else 1.0
        self.limit = max(1, self._works, int(CUT * level))
        self._phase, self._grow_to = Phase.RETURNING, max(min(FIRST_LIMIT, self.largest), int(share * level))
        self._anchor, self._is_unchecked = None, False
        self._rounds_to_hold = ROUNDS_AT_WALL

    def forget_refusals(self) -> None:
        """Grow again, where a cut ended that: what was refused was not for the number in flight."""
        if self.is_fixed or self._wall == math.inf:
            return
        self._wall, self._rounds_to_hold = math.inf, FEWEST_ROUNDS_HELD
        self._phase, self._before, self._grown, self._flat_replies = Phase.GROWING, None, [], 0
        self._anchor = None
        self._grow_to = min(self.largest, 2 * self.limit)

    def may_be_too_many(self, in_flight: int) -> bool:
        """Whether so many in flight may be what is refused: nearly all that are allowed, and not fewer than work."""
        return not self.is_fixed and in_flight >= max(IN_USE_SHARE * self.limit, HARDLY_FEWER * self._works)

    def on_overload(self, started_at: float, now: float) -> None:
        """Note one reply by which the endpoint says that it has too much to do, to a request from `started_at`."""
        if started_at < self._cut_at:
            return  # the limit is lower already than the one under which this request started
        self._round.overloads += 1
        if self._round.overloads >= max(FEWEST_OVERLOADS, OVERLOADED_SHARE * self.limit):
            self.on_rate_limit(now)

    def _is_slowed(self) -> bool:
        this = self._round
        return this.replies >= FIRST_LIMIT and this.latency_s > this.replies * self._slow_s

    def _start_round(self, now: float) -> None:
        self._round = Round(max(self.limit, FIRST_LIMIT), now)

    def _end_round(self, now: float) -> None:
        this = self._round
        if this.full < SATURATED_SHARE * this.replies:
            self._before = None
        elif self._rounds_to_skip:  # requests that started under another limit
            self._rounds_to_skip -= 1
        else:
            self._note_latency(this)
            self._judge(this, now)
        self._start_round(now)
        if self._phase is Phase.GROWING:
            self._grow_to = min(self.largest, max(self.limit, 2 * self._round.size))

    def _note_latency(self, this: Round) -> None:
        if self._phase is not Phase.PROBING or self.limit <= self._held.limit:
            self._works = max(self._works, min(this.size, self.limit)) if self._phase is Phase.GROWING else self.limit
        if this.replies >= SURE_REPLIES / 2 or self._shortest_s == math.inf:
            self._shortest_s = min(self._shortest_s, this.latency_s / this.replies)

    def _judge(self, this: Round, now: float) -> None:
        if self._phase is Phase.GROWING:
            self._judge_growth(this, now)
        elif self._phase is Phase.RETURNING:
            if self.limit >= self._grow_to:
                self._hold(self.limit)
        elif self._phase is Phase.PROBING:
            self._probed.add(this, now)
            if self._probed.rounds >= 2 and self._probed.replies >= min(PROBE_REPLIES, 8 * self.limit):
                self._end_probe()
        else:
            self._judge_hold(this, now)

    def _judge_hold(self, this: Round, now: float) -> None:
        if self._is_congested(this) != self._was_congested:  # it has become another endpoint than was measured
            self._was_congested = not self._was_congested
            self._held = Delivered(self.limit)
            return
        self._held.add(this, now)
        if self._was_congested or self._held.rounds >= self._rounds_to_hold:
            self._probe()

    def _is_congested(self, this: Round) -> bool:
        return self.limit > FIRST_LIMIT and this.latency_s > CONGESTED * this.replies * self._shortest_s

    # Growing

    def _judge_growth(self, this: Round, now: float) -> None:
        found = Delivered(this.size)
        found.add(this, now)
        self._slow_s = SLOWED * found.mean_latency_s
        before = self._before
        if before is None:
            self._before = found
            self._grown = [found]
            return
        ratio = found.limit / before.limit
        if ratio < LEAST_STEP and self.limit < self.largest:
            return
        gain = found.gain_over(before)
        if gain >= ratio**WORTHWHILE and self.limit < self.largest:
            self._before, self._flat_replies = found, 0
            self._grown.append(found)
            return
        self._flat_replies += this.replies
        if self._flat_replies >= SURE_REPLIES or self.limit >= self.largest:
            self._settle_at_knee(before, found, gain)

    def _settle_at_knee(self, before: Delivered, found: Delivered, gain: float) -> None:
        if gain >= max(1.0, found.limit / before.limit) ** WORTHWHILE:
            knee = float(self.limit)  # it is the largest limit that stops it
        else:
            gains = [(one.limit, found.gain_over(one)) for one in (*self._grown, found)]
            knee = HEADROOM * min(limit * max(1.0, gain) for limit, gain in gains if gain <= NEARLY_ALL)
        anchor = self._anchor
        if anchor is not None and found.gain_over(anchor) * PROBE_LOSS < 1.0:
            knee = min(knee, anchor.limit)
        self._hold(max(1, min(self.largest, math.ceil(knee))))

    # Holding and probing

    def _limit_to(self, limit: int) -> None:
        self.limit = self._grow_to = min(limit, self.largest)

    def _hold(self, limit: int) -> None:
        self._limit_to(limit)
        self._works = limit
        self._phase = Phase.HOLDING
        self._held, self._anchor = Delivered(limit), None
        self._before, self._flat_replies = None, 0
        self._rounds_to_skip = 1

    def _probe(self) -> None:
        """Try a limit above or below the one that is held."""
        held = self._held
        self._limit_to(self._next_limit())
        if self.limit == held.limit:
            self._hold_on()
            return
        self._phase, self._probed, self._anchor = Phase.PROBING, Delivered(self.limit), held
        self._rounds_to_skip = 1

    def _next_limit(self) -> int:
        held = self._held
        explained = held.rate * self._shortest_s
        has_queue = explained * QUEUEING < min(held.limit, held.latency_s / held.took_s)
        if self._is_unchecked:
            return max(min(FIRST_LIMIT, held.limit), int(held.limit * DEEPEST_PROBE))
        if has_queue and (self._has_looked_up or self._was_congested):
            self._has_looked_up = False
            return max(FIRST_LIMIT, int(held.limit * max(DEEPEST_PROBE, HEADROOM * explained / held.limit)))
        self._has_looked_up = True
        if held.limit >= self._wall * BELOW_WALL - 1:
            return max(held.limit + 1, math.ceil(self._wall * ABOVE_WALL))
        return max(held.limit + 1, int(held.limit * (PROBE if held.limit >= SMALL_LIMIT else SMALL_PROBE)))

    def _end_probe(self) -> None:
        held, probed = self._held, self._probed
        gain, step = probed.gain_over(held), probed.limit / held.limit
        if step < 1.0:
            if gain < PROBE_LOSS:
                self._is_unchecked = False
                self._shortest_s = max(self._shortest_s, probed.mean_latency_s)
                self._hold_on()
            else:
                self._rounds_to_hold = FEWEST_ROUNDS_HELD
                self._hold(probed.limit)
        elif probed.limit > self._wall or gain >= 1.0 + PROBE_GAIN * (step - 1.0):
            self._wall = math.inf
            self._phase, self._before, self._grown, self._flat_replies = Phase.GROWING, probed, [held, probed], 0
            self._slow_s = SLOWED * probed.mean_latency_s
            self._rounds_to_hold = FEWEST_ROUNDS_HELD
        else:
            self._hold_on()

    def _hold_on(self) -> None:
        """Go back to the limit that was held, for longer than the last time."""
        rounds = min(MOST_ROUNDS_HELD, 2 * self._rounds_to_hold)
        self._hold(self._held.limit)
        self._rounds_to_hold = rounds


def _first_limit(largest: int, remembered: int | None) -> int:
    start = min(MOST_AT_ONCE, int(REMEMBERED_SHARE * remembered)) if remembered else FIRST_LIMIT
    return min(largest, max(FIRST_LIMIT, start))
