"""What follows from each reply, for its row and for rows that wait for others to show what follows."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from batchchat.errors import EndpointRefusedError
from batchchat.records import NO_USAGE, Completion, FailedRow, Failure, Outcome, added, dataclass
from batchchat.send.http.transport import Reply
from batchchat.send.policy.error_rate import ErrorRate
from batchchat.send.policy.failure_policy import Charge, FailurePolicy, GiveUp, refusal_of_rows
from batchchat.send.policy.job_refusals import JobRefusals
from batchchat.send.policy.rules import Rules, RunEndpoint, RunLimits
from batchchat.send.reply.failures import Verdict, may_be_billed, signature, verdict
from batchchat.send.scheduler.ending import Ending
from batchchat.send.scheduler.queue import Queue
from batchchat.send.state.counts import Counts
from batchchat.send.state.row import Pending, outcome_of
from batchchat.send.state.slots import Slot
from batchchat.send.state.steps import Done, Halted, NextTurn, RetryAt, Step, Stop, Undecided
from batchchat.send.state.turn import Turn
from batchchat.send.structured.format_fallback import FormatFallback


@dataclass(frozen=True, slots=True)
class Received:
    """A reply as it came, and as it was read."""

    reply: Reply | Failure
    read: Completion | Failure


@dataclass(frozen=True, slots=True, eq=False)
class Suspect:
    """A row whose last attempt failed as it would if the endpoint were down, with the attempts that it had then."""

    row: Pending
    slot: Slot
    failure: Failure
    latency_s: float
    attempts: int
    undecided: Undecided


class Decisions:
    """Decides about every reply of one run; nothing here waits."""

    def __init__(self, endpoint: RunEndpoint, limits: RunLimits, rules: Rules, queue: Queue, ending: Ending) -> None:
        self.counts = Counts()
        self.policy = FailurePolicy(endpoint, limits=limits, rules=rules, counts=self.counts)
        self.error_rate = ErrorRate(rules.max_error_rate, self.counts)
        self._limits = limits
        self._account = limits.account
        self._queue = queue
        self._ending = ending
        self._format_fallback = FormatFallback(endpoint.structure, model_varies=endpoint.model_varies)
        self._refusals: JobRefusals[tuple[Pending, FailedRow, Undecided]] = JobRefusals()
        self._suspects: list[Suspect] = []

    @property
    def undecided(self) -> int:
        """How many rows wait for others."""
        return len(self._refusals) + len(self._suspects)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to tell the user."""
        return (*self._format_fallback.notes, *self.policy.notes)

    def start(self, row: Pending, slot: Slot) -> bytes:
        """Note that a row's request starts; return its body, its media still to be put in."""
        slot.place = self._refusals.start()
        self.counts.requests_sent += 1
        return self._format_fallback.body(row)

    def decide(self, row: Pending, slot: Slot, received: Received | None) -> Step | Undecided:
        """Return what follows from a reply for its row, and let other rows go on that it decides about.

        `received` None: nothing was sent.
        """
        self._refusals.end(slot.place)
        if received is None:
            self._give_back(row, slot)
            return Halted()
        read = received.read
        if isinstance(read, Failure) and read.kind == "media" and read.status is None:
            self._give_back(row, slot)
            return self._done(row, row.unsent(read))  # and the file may be there again
        self._settle_reservations(row, slot, received)
        if isinstance(read, Failure):
            step = self._on_failure(row, slot, failure=read, now=time.monotonic())
        else:
            assert isinstance(received.reply, Reply)
            step = self._on_completion(row, slot, reply=received.reply, completion=read)
        if self._suspects and not isinstance(step, Stop):
            self._look_at_suspects()
        return step

    def _give_back(self, row: Pending, slot: Slot) -> None:
        """Give back what was set aside for a request that was not sent."""
        if row.cost is not None:
            self._account.release(row.cost)
        self._limits.rates.give_back(slot.reserved)
        self.counts.requests_sent -= bool(slot.place)

    def _settle_reservations(self, row: Pending, slot: Slot, received: Received) -> None:
        """Settle what was set aside for a request: of the budget, and of the tokens per minute."""
        read, rates = received.read, self._limits.rates
        if row.cost is not None:
            is_billed = may_be_billed(read, received.reply.status if isinstance(received.reply, Reply) else None)
            self._account.settle(row.cost, row.turn, read, may_be_billed=is_billed)
        if isinstance(read, Failure) and verdict(read) in (Verdict.CUT, Verdict.HOLD):
            rates.give_back(slot.reserved)
            return
        usage = None if isinstance(read, Failure) and read.usage == NO_USAGE else read.usage
        rates.settle(slot.reserved, slot.sent_bytes, usage)
        self.counts.hold(row.request.key, read.usage)

    # Completions

    def _on_completion(self, row: Pending, slot: Slot, reply: Reply, completion: Completion) -> Step:
        now, usage = time.monotonic(), completion.usage
        self.policy.pass_through(slot.started_at)
        tokens = (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)
        self._limits.concurrency.on_reply(now, now - slot.started_at, tokens)
        self.counts.has_completion = True
        judged = self._format_fallback.judge(completion, row)
        if isinstance(judged, Turn):
            self._note_other(slot)
            row.turn, row.last = judged, (completion, reply)
            row.turns += 1
            return NextTurn()
        is_first = row.turn.usage is NO_USAGE
        said = completion if is_first else replace(completion, usage=added(row.turn.usage, completion.usage))
        self._note_other(slot)
        return self._done(row, outcome_of(row, judged, said=said, reply=reply, attempts=row.requests + 1))

    # Failures

    def _on_failure(self, row: Pending, slot: Slot, failure: Failure, now: float) -> Step | Undecided:
        row.turn = replace(row.turn, usage=added(row.turn.usage, failure.usage))
        if failure.is_outcome_unknown:
            self.counts.possibly_billed += 1
        is_rest_tried = self._queue.is_fed and not self._queue.has_new
        step = self.policy.follow(row, slot, failure=failure, now=now, is_rest_tried=is_rest_tried)
        if isinstance(step, GiveUp):
            return self._give_up(row, slot, failure=failure, latency_s=None, charged=1)
        if not isinstance(step, Charge):
            return step
        if turn := self._format_fallback.fallback(failure, row):
            row.turn = turn
            return RetryAt(now)
        if step.is_final and (judged := self._format_fallback.resume(row, failure)):
            return self._resume(row, slot, judged=judged, now=now)
        known = failure if step.kind is None else replace(failure, kind=step.kind)
        return self._charge(row, slot, known, is_final=step.is_final)

    def _resume(self, row: Pending, slot: Slot, judged: Completion | Turn | Failure, now: float) -> Step:
        """Go on from the row's last reply, as the turn after it was refused."""
        assert row.last is not None
        completion, reply = row.last
        row.attempts += 1
        if isinstance(judged, Turn):
            row.turn = judged
            return RetryAt(now)
        said = replace(completion, usage=row.turn.usage)
        self._note_other(slot)
        return self._done(row, outcome_of(row, judged, said=said, reply=reply, attempts=row.requests))

    def _charge(self, row: Pending, slot: Slot, failure: Failure, *, is_final: bool) -> Step | Undecided:
        now = time.monotonic()
        latency_s = now - slot.started_at
        self._limits.concurrency.on_reply(now, latency_s)
        step = self.policy.charge(row, failure, now, is_final=is_final)
        if not isinstance(step, GiveUp):
            return step
        if not self.policy.may_be_outage(row, now):
            return self._give_up(row, slot, failure=failure, latency_s=latency_s)
        if self._ending.has_begun:
            return Halted()
        undecided = self._undecided()
        self._suspects.append(
            Suspect(row, slot=slot, failure=failure, latency_s=latency_s, attempts=row.attempts, undecided=undecided)
        )
        return undecided

    def _give_up(
        self, row: Pending, slot: Slot, failure: Failure, latency_s: float | None, *, charged: int = 0
    ) -> Step | Undecided:
        """Return what follows for a row that failed.

        A refusal that may be the job's is held until it shows whose it is; when the run stops, its row was not asked.
        """
        outcome = row.given_up(failure, latency_s, charged=charged)
        mark = None if row.last else signature(failure)
        if mark is None:
            self._note_other(slot)
            return self._done(row, outcome)
        if self._ending.has_begun:
            return Halted()
        undecided = self._undecided()
        self._release(self._refusals.hold((row, outcome, undecided), mark, slot.place))
        if self._refusals.is_tripped(has_worked=self.counts.has_completion):
            return Stop(EndpointRefusedError(refusal_of_rows(failure, self._refusals.in_a_row())))
        return undecided

    def _done(self, row: Pending, outcome: Outcome) -> Done:
        if row.cost is not None:
            self._account.release(row.cost)
        if isinstance(outcome, FailedRow):
            self.error_rate.note(outcome)
        return Done(outcome)

    # Rows that wait for others

    def _undecided(self) -> Undecided:
        return Undecided(asyncio.get_running_loop().create_future())

    def _note_other(self, slot: Slot) -> None:
        """Note that something else than a refusal came: refusals before and after it may be the rows' own."""
        if not self._ending.has_begun:
            self._release(self._refusals.note_other(slot.place))

    def _release(self, refused: list[tuple[Pending, FailedRow, Undecided]]) -> None:
        for row, outcome, undecided in refused:
            undecided.decided.set_result(self._done(row, outcome))

    def _look_at_suspects(self, *, is_over: bool = False) -> None:
        """Let the rows go on of which it shows by now whether the endpoint was down; all of them when it `is_over`."""
        now, left = time.monotonic(), []
        for suspect in self._suspects:
            row = suspect.row
            if row.attempts < suspect.attempts:
                suspect.undecided.decided.set_result(RetryAt(self.policy.opens_at))
            elif is_over or not self.policy.may_be_outage(row, now):
                outcome = row.given_up(suspect.failure, suspect.latency_s, charged=0)
                self._note_other(suspect.slot)
                suspect.undecided.decided.set_result(Halted() if self._ending.has_begun else self._done(row, outcome))
            else:
                left.append(suspect)
        self._suspects = left

    def decide_all(self) -> None:
        """Let every undecided row have its failure: nothing more comes that could show anything else."""
        self._look_at_suspects(is_over=True)
        self._release(self._refusals.release())

    def abandon(self, row: Pending, slot: Slot) -> None:
        """Note that a row ends; what it may still have in flight counts as paid for."""
        if row.cost is not None:
            self._account.abandon(row.cost)
        slot.free()

    def unaskable(self, row: Pending, failure: Failure) -> Done:
        """Return the outcome of a row that cannot be asked."""
        return self._done(row, row.unsent(failure))

    def close(self) -> None:
        """Send the undecided rows away without an outcome: the run stops."""
        undecided = [suspect.undecided for suspect in self._suspects]
        undecided += [held for _, _, held in self._refusals.release()]
        self._suspects = []
        for one in undecided:
            one.decided.set_result(Halted())
