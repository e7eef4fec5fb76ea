"""What the schedule works with: the limits it obeys, the rows it moves, and the store that it needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from batchchat.records import ChatRequest, Outcome, Progress
from batchchat.send.concurrency import Concurrency
from batchchat.send.limits import RateLimits


class Store(Protocol):
    """Where outcomes are kept; both calls block and are made off the event loop, one at a time."""

    def find(self, keys: Sequence[bytes]) -> Mapping[bytes, bool]:
        """Return the keys that need no request: True for an answer, False for a failure that stands."""

    def commit(self, outcomes: Sequence[tuple[bytes, Outcome]], progress: Progress) -> None:
        """Make the outcomes durable, together with how far the run is."""


@dataclass(slots=True)
class Pending:
    """A request that has no outcome yet, and the attempts that counted."""

    request: ChatRequest
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Pacing:
    """What the schedule obeys: the job's limits as the send room's arithmetic."""

    rates: RateLimits
    concurrency: Concurrency
    max_attempts: int
    grace_s: float
