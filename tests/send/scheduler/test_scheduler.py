"""The schedule: every key one outcome, slots freed by commits, pauses, stops and their races."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import pytest
import uvloop

from batchchat.errors import BatchchatError, CheckpointError, EndpointRefusedError, InputError, InterruptedRunError
from batchchat.records import Answer, ChatRequest, Chunk, Completion, FailedRow, Failure, Outcome, Progress, Settled
from batchchat.send.http.transport import Reply
from batchchat.send.limits.concurrency import FIRST_LIMIT, Concurrency
from batchchat.send.limits.rate_limits import RateLimits
from batchchat.send.policy.failure_policy import UNREACHED_TRIES
from batchchat.send.policy.job_refusals import FIRST_ROWS, ROWS_IN_A_ROW
from batchchat.send.reply.failures import CLOSED_WHILE_IDLE
from batchchat.send.reply.reply import read_reply
from batchchat.send.scheduler.commits import ENOUGH_ROWS
from batchchat.send.scheduler.queue import READY_LOW_WATER
from batchchat.send.scheduler.scheduler import Scheduler
from tests.scheduled import schedule_over

Send = Callable[[bytes], Awaitable[Reply | Failure]]

HANG_S = 300.0
"""Seconds after which a run counts as hung."""

ANSWER = Reply(200, {}, b'{"choices":[{"message":{"content":"yes"}}],"usage":{"prompt_tokens":3}}', 0.01)
CONNECT = Failure("connect", "cannot connect to nowhere: refused")


def refusal(status: int, message: str = "no", **headers: str) -> Reply:
    """Return an error reply; header names have underscores for hyphens."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, names, json.dumps({"error": {"message": message}}).encode(), 0.01)


BUSY = refusal(500, "busy", retry_after_ms="0")
SLOW_DOWN = refusal(429, "slow down", retry_after_ms="0")


class MemoryStore:
    """The store's shape, in memory; it keeps what it was told, in order."""

    def __init__(self, known: Mapping[bytes, bool] | None = None) -> None:
        self.known = dict(known or {})
        self.outcomes: list[tuple[bytes, Outcome]] = []
        self.progress: list[Progress] = []
        self.settled: Settled | None = None

    def find(self, keys: Sequence[bytes]) -> Mapping[bytes, bool]:
        """Return what is known."""
        return {key: self.known[key] for key in keys if key in self.known}

    def commit(self, outcomes: Sequence[tuple[bytes, Outcome]], progress: Progress) -> None:
        """Keep everything."""
        self.outcomes.extend(outcomes)
        self.known.update((key, isinstance(outcome, Answer)) for key, outcome in outcomes)
        self.progress.append(progress)

    def remember(self, settled: Settled) -> None:
        """Keep the last."""
        self.settled = settled

    def by_name(self) -> dict[str, Outcome]:
        """Return the outcomes by the name of their key, which must have one each."""
        named = {key.decode(): outcome for key, outcome in self.outcomes}
        assert len(named) == len(self.outcomes)
        return named


class WaitingStore(MemoryStore):
    """A store whose commits of outcomes wait to be let through; `arrivals` hears of each, in the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.loop = loop
        self.arrivals: asyncio.Queue[int] = asyncio.Queue()
        self.passes = threading.Semaphore(0)

    def commit(self, outcomes: Sequence[tuple[bytes, Outcome]], progress: Progress) -> None:
        """Wait for a pass, then keep everything."""
        if outcomes:
            self.loop.call_soon_threadsafe(self.arrivals.put_nowait, len(outcomes))
            assert self.passes.acquire(timeout=HANG_S)
        super().commit(outcomes, progress)


def chunk_of(*names: str, failed_row_count: int = 0) -> Chunk:
    """Return requests whose key and body are their names."""
    return Chunk([ChatRequest(name.encode(), name.encode(), name) for name in names], failed_row_count)


def names(count: int) -> list[str]:
    """Return row names in order."""
    return [f"r{number}" for number in range(count)]


def schedule_of(
    chunks: Iterable[Chunk],
    store: MemoryStore,
    send: Send,
    *,
    concurrency: Literal["auto"] | int | Concurrency = 4,
    max_attempts: int = 3,
    grace_s: float = HANG_S,
    rates: RateLimits | None = None,
    observe: Callable[[Progress], None] = lambda _: None,
) -> Scheduler:
    """Return a schedule that waits for nothing but what the test makes it wait for."""
    limit = concurrency if isinstance(concurrency, Concurrency) else Concurrency(concurrency, time.monotonic())
    return schedule_over(
        chunks,
        store,
        lambda _, body, __: send(body),
        limit,
        rates=rates,
        observe=observe,
        max_attempts=max_attempts,
        grace_s=grace_s,
    )


async def run(schedule: Scheduler) -> Progress:
    """Run it to its end; a hang is a failure."""
    return await asyncio.wait_for(schedule.run(), HANG_S)


async def answer(body: bytes) -> Reply | Failure:
    """Answer everything at once."""
    return ANSWER


async def turns(count: int) -> None:
    """Let the event loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


class Script:
    """An endpoint that has replies for some names, in order; everything else, and everything after, is answered."""

    def __init__(self, replies: Mapping[str, Sequence[Reply | Failure]]) -> None:
        self.replies = {name: list(listed) for name, listed in replies.items()}
        self.asked: list[str] = []
        self.asked_at: list[float] = []

    async def __call__(self, body: bytes) -> Reply | Failure:
        """Give the next reply for a name, a turn of the loop later."""
        self.asked.append(body.decode())
        self.asked_at.append(time.monotonic())
        await asyncio.sleep(0)
        listed = self.replies.get(body.decode())
        return listed.pop(0) if listed else ANSWER


class HeldEndpoint:
    """An endpoint that answers nobody before it is released; `started` hears of each request."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.started: asyncio.Queue[str] = asyncio.Queue()
        self.release = asyncio.Event()

    async def __call__(self, body: bytes) -> Reply | Failure:
        """Wait for the release, then answer."""
        self.asked.append(body.decode())
        self.started.put_nowait(body.decode())
        await self.release.wait()
        return ANSWER

    async def hold(self, count: int) -> None:
        """Return when so many requests have started."""
        for _ in range(count):
            await asyncio.wait_for(self.started.get(), HANG_S)


# Every row, once


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 3, 50, "auto"])
def test_every_key_gets_its_outcome(concurrency: Literal["auto"] | int) -> None:
    """All rows of all chunks are asked once and answered."""
    store = MemoryStore()
    script = Script({})
    chunks = [chunk_of(*names(500)[start : start + 16]) for start in range(0, 500, 16)]
    progress = asyncio.run(run(schedule_of(chunks, store, script, concurrency=concurrency)))
    assert Counter(script.asked) == Counter(names(500))
    assert {name: type(outcome) for name, outcome in store.by_name().items()} == dict.fromkeys(names(500), Answer)
    assert (progress.rows_read, progress.rows_answered, progress.rows_failed, progress.rows_reused) == (500, 500, 0, 0)
    assert (progress.requests_sent, progress.in_flight, progress.in_flight_bound) == (500, 0, 0)
    assert progress.prompt_tokens == 1_500
    assert store.progress[-1] == progress


def test_first_requests_start_in_input_order() -> None:
    """With one slot, rows are asked in the order of the input."""
    script = Script({})
    asyncio.run(run(schedule_of([chunk_of(*names(20)), chunk_of("x", "y")], MemoryStore(), script, concurrency=1)))
    assert script.asked == [*names(20), "x", "y"]


@pytest.mark.parametrize("chunks", [[], [chunk_of()], [chunk_of(), chunk_of()]])
def test_empty_feed_ends_at_once(chunks: list[Chunk]) -> None:
    """A feed of nothing is a finished run."""
    assert asyncio.run(run(schedule_of(chunks, MemoryStore(), answer))).rows_read == 0


def test_rows_without_request_are_counted_failed() -> None:
    """Rows that made no request are read and failed, also in a chunk that has nothing else."""
    chunks = [chunk_of("a", failed_row_count=2), chunk_of(failed_row_count=3)]
    progress = asyncio.run(run(schedule_of(chunks, MemoryStore(), answer)))
    assert (progress.rows_read, progress.rows_answered, progress.rows_failed) == (6, 1, 5)


def test_identical_rows_are_asked_once() -> None:
    """Five rows with one key, in one chunk and across chunks, cost one request and count as five."""
    store = MemoryStore()
    script = Script({})
    chunks = [chunk_of("a", "a", "b", "a"), chunk_of("a"), chunk_of("b", "a")]
    progress = asyncio.run(run(schedule_of(chunks, store, script)))
    assert sorted(script.asked) == ["a", "b"]
    assert sorted(store.by_name()) == ["a", "b"]
    assert (progress.rows_read, progress.rows_answered, progress.requests_sent) == (7, 7, 2)


def test_identical_rows_fail_together() -> None:
    """A final failure is the outcome of every row with its key."""
    script = Script({"a": [refusal(400)]})
    progress = asyncio.run(run(schedule_of([chunk_of("a", "a", "a")], MemoryStore(), script)))
    assert (progress.rows_failed, progress.rows_answered, progress.requests_sent) == (3, 0, 1)


def test_request_that_met_a_closed_connection_is_asked_again_over_a_new_one() -> None:
    """It may have been billed, which is counted, but it is no attempt; the next row may use any connection again."""
    asked: list[tuple[bytes, bool]] = []

    async def send(_: ChatRequest, body: bytes, wants_new: bool) -> Reply | Failure:
        asked.append((body, wants_new))
        race = Failure("connect", "closed", code=CLOSED_WHILE_IDLE, is_outcome_unknown=True)
        return race if len(asked) == 1 else ANSWER

    store = MemoryStore()
    chunks, one_at_a_time = [chunk_of("a", "b")], Concurrency(1, time.monotonic())
    schedule = schedule_over(chunks, store, send, one_at_a_time, max_attempts=3, grace_s=HANG_S)
    progress = asyncio.run(run(schedule))
    assert sorted(asked) == [(b"a", False), (b"a", True), (b"b", False)]
    assert (progress.requests_sent, progress.possibly_billed) == (3, 1)
    assert [outcome.attempts for outcome in store.by_name().values()] == [1, 1]


@pytest.mark.parametrize("concurrency", [1, 3, 50])
def test_one_of_identical_rows_is_asked_whenever_they_come(concurrency: int) -> None:
    """How many rows count as asked does not depend on which were in flight when the others came."""
    chunks = [chunk_of("a", *names(5), "a", "x"), chunk_of("a", "r1", "x"), chunk_of(*names(5), "y", "a")]
    script = Script({"x": [refusal(400)]})
    progress = asyncio.run(run(schedule_of(chunks, MemoryStore(), script, concurrency=concurrency)))
    assert (progress.requests_sent, progress.rows_answered, progress.rows_reused) == (8, 16, 9)
    assert (progress.rows_failed, progress.rows_failed_before) == (2, 1)


def test_row_that_comes_during_its_commit_is_counted() -> None:
    """A row read while the answer of its key is being committed is counted with it and not asked again."""

    async def scenario() -> Progress:
        store = WaitingStore(asyncio.get_running_loop())
        reached_second = threading.Event()

        def feed() -> Iterator[Chunk]:
            yield chunk_of("a")
            assert reached_second.wait(HANG_S)
            yield chunk_of("a", "a")

        task = asyncio.create_task(run(schedule_of(feed(), store, answer)))
        await asyncio.wait_for(store.arrivals.get(), HANG_S)
        reached_second.set()
        store.passes.release()
        progress = await task
        assert [key for key, _ in store.outcomes] == [b"a"]
        return progress

    progress = asyncio.run(scenario())
    assert (progress.rows_read, progress.rows_answered, progress.requests_sent) == (3, 3, 1)


def test_known_keys_are_not_asked() -> None:
    """Answers and final failures of earlier runs stand; only the rest is asked."""
    script = Script({})
    store = MemoryStore({b"a": True, b"b": False})
    progress = asyncio.run(run(schedule_of([chunk_of("a", "b", "c", "a")], store, script)))
    assert script.asked == ["c"]
    assert (progress.rows_answered, progress.rows_reused, progress.rows_failed) == (3, 2, 1)
    assert sorted(store.by_name()) == ["c"]


@pytest.mark.slow
def test_long_known_feed_is_read_through() -> None:
    """A hundred thousand rows that are all known need no request, and end."""
    rows = names(100_000)
    store = MemoryStore({name.encode(): True for name in rows})
    chunks = (chunk_of(*rows[start : start + 256]) for start in range(0, len(rows), 256))
    script = Script({})
    progress = asyncio.run(run(schedule_of(chunks, store, script)))
    assert script.asked == []
    assert (progress.rows_read, progress.rows_reused) == (100_000, 100_000)


@pytest.mark.slow
def test_feed_is_read_no_further_than_needed() -> None:
    """What is read but not yet asked never exceeds the low-water mark and one chunk."""
    script = Script({})
    ahead: list[int] = []

    def feed() -> Iterator[Chunk]:
        for start in range(0, 2_000, 10):
            ahead.append(start - len(script.asked))
            yield chunk_of(*names(2_000)[start : start + 10])

    asyncio.run(run(schedule_of(feed(), MemoryStore(), script, concurrency=8)))
    assert max(ahead) < READY_LOW_WATER + 8
    assert len(script.asked) == 2_000


# Slots


def test_slot_is_free_only_after_the_commit() -> None:
    """Two slots whose answers are not yet durable let no third request start; the commit does."""

    async def scenario() -> None:
        store = WaitingStore(asyncio.get_running_loop())
        script = Script({})
        task = asyncio.create_task(run(schedule_of([chunk_of(*names(4))], store, script, concurrency=2)))
        first = await asyncio.wait_for(store.arrivals.get(), HANG_S)
        await turns(50)
        assert script.asked == ["r0", "r1"]
        store.passes.release()
        second = await asyncio.wait_for(store.arrivals.get(), HANG_S)
        assert (first, first + second) in {(1, 2), (1, 3), (2, 3), (2, 4)}
        for _ in range(4):
            store.passes.release()
        await task
        assert script.asked == names(4)

    asyncio.run(scenario())


def test_slow_store_makes_larger_groups() -> None:
    """What settles during a commit is committed together when it ends."""

    async def scenario() -> list[int]:
        store = WaitingStore(asyncio.get_running_loop())
        endpoint = HeldEndpoint()

        async def send(body: bytes) -> Reply | Failure:
            return ANSWER if body == b"r0" else await endpoint(body)

        task = asyncio.create_task(run(schedule_of([chunk_of(*names(10))], store, send, concurrency=10)))
        groups = [await asyncio.wait_for(store.arrivals.get(), HANG_S)]
        await endpoint.hold(9)
        endpoint.release.set()
        await turns(20)
        for _ in range(2):
            store.passes.release()
        groups.append(await asyncio.wait_for(store.arrivals.get(), HANG_S))
        await task
        return groups

    assert asyncio.run(scenario()) == [1, 9]


@pytest.mark.parametrize(("count", "first"), [(5, 5), (3 * ENOUGH_ROWS, ENOUGH_ROWS)])
def test_answers_that_come_turn_by_turn_share_a_commit(count: int, first: int) -> None:
    """A commit waits while each turn of the loop brings another answer, but not for more than are enough."""

    async def scenario() -> int:
        store = WaitingStore(asyncio.get_running_loop())

        async def send(body: bytes) -> Reply | Failure:
            await turns(int(body[1:]))
            return ANSWER

        task = asyncio.create_task(run(schedule_of([chunk_of(*names(count))], store, send, concurrency=count)))
        group = await asyncio.wait_for(store.arrivals.get(), HANG_S)
        for _ in range(count):
            store.passes.release()
        await task
        return group

    assert asyncio.run(scenario()) == first


@pytest.mark.slow
def test_waiting_row_holds_no_slot() -> None:
    """With one slot, the rows behind a failed one are asked while it waits for its next try."""
    script = Script({"r0": [refusal(500, retry_after_ms="300")]})
    progress = asyncio.run(run(schedule_of([chunk_of(*names(3))], MemoryStore(), script, concurrency=1)))
    assert script.asked == ["r0", "r1", "r2", "r0"]
    assert script.asked_at[3] - script.asked_at[0] >= 0.3
    assert progress.rows_answered == 3


# Failures


@pytest.mark.slow
def test_failed_attempts_are_charged_to_the_last() -> None:
    """A row that fails at every attempt is given up at the limit, as one that a later run may ask again."""
    store = MemoryStore()
    script = Script({"a": [BUSY] * 3})
    progress = asyncio.run(run(schedule_of([chunk_of("a", "b")], store, script, max_attempts=3)))
    outcome = store.by_name()["a"]
    assert isinstance(outcome, FailedRow)
    assert (outcome.failure.kind, outcome.failure.message, outcome.failure.status) == ("server", "busy", 500)
    assert (outcome.attempts, outcome.is_transient) == (3, True)
    assert Counter(script.asked) == {"a": 3, "b": 1}
    assert (progress.rows_answered, progress.rows_failed, progress.requests_sent) == (1, 1, 4)


@pytest.mark.slow
def test_answer_says_how_many_attempts_it_took() -> None:
    """An answer at the last attempt is an answer."""
    store = MemoryStore()
    script = Script({"a": [BUSY, BUSY]})
    asyncio.run(run(schedule_of([chunk_of("a")], store, script, max_attempts=3)))
    outcome = store.by_name()["a"]
    assert isinstance(outcome, Answer)
    assert (outcome.attempts, outcome.reply, outcome.latency_s) == (3, ANSWER.body, ANSWER.latency_s)


def test_final_failure_is_the_rows_alone() -> None:
    """A refused row is not asked again, and touches no other."""
    store = MemoryStore()
    script = Script({"r1": [refusal(400, "too spicy")]})
    progress = asyncio.run(run(schedule_of([chunk_of(*names(3))], store, script)))
    outcome = store.by_name()["r1"]
    assert isinstance(outcome, FailedRow)
    assert (outcome.failure.kind, outcome.attempts, outcome.is_transient) == ("bad_request", 1, False)
    assert (progress.rows_answered, progress.rows_failed, progress.requests_sent) == (2, 1, 3)


@pytest.mark.slow
def test_unknown_outcomes_are_counted() -> None:
    """Attempts that may have been billed without an answer are counted one by one."""
    timeout = Failure("timeout", "no reply", retry_after_s=0.0, is_outcome_unknown=True)
    progress = asyncio.run(run(schedule_of([chunk_of("a")], MemoryStore(), Script({"a": [timeout, timeout]}))))
    assert (progress.possibly_billed, progress.rows_answered) == (2, 1)


@pytest.mark.slow
def test_rate_limits_are_not_charged() -> None:
    """A row that is turned away more often than it has attempts is answered at its first attempt all the same."""
    store = MemoryStore()
    progress = asyncio.run(run(schedule_of([chunk_of("a")], store, Script({"a": [SLOW_DOWN] * 5}), max_attempts=1)))
    outcome = store.by_name()["a"]
    assert isinstance(outcome, Answer)
    assert outcome.attempts == 1
    assert (progress.rate_limited, progress.requests_sent) == (5, 6)


@pytest.mark.slow
def test_rate_limit_pauses_everybody() -> None:
    """After a 429 nobody is asked before the time that it names, not even rows that were never turned away."""
    script = Script({"r2": [refusal(429, retry_after_ms="200")]})
    turned_away_at: list[float] = []

    async def send(body: bytes) -> Reply | Failure:
        reply = await script(body)
        if isinstance(reply, Reply) and reply.status == 429:
            turned_away_at.append(time.monotonic())
        return reply

    progress = asyncio.run(run(schedule_of([chunk_of(*names(30))], MemoryStore(), send, concurrency=3)))
    after = [at for at in script.asked_at if at > turned_away_at[0]]
    assert min(after) - turned_away_at[0] >= 0.2
    assert len(after) >= 25
    assert (progress.rows_answered, progress.rate_limited) == (30, 1)


def test_requests_per_minute_space_the_starts() -> None:
    """Six thousand a minute are one every 10 ms, however fast the answers come."""
    script = Script({})
    rates = RateLimits(6_000, None)
    asyncio.run(run(schedule_of([chunk_of(*names(20))], MemoryStore(), script, concurrency=20, rates=rates)))
    assert script.asked_at[-1] - script.asked_at[0] >= 0.01 * 19 - 0.06


# The endpoint refuses


def test_refused_job_starts_nothing_further() -> None:
    """No request starts after the deciding reply; those under way are kept; the refused row has no outcome."""

    async def scenario() -> tuple[HeldEndpoint, MemoryStore, EndpointRefusedError]:
        endpoint, store = HeldEndpoint(), MemoryStore()
        refuse = asyncio.Event()

        async def send(body: bytes) -> Reply | Failure:
            if body != b"r1":
                return await endpoint(body)
            await refuse.wait()
            return refusal(401, "bad key")

        schedule = schedule_of((chunk_of(*names(100)[n : n + 10]) for n in range(0, 100, 10)), store, send)
        task = asyncio.create_task(run(schedule))
        await endpoint.hold(3)
        refuse.set()
        await turns(20)
        endpoint.release.set()
        with pytest.raises(EndpointRefusedError) as caught:
            await task
        return endpoint, store, caught.value

    endpoint, store, error = asyncio.run(scenario())
    assert endpoint.asked == ["r0", "r2", "r3"]
    assert sorted(store.by_name()) == ["r0", "r2", "r3"]
    assert str(error).startswith("the endpoint refuses the job (401): bad key")
    assert (store.progress[-1].rows_answered, store.progress[-1].rows_failed) == (3, 0)
    assert store.progress[-1].in_flight_bound == 0


def test_refusal_before_the_others_first_byte_is_enough() -> None:
    """Requests that were decided on in the same moment, and have not begun, are not sent."""
    asked = []

    async def send(body: bytes) -> Reply | Failure:
        asked.append(body)
        return refusal(402, "no credits")

    store = MemoryStore()
    with pytest.raises(EndpointRefusedError, match="no credits"):
        asyncio.run(run(schedule_of([chunk_of(*names(50))], store, send, concurrency=50)))
    assert asked == [b"r0"]
    assert store.progress[-1].requests_sent == 1
    assert store.outcomes == []


def test_refusal_leaves_waiting_rows_unasked() -> None:
    """Rows that wait for another try when the job is refused have no outcome either."""
    script = Script({"a": [refusal(500, retry_after_ms="60000")], "b": [BUSY, refusal(401)]})
    store = MemoryStore()
    with pytest.raises(EndpointRefusedError):
        asyncio.run(run(schedule_of([chunk_of("a", "b")], store, script)))
    assert store.outcomes == []


def test_answers_that_are_no_completions_refuse_the_job() -> None:
    """When not one reply was ever a chat completion, the endpoint is the wrong one, and no row is to blame."""
    failure = Failure("protocol", "the reply is no chat completion", retry_after_s=0.0, is_outcome_unknown=True)
    store = MemoryStore()
    with pytest.raises(EndpointRefusedError, match="the reply is no chat completion"):
        asyncio.run(run(schedule_of([chunk_of("a")], store, Script({"a": [failure] * 2}), max_attempts=2)))
    assert store.outcomes == []


def test_one_broken_row_among_answers_is_the_rows() -> None:
    """Where completions came back, a row that never got one failed by itself."""
    failure = Failure("protocol", "the reply is no chat completion", retry_after_s=0.0)
    store = MemoryStore()
    script = Script({"b": [failure] * 2})
    asyncio.run(run(schedule_of([chunk_of("a", "b")], store, script, max_attempts=2, concurrency=1)))
    assert {name: type(outcome) for name, outcome in store.by_name().items()} == {"a": Answer, "b": FailedRow}


# Refusals that may be the job's


def test_first_rows_refused_alike_stop_the_job() -> None:
    """A parameter that the model does not take fails nobody: the job stops, and every row is still to be asked."""
    script = Script({name: [refusal(400, f"Unsupported parameter in row {name}")] for name in names(200)})
    store = MemoryStore()
    with pytest.raises(
        EndpointRefusedError, match=r"refused 20 rows in a row \(400\): Unsupported parameter"
    ) as caught:
        asyncio.run(run(schedule_of([chunk_of(*names(200))], store, script, concurrency=8)))
    assert len(script.asked) <= FIRST_ROWS + 8
    assert store.outcomes == []
    assert (store.progress[-1].rows_failed, store.progress[-1].in_flight_bound) == (0, 0)
    assert "check request in the job file" in str(caught.value)


def test_many_rows_refused_alike_stop_a_job_that_worked() -> None:
    """After an answer it takes more; what was answered is kept, what was refused is not marked failed."""
    script = Script({name: [refusal(400, "no such parameter")] for name in names(300)[1:]})
    store = MemoryStore()
    with pytest.raises(EndpointRefusedError, match=f"refused {ROWS_IN_A_ROW} rows"):
        asyncio.run(run(schedule_of([chunk_of(*names(300))], store, script, concurrency=1)))
    assert list(store.by_name()) == ["r0"]
    assert len(script.asked) == 1 + ROWS_IN_A_ROW


def test_answers_still_on_their_way_do_not_hide_that_all_is_refused() -> None:
    """Requests from before may be answered late; they are kept, and nobody is marked failed."""

    async def scenario() -> MemoryStore:
        endpoint, store = HeldEndpoint(), MemoryStore()
        refused = 0

        async def send(body: bytes) -> Reply | Failure:
            nonlocal refused
            if int(body[1:]) < 10:
                return await endpoint(body)
            refused += 1
            if refused == 5:
                endpoint.release.set()
            await asyncio.sleep(0)
            return refusal(400, "no such parameter")

        with pytest.raises(EndpointRefusedError, match="rows in a row"):
            await run(schedule_of([chunk_of(*names(300))], store, send, concurrency=12))
        return store

    assert sorted(asyncio.run(scenario()).by_name()) == sorted(names(10))


def test_refusals_among_answers_are_the_rows_own() -> None:
    """Every third row is refused in the same words, and the others are answered: each has its own outcome."""
    script = Script({name: [refusal(400, "bad image")] for name in names(300)[::3]})
    store = MemoryStore()
    progress = asyncio.run(run(schedule_of([chunk_of(*names(300))], store, script)))
    assert (progress.rows_answered, progress.rows_failed) == (200, 100)
    assert {name: type(outcome) for name, outcome in store.by_name().items()} == {
        name: FailedRow if number % 3 == 0 else Answer for number, name in enumerate(names(300))
    }


def test_small_table_of_refused_rows_fails_row_by_row() -> None:
    """Fewer rows than show whose the refusal is keep it, in the end."""
    script = Script({name: [refusal(400, "bad")] for name in names(FIRST_ROWS - 1)})
    store = MemoryStore()
    progress = asyncio.run(run(schedule_of([chunk_of(*names(FIRST_ROWS - 1))], store, script)))
    assert progress.rows_failed == len(store.by_name()) == FIRST_ROWS - 1


def test_stop_leaves_refusals_that_are_held_unasked() -> None:
    """Nobody knows yet whose they are; they cost nothing, and the next run asks again."""

    async def scenario() -> MemoryStore:
        endpoint, store = HeldEndpoint(), MemoryStore()

        async def send(body: bytes) -> Reply | Failure:
            return refusal(400, "bad") if body == b"r0" else await endpoint(body)

        schedule = schedule_of([chunk_of(*names(4))], store, send, concurrency=2)
        task = asyncio.create_task(run(schedule))
        await endpoint.hold(2)
        schedule.stop(interrupt())
        endpoint.release.set()
        with pytest.raises(InterruptedRunError):
            await task
        return store

    assert sorted(asyncio.run(scenario()).by_name()) == ["r1", "r2"]


# Nothing is there


def down_from_the_11th() -> Send:
    """Return an endpoint that answers ten requests, says 503 to everybody for a while, and answers again."""
    asked, back_at = 0, 0.0

    async def send(body: bytes) -> Reply | Failure:
        nonlocal asked, back_at
        asked += 1
        if asked == 11:
            back_at = time.monotonic() + 0.7
        is_down = time.monotonic() < back_at
        await asyncio.sleep(0)
        return refusal(503, "upstream is gone") if is_down else ANSWER

    return send


@pytest.mark.slow
def test_gateway_that_is_down_for_all_costs_no_attempt() -> None:
    """A server that answers 503 to everybody for a while is down: all rows are answered with their first attempt."""
    store = MemoryStore()
    progress = asyncio.run(
        run(schedule_of([chunk_of(*names(100))], store, down_from_the_11th(), concurrency=40, max_attempts=2))
    )
    assert progress.rows_answered == 100
    assert {outcome.attempts for outcome in store.by_name().values() if isinstance(outcome, Answer)} == {1}
    assert progress.notes[0].startswith("waiting for the endpoint")


@pytest.mark.slow
def test_outage_costs_no_row_though_each_has_one_attempt_only() -> None:
    """Rows that failed before the outage was known are asked again when it is over."""
    store = MemoryStore()
    progress = asyncio.run(
        run(schedule_of([chunk_of(*names(100))], store, down_from_the_11th(), concurrency=4, max_attempts=1))
    )
    assert (progress.rows_answered, progress.rows_failed) == (100, 0)


@pytest.mark.slow
def test_few_rows_that_always_fail_end_with_their_attempts() -> None:
    """Poison rows at the end of a table are given up, though nothing passes after them."""
    script = Script({name: [refusal(503, "crash")] * 9 for name in names(10)[5:]})
    store = MemoryStore()
    progress = asyncio.run(run(schedule_of([chunk_of(*names(10))], store, script, max_attempts=2)))
    assert (progress.rows_answered, progress.rows_failed) == (5, 5)
    assert {outcome.attempts for outcome in store.by_name().values() if isinstance(outcome, FailedRow)} == {2}


def test_rows_that_are_given_up_stand_between_refused_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals are in a row only where nothing else came between them; a row of which the gateway made a 502 did."""
    monkeypatch.setattr("batchchat.send.policy.failure_policy.ONSET_S", 0.0)

    async def send(body: bytes) -> Reply | Failure:
        return refusal(502, "bad gateway") if int(body[1:]) % 2 == 0 else refusal(400, "bad value in row")

    store = MemoryStore()
    schedule = schedule_of([chunk_of(*names(100))], store, send, concurrency=1, max_attempts=1)
    assert asyncio.run(run(schedule)).rows_failed == len(store.outcomes) == 100


def test_row_that_waits_for_others_is_not_failed_by_what_stops_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was not asked to its end, and the next run asks it."""
    monkeypatch.setattr("batchchat.send.policy.failure_policy.ONSET_S", 0.0)
    script = Script({"r1": [refusal(502, "bad gateway")], "r2": [refusal(401, "no key")]})
    store = MemoryStore()
    with pytest.raises(EndpointRefusedError):
        asyncio.run(run(schedule_of([chunk_of(*names(3))], store, script, concurrency=1, max_attempts=1)))
    assert list(store.by_name()) == ["r0"]


def test_rows_that_wait_for_others_are_in_the_bound() -> None:
    """They come back together, when it shows that the endpoint was down, before another commit says so."""
    count, held = 18, asyncio.Event()
    tries: Counter[bytes] = Counter()
    bounds: list[tuple[int, int]] = []
    store = MemoryStore()

    async def send(body: bytes) -> Reply | Failure:
        number = int(body[1:])
        tries[body] += 1
        in_flight.add(body)
        bounds.append((len(in_flight), store.progress[-1].in_flight_bound))
        try:
            if number < count and tries[body] == 1:
                return refusal(502, "bad gateway")
            if number == count:  # answered, and committed, while the others wait
                await turns(20)
                held.set()
            elif number == count + 1 and tries[body] <= 3:
                await held.wait()
                await turns(50)
                return Failure("connect", "refused")
            await turns(20)
            return ANSWER
        finally:
            in_flight.discard(body)

    in_flight: set[bytes] = set()
    progress = asyncio.run(run(schedule_of([chunk_of(*names(20))], store, send, concurrency=32, max_attempts=1)))
    assert progress.rows_answered == 20
    assert max(under_way for under_way, _ in bounds[20:]) >= count
    assert all(under_way <= bound for under_way, bound in bounds)


def test_answers_that_a_commit_could_not_keep_get_another_chance() -> None:
    """The disk was full for a moment: the run stops, and all that was paid for is stored at its end."""
    is_full = True

    class FullOnce(MemoryStore):
        def commit(self, outcomes: Sequence[tuple[bytes, Outcome]], progress: Progress) -> None:
            nonlocal is_full
            if outcomes and is_full:
                is_full = False
                raise CheckpointError("no space left on the device")
            super().commit(outcomes, progress)

    store = FullOnce()
    with pytest.raises(CheckpointError):
        asyncio.run(run(schedule_of([chunk_of(*names(4))], store, answer)))
    assert set(store.by_name()) == set(names(4))


def test_nothing_is_written_when_the_run_is_over() -> None:
    """Whatever ended it, the thread that writes has ended too: the checkpoint is closed next."""

    def observe(progress: Progress) -> None:
        if progress.rows_answered:
            raise OSError(5, "the terminal is gone")

    with pytest.raises(ExceptionGroup):
        asyncio.run(run(schedule_of([chunk_of(*names(4))], MemoryStore(), answer, observe=observe)))
    assert [one.name for one in threading.enumerate() if one.name.startswith("store")] == []


def test_reply_that_takes_long_to_read_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large one is read in a thread; here it is not read before another row has its answer."""
    is_answered = threading.Event()

    def read(status: int, headers: Mapping[str, str], body: bytes, *, unix_now: float) -> Completion | Failure:
        if len(body) > 2**20:
            assert is_answered.wait(HANG_S)
        return read_reply(status, headers, body, unix_now=unix_now)

    async def send(body: bytes) -> Reply | Failure:
        if body == b"r0":
            return replace(ANSWER, body=ANSWER.body + b" " * 2**20)
        await turns(20)
        return ANSWER

    def observe(progress: Progress) -> None:
        if progress.rows_answered:
            is_answered.set()

    monkeypatch.setattr("batchchat.send.scheduler.ask_row.read_reply", read)
    progress = asyncio.run(run(schedule_of([chunk_of(*names(2))], MemoryStore(), send, observe=observe)))
    assert progress.rows_answered == 2


def test_bound_that_is_on_its_way_to_the_store_holds_already() -> None:
    """The limit was cut as a commit began, and grows again before it is stored: no more may start than it will say."""

    async def scenario() -> None:
        store, concurrency = WaitingStore(asyncio.get_running_loop()), Concurrency(8, 0.0)
        have_failed, is_over = asyncio.Event(), asyncio.Event()
        tries: Counter[bytes] = Counter()
        in_flight = set()

        async def send(body: bytes) -> Reply | Failure:
            tries[body] += 1
            if body in (b"r0", b"r1"):
                await have_failed.wait()
                concurrency.limit = 2
            elif tries[body] == 1:
                if len(tries) == 8:
                    have_failed.set()
                return refusal(500, "busy", retry_after_ms="100")
            else:
                in_flight.add(body)
                await is_over.wait()
            return ANSWER

        task = asyncio.create_task(run(schedule_of([chunk_of(*names(8))], store, send, concurrency=concurrency)))
        await asyncio.wait_for(store.arrivals.get(), HANG_S)
        concurrency.limit = 8
        await asyncio.sleep(0.5)  # in which they would start again
        before = len(store.progress)
        store.passes.release(100)
        while len(store.progress) == before:  # noqa: ASYNC110 -- the store's thread sets no event
            await asyncio.sleep(0)
        assert len(in_flight) <= store.progress[before].in_flight_bound
        is_over.set()
        await task

    asyncio.run(scenario())


def test_request_that_was_never_written_is_not_counted() -> None:
    """When the run stops, what is still connecting was not asked: no request, no charge, no outcome."""

    async def scenario() -> MemoryStore:
        store = MemoryStore()
        is_halted = asyncio.Event()

        async def send(_: ChatRequest, body: bytes, __: bool) -> Reply | Failure | None:
            if body == b"r0":
                await turns(3)
                return refusal(401)
            await is_halted.wait()
            return None

        schedule = schedule_over(
            [chunk_of(*names(8))],
            store,
            send,
            Concurrency(4, 0.0),
            endpoint={"halt": is_halted.set},
            max_attempts=3,
            grace_s=HANG_S,
        )
        with pytest.raises(EndpointRefusedError):
            await run(schedule)
        return store

    store = asyncio.run(scenario())
    assert store.outcomes == []
    assert (store.progress[-1].requests_sent, store.progress[-1].in_flight_bound) == (1, 0)


@pytest.mark.slow
def test_outage_is_not_charged_and_recovers() -> None:
    """When connections fail, all wait; one probe finds out when it is over; no row has lost an attempt."""
    store = MemoryStore()
    in_flight_at_start: list[int] = []
    in_flight = 0
    is_out = True

    async def send(body: bytes) -> Reply | Failure:
        nonlocal in_flight, is_out
        in_flight_at_start.append(in_flight)
        in_flight += 1
        await turns(2)
        in_flight -= 1
        if len(in_flight_at_start) > 4:
            is_out = False
        return CONNECT if is_out else ANSWER

    progress = asyncio.run(run(schedule_of([chunk_of(*names(20))], store, send, max_attempts=1)))
    assert {(type(outcome), outcome.attempts) for outcome in store.by_name().values()} == {(Answer, 1)}
    assert (progress.rows_answered, progress.requests_sent, progress.possibly_billed) == (20, 24, 0)
    assert in_flight_at_start[:6] == [0, 1, 2, 3, 0, 0]


@pytest.mark.slow
def test_endpoint_never_reached_refuses_the_job() -> None:
    """After a few probes in vain an endpoint that was never there ends the job, with no row failed."""
    store = MemoryStore()
    script = Script({name: [CONNECT] * 10 for name in names(20)})
    with pytest.raises(EndpointRefusedError, match="cannot connect to nowhere: refused"):
        asyncio.run(run(schedule_of([chunk_of(*names(20))], store, script)))
    assert len(script.asked) == 4 + UNREACHED_TRIES - 1
    assert store.outcomes == []


# Stopping


def interrupt(number: int = 2) -> InterruptedRunError:
    """Return the reason that a signal gives."""
    return InterruptedRunError(number)


def test_stop_lets_requests_under_way_finish() -> None:
    """After a stop nothing starts; what was in flight is answered and kept; the reason is raised."""

    async def scenario() -> tuple[HeldEndpoint, MemoryStore]:
        endpoint, store = HeldEndpoint(), MemoryStore()
        schedule = schedule_of([chunk_of(*names(20))], store, endpoint, concurrency=2)
        task = asyncio.create_task(run(schedule))
        await endpoint.hold(2)
        schedule.stop(interrupt())
        await turns(20)
        assert not task.done()
        endpoint.release.set()
        with pytest.raises(InterruptedRunError, match="stopped by SIGINT"):
            await task
        return endpoint, store

    endpoint, store = asyncio.run(scenario())
    assert endpoint.asked == ["r0", "r1"]
    assert sorted(store.by_name()) == ["r0", "r1"]
    assert (store.progress[-1].rows_answered, store.progress[-1].possibly_billed) == (2, 0)


@pytest.mark.parametrize(("grace_s", "stops"), [(HANG_S, 2), (0.0, 1), (0.05, 1)])
def test_stop_cuts_when_patience_is_over(grace_s: float, stops: int) -> None:
    """A stop that is urgent, or the end of the grace, cancels what is in flight and counts it as possibly billed."""

    async def scenario() -> MemoryStore:
        endpoint, store = HeldEndpoint(), MemoryStore()
        schedule = schedule_of([chunk_of(*names(20))], store, endpoint, concurrency=3, grace_s=grace_s)
        task = asyncio.create_task(run(schedule))
        await endpoint.hold(3)
        for number in range(stops):
            schedule.stop(interrupt(2 if number == 0 else 15), is_urgent=number > 0)
        with pytest.raises(InterruptedRunError, match="stopped by SIGINT"):
            await task
        return store

    store = asyncio.run(scenario())
    assert store.outcomes == []
    assert (store.progress[-1].possibly_billed, store.progress[-1].in_flight) == (3, 0)


@pytest.mark.parametrize("reason", [interrupt(1), CheckpointError("disk full")])
def test_second_stop_of_another_kind_cuts_nothing(reason: BatchchatError) -> None:
    """A terminal that closes may send SIGHUP twice, and an error of our own is no reason to lose replies."""

    async def scenario() -> MemoryStore:
        endpoint, store = HeldEndpoint(), MemoryStore()
        schedule = schedule_of([chunk_of(*names(20))], store, endpoint, concurrency=3)
        task = asyncio.create_task(run(schedule))
        await endpoint.hold(3)
        for _ in range(2):
            schedule.stop(reason)
            await turns(5)
        endpoint.release.set()
        with pytest.raises(type(reason)):
            await task
        return store

    assert sorted(asyncio.run(scenario()).by_name()) == ["r0", "r1", "r2"]


def test_stop_before_the_start_asks_nothing() -> None:
    """A run that was stopped before it began reads nothing and asks nothing."""

    async def scenario() -> list[str]:
        script = Script({})
        schedule = schedule_of([chunk_of("a")], MemoryStore(), script)
        schedule.stop(interrupt())
        with pytest.raises(InterruptedRunError):
            await run(schedule)
        return script.asked

    assert asyncio.run(scenario()) == []


def test_stop_ends_a_long_pause() -> None:
    """A stop does not wait for the hour that a 429 asked for."""

    async def scenario() -> None:
        is_paused = asyncio.Event()

        async def send(body: bytes) -> Reply | Failure:
            is_paused.set()
            return refusal(429, retry_after="3600")

        schedule = schedule_of([chunk_of("a")], MemoryStore(), send)
        task = asyncio.create_task(run(schedule))
        await is_paused.wait()
        await turns(5)
        schedule.stop(interrupt())
        with pytest.raises(InterruptedRunError):
            await task

    asyncio.run(scenario())


def test_checkpoint_error_stops_the_run() -> None:
    """A store that cannot commit ends the run with its own error; nothing further is asked for long."""

    class FullDisk(MemoryStore):
        def commit(self, outcomes: Sequence[tuple[bytes, Outcome]], progress: Progress) -> None:
            """Fail for any outcome."""
            if outcomes:
                raise CheckpointError("disk full")
            super().commit(outcomes, progress)

    script = Script({})
    store = FullDisk()
    with pytest.raises(CheckpointError, match="disk full"):
        asyncio.run(run(schedule_of([chunk_of(*names(100))], store, script, concurrency=2)))
    assert script.asked == ["r0", "r1"]


def test_answers_that_could_not_be_kept_are_not_counted() -> None:
    """The last word on progress counts no row as answered whose answer is nowhere."""

    class FullDisk(MemoryStore):
        def commit(self, outcomes: Sequence[tuple[bytes, Outcome]], progress: Progress) -> None:
            """Fail for any outcome."""
            if outcomes:
                raise CheckpointError("disk full")
            super().commit(outcomes, progress)

    seen: list[Progress] = []
    with pytest.raises(CheckpointError):
        asyncio.run(run(schedule_of([chunk_of("a")], FullDisk(), answer, observe=seen.append)))
    assert seen[-1].rows_answered == 0


@pytest.mark.parametrize("method", ["find", "commit"])
def test_store_that_never_works_stops_the_run(method: str) -> None:
    """A store that fails at the first look-up, or the first commit, asks nothing."""

    class Broken(MemoryStore):
        def find(self, keys: Sequence[bytes]) -> Mapping[bytes, bool]:
            """Fail if it is this test's turn."""
            if method == "find":
                raise CheckpointError("damaged")
            return super().find(keys)

        def commit(self, outcomes: Sequence[tuple[bytes, Outcome]], progress: Progress) -> None:
            """Fail if it is this test's turn."""
            if method == "commit":
                raise CheckpointError("damaged")
            super().commit(outcomes, progress)

    script = Script({})
    with pytest.raises(CheckpointError, match="damaged"):
        asyncio.run(run(schedule_of([chunk_of("a")], Broken(), script)))
    assert script.asked == []


def broken_feed(rows: int) -> Iterator[Chunk]:
    """Yield some rows, then fail as an input does."""
    yield chunk_of(*names(rows))
    raise InputError("row 7 is ragged")


def test_input_error_stops_the_run() -> None:
    """An input that breaks ends the run with its own error, and no chunk is read after it."""
    with pytest.raises(InputError, match="row 7 is ragged"):
        asyncio.run(run(schedule_of(broken_feed(0), MemoryStore(), answer)))


def test_input_error_keeps_what_is_under_way() -> None:
    """Requests in flight when the input breaks are answered and kept."""

    async def scenario() -> MemoryStore:
        endpoint, store = HeldEndpoint(), MemoryStore()
        is_started = threading.Event()

        def feed() -> Iterator[Chunk]:
            yield chunk_of("a", "b")
            assert is_started.wait(HANG_S)
            raise InputError("row 7 is ragged")

        task = asyncio.create_task(run(schedule_of(feed(), store, endpoint)))
        await endpoint.hold(2)
        is_started.set()
        await turns(20)
        endpoint.release.set()
        with pytest.raises(InputError):
            await task
        return store

    assert sorted(asyncio.run(scenario()).by_name()) == ["a", "b"]


def test_input_error_after_a_stop_does_not_cut() -> None:
    """An input that breaks while a stopped run drains does not cost the answers under way: only the user may cut."""

    async def scenario() -> MemoryStore:
        endpoint, store = HeldEndpoint(), MemoryStore()
        is_stopped = threading.Event()

        def feed() -> Iterator[Chunk]:
            yield chunk_of("a", "b")
            assert is_stopped.wait(HANG_S)
            raise InputError("row 7 is ragged")

        schedule = schedule_of(feed(), store, endpoint)
        task = asyncio.create_task(run(schedule))
        await endpoint.hold(2)
        schedule.stop(interrupt())
        is_stopped.set()
        asyncio.get_running_loop().call_later(0.2, endpoint.release.set)
        with pytest.raises(InterruptedRunError):
            await task
        return store

    assert sorted(asyncio.run(scenario()).by_name()) == ["a", "b"]


# The bound that a kill may cost


def test_bound_holds_from_the_first_commit() -> None:
    """What the store knows before the first answer covers the requests that are already in flight."""

    async def scenario() -> tuple[int, int]:
        endpoint, store = HeldEndpoint(), MemoryStore()
        task = asyncio.create_task(run(schedule_of([chunk_of(*names(20))], store, endpoint, concurrency=5)))
        await endpoint.hold(5)
        recorded = store.progress[-1].in_flight_bound
        endpoint.release.set()
        await task
        return recorded, 5

    recorded, in_flight = asyncio.run(scenario())
    assert recorded >= in_flight


@pytest.mark.parametrize(
    "rows",
    [
        500,
        45,
    ],
)
def test_bound_holds_after_a_cut(rows: int) -> None:
    """A limit that was cut below what is in flight does not make the recorded bound a lie, nor does the feed's end."""

    async def scenario() -> int:
        endpoint, store = HeldEndpoint(), WaitingStore(asyncio.get_running_loop())
        refuse = asyncio.Event()

        async def send(body: bytes) -> Reply | Failure:
            if body not in {b"r38", b"r39"}:
                return await endpoint(body)
            await refuse.wait()
            await turns(3 * (body == b"r39"))
            return ANSWER if body == b"r39" else refusal(429, retry_after="3600")

        concurrency = Concurrency("auto", time.monotonic())
        concurrency.limit = 40
        schedule = schedule_of([chunk_of(*names(rows))], store, send, concurrency=concurrency)
        task = asyncio.create_task(run(schedule))
        await endpoint.hold(38)
        refuse.set()
        await asyncio.wait_for(store.arrivals.get(), HANG_S)
        assert concurrency.limit < 38
        schedule.stop(interrupt())
        store.passes.release(50)
        endpoint.release.set()
        with pytest.raises(InterruptedRunError):
            await task
        return store.progress[1].in_flight_bound

    assert asyncio.run(scenario()) >= 38


def test_grown_limit_waits_for_its_commit() -> None:
    """A limit that doubles during a commit is not used before a commit has recorded it."""

    async def scenario() -> None:
        endpoint, store = HeldEndpoint(), WaitingStore(asyncio.get_running_loop())
        first = {name.encode() for name in names(FIRST_LIMIT)}

        async def send(body: bytes) -> Reply | Failure:
            if body not in first:
                return await endpoint(body)
            await asyncio.sleep(0)
            return ANSWER if body == b"r0" else refusal(500, retry_after="3600")

        concurrency = Concurrency("auto", time.monotonic())
        schedule = schedule_of([chunk_of(*names(60))], store, send, concurrency=concurrency)
        task = asyncio.create_task(run(schedule))
        await asyncio.wait_for(store.arrivals.get(), HANG_S)
        await endpoint.hold(FIRST_LIMIT - 1)
        await turns(50)
        assert concurrency.limit == 2 * FIRST_LIMIT
        assert len(endpoint.asked) == FIRST_LIMIT - 1
        schedule.stop(interrupt())
        store.passes.release(50)
        endpoint.release.set()
        with pytest.raises(InterruptedRunError):
            await task

    asyncio.run(scenario())


# Everything at once, at random


@dataclass
class Trial:
    """One random run: what was planned, what happened, and every broken promise."""

    seed: int
    limit: int = 1
    max_attempts: int = 1
    rows: list[str] = field(default_factory=list)
    known: dict[bytes, bool] = field(default_factory=dict)
    failed_row_count: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    charged: Counter[str] = field(default_factory=Counter)
    last: dict[str, str] = field(default_factory=dict)
    in_flight: int = 0
    received: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    durable: set[str] = field(default_factory=set)
    bound: int = 0
    is_decided: bool = False
    broken: list[str] = field(default_factory=list)

    def expect(self, holds: bool, promise: str) -> None:
        """Note a promise that does not hold."""
        if not holds:
            self.broken.append(f"seed {self.seed}: {promise}")


REPLIES: dict[str, Reply | Failure] = {
    "answer": ANSWER,
    "rate limit": SLOW_DOWN,
    "busy": BUSY,
    "timeout": Failure("timeout", "no reply", retry_after_s=0.0, is_outcome_unknown=True),
    "reset": Failure("connect", "reset", retry_after_s=0.0, is_outcome_unknown=True),
    "bad": refusal(400),
    "fatal": refusal(401),
}


class TrialStore(MemoryStore):
    """A store that checks the promises in the middle of its commits, and fails at one of them if told to."""

    def __init__(self, trial: Trial, rng: random.Random, failing_commit: int | None) -> None:
        super().__init__(trial.known)
        self.trial = trial
        self.rng = rng
        self.failing_commit = failing_commit
        self.commits = 0

    def commit(self, outcomes: Sequence[tuple[bytes, Outcome]], progress: Progress) -> None:
        """Keep everything, at times a little later."""
        trial = self.trial
        self.commits += bool(outcomes)
        if outcomes and self.commits == self.failing_commit:
            raise CheckpointError("disk full")
        if self.rng.random() < 0.3:
            time.sleep(self.rng.random() * 0.002)  # a disk that takes its time, in the store's own thread
        super().commit(outcomes, progress)
        done = progress.rows_answered + progress.rows_failed
        trial.expect(done <= progress.rows_read, f"{done} rows done of {progress.rows_read}")
        trial.durable.update(key.decode() for key, _ in outcomes)
        trial.bound = progress.in_flight_bound
        trial.expect(trial.in_flight <= trial.bound, f"{trial.in_flight} in flight, {trial.bound} recorded")


def trial_send(trial: Trial, rng: random.Random, weights: Mapping[str, int]) -> Send:
    """Return an endpoint that answers at random, and checks the promises at every start."""

    async def send(body: bytes) -> Reply | Failure:
        name = body.decode()
        trial.asked[name] += 1
        trial.expect(not trial.is_decided, "a request started after the deciding reply")
        trial.expect(name not in trial.received | trial.refused, "asked again after its outcome")
        trial.in_flight += 1
        occupied = trial.in_flight + len(trial.received - trial.durable)
        trial.expect(occupied <= trial.limit, f"{occupied} slots of {trial.limit}")
        trial.expect(trial.in_flight <= trial.bound, f"{trial.in_flight} in flight, {trial.bound} recorded before")
        try:
            await turns(rng.randrange(6))
        finally:
            trial.in_flight -= 1
        what = rng.choices(list(weights), list(weights.values()))[0]
        trial.last[name] = what
        trial.charged[name] += what not in {"rate limit", "fatal"}
        if what == "answer":
            trial.received.add(name)
        elif what == "bad" or (what not in {"rate limit", "fatal"} and _is_used_up(trial, name)):
            trial.refused.add(name)  # held, without a slot, until it shows whether it is the row's own
        trial.is_decided = trial.is_decided or what == "fatal"
        return REPLIES[what]

    return send


def _is_used_up(trial: Trial, name: str) -> bool:
    return trial.charged[name] >= trial.max_attempts


def trial_feed(trial: Trial, rng: random.Random, *, is_breaking: bool) -> Iterator[Chunk]:
    """Yield the trial's rows in chunks of random size, at times failing in the end."""
    position = 0
    while position < len(trial.rows):
        size = rng.randint(0, 9)
        failed = rng.choice([0, 0, 1])
        trial.failed_row_count += failed
        yield chunk_of(*trial.rows[position : position + size], failed_row_count=failed)
        position += size
    if is_breaking:
        raise InputError("row 7 is ragged")


async def play(seed: int) -> list[str]:
    """Play one random run to its end, and return every promise that it broke."""
    rng = random.Random(seed)
    kind = ["plain", "plain", "fatal", "stop", "cut", "feed", "store"][seed % 7]
    pool = names(rng.randint(1, 40))
    trial = Trial(seed, limit=rng.randint(1, 6), max_attempts=rng.randint(1, 3))
    trial.rows = [rng.choice(pool) for _ in range(rng.randint(0, 80))]
    trial.known = {name.encode(): rng.random() < 0.7 for name in pool if rng.random() < 0.2}
    before = dict(trial.known)
    weights = {"answer": 30, "rate limit": 2, "busy": 4, "timeout": 2, "reset": 2, "bad": 3}
    weights |= {"fatal": 2} if kind == "fatal" else {}
    store = TrialStore(trial, random.Random(seed + 1), rng.randint(1, 4) if kind == "store" else None)
    feed = trial_feed(trial, random.Random(seed + 2), is_breaking=kind == "feed")
    send = trial_send(trial, rng, weights)
    concurrency = Concurrency("auto" if seed % 4 == 0 else trial.limit, time.monotonic())
    if seed % 4 == 0:
        concurrency.limit = rng.randint(1, 40)
        trial.limit = 10**9
    schedule = schedule_of(feed, store, send, concurrency=concurrency, max_attempts=trial.max_attempts)
    task = asyncio.create_task(run(schedule))
    if kind in {"stop", "cut"}:
        await turns(rng.randrange(400))
        for _ in range(1 if kind == "stop" else 2):
            schedule.stop(interrupt(), is_urgent=trial.is_decided)
            trial.is_decided = True
    error = (await asyncio.gather(task, return_exceptions=True))[0]
    return _verdict(trial, store, before, kind, error)


def _verdict(
    trial: Trial, store: TrialStore, before: Mapping[bytes, bool], kind: str, error: Progress | BaseException
) -> list[str]:
    outcomes = Counter(key.decode() for key, _ in store.outcomes)
    trial.expect(not outcomes or max(outcomes.values()) == 1, "a key has two outcomes")
    trial.expect(not {name.encode() for name in trial.asked} & set(before), "a known key was asked")
    trial.expect(all(count <= trial.max_attempts for count in trial.charged.values()), "too many attempts")
    for key, outcome in store.outcomes:
        name = key.decode()
        is_answer = trial.last[name] == "answer"
        trial.expect(isinstance(outcome, Answer) == is_answer, f"{name} has another's outcome")
        trial.expect(outcome.attempts == trial.charged[name], f"{name}: {outcome.attempts} attempts charged")
    trial.expect(trial.in_flight == 0, "requests are left over")
    progress = store.progress[-1]
    trial.expect(progress.requests_sent == trial.asked.total(), "requests are miscounted")
    trial.expect((progress.in_flight, progress.in_flight_bound) == (0, 0), "the end leaves something in flight")
    if kind not in {"store", "cut"}:
        trial.expect(trial.received == set(outcomes) - trial.refused, "an answer that was received was not kept")
    if isinstance(error, Progress):
        trial.expect(error == progress, "the last commit knows less than the caller")
        _check_finished(trial, before, outcomes, error, store)
    else:
        trial.expect(kind != "plain" and isinstance(error, BatchchatError), f"{kind} ended with {error!r}")
    return trial.broken


def _check_finished(
    trial: Trial, before: Mapping[bytes, bool], outcomes: Counter[str], progress: Progress, store: TrialStore
) -> None:
    wanted = {name for name in trial.rows if name.encode() not in before}
    trial.expect(set(outcomes) == wanted, "keys without an outcome, or with one that nobody asked for")
    answered = sum(store.known[name.encode()] for name in trial.rows)
    trial.expect(progress.rows_read == len(trial.rows) + trial.failed_row_count, "rows are misread")
    trial.expect(progress.rows_answered == answered, f"{progress.rows_answered} rows answered, not {answered}")
    failed = len(trial.rows) - answered + trial.failed_row_count
    trial.expect(progress.rows_failed == failed, f"{progress.rows_failed} rows failed, not {failed}")


@pytest.mark.slow
@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_random_runs_keep_every_promise(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Random outcomes, delays, duplicates, stops, refusals and faults of feed and store, several runs at a time."""

    async def play_all() -> list[str]:
        broken: list[str] = []
        for start in range(0, 210, 30):
            played = await asyncio.gather(*(play(seed) for seed in range(start, start + 30)))
            broken += itertools.chain.from_iterable(played)
        return broken

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(play_all()) == []
