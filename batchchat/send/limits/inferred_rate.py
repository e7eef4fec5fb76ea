"""The rate that an endpoint grants without telling, inferred from what it refuses.

Between two refusals whatever stores allowance is as empty as before, so what was let in between them is what came in:
its rate is the endpoint's, the better known the more it were. After a while in which nothing was let in (a window was
full), what the last minute let in is the allowance. The pace starts a little below the rate and grows while it is what
holds requests back, slowly where the rate is well known, so that the limit is met seldom; past it, faster and faster,
since then the limit is gone. A refusal may also mean that too many are in flight: only one that met far fewer than an
earlier one is taken for a rate's. After a burst one request asks first, and the others follow at a growing pace, so
that the next refusal meets few.

So nothing is known of a rate (`Unlimited`), or one is (`Paced`), or half of it is tried for a while (`Trial`); and
beside each of these, after a burst, the endpoint is asked whether it lets requests in again (`Probing`).
"""

import math
from collections import deque
from dataclasses import dataclass

from batchchat.send.limits.leaky_bucket import LeakyBucket
from batchchat.send.limits.spurious_429 import FEWEST, QUIET_SHARE, Spurious429

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
PROBE_TRIPS = 2.0
SHORTEST_TRIP_S = 0.01
LONGEST_TRIP_S = 0.5


@dataclass(frozen=True, slots=True)
class Unlimited:
    """Requests may start whenever they want."""

    pace = None


@dataclass(slots=True)
class Paced:
    """Requests start at a pace that grows from a little below the `rate` a second that is known.

    The rate is known from `count` requests. The pace grows by the share `growth` with each request that it holds back,
    and by twice that from `faster_at` on. `is_released`: the rate was none, and the pace grows until it holds nothing.
    """

    pace: LeakyBucket
    rate: float
    count: int
    faster_at: float
    growth: float
    is_released: bool = False

    @property
    def is_well_known(self) -> bool:
        """Whether the rate is worth being remembered."""
        return self.count >= WELL_KNOWN and not self.is_released


@dataclass(slots=True)
class Trial:
    """Requests start at a slower pace, `rate` a second, to see whether they are refused all the same.

    `before` is what holds again when it ends, at `per_minute_before` if that was a pace.
    """

    pace: LeakyBucket
    rate: float
    before: Unlimited | Paced
    per_minute_before: float = 0.0
    is_second: bool = False


@dataclass(slots=True)
class Probing:
    """Requests start one by one after a burst; `count` is the number of the next."""

    count: int = 1


@dataclass(slots=True)
class Burst:
    """Refusals that came together: the first one's request started `at`, when so many had been refused before.

    `is_rate`: they are for a rate, and not for the number in flight; more than `most_at_once` are for a rate anyway.
    """

    at: float = -math.inf
    refused_before: int = 0
    is_rate: bool = False
    most_at_once: float = math.inf


@dataclass(slots=True)
class Suspicion:
    """What is needed to suspect that refusals are chance: the counts at the last trial, and the rate before it.

    `is_first`: no burst since has been met that could be compared with another.
    """

    started: int = 0
    refused: int = 0
    tried_rate: float = math.inf
    is_first: bool = True


class Starts:
    """Requests that started, and how many of them were refused; of the last two minutes also when."""

    def __init__(self) -> None:
        self.started = self.refused = 0
        self.open_since = math.inf
        self._marks: deque[tuple[float, int]] = deque(maxlen=int(2 * WINDOW_S / MARK_S) + 2)
        self._next_mark_at = -math.inf

    @property
    def let_in(self) -> int:
        """How many were let in, or have no reply yet."""
        return self.started - self.refused

    def add(self, now: float) -> None:
        """Count one more."""
        if now >= self._next_mark_at:
            self.open_since = min(self.open_since, now)
            self._marks.append((now, self.let_in))
            self._next_mark_at = now + MARK_S
        self.started += 1

    def since(self, moment: float, now: float) -> tuple[int, float]:
        """Return how many were let in since a moment, and how many seconds that are."""
        at, count = next((mark for mark in self._marks if mark[0] >= moment), (now, self.let_in))
        return max(1, self.let_in - count), max(now - at, SHORTEST_TRIP_S)

    def lately(self, now: float) -> tuple[int, float]:
        """Return how many were let in during the last minute, and since when that is."""
        if not self._marks:
            return 0, now
        count, took_s = self.since(now - WINDOW_S, now)
        return count, now - took_s


class InferredRate:
    """One run's knowledge."""

    def __init__(self, requests_per_minute: float | None = None) -> None:
        self._starts = Starts()
        self._state: Unlimited | Paced | Trial = Unlimited()
        self._probing: Probing | None = None
        self._burst = Burst()
        self._bursts: deque[tuple[float, int]] = deque(maxlen=32)  # when each came, and what had been let in
        self._level = 0
        self._trip_s = SHORTEST_TRIP_S
        self._closed_until = -math.inf
        self._chance = Spurious429()
        self._suspicion = Suspicion()
        if requests_per_minute:
            self._set(requests_per_minute / 60.0, SLOWLY_REQUESTS)

    @property
    def pace(self) -> LeakyBucket | None:
        """The pace that holds, if any."""
        return self._state.pace

    @property
    def requests_per_minute(self) -> float | None:
        """The rate, once it is well known."""
        state = self._state.before if isinstance(self._state, Trial) else self._state
        return 60.0 * state.rate if isinstance(state, Paced) and state.is_well_known else None

    @property
    def is_noisy(self) -> bool:
        """Whether the endpoint is known to refuse some requests by chance."""
        return self._chance.share > 0.0

    def opens_at(self) -> float:
        """Return the monotonic time before which no request may start."""
        pace = self._state.pace
        return self._closed_until if pace is None else max(self._closed_until, pace.opens_at())

    def lately(self, now: float) -> tuple[int, float]:
        """Return how many were let in during the last minute, and since when that is."""
        return self._starts.lately(now)

    def forget(self) -> None:
        """Drop the pace: it is told, or gone."""
        if isinstance(self._state, Trial):
            self._chance.end_trial()
        self._state, self._probing = Unlimited(), None
        self._bursts.clear()
        self._level = 0
        self._suspicion.tried_rate = math.inf
        self._count_anew()
        self._closed_until = -math.inf

    # Requests that start

    def on_start(self, now: float) -> None:
        """Count a request that starts."""
        if self._probing:
            self._probe(self._probing, now)
        self._starts.add(now)
        was_trial = isinstance(self._state, Trial)
        if was_trial and self._starts.started > self._chance.trial_until:
            self._end_trial()
        pace = self._state.pace
        if pace is None:
            return
        is_binding = pace.opens_at() >= now - pace.seconds_per_unit
        pace.take(now, 1)
        if is_binding and isinstance(self._state, Paced) and not (self._probing or was_trial):
            self._grow(self._state, now)

    def _grow(self, paced: Paced, now: float) -> None:
        pace = paced.pace
        pace.set_rate(pace.units_per_minute / (1.0 - paced.growth))
        rate = 1.0 / pace.seconds_per_unit
        if paced.is_released:
            paced.growth = min(FASTEST_GROWTH, LET_GO / rate)
            if rate > GONE**3 * paced.rate:
                self.forget()
        elif rate > paced.faster_at:
            paced.faster_at = BEYOND * rate
            paced.growth = min(2.0 * paced.growth, FASTEST_GROWTH / rate)
            if rate > GONE * paced.rate and now - self._burst.at > WINDOW_S:
                self.forget()

    def _probe(self, probing: Probing, now: float) -> None:
        """Learn as the first request after a burst starts, and again as the next does: the first was let in."""
        if probing.count == 1:
            self._learn()
            self._suspect_chance()
        elif probing.count == 2 and now - self._burst.at >= BLOCKED_S:
            self._unblock(now)
        pause_s = (PROBE_TRIPS if probing.count == 1 else 1.0 / probing.count) * self._trip_s
        self._closed_until = now + pause_s
        probing.count += 1
        pace = self._state.pace
        if pause_s < (pace.seconds_per_unit if pace else SHORTEST_TRIP_S / 100):
            self._probing = None

    # Requests that are refused

    def is_chance(self, started_at: float, now: float, in_flight: int) -> bool:
        """Whether the refusal of a request that started since the last burst has nothing to do with how much is asked.

        Where it has not, it is counted; otherwise `on_refusal` must follow.
        """
        pace = self._state.pace
        unheard = (now - started_at) / pace.seconds_per_unit if pace else 0.0
        is_chance = self._chance.allows(self._starts.started, in_flight, unheard=unheard, now=now)
        self._starts.refused += is_chance
        if isinstance(self._state, Trial) and not self._chance.trial_until:
            self._judge(self._state, is_chance=is_chance)
        return is_chance

    def on_refusal(self, started_at: float, now: float, in_flight: int, *, is_new: bool) -> bool:
        """Note a request that was turned away; return whether that is for a rate. `is_new`: a burst begins with it.

        `in_flight` were under way as it started; 0 where their number cannot be what the endpoint objects to.
        """
        starts, burst = self._starts, self._burst
        starts.refused += 1
        if not is_new:
            if starts.refused - burst.refused_before > burst.most_at_once:
                burst.is_rate, burst.most_at_once = True, math.inf
                self._begin_probing(now)
            return burst.is_rate
        if isinstance(self._state, Trial):
            self._end_trial()  # it names a long wait: that is no chance
        self._trip_s = min(LONGEST_TRIP_S, max(SHORTEST_TRIP_S, now - started_at))
        is_rate = in_flight == 0 or in_flight < FEWER * self._level or self.requests_per_minute is not None
        if self._probing and self._probing.count == 2:  # the first one after the burst: it is still the same burst
            burst.is_rate |= is_rate
        else:
            self._burst = burst = Burst(
                started_at, refused_before=starts.refused - 1, is_rate=is_rate, most_at_once=burst.most_at_once
            )
        if not burst.is_rate:
            self._level, self._probing, self._closed_until = in_flight, None, now + self._trip_s
            burst.most_at_once = max(MANY_AT_ONCE, self._recent_rate() * self._trip_s)
            self._suspect_chance()
            return False
        self._level, burst.most_at_once = max(in_flight, self._level), math.inf
        self._begin_probing(now)
        return True

    def _begin_probing(self, now: float) -> None:
        """Let the next request wait: until then, replies to what had started still come."""
        self._probing = Probing()
        self._closed_until = now + PROBE_TRIPS * self._trip_s

    # Is it chance?

    def _suspect_chance(self) -> None:
        """Try half the pace, where a burst so soon after another was hardly one."""
        suspicion, starts, pace = self._suspicion, self._starts, self._state.pace
        since, refused = starts.started - suspicion.started, starts.refused - suspicion.refused
        at_once, rate = starts.refused - self._burst.refused_before, self._recent_rate()
        is_first, suspicion.is_first = suspicion.is_first, False
        if (
            is_first
            or isinstance(self._state, Trial)
            or since < FEWEST
            or refused < QUIET_SHARE * since
            or at_once > max(FEW_AT_ONCE, ISOLATED_BELOW * rate * self._trip_s)
        ):
            return
        if (1.0 / pace.seconds_per_unit if pace else rate) > FELL * suspicion.tried_rate:
            return
        suspicion.tried_rate = rate
        trial = Trial(pace or LeakyBucket(60.0 * rate, margin=1.0), TRIAL * rate, self._state)
        trial.per_minute_before = pace.units_per_minute if pace else 0.0
        self._try(trial, (refused - math.sqrt(refused)) / since)

    def _try(self, trial: Trial, share: float) -> None:
        """Begin a trial; `share` of the requests were refused before."""
        trial.pace.set_rate(60.0 * trial.rate)
        self._chance.begin_trial(self._starts.started, share, trial.rate)
        self._state = trial

    def _judge(self, trial: Trial, *, is_chance: bool) -> None:
        """Try once more where it looks like chance: stored allowance can hide a limit from one trial."""
        self._count_anew()
        if is_chance and not trial.is_second:
            trial.is_second, trial.rate = True, SECOND_TRIAL * trial.rate
            self._try(trial, self._chance.share)
            return
        self._resume(trial)
        rate, self._suspicion.tried_rate = self._suspicion.tried_rate, math.inf
        if is_chance:
            self._release(rate)

    def _end_trial(self) -> None:
        """Go on as before: hardly a request was refused at half the pace."""
        trial = self._state
        assert isinstance(trial, Trial)
        self._chance.end_trial()
        self._resume(trial)
        if trial.is_second:
            self._suspicion.tried_rate = math.inf  # the two trials contradict each other
        self._count_anew()

    def _resume(self, trial: Trial) -> None:
        self._state = trial.before
        if trial.per_minute_before:
            trial.pace.set_rate(trial.per_minute_before)

    def _release(self, rate: float) -> None:
        """Forget the pace, but leave it by degrees: the verdict may be wrong."""
        count = self._state.count if isinstance(self._state, Paced) else 0
        self.forget()
        growth = min(FASTEST_GROWTH, LET_GO / rate)
        self._state = Paced(
            LeakyBucket(60.0 * rate, margin=1.0),
            rate=rate,
            count=count,
            faster_at=math.inf,
            growth=growth,
            is_released=True,
        )

    def _count_anew(self) -> None:
        self._suspicion.started, self._suspicion.refused = self._starts.started, self._starts.refused

    # What is the rate?

    def _recent_rate(self) -> float:
        count, took_s = self._starts.since(self._burst.at - RECENT_S, self._burst.at)
        return count / took_s

    def _learn(self) -> None:
        let_in, burst, pace = self._starts.let_in, self._burst, self._state.pace
        if self._bursts and let_in <= self._bursts[-1][1] + STRAGGLERS:
            burst.at = self._bursts[-1][0]  # it has not let in since, but for what just fitted
            return
        before = self._base(let_in)
        if not burst.is_rate:
            self._bursts.clear()
        if before is None or not burst.is_rate:
            count, took_s = self._starts.since(burst.at - 1.0, burst.at)
            if pace is None or count / took_s * pace.seconds_per_unit < 1.0:
                self._set(count / took_s, FEWEST_REQUESTS)
        elif let_in - before[1] < FEWEST_REQUESTS:
            return  # too few to tell anything
        elif pace is not None and self._is_isolated(self._starts.refused - burst.refused_before):
            pace.set_rate(BELOW * pace.units_per_minute)
        else:
            # What was let in on average is less than the rate where some was left unused, and the rate at which it was
            # refused at last is more than it.
            count = let_in - before[1]
            least = count / max(burst.at - before[0], 1e-3)
            self._follow(math.sqrt(least * max(least, self._recent_rate())), count)
        self._bursts.append((burst.at, let_in))

    def _is_isolated(self, refused: int) -> bool:
        """Whether a burst was so small that it says nothing of a limit, or no more than that it is near."""
        return refused <= ISOLATED_SHARE * self._recent_rate() * self._trip_s

    def _follow(self, rate: float, count: int) -> None:
        """Take a rate that was measured, unless it is no more than a disturbance of one that is known better."""
        may_be, paced = rate * (1.0 + 2.0 / math.sqrt(count)), self._state
        if isinstance(paced, Paced) and count < WELL_KNOWN <= paced.count and may_be > HARDLY_LESS * paced.rate:
            self._set(paced.rate, paced.count)
        else:
            self._set(rate, count)

    def _base(self, let_in: int) -> tuple[float, int] | None:
        """Return the latest burst since which enough was let in; failing that, the first of the last minute."""
        base = None
        for burst in reversed(self._bursts):
            if burst[0] < self._burst.at - WINDOW_S and base is not None:
                break
            base = burst
            if let_in - burst[1] >= WELL_KNOWN:
                break
        return base

    def _unblock(self, now: float) -> None:
        """Take what was let in since it last opened for the allowance of that time: in much of it nothing was."""
        self._suspicion.is_first = True  # a window was full: that is no chance
        self._count_anew()
        starts, pace = self._starts, self._state.pace
        span_s = now - starts.open_since
        if span_s > 2 * WINDOW_S:
            span_s = max(WINDOW_S, now - self._burst.at + WINDOW_S / 2)
        starts.open_since = now
        count, took_s = starts.since(now - span_s, now)
        if count >= FEWEST_REQUESTS and (pace is None or count / took_s * pace.seconds_per_unit < 1.0):
            self._set(count / took_s, count)
        self._bursts.clear()
        self._bursts.append((now, starts.let_in))
        self._burst.at = now

    def _set(self, rate: float, count: int) -> None:
        """Go on a little below a rate that is known from so many requests."""
        start = rate * max(0.5, BELOW - 1.0 / max(count, 1))
        slowly = max(SLOWLY_S * start, SLOWLY_REQUESTS)
        share = max(GROWTH, 1.0 / max(count, FEWEST_REQUESTS))
        growth = min(FASTEST_GROWTH / start, share / max(min(count, slowly), FEWEST_REQUESTS, QUICKLY_S * start))
        pace = self._state.pace or LeakyBucket(60.0 * start, margin=1.0)
        pace.set_rate(60.0 * start)
        if isinstance(self._state, Trial):
            self._chance.end_trial()
        self._state = Paced(pace, rate=rate, count=count, faster_at=BEYOND * rate, growth=growth)
