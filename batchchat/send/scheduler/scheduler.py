"""One run's requests, from the feed to the store: the dispatcher, which alone grants slots.

A slot is taken when a request starts and is free again when its answer is durable, or at once when its row goes to wait
for another try. What is in memory is what is in flight, one chunk of the feed, and a bounded number of rows that wait.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Iterator

from batchchat.errors import LimitReachedError
from batchchat.records import Chunk, Failure, Progress
from batchchat.send.budget.account import BudgetState
from batchchat.send.limits.admission import Admission
from batchchat.send.limits.bottleneck import Bottleneck
from batchchat.send.limits.token_estimate import max_tokens_of
from batchchat.send.policy.rules import Rules, RunEndpoint, RunLimits
from batchchat.send.scheduler.ask_row import Run, Sender, ask_row
from batchchat.send.scheduler.commits import Commits, Store
from batchchat.send.scheduler.decide import Decisions
from batchchat.send.scheduler.ending import Ending
from batchchat.send.scheduler.feed import Feed
from batchchat.send.scheduler.queue import Queue
from batchchat.send.scheduler.report import Report
from batchchat.send.state.row import Pending
from batchchat.send.state.row_cost import RowCost
from batchchat.send.state.slots import Slots

HEARTBEAT_S = 1.0
BEATS_TO_REMEMBER = 30
"""Heartbeats after which what was learned of the endpoint is stored, lest a run that is killed leaves nothing."""


class Scheduler:
    """One run's requests; `observe` is called with the progress after every commit, and once a second."""

    def __init__(
        self,
        feed: Iterator[Chunk],
        store: Store,
        endpoint: RunEndpoint,
        limits: RunLimits,
        rules: Rules,
        observe: Callable[[Progress], None],
    ) -> None:
        self._limits = limits
        self._rules = rules
        self._observe = observe
        self._changed = asyncio.Event()
        self._ending = Ending(rules.grace_s, endpoint.halt, self._changed)
        self._slots = Slots(self._changed)
        self._queue = Queue(self._changed)
        self._decisions = Decisions(endpoint, limits=limits, rules=rules, queue=self._queue, ending=self._ending)
        self._counts = self._decisions.counts
        self._bottleneck = Bottleneck(limits.concurrency, limits.rates, rules.largest_name)
        self._admission = Admission(
            self._decisions.policy, rates=limits.rates, concurrency=limits.concurrency, bound=self._bottleneck
        )
        self._report = Report(
            endpoint, limits=limits, decisions=self._decisions, slots=self._slots, bound=self._bottleneck
        )
        self._commits = Commits(
            store, report=self._report, queue=self._queue, ending=self._ending, changed=self._changed
        )
        self._feed = Feed(feed, queue=self._queue, commits=self._commits, counts=self._counts, ending=self._ending)
        sender = Sender(endpoint, limits=limits, decisions=self._decisions, ending=self._ending)
        self._run = Run(
            sender,
            decisions=self._decisions,
            commits=self._commits,
            queue=self._queue,
            ending=self._ending,
            changed=self._changed,
        )
        self._commits_seen = 0
        self._is_closed = self._is_cut_off = False

    async def run(self) -> Progress:
        """Send everything that the feed brings and the store does not have; return how it ended.

        Raises:
            BatchchatError: what stopped the run: the endpoint's refusal, a fault of the store or input, or a signal.
        """
        try:
            await self._ask_all()
        finally:
            self._commits.close()
        progress = self._report.progress(bound=self._bottleneck.whole)
        self._observe(progress)
        if self._ending.reason is not None:
            raise self._ending.reason
        return progress

    async def _ask_all(self) -> None:
        self._counts.in_flight_bound = self._limits.concurrency.limit
        await self._commits.commit_progress()
        self._beat()
        async with asyncio.TaskGroup() as self._tasks:
            self._feeding = self._tasks.create_task(self._feed.run(self._changed))
            parts = (self._commits.run(), self._keep_beating(), self._wait_for_deadline())
            background = [self._feeding, *(self._tasks.create_task(part) for part in parts)]
            await self._dispatch()
            for task in background:
                task.cancel()
        self._limits.account.close()
        self._counts.in_flight_bound = 0
        self._counts.possibly_billed += self._counts.turns_held  # of rows that a stop left on the way
        self._bottleneck.beat(time.monotonic(), time.process_time())
        await self._commits.commit_progress()
        await self._commits.remember()

    def stop(self, reason: Exception, *, is_urgent: bool = False) -> None:
        """Start no further request; those in flight may end within `grace_s`, unless it `is_urgent`."""
        self._ending.stop(reason, is_urgent=is_urgent)

    # What goes on beside the rows

    async def _keep_beating(self) -> None:
        for beats in itertools.count(1):
            await asyncio.sleep(HEARTBEAT_S)
            self._beat()
            self._observe(self._report.progress())
            if beats % BEATS_TO_REMEMBER == 0:
                await self._commits.remember()

    def _beat(self) -> None:
        self._bottleneck.beat(time.monotonic(), time.process_time())

    async def _wait_for_deadline(self) -> None:
        if self._rules.deadline_s is not None:
            await asyncio.sleep(self._rules.deadline_s)
            words = f"limits.deadline: {self._rules.deadline}; the same command goes on"
            self.stop(LimitReachedError("deadline", words))

    # The dispatcher

    async def _dispatch(self) -> None:
        """Grant slots until every row has its outcome, or the run has stopped."""
        while not self._is_done():
            self._changed.clear()
            await self._wait(self._drain() if self._ending.has_begun else self._grant_slots())
            self._tell()
            if excess := self._decisions.error_rate.excess:
                self.stop(excess)

    async def _wait(self, until: float | None) -> None:
        """Wait for a change, at most until a moment of the monotonic clock."""
        timer = None
        if until is not None:
            timer = asyncio.get_running_loop().call_later(max(0.0, until - time.monotonic()), self._changed.set)
        await self._changed.wait()
        if timer is not None:
            timer.cancel()

    def _tell(self) -> None:
        if self._commits.count != self._commits_seen:
            self._commits_seen = self._commits.count
            self._observe(self._report.progress())

    def _is_done(self) -> bool:
        if self._commits.is_busy or self._feed.is_busy:
            return False
        if self._ending.has_begun:
            return self._is_closed and not self._run.rows
        if not self._queue.is_fed or self._queue:
            return False
        if self._run.rows and self._run.rows == self._decisions.undecided:
            self._decisions.decide_all()
        return not self._run.rows

    def _drain(self) -> float | None:
        """Send waiting rows away, and cut off what is in flight when its time is over; that may be billed."""
        if not self._is_closed:
            self._is_closed = True
            self._queue.close()
            self._decisions.close()
            self._changed.set()  # the run may be over with that
        if time.monotonic() < self._ending.drain_until:
            return self._ending.drain_until
        if not self._is_cut_off:
            self._is_cut_off = True
            tasks = [slot.task for slot in self._slots.in_flight if slot.task is not None]
            self._counts.possibly_billed += len(tasks)
            for task in (*tasks, self._feeding):
                task.cancel()
        return None

    def _grant_slots(self) -> float | None:
        """Start every request that may start now; return when the next may, None if that depends on something else."""
        self._feed.refill(self._limit())
        now = time.monotonic()
        while self._queue:
            limit = self._limit()
            due_at = self._queue.next_due(now, limit)
            opens_at = self._admission.opens_at(
                now, due_at, taken=self._slots.taken, limit=limit, probes=self._slots.probes
            )
            if opens_at > now:
                return None if opens_at == math.inf else opens_at
            row = self._queue.next(now)
            if not (self._has_room(row.request.sent_bytes, now) and self._can_pay(row, now)):
                return None
            self._grant(now)
            self._feed.refill(limit)
        if not self._queue.is_fed:
            self._admission.on_dry(now)
        return None

    def _limit(self) -> int:
        return min(self._limits.concurrency.limit, self._slots.durable_limit)

    def _has_room(self, sent_bytes: int, now: float) -> bool:
        in_flight_bytes = self._slots.bytes_in_flight
        if not self._slots.in_flight or in_flight_bytes + sent_bytes <= self._rules.in_flight_bytes:
            return True
        self._admission.on_crowded(now)
        return False

    def _can_pay(self, row: Pending, now: float) -> bool:
        """Return whether the budget has room for a row; if not, start what must come first."""
        account = self._limits.account
        if account.budget is None:
            return True
        row.cost = row.cost or RowCost(row.request)
        is_quiet = not (self._slots.taken or self._commits.is_busy)
        entry = account.entry(row.cost, row.turn, row.told_tokens, is_quiet=is_quiet)
        if entry is BudgetState.OPEN:
            return True
        self._admission.on_unpaid(now)
        if entry is BudgetState.TELL:
            self._commits.renew()
        elif entry is BudgetState.OVER:
            self.stop(LimitReachedError(*account.end))
        elif isinstance(entry, Failure):
            self._refuse(entry, now)
        return False

    def _refuse(self, failure: Failure, now: float) -> None:
        """Give a new row a failure for an outcome: its cost has no bound."""
        row, waiter = self._queue.take(now)
        assert waiter is None, "the cost of a row that was asked before has a bound"
        done = self._decisions.unaskable(row, failure)
        self._commits.add(row, done.outcome, None)
        self._changed.set()

    def _grant(self, now: float) -> None:
        """Give the next row a slot: a new one starts, one that waited goes on."""
        row, waiter = self._queue.take(now)
        if row.cost is not None:
            self._limits.account.start(row.cost, row.turn, row.told_tokens)
        slot = self._slots.grant(row.request.sent_bytes, is_probe=self._decisions.policy.is_holding)
        rates = self._limits.rates
        max_tokens = max_tokens_of(row.request.body) if rates.counts_tokens else None
        slot.reserved = rates.reserve(now, slot.sent_bytes, max_tokens)
        if waiter is not None:
            waiter.set_result(slot)
        else:
            self._run.rows += 1
            self._tasks.create_task(ask_row(row, slot, self._run))
