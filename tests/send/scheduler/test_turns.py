"""Rows that need more than one reply, and requests that are large: what the schedule does with them."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from batchchat.errors import InterruptedRunError
from batchchat.records import (
    Answer,
    ChatRequest,
    Chunk,
    Completion,
    FailedRow,
    Failure,
    Media,
    Outcome,
    Progress,
    Usage,
)
from batchchat.send.http.transport import Reply
from batchchat.send.limits.concurrency import Concurrency
from batchchat.send.limits.rate_limits import RateLimits
from batchchat.send.policy.rules import EMPTY_TRIES, Send
from batchchat.send.scheduler.scheduler import Scheduler
from batchchat.send.structured.judge import Structure
from tests.scheduled import schedule_over
from tests.send.scheduler.test_scheduler import ANSWER, HANG_S, MemoryStore, refusal

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
FITS, MISFIT = '{"a":1}', '{"b":2}'
KILLED = InterruptedRunError(15)


def said(content: str | None, finish_reason: str = "stop") -> Reply:
    """Return a reply that costs ten tokens."""
    choice = {"message": {"content": content}, "finish_reason": finish_reason}
    body = {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}
    return Reply(200, {}, json.dumps(body).encode(), 0.5, 0.1)


def requests(count: int, **more: Any) -> Chunk:
    """Return requests whose key is their number."""
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    body = {"model": "m", "messages": [{"role": "user", "content": "?"}], "response_format": schema, **more}
    return Chunk([ChatRequest(b"%d" % number, json.dumps(body).encode(), str(number)) for number in range(count)])


def schedule_of(
    chunk: Chunk,
    store: MemoryStore,
    send: Send,
    *,
    concurrency: int = 1,
    in_flight_bytes: int = 2**63,
    max_attempts: int = 6,
    observe: Callable[[Progress], None] = lambda _: None,
) -> Scheduler:
    """Return a schedule over one chunk, of answers that must fit the schema."""
    return schedule_over(
        [chunk],
        store,
        send,
        Concurrency(concurrency, 0.0),
        observe=observe,
        endpoint={"structure": Structure(SCHEMA)},
        max_attempts=max_attempts,
        grace_s=HANG_S,
        in_flight_bytes=in_flight_bytes,
    )


def asked(
    chunk: Chunk, replies: Sequence[Reply | Failure], *, max_attempts: int = 6
) -> tuple[list[dict[str, Any]], MemoryStore, Progress]:
    """Run one row after the other against replies in their order; return the bodies that were sent, and the store."""
    bodies: list[dict[str, Any]] = []
    left = list(replies)

    async def send(request: ChatRequest, body: bytes, wants_new: bool) -> Reply | Failure:
        bodies.append(json.loads(body))
        return left.pop(0)

    store = MemoryStore()
    progress = asyncio.run(asyncio.wait_for(schedule_of(chunk, store, send, max_attempts=max_attempts).run(), HANG_S))
    assert not left
    return bodies, store, progress


def only(store: MemoryStore) -> Outcome:
    """Return the one outcome."""
    (outcome,) = store.by_name().values()
    return outcome


def test_fitting_answer_is_parsed() -> None:
    """An answer that fits needs one request; its JSON is kept beside it."""
    _, store, progress = asked(requests(1), [said(f" {FITS} ")])
    answer = only(store)
    assert isinstance(answer, Answer)
    assert (answer.completion.parsed, answer.completion.content) == (FITS, f" {FITS} ")
    assert (answer.attempts, answer.first_token_s, answer.latency_s) == (1, 0.1, 0.5)
    assert progress.requests_sent == 1


def test_misfit_is_corrected_in_one_more_turn() -> None:
    """The model sees its own words and what is wrong with them; both replies are in the row's usage."""
    bodies, store, progress = asked(requests(1), [said(MISFIT), said(FITS)])
    first, second = bodies
    assert second["messages"][0] == first["messages"][0]
    assert second["messages"][1] == {"role": "assistant", "content": MISFIT}
    assert "'b' was unexpected" in second["messages"][2]["content"]
    answer = only(store)
    assert isinstance(answer, Answer)
    assert answer.completion.usage == Usage(14, 6, 20)
    assert answer.attempts == progress.requests_sent == 2
    assert (progress.prompt_tokens, progress.completion_tokens) == (14, 6)


def test_misfit_that_stays_one_fails_with_its_text() -> None:
    """One correction is all a row gets; its last words are kept, with the cost of both."""
    _, store, _ = asked(requests(1), [said(MISFIT), said("no")])
    row = only(store)
    assert isinstance(row, FailedRow)
    assert (row.failure.kind, row.is_transient, row.attempts) == ("schema", False, 2)
    assert row.completion == Completion("no", finish_reason="stop", usage=Usage(14, 6, 20))
    assert row.reply == said("no").body


def test_cut_answer_gets_more_tokens_once() -> None:
    """A text that ended at the limit is asked for again with a higher one, and in the same words."""
    bodies, store, _ = asked(requests(1, max_tokens=20), [said('{"a"', "length"), said(FITS)])
    assert bodies[1] == {**bodies[0], "max_tokens": 276}
    assert isinstance(only(store), Answer)


def test_failure_between_turns_keeps_the_turn() -> None:
    """A server error in the second turn is tried again as that turn, and charged as an attempt."""
    busy = refusal(500, "busy", retry_after_ms="0")
    bodies, store, _ = asked(requests(1), [said(MISFIT), busy, said(FITS)])
    assert bodies[2] == bodies[1]
    answer = only(store)
    assert isinstance(answer, Answer)
    assert (answer.attempts, answer.completion.usage) == (3, Usage(14, 6, 20))


def test_refused_correction_leaves_the_text_that_did_not_fit() -> None:
    """When the endpoint refuses the second turn, the row fails for the first: its own request was taken."""
    _, store, _ = asked(requests(1), [said(MISFIT), refusal(413, "too large")])
    row = only(store)
    assert isinstance(row, FailedRow)
    assert (row.failure.kind, row.is_transient, row.attempts, row.latency_s) == ("schema", False, 2, 0.5)
    assert row.completion == Completion(MISFIT, finish_reason="stop", usage=Usage(7, 3, 10))
    assert row.reply == said(MISFIT).body


def test_refused_larger_limit_mends_what_is_there() -> None:
    """When no more tokens are allowed, the cut text is not paid for a second time."""
    replies = [said('{"a":1', "length"), refusal(400, "max_tokens is too large: 276")]
    bodies, store, _ = asked(requests(1, max_tokens=20), [*replies, said(FITS)])
    assert [body["max_tokens"] for body in bodies] == [20, 276, 20]
    assert bodies[2]["messages"][1]["content"] == '{"a":1'
    answer = only(store)
    assert isinstance(answer, Answer)
    assert (answer.attempts, answer.completion.usage) == (3, Usage(14, 6, 20))


def test_server_error_between_turns_says_what_it_cost() -> None:
    """A row that is given up for now has the words and the tokens of its first turn on record."""
    busy = refusal(500, "busy", retry_after_ms="0")
    _, store, _ = asked(requests(1), [said(MISFIT), busy, busy], max_attempts=2)
    row = only(store)
    assert isinstance(row, FailedRow)
    assert (row.failure.kind, row.is_transient, row.attempts) == ("server", True, 3)
    assert row.completion == Completion(MISFIT, finish_reason="stop", usage=Usage(7, 3, 10))
    assert row.reply == said(MISFIT).body


def test_empty_reply_is_in_the_rows_usage() -> None:
    """What the endpoint bills for nothing is billed all the same."""
    _, store, progress = asked(requests(1), [said(None), said(FITS)])
    answer = only(store)
    assert isinstance(answer, Answer)
    assert (answer.attempts, answer.completion.usage) == (2, Usage(14, 6, 20))
    assert (progress.prompt_tokens, progress.completion_tokens) == (14, 6)


def test_each_model_has_its_own_rung() -> None:
    """Where rows name their model, one that takes no schema does not speak for the others."""
    old = requests(1, model="old").requests
    new = [replace(request, key=b"n%d" % at) for at, request in enumerate(requests(2, model="new").requests)]
    kinds: list[tuple[str, str]] = []

    async def send(request: ChatRequest, body: bytes, wants_new: bool) -> Reply | Failure:
        asked_for = json.loads(body)
        kinds.append((asked_for["model"], asked_for["response_format"]["type"]))
        return NO_SCHEMAS if kinds[-1] == ("old", "json_schema") else said(FITS)

    store = MemoryStore()
    endpoint = {"structure": Structure(SCHEMA), "model_varies": True}
    chunks = [Chunk([*old, *new])]
    schedule = schedule_over(
        chunks, store, send, Concurrency(1, 0.0), endpoint=endpoint, max_attempts=6, grace_s=HANG_S
    )
    progress = asyncio.run(asyncio.wait_for(schedule.run(), HANG_S))
    assert sorted(kinds) == [("new", "json_schema")] * 2 + [("old", "json_object"), ("old", "json_schema")]
    assert [note.endswith("(model old)") for note in progress.notes] == [True]


NO_SCHEMAS = refusal(400, "response_format.type json_schema is not supported")


def test_refused_response_format_is_asked_another_way() -> None:
    """The first refusal decides for the rows after it, costs no attempt, and is said."""
    bodies, store, progress = asked(requests(3), [NO_SCHEMAS, said(FITS), said(FITS), said(FITS)])
    assert [body["response_format"]["type"] for body in bodies] == ["json_schema", *["json_object"] * 3]
    assert all("JSON Schema" in body["messages"][-1]["content"] for body in bodies[1:])
    assert {outcome.attempts for _, outcome in store.outcomes} == {1}
    (note,) = progress.notes
    assert "json_schema" in note


def test_refusal_after_a_success_is_the_rows_own() -> None:
    """An endpoint that has taken the schema before takes it again: only the refused row is asked another way."""
    replies = [said(FITS), NO_SCHEMAS, said(FITS), said(FITS)]
    bodies, _, progress = asked(requests(3), replies)
    kinds = [body["response_format"]["type"] for body in bodies]
    assert sorted(kinds) == ["json_object", "json_schema", "json_schema", "json_schema"]
    assert progress.notes == ()


def test_paid_turns_are_in_the_bound_of_a_kill() -> None:
    """A reply that was not the last is lost with its row: until that is settled, the commits count it."""
    bounds: list[tuple[int, int]] = []

    class Store(MemoryStore):
        def commit(self, outcomes: Sequence[tuple[bytes, Outcome]], progress: Progress) -> None:
            bounds.append((len(outcomes), progress.in_flight_bound))
            super().commit(outcomes, progress)

    left = [said(MISFIT), said(FITS)]

    async def send(request: ChatRequest, body: bytes, wants_new: bool) -> Reply | Failure:
        return left.pop(0)

    asyncio.run(asyncio.wait_for(schedule_of(requests(1), Store(), send).run(), HANG_S))
    turned = next(bound for count, bound in bounds[1:] if count == 0)
    assert turned == 2, "the reply that was paid for, and the request that follows it"
    assert bounds[-1] == (0, 0)


def test_stop_between_turns_counts_what_was_paid() -> None:
    """A stopped run leaves the row unasked, and says that a request may be billed twice."""
    schedule: Scheduler

    async def send(request: ChatRequest, body: bytes, wants_new: bool) -> Reply | Failure:
        schedule.stop(KILLED)
        return said(MISFIT)

    async def scenario() -> tuple[MemoryStore, Progress]:
        nonlocal schedule
        store = MemoryStore()
        schedule = schedule_of(requests(1), store, send)
        with pytest.raises(InterruptedRunError):
            await asyncio.wait_for(schedule.run(), HANG_S)
        return store, store.progress[-1]

    store, progress = asyncio.run(scenario())
    assert store.outcomes == []
    assert (progress.requests_sent, progress.possibly_billed, progress.rows_failed) == (1, 1, 0)


@pytest.mark.slow
def test_empty_replies_are_tried_a_few_times_only() -> None:
    """Each of them is paid for, so the row gets fewer of these than of other attempts."""
    quiet = Reply(200, {}, b'{"choices":[{"message":{"content":null},"finish_reason":"stop"}]}', 0.1)
    _, store, progress = asked(requests(1), [quiet] * EMPTY_TRIES)
    row = only(store)
    assert isinstance(row, FailedRow)
    assert (row.failure.kind, row.attempts, progress.requests_sent) == ("empty_reply", EMPTY_TRIES, EMPTY_TRIES)


def test_medium_that_cannot_be_sent_costs_no_request() -> None:
    """A file that changed under the run is the row's failure, until the next run; nothing went out."""
    _, store, progress = asked(requests(2), [Failure("media", "a.png changed while the job ran"), said(FITS)])
    failed = [outcome for _, outcome in store.outcomes if isinstance(outcome, FailedRow)]
    assert [(row.failure.kind, row.attempts, row.is_transient) for row in failed] == [("media", 0, True)]
    assert (progress.requests_sent, progress.rows_answered, progress.rows_failed) == (1, 1, 1)


@pytest.mark.parametrize(("in_flight_bytes", "together"), [(1, 1), (2_000, 2), (3_000, 3), (10**9, 8)])
def test_bytes_in_flight_are_bounded(in_flight_bytes: int, together: int) -> None:
    """As many requests go together as their bodies have room for; one that is larger than all the room goes alone."""
    medium = Media(("messages", 0), "a", b"", "image/png", b"", 600)
    sized = [replace(request, media=(medium,)) for request in requests(8).requests]
    room = {1: 1, 2_000: 2 * sized[0].sent_bytes, 3_000: 3 * sized[0].sent_bytes}.get(in_flight_bytes, in_flight_bytes)
    under_way, most = 0, 0

    async def send(request: ChatRequest, body: bytes, wants_new: bool) -> Reply | Failure:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.005)
        under_way -= 1
        return said(FITS)

    store = MemoryStore()
    schedule = schedule_of(Chunk(sized), store, send, concurrency=8, in_flight_bytes=room)
    asyncio.run(asyncio.wait_for(schedule.run(), HANG_S))
    assert most == together
    assert len(store.outcomes) == 8


def test_bytes_are_free_again_when_a_request_ends() -> None:
    """The last requests go together as the first did."""
    medium = Media(("messages", 0), "a", b"", "image/png", b"", 600)
    sized = [replace(request, media=(medium,)) for request in requests(8).requests]
    together: list[int] = []
    under_way = 0

    async def send(request: ChatRequest, body: bytes, wants_new: bool) -> Reply | Failure:
        nonlocal under_way
        under_way += 1
        await asyncio.sleep(0.005)
        together.append(under_way)
        under_way -= 1
        return said(FITS)

    room = 2 * sized[0].sent_bytes
    schedule = schedule_of(Chunk(sized), MemoryStore(), send, concurrency=8, in_flight_bytes=room)
    asyncio.run(asyncio.wait_for(schedule.run(), HANG_S))
    assert max(together[4:]) == 2


class SlowStore(MemoryStore):
    """A store in which the commit of a turn, which brings no outcome, waits to be let through."""

    def __init__(self) -> None:
        super().__init__()
        self.is_let_through = threading.Event()

    def commit(self, outcomes: Sequence[tuple[bytes, Outcome]], progress: Progress) -> None:
        """Wait, but not for the first commit, which begins the run."""
        if self.progress and not outcomes:
            assert self.is_let_through.wait(HANG_S)
        super().commit(outcomes, progress)


def test_slot_of_a_turned_row_is_free_only_after_its_commit() -> None:
    """A paid reply that is not yet on record holds its slot, as an answer does."""
    sent: list[str] = []
    replies = [said(MISFIT), said(FITS), said(FITS)]

    has_sent = asyncio.Event()

    async def send(request: ChatRequest, body: bytes, wants_new: bool) -> Reply | Failure:
        sent.append(request.row_name)
        has_sent.set()
        return replies.pop(0)

    async def scenario() -> list[str]:
        store = SlowStore()
        task = asyncio.ensure_future(schedule_of(requests(2), store, send).run())
        await asyncio.wait_for(has_sent.wait(), HANG_S)
        for _ in range(200):
            await asyncio.sleep(0)
        before = list(sent)
        store.is_let_through.set()
        await asyncio.wait_for(task, HANG_S)
        return before

    assert asyncio.run(scenario()) == ["0"]
    assert sent == ["0", "0", "1"]


def test_reply_without_a_schema_is_taken_as_it_is() -> None:
    """Where a job has no schema, any text is the answer."""

    async def send(request: ChatRequest, body: bytes, wants_new: bool) -> Reply | Failure:
        return ANSWER

    store = MemoryStore()
    schedule = schedule_over([requests(1)], store, send, Concurrency(1, 0.0), max_attempts=6, grace_s=HANG_S)
    asyncio.run(asyncio.wait_for(schedule.run(), HANG_S))
    answer = only(store)
    assert isinstance(answer, Answer)
    assert (answer.completion.content, answer.completion.parsed) == ("yes", None)


def test_medium_that_cannot_be_sent_gives_its_tokens_back() -> None:
    """What was reserved for a request that never went out is there for the next."""

    async def send(request: ChatRequest, body: bytes, wants_new: bool) -> Reply | Failure:
        return Failure("media", "gone")

    rates = RateLimits(None, 60.0)
    chunks = [Chunk(requests(1).requests)]
    schedule = schedule_over(
        chunks, MemoryStore(), send, Concurrency(1, 0.0), rates=rates, max_attempts=6, grace_s=HANG_S
    )
    asyncio.run(asyncio.wait_for(schedule.run(), HANG_S))
    assert rates.opens_at() < time.monotonic()
