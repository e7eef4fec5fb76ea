"""The rate that an endpoint grants without telling, inferred from what it refuses; arithmetic only.

What passes in is word of every start and of every refusal, with the clock's time; what comes out is a pace.

Between two refusals whatever stores allowance is as empty as before, so what was let in between them is what came in:
its rate is the endpoint's, the better known the more it were. After a while in which nothing was let in (a window was
full), what the last minute let in is the allowance. The pace starts a little below the rate and grows while it is what
holds requests back, slowly where the rate is well known, so that the limit is met seldom; past it, faster and faster,
since then the limit is gone. A refusal may also mean that too many are in flight: only one that met far fewer than an
earlier one is taken for a rate's. After a burst one request asks first, and the others follow at a growing pace, so
that the next refusal meets few. It does not know how long the endpoint asks to wait, and who does.
"""

import math
from collections import deque

from batchchat.send.pace import Pace

WINDOW_S = 60.0
MARK_S = 0.5
"""Starts are counted in steps of this."""
BELOW = 0.985
FEWER = 0.9
GROWTH = 0.03
"""Share by which the pace grows while it is tested once: in `SLOWLY_S`, or as many requests as it is known from."""
SLOWLY_S = 20.0
SLOWLY_REQUESTS = 800
QUICKLY_S = 1.0
"""Seconds in which it grows by that share at the soonest."""
FASTEST_GROWTH = 0.5
"""Share by which it grows in a second at most, however long no refusal came."""
RECENT_S = 2.0
STRAGGLERS = 2
ISOLATED_SHARE = 0.25
WELL_KNOWN = 100
"""Requests let in from which a rate follows within a few per cent."""
HARDLY_LESS = 0.7
FEWEST_REQUESTS = 8
BEYOND = 1.06
"""Share of the rate from which on the pace grows twice as fast, again and again: what is known is no longer true."""
GONE = 4.0
"""Times the rate at which there is no limit any more."""
BLOCKED_S = 3.0
CANARY_TRIPS = 2.0
SHORTEST_TRIP_S = 0.01
LONGEST_TRIP_S = 0.5


class Inferred:
    """One run's knowledge; `requests_per_minute` is None until it is well known."""

    def __init__(self, requests_per_minute: float | None = None) -> None:
        self.pace: Pace | None = None
        self.requests_per_minute: float | None = None
        self._started = 0
        self._refused = self._refused_before = 0
        self._minute: deque[tuple[float, int]] = deque(maxlen=int(2 * WINDOW_S / MARK_S) + 2)
        self._next_mark_at = -math.inf
        self._level = 0
        self._bursts: deque[tuple[float, int]] = deque(maxlen=32)  # when each came, and what had been let in
        self._burst_at = -math.inf
        self._is_rate = False
        self._trip_s = SHORTEST_TRIP_S
        self._canary = 0  # since the burst: 0 none, 1 the first request, more: those that follow
        self._closed_until = -math.inf
        self._rate = self._faster_at = 0.0
        self._growth = 0.0
        self._known_from = 0
        self._open_since = math.inf
        if requests_per_minute:
            self._set(requests_per_minute / 60.0, SLOWLY_REQUESTS)

    def opens_at(self) -> float:
        """Return the moment from which the next request may start."""
        return self._closed_until if self.pace is None else max(self._closed_until, self.pace.opens_at())

    def lately(self, now: float) -> tuple[int, float]:
        """Return how many were let in during the last minute, and since when that is."""
        if not self._minute:
            return 0, now
        count, took_s = self._since(now - WINDOW_S, now)
        return count, now - took_s

    def forget(self) -> None:
        """Drop the pace: it is told, or gone."""
        self.pace = self.requests_per_minute = None
        self._bursts.clear()
        self._level = 0

    def on_start(self, now: float) -> None:
        """Count a request that starts."""
        if self._canary:
            self._follow_canary(now)
        self._started += 1
        if now >= self._next_mark_at:
            self._open_since = min(self._open_since, now)
            self._minute.append((now, self._started - self._refused - 1))
            self._next_mark_at = now + MARK_S
        pace = self.pace
        if pace is not None:
            is_binding = pace.opens_at() >= now - pace.seconds_per_unit
            pace.take(now, 1)
            if is_binding and not self._canary:
                self._grow(pace, now)

    def on_refusal(self, started_at: float, now: float, in_flight: int, *, is_new: bool) -> bool:
        """Note a request that was turned away; return whether that is for a rate. `is_new`: a burst begins with it.

        `in_flight` were under way as it started; 0 where their number cannot be what the endpoint objects to.
        """
        self._refused += 1
        if not is_new:
            return self._is_rate
        self._trip_s = min(LONGEST_TRIP_S, max(SHORTEST_TRIP_S, now - started_at))
        self._closed_until = now + CANARY_TRIPS * self._trip_s  # until then, replies to what had started still come
        is_rate = in_flight == 0 or in_flight < FEWER * self._level or self.requests_per_minute is not None
        if self._canary == 2:  # the canary itself: it is still the same burst
            self._is_rate |= is_rate
        else:
            self._burst_at, self._is_rate, self._refused_before = started_at, is_rate, self._refused - 1
        if not self._is_rate and self._level and in_flight <= self._level / FEWER:  # as many as once before
            self._canary, self._closed_until = 0, -math.inf
            return False
        self._level = max(in_flight, self._level) if self._is_rate else in_flight
        self._canary = 1
        return self._is_rate

    def _follow_canary(self, now: float) -> None:
        """Learn as the first request after a burst starts, and again as the next does: the first was let in."""
        if self._canary == 1:
            self._learn(now)
        elif self._canary == 2 and now - self._burst_at >= BLOCKED_S:
            self._unblock(now)
        trips = CANARY_TRIPS if self._canary == 1 else 1.0 / self._canary
        self._closed_until = now + trips * self._trip_s
        self._canary += 1
        if trips * self._trip_s < (self.pace.seconds_per_unit if self.pace else SHORTEST_TRIP_S / 100):
            self._canary = 0

    def _learn(self, now: float) -> None:
        let_in = self._started - self._refused
        if self._bursts and let_in <= self._bursts[-1][1] + STRAGGLERS:
            self._burst_at = self._bursts[-1][0]  # it has not let in since, but for what just fitted
            return
        before = self._base(let_in)
        if not self._is_rate:
            self._bursts.clear()
        if before is None or not self._is_rate:
            count, took_s = self._since(self._burst_at - 1.0, self._burst_at)
            if self.pace is None or count / took_s * self.pace.seconds_per_unit < 1.0:
                self._set(count / took_s, FEWEST_REQUESTS)
        elif let_in - before[1] < FEWEST_REQUESTS:
            return  # too few to tell anything
        else:
            # What was let in on average is less than the rate where some was left unused, and the rate at which it was
            # refused at last is more than it.
            count = let_in - before[1]
            if self._is_isolated(self._refused - self._refused_before):
                self._step_back()
                self._bursts.append((self._burst_at, let_in))
                return
            least = count / max(self._burst_at - before[0], 1e-3)
            recent, took_s = self._since(self._burst_at - RECENT_S, self._burst_at)
            self._follow(math.sqrt(least * max(least, recent / took_s)), count)
        self._bursts.append((self._burst_at, let_in))

    def _is_isolated(self, refused: int) -> bool:
        """Whether a burst was so small that it says nothing of a limit, or no more than that it is near."""
        count, took_s = self._since(self._burst_at - RECENT_S, self._burst_at)
        return self.pace is not None and refused <= ISOLATED_SHARE * count / took_s * self._trip_s

    def _step_back(self) -> None:
        assert self.pace is not None
        self.pace.set_rate(BELOW * self.pace.units_per_minute)

    def _follow(self, rate: float, count: int) -> None:
        """Take a rate that was measured, unless it is no more than a disturbance of one that is known better."""
        may_be = rate * (1.0 + 2.0 / math.sqrt(count))
        if count < WELL_KNOWN <= self._known_from and may_be > HARDLY_LESS * self._rate:
            self._set(self._rate, self._known_from)
        else:
            self._set(rate, count)

    def _base(self, let_in: int) -> tuple[float, int] | None:
        """Return the latest burst since which enough was let in; failing that, the first of the last minute."""
        base = None
        for burst in reversed(self._bursts):
            if burst[0] < self._burst_at - WINDOW_S and base is not None:
                break
            base = burst
            if let_in - burst[1] >= WELL_KNOWN:
                break
        return base

    def _unblock(self, now: float) -> None:
        """Take what was let in since it last opened for the allowance of that time: in much of it nothing was."""
        span_s = now - self._open_since
        if span_s > 2 * WINDOW_S:
            span_s = max(WINDOW_S, now - self._burst_at + WINDOW_S / 2)
        self._open_since = now
        count, took_s = self._since(now - span_s, now)
        if count >= FEWEST_REQUESTS and (self.pace is None or count / took_s * self.pace.seconds_per_unit < 1.0):
            self._set(count / took_s, count)
        self._bursts.clear()
        self._bursts.append((now, self._started - self._refused))
        self._burst_at = now

    def _grow(self, pace: Pace, now: float) -> None:
        pace.set_rate(pace.units_per_minute / (1.0 - self._growth))
        rate = 1.0 / pace.seconds_per_unit
        if rate > self._faster_at:
            self._faster_at = BEYOND * rate
            self._growth = min(2.0 * self._growth, FASTEST_GROWTH / rate)
            if rate > GONE * self._rate and now - self._burst_at > WINDOW_S:
                self.forget()

    def _since(self, moment: float, now: float) -> tuple[int, float]:
        """Return how many were let in since a moment, and how many seconds that are."""
        let_in = self._started - self._refused
        at, count = next((mark for mark in self._minute if mark[0] >= moment), (now, let_in))
        return max(1, let_in - count), max(now - at, SHORTEST_TRIP_S)

    def _set(self, rate: float, count: int) -> None:
        """Go on a little below a rate that is known from so many requests."""
        self._rate, self._faster_at, self._known_from = rate, BEYOND * rate, count
        start = rate * max(0.5, BELOW - 1.0 / max(count, 1))
        slowly = max(SLOWLY_S * start, SLOWLY_REQUESTS)
        share = max(GROWTH, 1.0 / max(count, FEWEST_REQUESTS))
        self._growth = min(FASTEST_GROWTH / start, share / max(min(count, slowly), FEWEST_REQUESTS, QUICKLY_S * start))
        if self.pace is None:
            self.pace = Pace(60.0 * start, margin=1.0)
        self.pace.set_rate(60.0 * start)
        self.requests_per_minute = 60.0 * rate if count >= WELL_KNOWN else None
