"""Outcomes on their way to the store, and the rows that wait for them.

What passes in are keys of the feed's rows and the outcomes of requests; what comes out is which keys must be asked, and
word of every commit. A slot of concurrency that an outcome holds is free again when its commit has ended: so a
request's answer is durable before another takes its place. It does not know how a request is sent, nor when.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from batchchat.errors import BatchchatError
from batchchat.records import Answer, ChatRequest, Outcome, Progress, Settled
from batchchat.send.pacing import Pending, Store
from batchchat.send.spending import Spending
from batchchat.send.tally import Tally

T = TypeVar("T")

ENOUGH_ROWS = 64
"""Outcomes from which on a commit waits for no more: a row of a larger one costs hardly less."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What settling needs to know of the run, and whom it tells.

    `limit` is the concurrency that a commit may record, `in_flight` how many requests are under way, and
    `in_flight_bound` how many may be until the next commit, under such a limit and when so many rows have turned. Of
    `spending` each commit records how much may be gone by then. `has_turned` takes a row whose reply was not its
    last, `has_changed` is called after every commit, `has_failed` with the store's error.
    """

    limit: Callable[[], int]
    in_flight: Callable[[], int]
    in_flight_bound: Callable[[int, int], int]
    spending: Spending
    progress: Callable[[], Progress]
    has_turned: Callable[[Pending], None]
    has_changed: Callable[[], None]
    has_failed: Callable[[Exception], None]


class Settling:
    """One run's way to the store; `durable_limit` is the concurrency that its last commit recorded."""

    def __init__(self, store: Store, tally: Tally, around: Surroundings) -> None:
        self._store = store
        self._tally = tally
        self._around = around
        self._open: dict[bytes, int] = {}  # keys on their way, each with the number of rows that want its answer
        self._settled: list[tuple[Pending, Outcome | None]] = []
        self._committing: Sequence[tuple[Pending, Outcome | None]] = ()
        self._unkept: list[tuple[Pending, Outcome]] = []
        self._is_committing = False
        self.durable_limit = 0

    def __len__(self) -> int:
        """Return how many slots are held until their commit."""
        return len(self._settled) + len(self._committing)

    @property
    def is_busy(self) -> bool:
        """Whether a commit is under way, or about to be."""
        return self._is_committing or bool(self._settled)

    async def unanswered(self, requests: Sequence[ChatRequest], thread: Executor) -> list[Pending]:
        """Return the requests that must be asked; rows that wait for another's answer are noted.

        A key is looked up only when it is claimed: an answer is committed before its key is given up, so a key that is
        neither claimed by an earlier row nor found in the store has never been asked.
        """
        fresh = [request for request in requests if self._claim(request.key)]
        known = await in_thread(thread, lambda: self._store.find([request.key for request in fresh]))
        for key, is_answered in known.items():
            if is_answered is not None:
                self._tally.reuse(self._open.pop(key), is_answered=is_answered)
        return [
            Pending(request, has_failed_before=request.key in known)
            for request in fresh
            if known.get(request.key) is None
        ]

    def _claim(self, key: bytes) -> bool:
        """Note one more row that wants a key's answer; return whether it is the first."""
        self._open[key] = self._open.get(key, 0) + 1
        return self._open[key] == 1

    def settle(self, pending: Pending, outcome: Outcome | None, tasks: asyncio.TaskGroup, thread: Executor) -> None:
        """Take a row's outcome; None notes that it was paid for one more reply, and must be asked on."""
        self._settled.append((pending, outcome))
        self.renew(tasks, thread)

    def renew(self, tasks: asyncio.TaskGroup, thread: Executor) -> None:
        """See to it that a commit is under way: what it records of limits and spending is news."""
        if not self._is_committing:
            self._is_committing = True
            tasks.create_task(self._commit(thread))

    async def _commit(self, thread: Executor) -> None:
        """Commit what has settled, again while more does: a slow disk makes larger groups, not slower rows."""
        try:
            while True:
                await self._gather()
                self._committing, self._settled = self._settled, []
                await self._commit_group(self._committing, thread)
                if not self._settled:
                    break
        except Exception as error:  # the run ends with it; the answers get another chance at the end
            self._unkept += _outcomes([*self._committing, *self._settled])
            self._settled.clear()
            self._around.has_failed(error)
        finally:
            self._committing = ()
            self._is_committing = False
            self._around.has_changed()

    async def _gather(self) -> None:
        """Wait for as long as every turn of the loop brings more: what has arrived goes with one commit, not several.

        No time is lost by it: the loop does nothing else than take what is there.
        """
        count = 0
        while count < len(self._settled) < ENOUGH_ROWS:
            count = len(self._settled)
            await asyncio.sleep(0)

    async def _commit_group(self, group: Sequence[tuple[Pending, Outcome | None]], thread: Executor) -> None:
        limit = self._around.limit()
        outcomes = _outcomes(group)
        turned = [pending for pending, outcome in group if outcome is None]
        self._tally.turns_held += len(turned) - sum(pending.turns for pending, _ in outcomes)
        in_flight_bound = self._around.in_flight_bound(limit, len(turned))
        self._tally.in_flight_bound = in_flight_bound + self._tally.turns_held
        self._around.spending.tell(in_flight_bound - self._around.in_flight())
        waiting_rows = [self._open[pending.request.key] for pending, _ in outcomes]
        self._conclude(waiting_rows, outcomes)
        self._spend(outcomes)
        kept, progress = _keyed(outcomes), self._around.progress()
        try:
            await in_thread(thread, lambda: self._store.commit(kept, progress))
        except Exception:
            self._conclude(waiting_rows, outcomes, -1)
            self._spend(outcomes, -1)
            raise
        for row_count, (pending, outcome) in zip(waiting_rows, outcomes, strict=True):
            self._tally.release(pending.request.key)
            came_meanwhile = self._open.pop(pending.request.key) - row_count
            self._tally.reuse(came_meanwhile, is_answered=isinstance(outcome, Answer))
        self.durable_limit = limit
        self._around.spending.has_told()
        self._committing = ()
        for pending in turned:
            self._around.has_turned(pending)
        self._around.has_changed()

    def _conclude(self, row_counts: Sequence[int], outcomes: Sequence[tuple[Pending, Outcome]], sign: int = 1) -> None:
        """Count the rows of each outcome, or take them back (`sign` -1): one was asked, those like it were not."""
        for row_count, (_, outcome) in zip(row_counts, outcomes, strict=True):
            is_answered = isinstance(outcome, Answer)
            self._tally.conclude(sign, is_answered=is_answered)
            if row_count > 1:
                self._tally.reuse(sign * (row_count - 1), is_answered=is_answered)

    def _spend(self, outcomes: Sequence[tuple[Pending, Outcome]], sign: int = 1) -> None:
        for pending, outcome in outcomes:
            self._tally.spend(pending.request.key, outcome, sign)

    async def commit_progress(self, thread: Executor) -> None:
        """Commit how far the run is, and what an earlier commit could not keep."""
        limit = self._around.limit()
        row_counts = [self._open[pending.request.key] for pending, _ in self._unkept]
        self._conclude(row_counts, self._unkept)
        self._tally.spend_held()  # of what an earlier commit could not keep, and of rows that the run leaves unasked
        self._around.spending.tell(0)
        unkept, progress = _keyed(self._unkept), self._around.progress()
        try:
            await in_thread(thread, lambda: self._store.commit(unkept, progress))
            self._around.spending.has_told()
        except BatchchatError as error:
            self._conclude(row_counts, self._unkept, -1)
            self._tally.possibly_billed += len(unkept)
            self._around.has_failed(error)
        self.durable_limit = limit

    async def remember(self, settled: Settled, thread: Executor) -> None:
        """Keep what was learned of the endpoint."""
        try:
            await in_thread(thread, lambda: self._store.remember(settled))
        except BatchchatError as error:
            self._around.has_failed(error)


def _outcomes(group: Sequence[tuple[Pending, Outcome | None]]) -> list[tuple[Pending, Outcome]]:
    return [(pending, outcome) for pending, outcome in group if outcome is not None]


def _keyed(outcomes: Sequence[tuple[Pending, Outcome]]) -> list[tuple[bytes, Outcome]]:
    return [(pending.request.key, outcome) for pending, outcome in outcomes]


async def in_thread(thread: Executor, call: Callable[[], T]) -> T:
    """Return what a blocking call returns, made off the event loop."""
    return await asyncio.get_running_loop().run_in_executor(thread, call)
