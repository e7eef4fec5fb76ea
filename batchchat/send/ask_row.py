"""The life of one row, from its first slot to its outcome."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from batchchat.send.commits import Commits
from batchchat.send.decide import Decisions
from batchchat.send.ending import Ending
from batchchat.send.queue import Queue
from batchchat.send.row import Pending
from batchchat.send.sender import Sender
from batchchat.send.slots import Slot
from batchchat.send.steps import Done, Halted, NextTurn, RetryAt, Stop, Undecided

AT_ONCE = float("-inf")


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
            step = run.decisions.decide(row, slot, await run.sender.send(row, slot))
            if isinstance(step, Undecided):
                slot.free()
                step = await step.step
            match step:
                case Done(outcome):
                    run.commits.add(row, outcome, slot)
                    return
                case NextTurn():
                    await run.commits.durable(row, slot)
                    at = AT_ONCE  # before other rows: the budget has room for it set aside
                case RetryAt(at):
                    slot.free()
                case Stop(reason):
                    run.ending.stop(reason)
                    return
                case Halted():
                    return
            slot = await run.queue.slot_for(row, at)
    except Exception as error:  # a fault of our own must not take along what others have paid for
        run.ending.stop(error)
    finally:
        if slot is not None:
            run.decisions.abandon(row, slot)
        run.rows -= 1
        run.changed.set()
