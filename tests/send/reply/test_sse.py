"""A stream of events is the plain reply, however it is cut; and whatever comes, nothing raises."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.records import Completion, Failure, ToolCall, Usage
from batchchat.send.reply.reply import read_reply
from batchchat.send.reply.sse import Events
from tests.bodies import read

Chunk = dict[str, Any]


def event(chunk: object, end: bytes = b"\n") -> bytes:
    """Return one event."""
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode("utf-8", "surrogatepass") + end * 2


def delta(fields: object, finish_reason: str | None = None) -> Chunk:
    """Return a chunk with one choice."""
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]}


def assembled(parts: Sequence[bytes], *, is_event_stream: bool = True) -> bytes | Failure:
    """Return what a body comes to that arrives in these parts."""
    return read(parts, is_event_stream=is_event_stream).content


def completion(parts: Sequence[bytes]) -> Completion | Failure:
    """Return what a stream says."""
    content = assembled(parts)
    return content if isinstance(content, Failure) else read_reply(200, {}, content, unix_now=0.0)


def cut(content: bytes, places: Sequence[int]) -> list[bytes]:
    """Return bytes in parts, cut at these places."""
    ends = sorted({min(place, len(content)) for place in places} | {len(content)})
    return [content[start:end] for start, end in zip([0, *ends], ends, strict=False)]


DONE = b"data: [DONE]\n\n"

# As an endpoint sent it: comments, an empty first delta, text beyond ASCII, two calls in turns, usage at the end.
RECORDED = "".join(
    [
        ": OPENROUTER PROCESSING\n\n",
        'data: {"id":"gen-1","provider":"p","model":"m","object":"chat.completion.chunk","created":7,',
        '"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\r\n\r\n',
        'event: message\nid: 3\ndata: {"id":"gen-1","choices":[{"index":0,"delta":{"reasoning":"h\u00e4"}}]}\n\n',
        'data:{"id":"gen-1","choices":[{"index":0,"delta":{"content":"Sch\u00f6n \U0001f389"}}]}\r\r',
        'data: {"choices":[{"index":0,"delta":\n',
        'data: {"tool_calls":[{"index":0,"id":"c","type":"function","function":{"name":"f","arguments":""}}]}}]}\n\n',
        'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\\"x\\":\\"\u00fc"',
        '}},{"index":1,"id":"d","function":{"name":"g","arguments":"{}"}}]}}]}\n\n',
        'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"\\"}"}}]}}]}\n\n',
        'data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}],"usage":null}\n\n',
        'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}\n\n',
        "data: [DONE]\n\n",
    ]
).encode()
RECORDED_REPLY = {
    "id": "gen-1",
    "provider": "p",
    "model": "m",
    "created": 7,
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Schön 🎉",
                "reasoning": "hä",
                "tool_calls": [
                    {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x":"ü"}'}},
                    {"id": "d", "type": "function", "function": {"name": "g", "arguments": "{}"}},
                ],
            },
            "logprobs": None,
            "finish_reason": "tool_calls",
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
}


# The body


def test_stream_is_assembled_into_the_plain_reply() -> None:
    """Every field of the chunks is in the reply, as the plain reply has it."""
    assert assembled([RECORDED]) == orjson.dumps(RECORDED_REPLY)


def test_fields_that_nobody_knows_are_kept() -> None:
    """What an endpoint adds to its chunks is in the reply: lists one after the other, else what was said last."""
    first: Chunk = {
        "service_tier": "auto",
        "citations": ["a"],
        "usage": {"total_tokens": 1},
        "obfuscation": "x",
        "choices": [{"delta": {"annotations": [1], "tool_calls": [{"id": "c", "extra_content": {"signature": "s"}}]}}],
    }
    last: Chunk = {
        "service_tier": "default",
        "citations": None,
        "usage": {},
        "choices": [{"delta": {"annotations": [2], "content": ""}, "stop_reason": 7, "finish_reason": "stop"}],
    }
    function = {"name": None, "arguments": None}
    call = {"id": "c", "type": "function", "extra_content": {"signature": "s"}, "function": function}
    message = {"role": "assistant", "annotations": [1, 2], "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop", "stop_reason": 7}
    head = {"service_tier": "default", "citations": ["a"], "object": "chat.completion"}
    content = assembled([event(first), event(last)])
    assert isinstance(content, bytes)
    assert orjson.loads(content) == {**head, "choices": [choice], "usage": {"total_tokens": 1}}


@given(st.lists(st.integers(0, len(RECORDED)), max_size=40))
def test_any_cut_gives_the_same_reply(places: list[int]) -> None:
    """Where the network cuts a stream means nothing: not in a character, a line end, a field or a number."""
    assert assembled(cut(RECORDED, places)) == orjson.dumps(RECORDED_REPLY)


@pytest.mark.parametrize("place", range(1, 60))
def test_every_early_cut_gives_the_same_reply(place: int) -> None:
    """The first bytes say what it is, however few of them come at first."""
    assert assembled(cut(b"\xef\xbb\xbf \n" + RECORDED, [place]), is_event_stream=False) == orjson.dumps(RECORDED_REPLY)


def test_stream_that_breaks_off_is_no_answer() -> None:
    """Up to the reason why it ended, a stream that breaks off has failed, and may have been billed."""
    expected = Failure("connect", "the stream ended before the reply was whole", 200, is_outcome_unknown=True)
    for length in range(RECORDED.index(b'"finish_reason":"tool_calls"')):
        assert assembled([RECORDED[:length]]) == expected


def test_stream_that_breaks_off_after_its_reason_is_whole() -> None:
    """After the reason why it ended nothing of the answer can be missing but its usage."""
    start = RECORDED.index(b'data: {"choices":[],"usage"')
    for length in range(start, RECORDED.index(b"}}\n\ndata: [DONE]") + 2):
        outcome = completion([RECORDED[:length]])
        assert isinstance(outcome, Completion)
        assert (outcome.content, outcome.usage) == ("Schön 🎉", Usage())


def test_broken_event_is_a_protocol_failure() -> None:
    """An event that begins like JSON and is none cannot be left out: it may have held a part of the answer."""
    body = event(delta({"content": "a"})) + b"data: {broken\n\n" + event(delta({"content": "b"}, "stop")) + DONE
    expected = Failure("protocol", "an event of the stream is not JSON: {broken", 200, is_outcome_unknown=True)
    assert assembled([body]) == expected


def test_error_after_a_broken_event_is_the_failure() -> None:
    """What the endpoint says of its failure says more than what it broke."""
    body = b"data: {broken\n\n" + event({"error": {"message": "slow", "code": 429}}) + DONE
    outcome = completion([body])
    assert isinstance(outcome, Failure)
    assert (outcome.kind, outcome.message) == ("rate_limit", "slow")


def test_first_error_of_several_counts() -> None:
    """The first error is the cause of those that follow."""
    outcome = completion([event({"error": "first"}) + event({"error": "second"}) + DONE])
    assert isinstance(outcome, Failure)
    assert outcome.message == "first"


def test_reply_that_is_nested_too_deeply_is_a_protocol_failure() -> None:
    """Each event may be read, and their sum still not be written."""
    deep = b"[" * 1_010 + b"]" * 1_010
    content = assembled([b'data: {"choices":[{"delta":{"audio":' + deep + b'},"finish_reason":"stop"}]}\n\n', DONE])
    expected = Failure("protocol", "the reply is nested too deeply", 200, is_outcome_unknown=True)
    assert content == expected or isinstance(content, bytes)  # how deep is too deep depends on the interpreter


def test_plain_body_is_as_received() -> None:
    """What is no stream is not touched, its blank beginning included."""
    body = b' \n{"choices": [ ]}\r\n'
    assert assembled([body], is_event_stream=False) == body
    assert assembled([body], is_event_stream=True) == body


@pytest.mark.parametrize("body", [b"", b"  \n", b"dat", b"ev", b"idle", b"\xef\xbb", b"data", b"retry later"])
def test_text_that_is_no_stream_stays_plain(body: bytes) -> None:
    """A body that only begins like an event is none."""
    assert assembled([body], is_event_stream=False) == body


@pytest.mark.parametrize("start", [b":", b"data:", b"event: x\ndata:", b"id: 1\ndata:", b"retry: 9\ndata:"])
def test_stream_is_known_by_its_start(start: bytes) -> None:
    """Where the content type does not say so, the first field does."""
    body = start + b"\n\n" + event(delta({"content": "yes"}, "stop"))
    assert isinstance(assembled([body], is_event_stream=False), bytes)
    assert assembled([body], is_event_stream=False) != body


# While it comes


def test_first_token_is_when_something_was_said() -> None:
    """Comments, roles, empty contents and usage are no token; an event counts when it is whole."""
    body = Events()
    silent = [{"role": "assistant", "content": ""}, {"content": None, "reasoning": ""}, {"tool_calls": []}, None]
    for number, fields in enumerate(silent):
        body.feed(b": ping\n\n" + event(delta(fields)), float(number))
    body.feed(event({"choices": [], "usage": {"prompt_tokens": 1}}), 8.0)
    assert body.first_token_at is None
    whole = event(delta({"content": "a"}))
    body.feed(whole[:-1], 9.0)
    assert body.first_token_at is None
    body.feed(whole[-1:], 10.0)
    body.feed(event(delta({"content": "b"})), 11.0)
    assert body.first_token_at == 10.0


@pytest.mark.parametrize(
    "fields",
    [
        {"content": "a"},
        {"content": [{"type": "text", "text": "a"}]},
        {"reasoning_content": "a"},
        {"reasoning": "a"},
        {"reasoning_details": [{"text": "a"}]},
        {"refusal": "a"},
        {"tool_calls": [{"index": 0}]},
        {"function_call": {"name": "f"}},
    ],
)
def test_any_piece_is_the_first_token(fields: Chunk) -> None:
    """Whatever the model says first is its first token."""
    body = Events()
    body.feed(event(delta(fields)), 5.0)
    assert body.first_token_at == 5.0


def test_first_token_of_the_second_choice_counts() -> None:
    """A chunk may hold several choices of which not the first speaks."""
    body = Events()
    body.feed(event({"choices": [{"index": 0, "delta": {}}, {"index": 1, "delta": {"content": "a"}}]}), 5.0)
    assert body.first_token_at == 5.0


def test_stream_wants_more_until_done() -> None:
    """`[DONE]` ends it, even before its blank line, and what follows is not read."""
    body = Events()
    assert body.feed(event(delta({"content": "a"}, "stop")), 1.0)
    assert body.feed(b"data: [DONE]", 2.0)
    assert not body.feed(b"\n" + event(delta({"content": "b"})), 3.0)
    assert not body.feed(event(delta({"content": "c"})), 4.0)
    content = body.whole()
    assert isinstance(content, bytes)
    assert orjson.loads(content)["choices"][0]["message"]["content"] == "a"
    assert body.whole() == content


@pytest.mark.parametrize(
    ("part", "is_complete"),
    [
        (b": ping\n\n", False),
        (event(delta({"content": "a"})), False),
        (event(delta({}, "stop")), True),
        (event(delta({"content": "a"})) + DONE, True),
        (event({"error": "no"}), True),
        (event(delta({}, "stop")) + event({"choices": [{"index": 1, "delta": {}}]}), False),
        (event({"object": "chat.completion", "choices": [{"message": {"content": "a"}}]}), True),
        (event({"object": "chat.completion.chunk", "choices": [{"message": {"content": "a"}}]}), False),
        (b'{"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}', False),
        (b"", False),
    ],
)
def test_completeness_is_known_before_the_end(part: bytes, is_complete: bool) -> None:
    """A stream that has said all is complete, so that a connection that breaks then loses nothing; JSON never is."""
    body = Events()
    body.feed(part, 1.0)
    assert body.is_complete is is_complete


# Any completion


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
NAMES = st.text("abcdef_", min_size=1, max_size=8)
JSON_NULL_OR_TEXT = st.none() | TEXTS.filter(bool)
USAGES = st.builds(Usage, *[st.none() | st.integers(0, 2**40)] * 5, st.none() | st.floats(0, 1e5))
CALLS = st.lists(st.builds(ToolCall, NAMES, NAMES, TEXTS), max_size=3, unique_by=lambda call: call.id)
COMPLETIONS = st.builds(
    Completion,
    content=st.none() | TEXTS.filter(lambda text: "<think>" not in text),
    tool_calls=CALLS.map(tuple),
    reasoning=JSON_NULL_OR_TEXT,
    refusal=JSON_NULL_OR_TEXT,
    finish_reason=st.sampled_from(["stop", "length", "tool_calls", "odd"]),
    usage=USAGES,
    model=JSON_NULL_OR_TEXT,
    response_id=JSON_NULL_OR_TEXT,
)


def usage_fields(usage: Usage) -> Chunk:
    """Return a usage as the wire has it."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "cost": usage.cost_usd,
    }


def plain_reply(answer: Completion) -> bytes:
    """Return the plain reply that says this."""
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in answer.tool_calls
    ]
    message = {"role": "assistant", "content": answer.content, "reasoning": answer.reasoning, "refusal": answer.refusal}
    choice = {"index": 0, "message": {**message, "tool_calls": calls}, "finish_reason": answer.finish_reason}
    head = {"id": answer.response_id, "model": answer.model, "object": "chat.completion"}
    return json.dumps({**head, "choices": [choice], "usage": usage_fields(answer.usage)}).encode()


def pieces(draw: st.DrawFn, text: str) -> list[str]:
    """Return a text in pieces, some of which may be empty."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


def call_deltas(draw: st.DrawFn, number: int, call: ToolCall) -> list[Chunk]:
    """Return the fragments of a call, which may lack the index, or repeat the id."""
    index: Chunk = draw(st.sampled_from([{"index": number}, {}]))
    function: Chunk = {"name": call.name, "arguments": ""}
    head = {**index, "id": call.id, "type": "function", "function": function}
    again: Chunk = draw(st.sampled_from([{}, {"id": call.id}]))
    tail = [{**index, **again, "function": {"arguments": piece}} for piece in pieces(draw, call.arguments or "")]
    return [{"tool_calls": [fragment]} for fragment in (head, *tail)]


@st.composite
def streams(draw: st.DrawFn) -> tuple[Completion, bytes]:
    """Return a completion, and a stream of it."""
    answer = draw(COMPLETIONS)
    if answer.content == "" and (answer.tool_calls or answer.refusal):
        answer = replace(answer, content=None)
    has_text = answer.content is not None or bool(answer.tool_calls)
    deltas: list[Chunk] = [{"role": "assistant", "content": "" if has_text else None}]
    for key, text in (("reasoning", answer.reasoning), ("refusal", answer.refusal), ("content", answer.content)):
        deltas += [{key: piece} for piece in pieces(draw, text)] if text is not None else []
    for number, call in enumerate(answer.tool_calls):
        deltas += call_deltas(draw, number, call)
    head = {"id": answer.response_id, "model": answer.model, "object": "chat.completion.chunk"}
    chunks = [{**head, **delta(fields), "usage": None} for fields in deltas]
    chunks.append({**head, **delta({}, answer.finish_reason)})
    chunks.append({**head, "choices": [], "usage": usage_fields(answer.usage)})
    line_end = draw(st.sampled_from([b"\n", b"\r", b"\r\n"]))
    comment = draw(st.sampled_from([b"", b": ping" + line_end * 2]))
    events = comment.join(event(chunk, line_end) for chunk in chunks)
    return answer, events + draw(st.sampled_from([b"", DONE]))


@pytest.mark.slow
@given(streams(), st.lists(st.integers(0, 4_000), max_size=20))
def test_streamed_completion_reads_like_the_plain_one(made: tuple[Completion, bytes], places: list[int]) -> None:
    """However a completion is streamed and cut, it reads as its plain reply does."""
    answer, body = made
    assert completion(cut(body, places)) == read_reply(200, {}, plain_reply(answer), unix_now=0.0)


def test_streamed_completion_is_the_one_that_was_sent() -> None:
    """The plain reply that streams are measured by reads as what it was made of."""
    answer = Completion("a", (ToolCall("c", "f", "{}"),), "r", "no", "stop", Usage(1, 2, 3, 4, 5), "m", "i")
    assert read_reply(200, {}, plain_reply(answer), unix_now=0.0) == answer


# Nothing raises


WORDS = ["choices", "delta", "message", "content", "tool_calls", "function", "arguments", "name", "id", "index"]
MORE_WORDS = ["error", "object", "type", "usage", "logprobs", "finish_reason", "function_call", "reasoning_details"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["error", "stop"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS + MORE_WORDS), inner, max_size=5),
    max_leaves=20,
)
FIELDS = [b"data: ", b"data:", b"event: error\n", b"event:", b"id: 1\n", b":", b"", b"\n", b"\r", b"\r\n", b"{", b"}"]
SCRAPS = st.binary(max_size=20) | st.sampled_from([*FIELDS, b"[DONE]", b'"x":', b"[", b"\xef\xbb\xbf"])


@given(st.lists(SCRAPS, max_size=30), st.booleans())
def test_any_bytes_are_an_outcome(parts: list[bytes], is_event_stream: bool) -> None:
    """Whatever bytes come, they are bytes or a failure, the same however they are cut."""
    whole = assembled([b"".join(parts)], is_event_stream=is_event_stream)
    assert assembled(parts, is_event_stream=is_event_stream) == whole
    if isinstance(whole, bytes):
        assert isinstance(read_reply(200, {}, whole, unix_now=0.0), (Completion, Failure))


@pytest.mark.slow
@given(st.lists(VALUES, max_size=5), st.lists(VALUES, max_size=4), st.booleans())
def test_any_events_are_an_outcome(events: list[object], deltas: list[object], has_index: bool) -> None:
    """Whatever JSON the events hold, with the wire's words in the wrong places, the outcome is a value."""
    index: Chunk = {"index": 0} if has_index else {}
    chunks = [{"choices": [{**index, "delta": one}, one]} for one in deltas]
    calls = [delta({"tool_calls": [one, {"function": one}], "content": one, "function_call": one}) for one in events]
    body = b"".join(event(chunk) for chunk in (*events, *chunks, *calls))
    assert isinstance(completion([body, DONE]), (Completion, Failure))


# How long it takes


def seconds_of(parts: Sequence[bytes]) -> float:
    """Return the seconds of the processor that a stream takes, at best of three."""
    measured = []
    for _ in range(3):
        started = time.process_time()
        assert isinstance(assembled(parts), bytes)
        measured.append(time.process_time() - started)
    return min(measured)


@pytest.mark.slow
def test_long_stream_is_read_in_no_time() -> None:
    """Ten thousand chunks take about 0.05 s of the loop; five times that is too much."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "m"}
    chunks = [{**head, **delta({"content": f" word{number}"}), "usage": None} for number in range(10_000)]
    assert seconds_of([*map(event, chunks), DONE]) < 0.25


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 1_024])
def test_line_of_megabytes_takes_linear_time(size: int) -> None:
    """A line may be as long as it likes and come in as many parts."""
    length = 2**19 * min(size, 16)
    body = event(delta({"content": "x" * length}, "stop"))
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    assert seconds_of(parts) < 1.5


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [b"data: [1,\n", b"{\n", b"data: ping\n\n", b"\n", b": ping\n"],
)
def test_many_lines_take_linear_time(line: bytes) -> None:
    """A hundred thousand lines of nothing much are no trouble."""
    body = event(delta({"content": "yes"}, "stop")) + line * 100_000
    started = time.process_time()
    assert isinstance(assembled([body]), bytes)
    assert time.process_time() - started < 1.5


@pytest.mark.slow
def test_many_tool_calls_take_linear_time() -> None:
    """Twenty thousand calls, each in two fragments, are no trouble."""
    fragments = [
        {
            "tool_calls": [
                {"index": number, "id": f"c{number}", "function": {"name": "f"}},
                {"function": {"arguments": "{}"}},
            ]
        }
        for number in range(20_000)
    ]
    assert seconds_of([*(event(delta(one)) for one in fragments), DONE]) < 1.5
