"""What held requests back for most of the time."""

from collections import deque
from dataclasses import dataclass
from enum import Enum

from batchchat.send.limits.concurrency import Concurrency
from batchchat.send.limits.rate_limits import RateLimits

BUSY_CORE = 0.9
"""Share of a core from which on the process itself is what everything waits for."""
LATELY_BEATS = 5
LEAST_SHARE = 0.2


class Hold(Enum):
    """What a request waits for."""

    SLOTS = "endpoint"
    RATE = "rate limit"
    INPUT = "input"
    BYTES = "limits.in_flight_bytes"
    ROWS = "rows"
    CPU = "cpu"


@dataclass(frozen=True, slots=True)
class BoundBy:
    """`kind` is `endpoint`, `rate limit`, `input` or `cpu`, empty where nothing is known; `words` say which."""

    kind: str = ""
    words: str = ""


class Bottleneck:
    """One run's account: of the last seconds, and of all of it."""

    def __init__(
        self, concurrency: Concurrency, rates: RateLimits, largest_name: str = "limits.max_concurrency"
    ) -> None:
        self._concurrency = concurrency
        self._rates = rates
        self._largest_name = largest_name
        self._held = Hold.ROWS
        self._since: float | None = None
        self._held_s: dict[Hold, float] = {}
        self._beat: tuple[float, float] | None = None
        self._lately: deque[dict[Hold, float]] = deque(maxlen=LATELY_BEATS)
        self._rate_words = ""
        self._total_s: dict[Hold, float] = {}
        self.lately = BoundBy()
        """What bound the run during the last seconds, as of the last beat."""

    def hold(self, hold: Hold, now: float) -> None:
        """Note what holds requests back from now on."""
        if hold is self._held:
            return
        self._count(now)
        self._held = hold

    def beat(self, now: float, cpu_s: float) -> None:
        """Close a second or so, in which the process has come to have used `cpu_s` of processor time."""
        self._count(now)
        held_s, self._held_s = self._held_s, {}
        before, self._beat = self._beat, (now, cpu_s)
        if Hold.RATE in held_s:
            self._rate_words = self._rates.binding or self._rate_words
        if before is None or now <= before[0]:
            return
        took_s = now - before[0]
        if cpu_s - before[1] >= BUSY_CORE * took_s:
            held_s = {Hold.CPU: took_s} | {hold: s for hold, s in held_s.items() if hold is Hold.RATE}
            held_s[Hold.CPU] -= min(took_s, held_s.get(Hold.RATE, 0.0))
        self._lately.append(held_s)
        for hold, seconds in held_s.items():
            self._total_s[hold] = self._total_s.get(hold, 0.0) + seconds
        self.lately = self._of_last_beats()

    def _count(self, now: float) -> None:
        if self._since is not None:
            self._held_s[self._held] = self._held_s.get(self._held, 0.0) + now - self._since
        self._since = now

    def _of_last_beats(self) -> BoundBy:
        sums: dict[Hold, float] = {}
        for held_s in self._lately:
            for hold, seconds in held_s.items():
                sums[hold] = sums.get(hold, 0.0) + seconds
        return self._verdict(sums)

    @property
    def whole(self) -> BoundBy:
        """What bound the run for most of the time so far."""
        return self._verdict(self._total_s)

    def _verdict(self, sums: dict[Hold, float]) -> BoundBy:
        known = {hold: seconds for hold, seconds in sums.items() if hold is not Hold.ROWS}
        if not known:
            return BoundBy()
        hold = max(known, key=lambda one: known[one])
        if known[hold] < LEAST_SHARE * sum(sums.values()):
            return BoundBy()
        if hold is Hold.SLOTS:
            return BoundBy("endpoint", self._slots())
        if hold is Hold.RATE:
            return BoundBy("rate limit", self._rate_words or "the endpoint's rate limit")
        if hold is Hold.BYTES:
            return BoundBy("endpoint", "limits.in_flight_bytes")
        if hold is Hold.INPUT:
            return BoundBy("input", "reading and rendering the input")
        return BoundBy("cpu", "this machine's processor")

    def _slots(self) -> str:
        limit = self._concurrency.limit
        if self._concurrency.is_fixed:
            return f"limits.concurrency: {limit:,}"
        if limit >= self._concurrency.largest:
            return f"{self._largest_name}: {limit:,}"
        return f"the endpoint (about {self._concurrency.settled or limit:,} requests in flight)"
