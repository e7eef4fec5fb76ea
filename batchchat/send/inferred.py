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

from batchchat.send.chance import FEWEST, QUIET_SHARE, Chance
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
FEW_AT_ONCE = 3
ISOLATED_BELOW = 0.35
LET_GO = 2.0
MANY_AT_ONCE = 32
TRIAL, SECOND_TRIAL = 0.5, 0.65
FELL = 0.6
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
        self._most_at_once = math.inf
        self._trip_s = SHORTEST_TRIP_S
        self._canary = 0  # since the burst: 0 none, 1 the first request, more: those that follow
        self._closed_until = -math.inf
        self._rate = self._faster_at = 0.0
        self._growth = 0.0
        self._known_from = 0
        self._open_since = math.inf
        self._chance = Chance()
        self._after_trial: float | None = None  # the pace, a minute, that a trial for chance interrupts
        self._counted = (0, 0)  # what had started and was refused at the last trial
        self._is_first, self._is_second = True, False
        self._trial_rate = 0.0
        self._tried_rate = math.inf  # at which chance was ruled out
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
        self._level = self._canary = 0
        self._tried_rate, self._counted = math.inf, (self._started, self._refused)
        self._closed_until = -math.inf

    def on_start(self, now: float) -> None:
        """Count a request that starts."""
        if self._canary:
            self._follow_canary(now)
        self._started += 1
        if now >= self._next_mark_at:
            self._open_since = min(self._open_since, now)
            self._minute.append((now, self._started - self._refused - 1))
            self._next_mark_at = now + MARK_S
        trial_until = self._chance.trial_until
        if trial_until and self._started > trial_until:
            self._end_trial()
        pace = self.pace
        if pace is not None:
            is_binding = pace.opens_at() >= now - pace.seconds_per_unit
            pace.take(now, 1)
            if is_binding and not (self._canary or trial_until):
                self._grow(pace, now)

    def is_chance(self, started_at: float, now: float, in_flight: int) -> bool:
        """Whether the refusal of a request that started since the last burst has nothing to do with how much is asked.

        Where it has not, it is counted; otherwise `on_refusal` must follow.
        """
        is_tried = self._chance.trial_until > 0
        unheard = (now - started_at) / self.pace.seconds_per_unit if self.pace else 0.0
        is_chance = self._chance.allows(self._started, in_flight, unheard, now)
        self._refused += is_chance
        if is_tried and not self._chance.trial_until:
            self._judge_trial(is_chance=is_chance)
        return is_chance

    @property
    def is_noisy(self) -> bool:
        """Whether the endpoint is known to refuse some requests by chance."""
        return self._chance.share > 0.0

    def on_refusal(self, started_at: float, now: float, in_flight: int, *, is_new: bool) -> bool:
        """Note a request that was turned away; return whether that is for a rate. `is_new`: a burst begins with it.

        `in_flight` were under way as it started; 0 where their number cannot be what the endpoint objects to.
        """
        self._refused += 1
        if not is_new:
            if self._refused - self._refused_before > self._most_at_once:
                self._is_rate, self._canary, self._most_at_once = True, 1, math.inf
                self._closed_until = now + CANARY_TRIPS * self._trip_s
            return self._is_rate
        self._trip_s = min(LONGEST_TRIP_S, max(SHORTEST_TRIP_S, now - started_at))
        self._closed_until = now + CANARY_TRIPS * self._trip_s  # until then, replies to what had started still come
        is_rate = in_flight == 0 or in_flight < FEWER * self._level or self.requests_per_minute is not None
        if self._canary == 2:  # the canary itself: it is still the same burst
            self._is_rate |= is_rate
        else:
            self._burst_at, self._is_rate, self._refused_before = started_at, is_rate, self._refused - 1
        if not self._is_rate:
            self._level, self._canary, self._closed_until = in_flight, 0, now + self._trip_s
            self._most_at_once = max(MANY_AT_ONCE, self._recent_rate() * self._trip_s)
            self._suspect_chance(now)
            return False
        self._level, self._canary, self._most_at_once = max(in_flight, self._level), 1, math.inf
        return True

    def _follow_canary(self, now: float) -> None:
        """Learn as the first request after a burst starts, and again as the next does: the first was let in."""
        if self._canary == 1:
            self._learn(now)
            self._suspect_chance(now)
        elif self._canary == 2 and now - self._burst_at >= BLOCKED_S:
            self._unblock(now)
        trips = CANARY_TRIPS if self._canary == 1 else 1.0 / self._canary
        self._closed_until = now + trips * self._trip_s
        self._canary += 1
        if trips * self._trip_s < (self.pace.seconds_per_unit if self.pace else SHORTEST_TRIP_S / 100):
            self._canary = 0

    def _suspect_chance(self, now: float) -> None:
        """Try half the pace, where a burst so soon after another was hardly one."""
        since, refused = self._started - self._counted[0], self._refused - self._counted[1]
        at_once, rate = self._refused - self._refused_before, self._recent_rate()
        is_first, self._is_first = self._is_first, False
        if (
            is_first
            or since < FEWEST
            or refused < QUIET_SHARE * since
            or at_once > max(FEW_AT_ONCE, ISOLATED_BELOW * rate * self._trip_s)
        ):
            return
        if (1.0 / self.pace.seconds_per_unit if self.pace else rate) > FELL * self._tried_rate:
            return
        self._tried_rate, self._is_second = rate, False
        self._after_trial = self.pace.units_per_minute if self.pace else None
        self._try(TRIAL * rate, (refused - math.sqrt(refused)) / since)

    def _end_trial(self) -> None:
        self._chance.end_trial()
        self._resume()
        if self._is_second:
            self._tried_rate = math.inf  # the two trials contradict each other
        self._counted = self._started, self._refused

    def _judge_trial(self, *, is_chance: bool) -> None:
        """Try once more where it looks like chance: stored allowance can hide a limit from one trial."""
        self._counted = self._started, self._refused
        if is_chance and not self._is_second:
            self._is_second = True
            self._try(SECOND_TRIAL * self._trial_rate, self._chance.share)
            return
        self._resume()
        rate, self._tried_rate = self._tried_rate, math.inf
        if is_chance:
            self._let_go(rate)

    def _try(self, rate: float, share: float) -> None:
        self._trial_rate = rate
        if self.pace is None:
            self.pace = Pace(60.0 * rate, margin=1.0)
        self.pace.set_rate(60.0 * rate)
        self._chance.begin_trial(self._started, share, rate)

    def _let_go(self, rate: float) -> None:
        """Forget the pace, but leave it by degrees: the verdict may be wrong."""
        self.forget()
        self._rate, self._faster_at, self._growth = rate, math.inf, min(FASTEST_GROWTH, LET_GO / rate)
        self.pace = Pace(60.0 * rate, margin=1.0)

    def _resume(self) -> None:
        if self._after_trial is None:
            self.pace = None
        elif self.pace is not None:
            self.pace.set_rate(self._after_trial)

    def _recent_rate(self) -> float:
        count, took_s = self._since(self._burst_at - RECENT_S, self._burst_at)
        return count / took_s

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
            self._follow(math.sqrt(least * max(least, self._recent_rate())), count)
        self._bursts.append((self._burst_at, let_in))

    def _is_isolated(self, refused: int) -> bool:
        """Whether a burst was so small that it says nothing of a limit, or no more than that it is near."""
        return self.pace is not None and refused <= ISOLATED_SHARE * self._recent_rate() * self._trip_s

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
        self._is_first, self._counted = True, (self._started, self._refused)  # a window was full: that is no chance
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
        if self._faster_at == math.inf:  # it is being let go
            self._growth = min(FASTEST_GROWTH, LET_GO / rate)
            if rate > GONE**3 * self._rate:
                self.forget()
        elif rate > self._faster_at:
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
