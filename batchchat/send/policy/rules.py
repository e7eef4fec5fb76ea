"""What a run is given: the endpoint that it asks, the limits that it keeps, and the rules of its job."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from batchchat.records import ChatRequest, Failure, Settled
from batchchat.send.budget.account import Account
from batchchat.send.budget.cost import Costs
from batchchat.send.http.transport import Reply
from batchchat.send.limits.concurrency import Concurrency
from batchchat.send.limits.rate_limits import RateLimits
from batchchat.send.structured.judge import Structure

EMPTY_TRIES = 3
"""Attempts at most for a row to which the model answers nothing: each of them is paid for."""

Send = Callable[[ChatRequest, bytes, bool], Awaitable[Reply | Failure | None]]
"""What sends a request with this body, once, if need be (True) over a new connection; None where it was halted before
anything was written."""


def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEndpoint:
    """Whom a run asks, how, and what its replies must be and cost.

    `halt` is called once, when the run stops, and no more may be sent. `reached` is the base URL that an earlier run
    had replies from. `model_varies`: rows name the model, so that an unknown one may be a row's own trouble.
    """

    send: Send
    halt: Callable[[], None] = _nothing
    base_url: str = ""
    reached: str = ""
    model_varies: bool = False
    costs: Costs = field(default_factory=Costs)
    structure: Structure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """How fast, how many at once and how dear a run may be, as found so far."""

    rates: RateLimits
    concurrency: Concurrency
    account: Account = field(default_factory=Account)

    def settled(self) -> Settled:
        """Return what was learned of the endpoint."""
        return replace(self.rates.settled(), concurrency=self.concurrency.settled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the job says of attempts, waits and ends.

    `in_flight_bytes` bounds the bodies that are in flight at once; one that is larger goes alone. `max_outage_s` is how
    long an endpoint that is down is waited for, with `waits_for_first` also one that never answered. After `deadline_s`
    the run stops, for what `deadline` says; `max_error_rate` is the share of its rows that may fail. `largest_name` is
    the setting that bounds the concurrency at last. `notes` are sentences for the user on how the limits came about.
    """

    max_attempts: int
    grace_s: float
    in_flight_bytes: int = 2**63
    max_outage_s: float = 3_600.0
    waits_for_first: bool = False
    deadline_s: float | None = None
    deadline: str = ""
    max_error_rate: float | None = None
    largest_name: str = "limits.max_concurrency"
    notes: tuple[str, ...] = ()

    def tries(self, kind: str) -> int:
        """Return how many attempts a row has whose requests fail for this kind of failure."""
        return self.max_attempts if kind != "empty_reply" else min(EMPTY_TRIES, self.max_attempts)
