"""The life of one row, from its first slot to its outcome."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from batchchat.records import Completion, Failure
from batchchat.send.http.transport import Reply
from batchchat.send.limits.headers import allowance
from batchchat.send.policy.rules import RunEndpoint, RunLimits
from batchchat.send.reply.reply import read_reply
from batchchat.send.scheduler.commits import Commits
from batchchat.send.scheduler.decide import Decisions, Received
from batchchat.send.scheduler.ending import Ending
from batchchat.send.scheduler.queue import Queue
from batchchat.send.state.row import Pending
from batchchat.send.state.slots import Slot
from batchchat.send.state.steps import Done, Halted, NextTurn, RetryAt, Stop, Undecided

AT_ONCE = float("-inf")
LARGE_REPLY_BYTES = 2**17
"""Bytes from which on a reply is read in a thread, while others' replies come in."""
LIMITS_INTERVAL_S = 0.05
"""Seconds for which what a reply told of the endpoint's limits is believed, before another is read for that."""


@dataclass(slots=True)
class Run:
    """What the rows of a run share; `rows` is how many of them are on their way."""

    sender: Sender
    decisions: Decisions
    commits: Commits
    queue: Queue
    ending: Ending
    changed: asyncio.Event
    rows: int = 0


async def ask_row(row: Pending, slot: Slot | None, run: Run) -> None:
    """Ask one row until it has its outcome, or the run stops; the dispatcher starts it with its first slot."""
    try:
        while slot is not None:
            received = await run.sender.send(row, slot)
            step = run.decisions.decide(row, slot, received)
            if isinstance(step, Undecided):
                slot.free()
                step = await step.decided
            match step:
                case Done(outcome):
                    run.commits.add(row, outcome, slot)  # which frees the slot
                    return
                case NextTurn():
                    await run.commits.durable(row, slot)  # likewise
                    due_at = AT_ONCE  # before other rows: the budget has room for it set aside
                case RetryAt(due_at):
                    slot.free()
                case Stop(reason):
                    run.ending.stop(reason)
                    return
                case Halted():
                    return
            slot = received = None  # thousands may wait, each with what it still refers to
            slot = await run.queue.slot_for(row, due_at)
    except Exception as error:  # a fault of our own must not take along what others have paid for
        run.ending.stop(error)
    finally:
        if slot is not None:
            run.decisions.abandon(row, slot)
        run.rows -= 1
        run.changed.set()


class Sender:
    """Sends one run's requests; what replies tell of the endpoint's rate limits is taken from their headers."""

    def __init__(self, endpoint: RunEndpoint, limits: RunLimits, decisions: Decisions, ending: Ending) -> None:
        self._endpoint = endpoint
        self._rates = limits.rates
        self._decisions = decisions
        self._ending = ending
        self._limits_due_at = 0.0

    async def send(self, row: Pending, slot: Slot) -> Received | None:
        """Send a row's next request; return its reply, as received and as read, or None if it was not sent."""
        if self._ending.has_begun:
            return None  # the run stopped between the grant of the slot and the first byte
        slot.started_at, slot.task = time.monotonic(), asyncio.current_task()
        body = self._decisions.start(row, slot)
        reply = await self._endpoint.send(row.request, body, row.wants_new_connection)
        if reply is None:
            return None
        if isinstance(reply, Failure):
            return Received(reply, reply)
        return Received(reply, await self._read(reply, row.request.body))

    async def _read(self, reply: Reply, body: bytes) -> Completion | Failure:
        now = time.monotonic()
        if reply.status >= 400 or now >= self._limits_due_at:
            self._note_limits(reply, now)
        read = await asyncio.to_thread(_read, reply) if len(reply.body) > LARGE_REPLY_BYTES else _read(reply)
        return self._endpoint.costs.priced(read, body)

    def _note_limits(self, reply: Reply, now: float) -> None:
        told = allowance(reply.headers, unix_now=time.time())
        if told is not None:
            self._limits_due_at = now + LIMITS_INTERVAL_S
            self._rates.note(told, now)


def _read(reply: Reply) -> Completion | Failure:
    return read_reply(reply.status, reply.headers, reply.body, unix_now=time.time())
