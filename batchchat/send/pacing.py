"""What the schedule works with: the limits it obeys, the rows it moves, and the store that it needs."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from batchchat.records import (
    NO_USAGE,
    Answer,
    ChatRequest,
    Completion,
    FailedRow,
    Failure,
    Outcome,
    Progress,
    Settled,
)
from batchchat.send.concurrency import Concurrency
from batchchat.send.cost import Costs
from batchchat.send.failures import is_transient
from batchchat.send.jsonvalue import mapping_of, read_json
from batchchat.send.limits import RateLimits
from batchchat.send.spending import Spending
from batchchat.send.structured import Turn
from batchchat.send.transport import Reply
from batchchat.send.worstcase import Charge, Size

EMPTY_TRIES = 3
"""Attempts at most for a row to which the model answers nothing: each of them is paid for."""

Send = Callable[[ChatRequest, bytes, bool], Awaitable[Reply | Failure | None]]
"""What sends a request with this body, once, if need be (True) over a new connection; None where it was halted before
anything was written."""


class Store(Protocol):
    """Where outcomes are kept; all calls block and are made off the event loop, one at a time."""

    def find(self, keys: Sequence[bytes]) -> Mapping[bytes, bool | None]:
        """Return what is known of keys: True for an answer, False for a failure that stands, None for one to retry."""

    def remember(self, settled: Settled) -> None:
        """Keep what was learned of the endpoint for the next run."""

    def commit(self, outcomes: Sequence[tuple[bytes, Outcome]], progress: Progress) -> None:
        """Make the outcomes durable, together with how far the run is."""


@dataclass(slots=True)
class Pending:
    """A request that has no outcome yet, and the attempts that counted.

    `started_at` is when it last started, among `started_among` others in flight, `place` that start's in the order of
    all, `reserved` the tokens reserved for it. `has_failed_before` says that an earlier run gave it up.
    `turn` is what its next request adds to its own body, `turns` how many replies were paid for and not its last, and
    `last` the newest of these, as read and as received.
    `lone_rate_limits` counts how often in a row it alone was turned away while others got through; `passed_before` and
    `turned_away_before` are the run's counts of both when it last was.
    `wants_new_connection` says that its last failure was a connection that had been closed.
    Under a budget, `size` is what its cost depends on, and `charge` what is set aside for it.
    """

    request: ChatRequest
    started_at: float = 0.0
    started_among: int = 0
    place: int = 0
    reserved: float = 0.0
    has_failed_before: bool = False
    attempts: int = 0
    lone_rate_limits: int = 0
    passed_before: int | None = None
    turned_away_before: int = 0
    wants_new_connection: bool = False
    turn: Turn = field(default_factory=Turn)
    turns: int = 0
    last: tuple[Completion, Reply] | None = None
    size: Size | None = None
    charge: Charge | None = None

    @property
    def requests(self) -> int:
        """How many requests count for it so far: attempts that failed, and replies that were not its last."""
        return self.attempts + self.turns

    def unsent(self, failure: Failure) -> FailedRow:
        """Return the failure of a request that could not be sent as its outcome; it may be possible another time."""
        return FailedRow(failure, True, None, self.requests, row_name=self.request.row_name)

    def given_up(self, failure: Failure, latency_s: float | None, *, charged: int) -> FailedRow:
        """Return its failure as its outcome; what its earlier replies said and cost stays on record."""
        said, reply = (self.last[0], self.last[1].body) if self.last else (Completion(None), b"")
        paid = None if self.turn.usage == NO_USAGE else replace(said, usage=self.turn.usage)
        requests, name = self.requests + charged, self.request.row_name
        return FailedRow(failure, is_transient(failure), latency_s, requests, paid, reply, name)

    def is_turned_away_alone(self, passed: int, turned_away: int) -> bool:
        """Note one more rate limit; return whether it seems to be this row's own: a request above all limits."""
        is_alone = self.passed_before is not None and turned_away == self.turned_away_before
        is_alone = is_alone and (passed > (self.passed_before or 0) or self.lone_rate_limits > 1)
        self.lone_rate_limits = self.lone_rate_limits + 1 if is_alone else 0
        self.passed_before, self.turned_away_before = passed, turned_away + 1
        return self.lone_rate_limits > 1


def outcome_of(
    pending: Pending, judged: Completion | Failure, said: Completion, reply: Reply, attempts: int
) -> Outcome:
    """Return a row's outcome by its reply: its answer, or, where that does not fit, a failure that keeps its words."""
    if isinstance(judged, Failure):
        return FailedRow(judged, False, reply.latency_s, attempts, said, reply.body, pending.request.row_name)
    return Answer(judged, reply.body, reply.latency_s, attempts, reply.first_token_s)


def max_tokens_of(body: bytes) -> int | None:
    """Return the tokens that a request allows its completion, if it says so."""
    fields = mapping_of(read_json(body))
    allowed = fields.get("max_completion_tokens", fields.get("max_tokens"))
    return allowed if isinstance(allowed, int) and allowed > 0 else None


@dataclass(frozen=True, slots=True)
class Pacing:
    """What the schedule obeys: the job's limits as the send room's arithmetic.

    `in_flight_bytes` bounds the bodies that are under way at once; one that is larger goes alone. `model_varies`
    says that rows name the model, so that an unknown one may be a row's own trouble. `max_outage_s` is how long an
    endpoint that is down is waited for; without `waits_for_first`, one that never answered is not: `reached` is the
    base URL that last did, `base_url` the one that is asked. `largest_name` is what bounds the concurrency at last.
    `notes` are sentences for the user on how the limits came about. `costs` knows what replies cost. After `deadline_s`
    the run stops, for what `deadline` says; `max_error_rate` is the share of its rows that may fail; `spending` knows
    what it may cost.
    """

    rates: RateLimits
    concurrency: Concurrency
    max_attempts: int
    grace_s: float
    in_flight_bytes: int = 2**63
    model_varies: bool = False
    max_outage_s: float = 3_600.0
    waits_for_first: bool = False
    base_url: str = ""
    reached: str = ""
    largest_name: str = "limits.max_concurrency"
    notes: tuple[str, ...] = ()
    costs: Costs = field(default_factory=Costs)
    deadline_s: float | None = None
    deadline: str = ""
    max_error_rate: float | None = None
    spending: Spending = field(default_factory=Spending)

    def tries(self, kind: str) -> int:
        """Return how many attempts a row has whose requests fail for this."""
        return self.max_attempts if kind != "empty_reply" else min(EMPTY_TRIES, self.max_attempts)
