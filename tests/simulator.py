"""A run in virtual time: the real arithmetic of what starts when, against model endpoints; nothing sleeps."""

from __future__ import annotations

import heapq
import itertools
import random
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from batchchat.records import ChatRequest, Failure, Usage
from batchchat.send.limits.admission import Admission
from batchchat.send.limits.bottleneck import Bottleneck
from batchchat.send.limits.concurrency import Concurrency
from batchchat.send.limits.rate_limits import Allowance, RateLimits
from batchchat.send.policy import rules
from batchchat.send.policy.failure_policy import FailurePolicy
from batchchat.send.policy.rules import Rules, RunLimits
from batchchat.send.state.counts import Counts
from batchchat.send.state.row import Pending
from batchchat.send.state.slots import Slot
from batchchat.send.state.steps import RetryAt
from batchchat.serve.quota import Quota
from tests.scheduled import never, slot_at

LARGEST = 4_096
BODY = b"x" * 1_200
REQUEST = ChatRequest(b"key", BODY, "row")


@dataclass(frozen=True, slots=True)
class Said:
    """What an endpoint makes of a request: when its reply is there, whether it was let in, and what it tells."""

    at: float
    is_refused: bool = False
    retry_after_s: float | None = None
    told: Allowance | None = None


class Endpoint(Protocol):
    """A model of one."""

    def ask(self, now: float, tokens: int) -> Said:
        """Take a request of so many tokens; times never go back."""


def always(seconds: float) -> Callable[[float], float]:
    """Return a latency that is the same for each request."""
    return lambda now: seconds


def lognormal(seconds: float, sigma: float, seed: int = 1) -> Callable[[float], float]:
    """Return a latency whose mean is `seconds`."""
    rng = random.Random(seed)
    return lambda now: seconds * rng.lognormvariate(-(sigma**2) / 2, sigma)


@dataclass
class Slots:
    """Works on `slots` requests at a time; others wait in its queue, or are refused where it has none."""

    slots: Callable[[float], int]
    latency_s: Callable[[float], float]
    has_queue: bool = True
    trip_s: float = 0.05
    retry_after_s: float | None = None
    _free_at: list[float] = field(default_factory=list)

    def ask(self, now: float, tokens: int) -> Said:
        """Start at once where a slot is free."""
        slots, free_at = self.slots(now), self._free_at
        while free_at and (len(free_at) > slots if self.has_queue else free_at[0] <= now):
            heapq.heappop(free_at)
        if not self.has_queue and len(free_at) >= slots:
            return Said(now + self.trip_s, is_refused=True, retry_after_s=self.retry_after_s)
        starts_at = now
        if len(free_at) >= slots:
            starts_at = max(now, heapq.heappop(free_at))
        ends_at = starts_at + self.latency_s(now)
        heapq.heappush(free_at, ends_at)
        return Said(ends_at)


@dataclass
class Batching:
    """A GPU: every request slows all others down, up to a number of requests that it works on together."""

    alone_s: float
    each_s: float
    most: int = 10**9
    _ends: list[float] = field(default_factory=list)

    def ask(self, now: float, tokens: int) -> Said:
        """Take as long as the requests under way make it."""
        while self._ends and self._ends[0] <= now:
            heapq.heappop(self._ends)
        under_way = len(self._ends) + 1
        took_s = self.alone_s + self.each_s * min(under_way, self.most)
        wait_s = max(0, under_way - self.most) * (self.alone_s / self.most + self.each_s)
        heapq.heappush(self._ends, now + wait_s + took_s)
        return Said(now + wait_s + took_s)


@dataclass
class Moody:
    """Refuses a share of the requests for no reason, and passes the others on."""

    behind: Endpoint
    share: float
    retry_after_s: float | None = None
    trip_s: float = 0.05
    seed: int = 2

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)

    def ask(self, now: float, tokens: int) -> Said:
        """Refuse at once, or not at all."""
        if self._rng.random() < self.share:
            return Said(now + self.trip_s, is_refused=True, retry_after_s=self.retry_after_s)
        return self.behind.ask(now, tokens)


class Bucket:
    """A token bucket of units a minute."""

    def __init__(self, per_minute: float, burst: float) -> None:
        self.per_s, self.burst, self.level, self.at = per_minute / 60, burst, burst, 0.0

    def wait_s(self, now: float, units: float) -> float:
        """Take units, or return how long until they are there."""
        self.level = min(self.burst, self.level + (now - self.at) * self.per_s)
        self.at = now
        if self.level < units:
            return (units - self.level) / self.per_s
        self.level -= units
        return 0.0


class Calendar:
    """Windows that begin every so many seconds."""

    def __init__(self, per_minute: float, window_s: float = 60.0, offset_s: float = 20.0) -> None:
        self.per_window, self.window_s, self.offset_s = per_minute * window_s / 60, window_s, offset_s
        self.window, self.used = -1, 0.0

    def wait_s(self, now: float, units: float) -> float:
        """Take units, or return how long until they are there."""
        window = int((now + self.offset_s) // self.window_s)
        if window != self.window:
            self.window, self.used = window, 0.0
        if self.used + units > self.per_window:
            return (window + 1) * self.window_s - self.offset_s - now
        self.used += units
        return 0.0


class Log:
    """The embedded endpoint's own: a sliding log of a minute, which holds back rather than refuses for a moment."""

    def __init__(self, per_minute: float) -> None:
        self._quota = Quota(per_minute, None)
        self._units = Quota(None, per_minute)

    def wait_s(self, now: float, units: float) -> float:
        """Take units, or return how long until they are there."""
        admission = (self._quota if units == 1 else self._units).admit(now, int(units))
        return 0.0 if admission.is_admitted else admission.at - now


class Limiter(Protocol):
    """Counts units a minute."""

    def wait_s(self, now: float, units: float) -> float:
        """Take units and return 0, or how long until they are there."""


@dataclass
class Limited:
    """An endpoint behind limits; `tells` adds headers to its replies, `hints` a Retry-After to its refusals."""

    behind: Endpoint
    requests: Limiter | None = None
    tokens: Limiter | None = None
    allowance: Allowance | None = None
    hints: bool = False
    trip_s: float = 0.05

    def ask(self, now: float, tokens: int) -> Said:
        """Refuse what exceeds a limit, at once."""
        waits = [self.requests.wait_s(now, 1)] if self.requests else []
        if self.tokens and not any(waits):
            waits.append(self.tokens.wait_s(now, tokens))
        if any(waits):
            hint = float(int(max(waits)) + 1) if self.hints else None
            return Said(now + self.trip_s, is_refused=True, retry_after_s=hint, told=self.allowance)
        said = self.behind.ask(now, tokens)
        return Said(said.at, said.is_refused, said.retry_after_s, self.allowance)


@dataclass
class Played:
    """What a run did: the moments of its answers, how long each took, and the limits that it tried."""

    concurrency: Concurrency
    rates: RateLimits
    bound: Bottleneck
    done_at: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    tokens: list[tuple[float, int]] = field(default_factory=list)
    refused_at: list[float] = field(default_factory=list)
    limits: list[tuple[float, int]] = field(default_factory=list)

    @property
    def took_s(self) -> float:
        """Seconds until the last answer."""
        return self.done_at[-1]

    def rate(self, since_s: float, until_s: float) -> float:
        """Return answers a second within a span."""
        return sum(since_s <= at < until_s for at in self.done_at) / (until_s - since_s)

    def token_rate(self, since_s: float, until_s: float) -> float:
        """Return tokens a minute that requests started within a span used."""
        return 60 * sum(tokens for at, tokens in self.tokens if since_s <= at < until_s) / (until_s - since_s)

    @property
    def refused_share(self) -> float:
        """Refusals among all replies."""
        return len(self.refused_at) / (len(self.refused_at) + len(self.done_at))

    @property
    def median_latency_s(self) -> float:
        """Seconds that half of the answers took at most."""
        return statistics.median(self.latencies_s)


def play(
    endpoint: Endpoint,
    rows: int,
    setting: Literal["auto"] | int = "auto",
    *,
    rates: RateLimits | None = None,
    remembered: int | None = None,
    tokens: Callable[[], int] = lambda: 300,
    commit_s: float = 0.005,
    until_s: float = 1e9,
    input_at: Callable[[int], float] | None = None,
) -> Played:
    """Ask rows of an endpoint until all are answered, or until a moment."""
    rates = rates or RateLimits(None, None)
    concurrency = Concurrency(setting, 0.0, largest=LARGEST, remembered=remembered)
    limits = RunLimits(rates=rates, concurrency=concurrency)
    policy = FailurePolicy(rules.RunEndpoint(send=never), limits, Rules(max_attempts=6, grace_s=30.0), Counts())
    admission = Admission(policy, rates, concurrency, Bottleneck(concurrency, rates))
    played = Played(concurrency, rates, admission.bound)
    run = _Run(endpoint, admission, policy, limits, played, tokens, commit_s, deque(range(rows)), input_at)
    run.play(until_s)
    return played


@dataclass
class _Run:
    endpoint: Endpoint
    admission: Admission
    policy: FailurePolicy
    limits: RunLimits
    played: Played
    tokens: Callable[[], int]
    commit_s: float
    fresh: deque[int]
    input_at: Callable[[int], float] | None

    def __post_init__(self) -> None:
        self.now = 0.0
        self.events: list[tuple[float, int, str, object]] = []
        self.sequence = itertools.count()
        self.again: list[tuple[float, int, tuple[Pending, int]]] = []
        self.taken = self.flying = 0
        self.wake_at = float("inf")

    def at(self, moment: float, kind: str, what: object = None) -> None:
        heapq.heappush(self.events, (moment, next(self.sequence), kind, what))

    def play(self, until_s: float) -> None:
        self.at(1.0, "beat")
        self.admit()
        while self.events and self.now < until_s and (self.taken or self.fresh or self.again):
            self.now, _, kind, what = heapq.heappop(self.events)
            if kind == "reply":
                self.reply(*what)  # type: ignore[misc]
            elif kind == "free":
                self.taken -= 1
            elif kind == "beat":
                self.played.limits.append((self.now, self.limits.concurrency.limit))
                self.admission.bound.beat(self.now, 0.0)
                self.at(self.now + 1.0, "beat")
            elif self.now < self.wake_at:
                continue
            else:
                self.wake_at = float("inf")
            self.admit()

    def due_at(self) -> float:
        due = self.again[0][0] if self.again else float("inf")
        if self.fresh and due > self.now:
            return min(due, self.input_at(self.fresh[0]) if self.input_at else self.now)
        return due

    def admit(self) -> None:
        while self.fresh or self.again:
            due_at = self.due_at()
            if self.input_at and self.fresh and due_at > self.now:
                self.admission.on_dry(self.now)
                self.wake(due_at)
                return
            opens_at = self.admission.opens_at(self.now, due_at, self.taken, self.limits.concurrency.limit)
            if opens_at > self.now:
                self.wake(opens_at)
                return
            self.start()
        self.admission.on_dry(self.now)

    def wake(self, moment: float) -> None:
        if moment < self.wake_at:
            self.wake_at = moment
            self.at(moment, "wake")

    def start(self) -> None:
        if self.again and self.again[0][0] <= self.now:
            pending, tokens = heapq.heappop(self.again)[2]
        else:
            self.fresh.popleft()
            pending, tokens = Pending(REQUEST), self.tokens()
        slot = slot_at(self.now - 1e-9, self.flying)  # before what is decided now
        self.flying += 1
        slot.reserved = self.limits.rates.reserve(self.now, len(BODY), 1_000)
        self.taken += 1
        said = self.endpoint.ask(self.now, tokens)
        self.at(said.at, "reply", (pending, slot, said, tokens))

    def reply(self, pending: Pending, slot: Slot, said: Said, tokens: int) -> None:
        self.flying -= 1
        if said.told is not None:
            self.limits.rates.note(said.told, self.now)
        if said.is_refused:
            self.taken -= 1
            self.played.refused_at.append(self.now)
            self.limits.rates.give_back(slot.reserved)
            failure = Failure("rate_limit", "slow down", 429, retry_after_s=said.retry_after_s)
            step = self.policy.follow(pending, slot, failure, self.now)
            assert isinstance(step, RetryAt)
            heapq.heappush(self.again, (step.at, next(self.sequence), (pending, tokens)))
            return
        latency_s = round(self.now - slot.started_at, 6)
        usage = Usage(tokens // 2, tokens - tokens // 2)
        self.limits.rates.settle(slot.reserved, len(BODY), usage)
        self.policy.pass_through(slot.started_at)
        self.limits.concurrency.on_reply(self.now, latency_s, usage.completion_tokens or 0)
        self.played.done_at.append(self.now)
        self.played.latencies_s.append(latency_s)
        self.played.tokens.append((slot.started_at, tokens))
        self.at(self.now + self.commit_s, "free")
