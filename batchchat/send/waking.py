"""How the schedule waits: for a moment or an event, for the next heartbeat, for the deadline."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable

from batchchat.errors import BatchchatError, LimitReachedError
from batchchat.send.pacing import Pacing

HEARTBEAT_S = 1.0
BEATS_TO_REMEMBER = 30
"""Heartbeats after which what was learned of the endpoint is stored, lest a run that is killed leaves nothing."""


async def wait(event: asyncio.Event, until: float | None) -> None:
    """Wait for the event, at most until a moment of the monotonic clock, at which it is set."""
    timer = None
    if until is not None:
        timer = asyncio.get_running_loop().call_later(max(0.0, until - time.monotonic()), event.set)
    await event.wait()
    if timer is not None:
        timer.cancel()


async def keep_beating(beat: Callable[[], None], remember: Callable[[], Awaitable[None]]) -> None:
    """Call `beat` once a second, and `remember` every half minute."""
    for beats in itertools.count(1):
        await asyncio.sleep(HEARTBEAT_S)
        beat()
        if beats % BEATS_TO_REMEMBER == 0:
            await remember()


def set_deadline(pacing: Pacing, stop: Callable[[BatchchatError], None]) -> Callable[[], None]:
    """Let the run stop at its deadline, if it has one; return what takes that back."""
    if pacing.deadline_s is None:
        return lambda: None
    reached = LimitReachedError("deadline", f"limits.deadline: {pacing.deadline}; the same command goes on")
    return asyncio.get_running_loop().call_later(pacing.deadline_s, stop, reached).cancel
