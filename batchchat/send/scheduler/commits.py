"""Outcomes on their way to the store, and the rows that wait for them.

A slot is freed only by the commit that makes its row's outcome durable: so an answer is durable before another request
takes its place, and a slow disk makes larger commits, not slower rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Protocol, TypeVar

from batchchat.errors import BatchchatError
from batchchat.records import Answer, ChatRequest, Outcome, Progress, Settled, dataclass
from batchchat.send.scheduler.ending import Ending
from batchchat.send.scheduler.queue import Queue
from batchchat.send.scheduler.report import Report
from batchchat.send.state.row import Pending
from batchchat.send.state.slots import Slot

T = TypeVar("T")

ENOUGH_ROWS = 64
"""Outcomes from which on a commit waits for no more: a row of a larger one costs hardly less."""


class Store(Protocol):
    """Where outcomes are kept; all calls block and are made off the event loop, one at a time."""

    def find(self, keys: Sequence[bytes]) -> Mapping[bytes, bool | None]:
        """Return what is known of keys: True for an answer, False for a failure that stands, None for one to retry."""

    def remember(self, settled: Settled) -> None:
        """Keep what was learned of the endpoint for the next run."""

    def commit(self, outcomes: Sequence[tuple[bytes, Outcome]], progress: Progress) -> None:
        """Make the outcomes durable, together with how far the run is."""


@dataclass(frozen=True, slots=True, eq=False)
class Uncommitted:
    """A row at a commit: with its outcome, or, between two turns, with what it waits by."""

    row: Pending
    outcome: Outcome | None
    has_slot: bool
    is_durable: asyncio.Future[None] | None = None


class Commits:
    """One run's way to the store."""

    def __init__(self, store: Store, report: Report, queue: Queue, ending: Ending, changed: asyncio.Event) -> None:
        self._store = store
        self._report = report
        self._counts = report.counts
        self._account = report.limits.account
        self._slots = report.slots
        self._queue = queue
        self._ending = ending
        self._changed = changed
        self._thread = ThreadPoolExecutor(1, "store")
        self._open: dict[bytes, int] = {}  # keys on their way, each with the number of rows that want its answer
        self._entries: list[Uncommitted] = []
        self._committing: Sequence[Uncommitted] = ()
        self._unkept: list[Uncommitted] = []
        self._is_wanted = asyncio.Event()
        self.count = 0
        """Commits so far."""

    @property
    def is_busy(self) -> bool:
        """Whether a commit is under way, or about to be."""
        return self._is_wanted.is_set()

    async def unanswered(self, requests: Sequence[ChatRequest]) -> list[Pending]:
        """Return the rows that must be asked; those that wait for another row's answer are noted.

        A key is looked up only when it is claimed: an answer is committed before its key is given up, so a key that is
        neither claimed by an earlier row nor found in the store has never been asked.
        """
        fresh = [request for request in requests if self._claim(request.key)]
        known = await self._in_thread(lambda: self._store.find([request.key for request in fresh]))
        for key, is_answered in known.items():
            if is_answered is not None:
                self._counts.reuse(self._open.pop(key), is_answered=is_answered)
        return [
            Pending(request, has_failed_before=request.key in known)
            for request in fresh
            if known.get(request.key) is None
        ]

    def _claim(self, key: bytes) -> bool:
        """Note one more row that wants a key's answer; return whether it is the first."""
        self._open[key] = self._open.get(key, 0) + 1
        return self._open[key] == 1

    def add(self, row: Pending, outcome: Outcome, slot: Slot | None) -> None:
        """Take a row's outcome; the commit of it frees its slot."""
        self._add(Uncommitted(row, outcome, _land(slot)))

    async def durable(self, row: Pending, slot: Slot) -> None:
        """Return when a row's next turn is on record, or the run stops; a kill would lose the reply that led to it."""
        is_durable = asyncio.get_running_loop().create_future()
        self._add(Uncommitted(row, None, has_slot=_land(slot), is_durable=is_durable))
        await is_durable

    def _add(self, entry: Uncommitted) -> None:
        self._entries.append(entry)
        self._is_wanted.set()

    def renew(self) -> None:
        """Start a commit if none is running, so that the new limit and budget are persisted."""
        self._is_wanted.set()

    async def run(self) -> None:
        """Commit what comes, until cancelled."""
        while True:
            await self._is_wanted.wait()
            try:
                await self._gather()
                self._committing, self._entries = self._entries, []
                await self._commit(self._committing)
            except Exception as error:  # the run ends with it; the answers get another chance at the end
                self._unkept += [one for one in (*self._committing, *self._entries) if one.outcome is not None]
                left, self._entries = [*self._committing, *self._entries], []
                self._ending.stop(error)
                await self._let_go(left)
            self._committing = ()
            if not self._entries:
                self._is_wanted.clear()
            self._changed.set()

    async def _gather(self) -> None:
        """Wait for as long as every turn of the loop brings more: what has arrived goes with one commit, not several.

        No time is lost by it: the loop does nothing else than take what is there.
        """
        count = 0
        while count < len(self._entries) < ENOUGH_ROWS:
            count = len(self._entries)
            await asyncio.sleep(0)

    async def _commit(self, entries: Sequence[Uncommitted]) -> None:
        limit = self._report.limits.concurrency.limit
        outcomes = _outcomes(entries)
        turned = len(entries) - len(outcomes)
        self._counts.turns_held += turned - sum(row.turns for row, _ in outcomes)
        in_flight_bound = self._in_flight_bound(limit, turned)
        self._counts.in_flight_bound = in_flight_bound + self._counts.turns_held
        self._account.tell(in_flight_bound - len(self._slots.in_flight))
        self._slots.durable_limit = min(self._slots.durable_limit, limit)  # it holds as soon as this is stored
        waiting_rows = [self._open[row.request.key] for row, _ in outcomes]
        self._conclude(waiting_rows, outcomes)
        self._spend(outcomes)
        kept, progress = _keyed(outcomes), self._report.progress()
        try:
            await self._in_thread(lambda: self._store.commit(kept, progress))
        except Exception:
            self._conclude(waiting_rows, outcomes, -1)
            self._spend(outcomes, -1)
            raise
        for row_count, (row, outcome) in zip(waiting_rows, outcomes, strict=True):
            self._counts.release(row.request.key)
            came_meanwhile = self._open.pop(row.request.key) - row_count
            self._counts.reuse(came_meanwhile, is_answered=isinstance(outcome, Answer))
        self._slots.durable_limit = limit
        self._account.has_told()
        self.count += 1
        await self._let_go(entries)

    def _in_flight_bound(self, limit: int, turned: int) -> int:
        """Return how many requests may be in flight before the next commit, while `turned` rows come back for one.

        So may rows that are undecided.
        """
        in_flight = len(self._slots.in_flight)
        if self._ending.has_begun:
            return in_flight
        waiting = len(self._queue) + turned + self._report.undecided if self._queue.is_fed else limit
        return max(in_flight, min(limit, in_flight + waiting))  # more than the limit, where it has just been cut

    async def _let_go(self, entries: Sequence[Uncommitted]) -> None:
        """Let the rows between two turns go on, and free the slots of what was committed."""
        turned = [entry.is_durable for entry in entries if entry.is_durable is not None]
        for is_durable in turned:
            is_durable.set_result(None)
        if turned:
            await asyncio.sleep(0)  # these rows queue for their next turn before new ones get their slots
        self._slots.free_committed(sum(entry.has_slot for entry in entries))

    def _conclude(self, row_counts: Sequence[int], outcomes: Sequence[tuple[Pending, Outcome]], sign: int = 1) -> None:
        """Count the rows of each outcome, or take them back (`sign` -1): one was asked, those like it were not."""
        for row_count, (_, outcome) in zip(row_counts, outcomes, strict=True):
            is_answered = isinstance(outcome, Answer)
            self._counts.conclude(sign, is_answered=is_answered)
            if row_count > 1:
                self._counts.reuse(sign * (row_count - 1), is_answered=is_answered)

    def _spend(self, outcomes: Sequence[tuple[Pending, Outcome]], sign: int = 1) -> None:
        for row, outcome in outcomes:
            self._counts.spend(row.request.key, outcome, sign)

    async def commit_progress(self) -> None:
        """Commit how far the run is, and what an earlier commit could not keep."""
        limit, unkept = self._report.limits.concurrency.limit, _outcomes(self._unkept)
        row_counts = [self._open[row.request.key] for row, _ in unkept]
        self._conclude(row_counts, unkept)
        self._counts.spend_held()  # of what an earlier commit could not keep, and of rows that the run leaves unasked
        self._account.tell(0)
        progress = self._report.progress()
        try:
            await self._in_thread(lambda: self._store.commit(_keyed(unkept), progress))
            self._account.has_told()
        except BatchchatError as error:
            self._conclude(row_counts, unkept, -1)
            self._counts.possibly_billed += len(unkept)
            self._ending.stop(error)
        self._slots.durable_limit = limit

    async def remember(self) -> None:
        """Keep what was learned of the endpoint."""
        settled = self._report.limits.settled()
        try:
            await self._in_thread(lambda: self._store.remember(settled))
        except BatchchatError as error:
            self._ending.stop(error)

    def close(self) -> None:
        """End the thread that the store is called in."""
        self._thread.shutdown()

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await in_thread(self._thread, call)


def _land(slot: Slot | None) -> bool:
    """Take a slot's request off the wire, if it still is in flight; return whether the commit has a slot to free."""
    if slot is None or slot not in slot.slots.in_flight:
        return False
    slot.land()
    return True


def _outcomes(entries: Sequence[Uncommitted]) -> list[tuple[Pending, Outcome]]:
    return [(entry.row, entry.outcome) for entry in entries if entry.outcome is not None]


def _keyed(outcomes: Sequence[tuple[Pending, Outcome]]) -> list[tuple[bytes, Outcome]]:
    return [(row.request.key, outcome) for row, outcome in outcomes]


async def in_thread(thread: Executor, call: Callable[[], T]) -> T:
    """Return what a blocking call returns, made off the event loop."""
    return await asyncio.get_running_loop().run_in_executor(thread, call)
