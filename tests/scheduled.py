"""A schedule over a test's own store and endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from batchchat.records import ChatRequest, Chunk, Failure, Progress
from batchchat.send.budget.account import Account
from batchchat.send.http.transport import Reply
from batchchat.send.limits.concurrency import Concurrency
from batchchat.send.limits.rate_limits import RateLimits
from batchchat.send.policy.rules import Rules, RunEndpoint, RunLimits, Send
from batchchat.send.scheduler.commits import Store
from batchchat.send.scheduler.scheduler import Scheduler
from batchchat.send.state.slots import Slot, Slots


def schedule_over(
    chunks: Iterable[Chunk],
    store: Store,
    send: Send,
    concurrency: Concurrency,
    *,
    rates: RateLimits | None = None,
    account: Account | None = None,
    observe: Callable[[Progress], None] = lambda _: None,
    endpoint: dict[str, Any] | None = None,
    **rules: Any,
) -> Scheduler:
    """Return a schedule; `endpoint` and `rules` are fields of `Endpoint` and `Rules`."""
    return Scheduler(
        iter(chunks),
        store,
        RunEndpoint(send=send, **(endpoint or {})),
        RunLimits(rates=rates or RateLimits(None, None), concurrency=concurrency, account=account or Account()),
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
