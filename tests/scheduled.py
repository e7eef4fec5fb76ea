"""A schedule over a test's own store and endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from batchchat.records import ChatRequest, Chunk, Failure, Progress
from batchchat.send.budget.account import Spending
from batchchat.send.http.transport import Reply
from batchchat.send.limits.concurrency import Concurrency
from batchchat.send.limits.rate_limits import RateLimits
from batchchat.send.policy.rules import Endpoint, Limits, Rules, Send
from batchchat.send.scheduler.commits import Store
from batchchat.send.scheduler.scheduler import Schedule
from batchchat.send.state.slots import Slot, Slots


def schedule_over(
    chunks: Iterable[Chunk],
    store: Store,
    send: Send,
    concurrency: Concurrency,
    *,
    rates: RateLimits | None = None,
    account: Spending | None = None,
    observe: Callable[[Progress], None] = lambda _: None,
    endpoint: dict[str, Any] | None = None,
    **rules: Any,
) -> Schedule:
    """Return a schedule; `endpoint` and `rules` are fields of `Endpoint` and `Rules`."""
    return Schedule(
        iter(chunks),
        store,
        Endpoint(send=send, **(endpoint or {})),
        Limits(rates=rates or RateLimits(None, None), concurrency=concurrency, account=account or Spending()),
        Rules(**rules),
        observe,
    )


def slot_at(started_at: float, among: int = 0) -> Slot:
    """Return the slot of a request that started then, among so many others."""
    slot = Slots(asyncio.Event()).grant(0, is_probe=False)
    slot.started_at, slot.among = started_at, among
    return slot


async def never(request: ChatRequest, body: bytes, wants_new: bool) -> Reply | Failure | None:
    """Stand for an endpoint that nothing is sent to."""
    raise AssertionError
