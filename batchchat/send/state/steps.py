"""What may follow from a reply for its row."""

from __future__ import annotations

import asyncio

from batchchat.records import Outcome, dataclass


@dataclass(frozen=True, slots=True)
class Done:
    """The row has its outcome."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class NextTurn:
    """The reply was paid for and is not the row's last: it is asked again with its next turn."""


@dataclass(frozen=True, slots=True)
class RetryAt:
    """The row is asked again from `at` on, in seconds of the monotonic clock."""

    at: float


@dataclass(frozen=True, slots=True)
class Stop:
    """The run ends for this reason."""

    reason: Exception


@dataclass(frozen=True, slots=True)
class Halted:
    """The run is stopping, and the row stays without an outcome."""


@dataclass(frozen=True, slots=True)
class Undecided:
    """Only replies to other rows can show what follows; `decided` then has it."""

    decided: asyncio.Future[Step]


Step = Done | NextTurn | RetryAt | Stop | Halted
