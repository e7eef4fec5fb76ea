"""The only module that waits: slots, due retries, pauses, drain.

Requests go in from a feed, in input order; outcomes come out to a store. A slot is taken when a request starts and is
free again when its answer is durable, or at once when its row goes to wait for another try. What is in memory is what
is in flight, one chunk of the feed, and a bounded number of rows that wait to be tried again.
"""

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from batchchat.errors import EndpointRefusedError
from batchchat.records import NO_USAGE, Answer, Chunk, Completion, FailedRow, Failure, Outcome, Progress, Settled
from batchchat.send.admission import Admission
from batchchat.send.backlog import Backlog
from batchchat.send.bound import Bound
from batchchat.send.bound import Verdict as BoundVerdict
from batchchat.send.breaker import Breaker
from batchchat.send.failures import Verdict, is_transient, signature, verdict
from batchchat.send.feeding import Feeding
from batchchat.send.ladder import Ladder
from batchchat.send.pacing import EMPTY_TRIES, Pacing, Pending, Send, Store, max_tokens_of
from batchchat.send.parking import Parking
from batchchat.send.reading import Reading
from batchchat.send.retry import is_last, wait_s
from batchchat.send.settling import Settling, Surroundings
from batchchat.send.structured import Structure, Turn, added
from batchchat.send.tally import Tally
from batchchat.send.transport import Reply
from batchchat.send.trouble import Again, GiveUp, Refuse, Trouble, no_such_endpoint, refusal_of_rows

HEARTBEAT_S = 1.0
BEATS_TO_REMEMBER = 30
"""Heartbeats after which what was learned of the endpoint is stored, lest a run that is killed leaves nothing."""


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
        self._tally = Tally()
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
        with ThreadPoolExecutor(1, "store") as self._store_thread, ThreadPoolExecutor(1, "feed") as self._feed_thread:
            self._tally.in_flight_bound = self._pacing.concurrency.limit
            await self._settling.commit_progress(self._store_thread)
            self._bound.beat(time.monotonic(), time.process_time())
            async with asyncio.TaskGroup() as self._tasks:
                heartbeat = self._tasks.create_task(self._beat())
                await self._dispatch()
                heartbeat.cancel()
            self._tally.in_flight_bound = 0
            self._tally.possibly_billed += self._tally.turns_held  # of rows that a stop left on the way
            self._bound.beat(time.monotonic(), time.process_time())
            await self._settling.commit_progress(self._store_thread)
            await self._settling.remember(self._settled(), self._store_thread)
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
            await self._sleep(wait_until)

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

    async def _sleep(self, until: float | None) -> None:
        timer = None
        if until is not None:
            delay_s = max(0.0, until - time.monotonic())
            timer = asyncio.get_running_loop().call_later(delay_s, self._wake.set)
        await self._wake.wait()
        if timer is not None:
            timer.cancel()

    async def _beat(self) -> None:
        for beats in itertools.count(1):
            await asyncio.sleep(HEARTBEAT_S)
            self._bound.beat(time.monotonic(), time.process_time())
            self._observe(self._progress())
            if beats % BEATS_TO_REMEMBER == 0:
                await self._settling.remember(self._settled(), self._store_thread)

    def _drain(self) -> float | None:
        """Cancel what is still in flight when the time for it is over; it may have been billed all the same."""
        if time.monotonic() < self._drain_until:
            return self._drain_until
        if not self._is_cut_off:
            self._is_cut_off = True
            self._tally.possibly_billed += len(self._in_flight)
            for task in self._in_flight:
                task.cancel()
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
            if not self._has_room(self._backlog.next_bytes(now)):
                self._admission.on_crowded(now)
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
        self._feeding.refill(limit, self._tasks, self._feed_thread, self._store_thread)

    def _has_room(self, sent_bytes: int) -> bool:
        return not self._in_flight or self._in_flight_bytes + sent_bytes <= self._pacing.in_flight_bytes

    def _start(self, pending: Pending, now: float) -> None:
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
            return  # stopped between the decision to start this request and its first byte
        pending.started_at, pending.place = time.monotonic(), self._breaker.start()
        self._tally.requests_sent += 1
        try:
            reply = await self._send(pending.request, self._ladder.body(pending))
            result = await self._reading.read(reply, pending.request.body) if isinstance(reply, Reply) else reply
            self._breaker.end(pending.place)
            self._follow(pending, reply, result)
        except Exception as error:  # a fault of our own must not take along what others have paid for
            self.stop(error)

    def _follow(self, pending: Pending, reply: Reply | Failure | None, result: Completion | Failure | None) -> None:
        if result is None:
            self._unsend(pending)
            return
        if isinstance(result, Failure) and result.kind == "media" and result.status is None:
            self._unsend(pending)  # and the file may be there again
            row = FailedRow(result, True, None, pending.requests, row_name=pending.request.row_name)
            self._settle_all([(pending, row)])
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

    def _unsend(self, pending: Pending) -> None:
        self._pacing.rates.give_back(pending.reserved)
        self._tally.requests_sent -= 1

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
            self._conclude(pending, judged, said, reply, pending.requests + 1)

    def _conclude(
        self, pending: Pending, judged: Completion | Failure, said: Completion, reply: Reply, attempts: int
    ) -> None:
        """Settle a row by its reply: as its answer, or, where that does not fit, as a failure that keeps its words."""
        if isinstance(judged, Failure):
            name = pending.request.row_name
            self._settle(pending, FailedRow(judged, False, reply.latency_s, attempts, said, reply.body, name))
        else:
            self._settle(pending, Answer(judged, reply.body, reply.latency_s, attempts, reply.first_token_s))

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
            self._conclude(pending, judged, replace(completion, usage=pending.turn.usage), reply, pending.requests)

    def _charge(self, pending: Pending, failure: Failure, latency_s: float, *, is_final: bool) -> None:
        pending.attempts += 1
        now = time.monotonic()
        self._pacing.concurrency.on_reply(now, now - pending.started_at)
        tries = (
            self._pacing.max_attempts if failure.kind != "empty_reply" else min(EMPTY_TRIES, self._pacing.max_attempts)
        )
        if not (is_final or is_last(pending.attempts, tries)):
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
        """Settle a row with its failure; what its earlier replies said and cost stays on record.

        A refusal that may be the job's is held until it shows whose it is; when the run stops, its row was not asked.
        """
        said, reply = (pending.last[0], pending.last[1].body) if pending.last else (Completion(None), b"")
        paid = None if pending.turn.usage == NO_USAGE else replace(said, usage=pending.turn.usage)
        requests = pending.requests + charged
        row = FailedRow(failure, is_transient(failure), latency_s, requests, paid, reply, pending.request.row_name)
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
        self._settling.settle(pending, outcome, self._tasks, self._store_thread)

    def _settle_all(self, rows: Sequence[tuple[Pending, FailedRow]]) -> None:
        for pending, row in rows:
            self._settling.settle(pending, row, self._tasks, self._store_thread)

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            limit=lambda: self._pacing.concurrency.limit,
            in_flight_bound=self._in_flight_bound,
            progress=self._progress,
            has_turned=lambda pending: self._backlog.try_again(pending, time.monotonic()),
            has_changed=self._note_change,
            has_failed=self.stop,
        )

    def _note_change(self) -> None:
        self._wake.set()
        self._observe(self._progress())

    def _in_flight_bound(self, limit: int, turned: int) -> int:
        """Return how many requests may be under way at any time before the next commit.

        `turned` rows are about to come back to the backlog.
        """
        in_flight = len(self._in_flight)
        if self._stop is not None:
            return in_flight
        if not self._feeding.is_exhausted or self._feeding.is_busy:
            return max(limit, in_flight)  # more than the limit, where it has just been cut
        return max(in_flight, min(limit, in_flight + len(self._backlog) + turned))

    def _settled(self) -> Settled:
        return replace(self._pacing.rates.settled(), concurrency=self._pacing.concurrency.settled)

    def _progress(self, bound: BoundVerdict | None = None) -> Progress:
        bound = bound or self._bound.lately
        self._tally.notes = (*self._ladder.notes, *self._trouble.notes, *self._pacing.costs.notes)
        return self._tally.progress(
            in_flight=len(self._in_flight),
            concurrency=self._limit(),
            bound_by=bound.kind,
            bound=bound.words,
            reached=self._pacing.base_url if self._tally.has_reached else self._pacing.reached,
        )
