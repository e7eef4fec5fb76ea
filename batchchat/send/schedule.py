"""The only module that waits: slots, due retries, pauses, drain.

Requests go in from a feed, in input order; outcomes come out to a store. A slot is taken when a request starts and is
free again when its answer is durable, or at once when its row goes to wait for another try. What is in memory is what
is in flight, one chunk of the feed, and a bounded number of rows that wait to be tried again.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from batchchat.errors import EndpointRefusedError, LimitReachedError
from batchchat.records import NO_USAGE, Chunk, Completion, FailedRow, Failure, Outcome, Progress
from batchchat.send.admission import Admission
from batchchat.send.backlog import Backlog
from batchchat.send.bound import Bound
from batchchat.send.bound import Verdict as BoundVerdict
from batchchat.send.breaker import Breaker
from batchchat.send.errorrate import ErrorRate
from batchchat.send.failures import Verdict, signature, verdict
from batchchat.send.feeding import Feeding
from batchchat.send.ladder import Ladder
from batchchat.send.pacing import Pacing, Pending, Send, Store, max_tokens_of, outcome_of
from batchchat.send.parking import Parking
from batchchat.send.reading import Reading
from batchchat.send.retry import is_last, wait_s
from batchchat.send.settling import Settling, Surroundings
from batchchat.send.spending import Entry
from batchchat.send.structured import Structure, Turn, added
from batchchat.send.tally import Tally
from batchchat.send.transport import Reply
from batchchat.send.trouble import Again, GiveUp, Refuse, Trouble, no_such_endpoint, refusal_of_rows
from batchchat.send.waking import keep_beating, set_deadline, wait


class Schedule:
    """One run's requests, from the feed to the store; `halt` is called once, when it stops, and no more may be sent."""

    def __init__(
        self,
        feed: Iterator[Chunk],
        store: Store,
        send: Send,
        pacing: Pacing,
        observe: Callable[[Progress], None],
        structure: Structure | None = None,
        halt: Callable[[], None] = lambda: None,
    ) -> None:
        self._send = send
        self._pacing = pacing
        self._observe = observe
        self._halt = halt
        self._backlog = Backlog()
        self._ladder = Ladder(structure, model_varies=pacing.model_varies)
        self._in_flight: set[asyncio.Task[None]] = set()
        self._in_flight_bytes = 0
        self._probe_count = 0
        self._spending = pacing.spending
        self._tally = Tally()
        self._error_rate = ErrorRate(pacing.max_error_rate, self._tally)
        self._trouble = Trouble(pacing, self._tally)
        self._bound = Bound(pacing.concurrency, pacing.rates, pacing.largest_name)
        self._admission = Admission(self._trouble, pacing.rates, pacing.concurrency, self._bound)
        self._reading = Reading(pacing.rates, pacing.costs)
        self._parking = Parking()
        self._breaker: Breaker[tuple[Pending, FailedRow]] = Breaker()
        self._settling = Settling(store, self._tally, self._surroundings())
        self._wake = asyncio.Event()
        self._feeding = Feeding(feed, self._backlog, self._settling, self._tally, self._wake.set, self.stop)
        self._stop: Exception | None = None
        self._drain_until = 0.0
        self._is_cut_off = False

    async def run(self) -> Progress:
        """Send everything that the feed brings and the store does not have; return how it ended.

        Raises:
            BatchchatError: what stopped the run: the endpoint's refusal, a fault of the store or input, or a signal.
        """
        with ThreadPoolExecutor(1, "store") as self._store_thread:
            self._tally.in_flight_bound = self._pacing.concurrency.limit
            await self._settling.commit_progress(self._store_thread)
            self._bound.beat(time.monotonic(), time.process_time())
            async with asyncio.TaskGroup() as self._tasks:
                heartbeat = self._tasks.create_task(keep_beating(self._beat, self._remember))
                take_back_deadline = set_deadline(self._pacing, self.stop)
                await self._dispatch()
                heartbeat.cancel()
                take_back_deadline()
            self._spending.close()
            self._tally.in_flight_bound = 0
            self._tally.possibly_billed += self._tally.turns_held  # of rows that a stop left on the way
            self._bound.beat(time.monotonic(), time.process_time())
            await self._settling.commit_progress(self._store_thread)
            await self._remember()
        progress = self._progress(bound=self._bound.whole)
        self._observe(progress)
        if self._stop is not None:
            raise self._stop
        return progress

    def stop(self, reason: Exception, *, is_urgent: bool = False) -> None:
        """Start no further request; those in flight may end within `grace_s`, unless it `is_urgent`."""
        if self._stop is None:
            self._stop = reason
            self._drain_until = time.monotonic() + self._pacing.grace_s
            self._halt()
        if is_urgent:
            self._drain_until = 0.0
        self._wake.set()

    async def _dispatch(self) -> None:
        while not self._is_done():
            self._wake.clear()
            wait_until = self._drain() if self._stop else self._admit()
            await wait(self._wake, wait_until)
            self._error_rate.check(self.stop)

    def _is_done(self) -> bool:
        if self._in_flight or self._settling.is_busy or self._feeding.is_busy:
            return False
        if self._stop is not None:
            return True
        if not self._feeding.is_exhausted or self._backlog:
            return False
        self._leave_parking(is_over=True)
        refused = self._breaker.release()
        self._settle_all(refused)
        return not (refused or self._settling.is_busy or self._backlog)

    def _beat(self) -> None:
        self._bound.beat(time.monotonic(), time.process_time())
        self._observe(self._progress())

    async def _remember(self) -> None:
        settled = replace(self._pacing.rates.settled(), concurrency=self._pacing.concurrency.settled)
        await self._settling.remember(settled, self._store_thread)

    def _drain(self) -> float | None:
        """Cancel what is still in flight or being read when the time is over; it may have been billed all the same."""
        if time.monotonic() < self._drain_until:
            return self._drain_until
        if not self._is_cut_off:
            self._is_cut_off = True
            self._tally.possibly_billed += len(self._in_flight)
            for task in self._in_flight:
                task.cancel()
            self._feeding.abandon()
        return None

    # Starting requests

    def _admit(self) -> float | None:
        """Start every request that may start now; return when the next may, None if that depends on something else."""
        self._refill(self._limit())
        now = time.monotonic()
        while self._backlog:
            limit, taken = self._limit(), len(self._in_flight) + len(self._settling)
            due_at = self._backlog.next_due(now, limit)
            opens_at = self._admission.opens_at(now, due_at, taken, limit, self._probe_count)
            if opens_at > now:
                return None if opens_at == math.inf else opens_at
            pending = self._backlog.next(now)
            if not (self._has_room(pending.request.sent_bytes, now) and self._can_pay(pending, now)):
                return None
            self._start(self._backlog.take(now), now)
            self._refill(limit)
        if not self._feeding.is_exhausted:
            self._admission.on_dry(now)
        return None

    def _limit(self) -> int:
        """Never more than the last commit said, so that after a power cut the bound it recorded is true."""
        return min(self._pacing.concurrency.limit, self._settling.durable_limit)

    def _refill(self, limit: int) -> None:
        self._feeding.refill(limit, self._tasks, self._store_thread)

    def _has_room(self, sent_bytes: int, now: float) -> bool:
        if not self._in_flight or self._in_flight_bytes + sent_bytes <= self._pacing.in_flight_bytes:
            return True
        self._admission.on_crowded(now)
        return False

    def _can_pay(self, pending: Pending, now: float) -> bool:
        """Whether the budget has room for a row; if not, see to what must come first."""
        entry = self._spending.entry(pending, is_quiet=not (self._in_flight or self._settling.is_busy))
        if entry is Entry.OPEN:
            return True
        self._admission.on_unpaid(now)
        if entry is Entry.TELL:
            self._settling.renew(self._tasks, self._store_thread)
        elif entry is Entry.OVER:
            self.stop(LimitReachedError(*self._spending.end))
        elif isinstance(entry, Failure):
            self._hand_over(self._backlog.take(now), pending.unsent(entry))
            self._wake.set()
        return False

    def _start(self, pending: Pending, now: float) -> None:
        self._spending.start(pending)
        sent_bytes, is_probe = pending.request.sent_bytes, self._trouble.is_holding
        rates = self._pacing.rates
        max_tokens = max_tokens_of(pending.request.body) if rates.counts_tokens else None
        pending.reserved = rates.reserve(now, sent_bytes, max_tokens)
        pending.started_among = len(self._in_flight)
        task = self._tasks.create_task(self._attempt(pending))
        self._in_flight.add(task)
        self._in_flight_bytes += sent_bytes
        self._probe_count += is_probe

        def end(task: asyncio.Task[None]) -> None:
            self._in_flight.discard(task)
            self._in_flight_bytes -= sent_bytes
            self._probe_count -= is_probe
            self._wake.set()

        task.add_done_callback(end)

    # One attempt, and what follows from it

    async def _attempt(self, pending: Pending) -> None:
        if self._stop is not None:
            self._spending.settle(pending, None, None)
            return  # stopped between the decision to start this request and its first byte
        pending.started_at, pending.place = time.monotonic(), self._breaker.start()
        self._tally.requests_sent += 1
        try:
            reply = await self._send(pending.request, self._ladder.body(pending), pending.wants_new_connection)
            result = await self._reading.read(reply, pending.request.body) if isinstance(reply, Reply) else reply
            self._breaker.end(pending.place)
            self._spending.settle(pending, reply, result)
            self._follow(pending, reply, result)
        except Exception as error:  # a fault of our own must not take along what others have paid for
            self.stop(error)
        finally:
            self._spending.abandon(pending)

    def _follow(self, pending: Pending, reply: Reply | Failure | None, result: Completion | Failure | None) -> None:
        is_unbuilt = isinstance(result, Failure) and result.kind == "media" and result.status is None
        if result is None or is_unbuilt:
            self._pacing.rates.give_back(pending.reserved)
            self._tally.requests_sent -= 1
            if isinstance(result, Failure):  # and the file may be there again
                self._hand_over(pending, pending.unsent(result))
            return
        if isinstance(result, Failure) and verdict(result) in (Verdict.CUT, Verdict.HOLD):
            self._pacing.rates.give_back(pending.reserved)
        else:
            usage = None if isinstance(result, Failure) and result.usage == NO_USAGE else result.usage
            self._pacing.rates.settle(pending.reserved, pending.request.sent_bytes, usage)
            self._tally.hold(pending.request.key, result.usage)
        if isinstance(result, Failure):
            self._fail(pending, result, time.monotonic())
        else:
            assert isinstance(reply, Reply)
            self._complete(pending, reply, result)
        self._leave_parking()

    def _complete(self, pending: Pending, reply: Reply, completion: Completion) -> None:
        now, usage = time.monotonic(), completion.usage
        self._trouble.pass_through(pending.started_at)
        tokens = (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)
        self._pacing.concurrency.on_reply(now, now - pending.started_at, tokens)
        self._tally.has_completion = True
        judged = self._ladder.judge(completion, pending)
        if isinstance(judged, Turn):
            pending.turn, pending.last = judged, (completion, reply)
            pending.turns += 1
            self._settle(pending, None)
        else:
            is_first = pending.turn.usage is NO_USAGE
            said = completion if is_first else replace(completion, usage=added(pending.turn.usage, completion.usage))
            self._settle(pending, outcome_of(pending, judged, said, reply, pending.requests + 1))

    def _fail(self, pending: Pending, failure: Failure, now: float) -> None:
        pending.turn = replace(pending.turn, usage=added(pending.turn.usage, failure.usage))
        if failure.is_outcome_unknown:
            self._tally.possibly_billed += 1
        is_rest_tried = self._feeding.is_exhausted and not self._backlog.has_new
        step = self._trouble.follow(pending, failure, now, is_rest_tried=is_rest_tried)
        if isinstance(step, Refuse):
            self.stop(EndpointRefusedError(step.reason))
        elif isinstance(step, Again):
            self._backlog.try_again(pending, step.at)
        elif isinstance(step, GiveUp):
            self._give_up(pending, failure, None, charged=1)
        elif turn := self._ladder.fallback(failure, pending):
            pending.turn = turn
            self._backlog.try_again(pending, now)
        elif step.is_final and (judged := self._ladder.resume(pending, failure)):
            self._resume(pending, judged, now)
        else:
            known = failure if step.kind is None else replace(failure, kind=step.kind)
            self._charge(pending, known, now - pending.started_at, is_final=step.is_final)

    def _resume(self, pending: Pending, judged: Completion | Turn | Failure, now: float) -> None:
        """Go on from the row's last reply, as the turn after it was refused."""
        assert pending.last is not None
        completion, reply = pending.last
        pending.attempts += 1
        if isinstance(judged, Turn):
            pending.turn = judged
            self._backlog.try_again(pending, now)
        else:
            said = replace(completion, usage=pending.turn.usage)
            self._settle(pending, outcome_of(pending, judged, said, reply, pending.requests))

    def _charge(self, pending: Pending, failure: Failure, latency_s: float, *, is_final: bool) -> None:
        pending.attempts += 1
        now = time.monotonic()
        self._pacing.concurrency.on_reply(now, now - pending.started_at)
        if not (is_final or is_last(pending.attempts, self._pacing.tries(failure.kind))):
            self._backlog.try_again(pending, now + wait_s(failure, pending.attempts))
        elif failure.kind == "protocol" and not self._tally.has_completion:
            # Nothing that came back was ever a chat completion: this is not such an endpoint.
            self.stop(EndpointRefusedError(no_such_endpoint(failure)))
        elif self._trouble.is_open(pending, now):
            self._parking.park(pending, failure, latency_s)
        else:
            self._give_up(pending, failure, latency_s)

    def _leave_parking(self, *, is_over: bool = False) -> None:
        if not self._parking:
            return
        now = time.monotonic()
        again, over = self._parking.leave(lambda pending: not is_over and self._trouble.is_open(pending, now))
        for pending in again:
            self._backlog.try_again(pending, self._trouble.opens_at)
        for row in over if self._stop is None else ():
            self._give_up(row.pending, row.failure, row.latency_s)

    def _give_up(self, pending: Pending, failure: Failure, latency_s: float | None, *, charged: int = 0) -> None:
        """Settle a row with its failure.

        A refusal that may be the job's is held until it shows whose it is; when the run stops, its row was not asked.
        """
        row = pending.given_up(failure, latency_s, charged=charged)
        mark = None if pending.last else signature(failure)
        if mark is None:
            self._settle(pending, row)
        elif self._stop is None:
            self._settle_all(self._breaker.hold((pending, row), mark, pending.place))
            if self._breaker.is_tripped(has_worked=self._tally.has_completion):
                self.stop(EndpointRefusedError(refusal_of_rows(failure, self._breaker.in_a_row())))

    def _settle(self, pending: Pending, outcome: Outcome | None) -> None:
        if self._stop is None:
            self._settle_all(self._breaker.note_other(pending.place))
        self._hand_over(pending, outcome)

    def _settle_all(self, rows: Sequence[tuple[Pending, FailedRow]]) -> None:
        for pending, row in rows:
            self._hand_over(pending, row)

    def _hand_over(self, pending: Pending, outcome: Outcome | None) -> None:
        if outcome is not None:
            self._spending.release(pending)
        if isinstance(outcome, FailedRow):
            self._error_rate.note(outcome)
        self._settling.settle(pending, outcome, self._tasks, self._store_thread)

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            limit=lambda: self._pacing.concurrency.limit,
            in_flight=lambda: len(self._in_flight),
            in_flight_bound=self._in_flight_bound,
            spending=self._spending,
            progress=self._progress,
            has_turned=lambda pending: self._backlog.try_again(pending, -math.inf),  # what is set aside for it is freed
            has_changed=self._note_change,
            has_failed=self.stop,
        )

    def _note_change(self) -> None:
        self._wake.set()
        self._observe(self._progress())

    def _in_flight_bound(self, limit: int, turned: int) -> int:
        """Return how many requests may be under way before the next commit, while `turned` rows come back for one."""
        in_flight = len(self._in_flight)
        if self._stop is not None:
            return in_flight
        is_fed = self._feeding.is_exhausted and not self._feeding.is_busy
        waiting = len(self._backlog) + turned if is_fed else limit
        return max(in_flight, min(limit, in_flight + waiting))  # more than the limit, where it has just been cut

    def _progress(self, bound: BoundVerdict | None = None) -> Progress:
        bound = bound or self._bound.lately
        self._tally.notes = (*self._ladder.notes, *self._trouble.notes, *self._pacing.costs.notes)
        progress = self._tally.progress(
            in_flight=len(self._in_flight),
            concurrency=self._limit(),
            bound_by=bound.kind,
            bound=bound.words,
            reached=self._pacing.base_url if self._tally.has_reached else self._pacing.reached,
        )
        return self._spending.noted(progress)
