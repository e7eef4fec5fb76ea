"""Streams of the embedded endpoint: put together they are the plain reply, and faults break them as they should."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.serve.answer.stream import MAX_PIECES, events_of
from batchchat.serve.faults import ANSWERED, UNANSWERED
from batchchat.serve.server import EmbeddedEndpoint
from batchchat.serve.settings import ServeSettings

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
    },
}
OTHER_TOOL = {"type": "function", "function": {"name": "get_weather_in_words"}}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """A client of one endpoint as it stands."""
    with EmbeddedEndpoint(ServeSettings()) as endpoint, httpx.Client(base_url=endpoint.base_url) as client:
        yield client


def ask(client: httpx.Client, content: str = "Hello there.", **more: Any) -> httpx.Response:
    """Ask for one completion."""
    messages = [{"role": "user", "content": content}]
    return client.post("/chat/completions", json={"model": "gpt-5", "messages": messages, **more})


def data_of(events: bytes) -> list[Any]:
    """Return the JSON of a stream's events, which must be in the simplest form and end with [DONE]."""
    *data, done, rest = events.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    assert all(event.startswith(b"data: {") for event in data)
    return [json.loads(event.removeprefix(b"data: ")) for event in data]


def assembled(chunks: list[Any], reply: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain reply that chunks make; of `reply` is taken what chunks do not have: its usage, its object."""
    choices: dict[int, Any] = {}
    for part in (choice for chunk in chunks for choice in chunk["choices"]):
        choice = choices.setdefault(
            part["index"], {"index": part["index"], "message": {"role": "assistant", "content": None}}
        )
        message, delta = choice["message"], part["delta"]
        if isinstance(delta.get("content"), str):
            message["content"] = (message["content"] or "") + delta["content"]
        for call in delta.get("tool_calls", ()):
            add_call(message.setdefault("tool_calls", []), call)
        if part["finish_reason"] is not None:
            choice["finish_reason"] = part["finish_reason"]
    head = {key: value for key, value in chunks[0].items() if key in ("id", "created", "model")}
    return {**head, "object": reply["object"], "choices": [choices[index] for index in sorted(choices)]}


def add_call(calls: list[Any], part: Any) -> None:
    """Add a delta of a tool call to the calls so far, by its index."""
    if "id" in part:
        calls.append(part)
    else:
        calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]


@pytest.mark.parametrize(
    ("content", "more"),
    [
        ("Hello there.", {}),
        ("Summarise this review:\nIt boils  fast. \u6f22\u5b57\u304c\u3042\u308b \U0001f642", {"n": 3}),
        ("What is the weather in Paris?", {"tools": [TOOL, OTHER_TOOL]}),
        ("What is the weather in Rome?", {"tools": [TOOL], "n": 2}),
        ("List 3 colors as a JSON array", {"response_format": {"type": "json_object"}}),
        ("Hello there, this is long.", {"max_tokens": 4}),
    ],
    ids=["text", "choices", "calls", "choices with calls", "json", "length"],
)
def test_stream_makes_the_plain_reply(client: httpx.Client, content: str, more: dict[str, Any]) -> None:
    """Id, model, contents, tool calls and finish_reasons are those of the plain reply to the same request."""
    reply = ask(client, content, **more).json()
    response = ask(client, content, stream=True, **more)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    chunks = data_of(response.content)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {key: value for key, value in reply.items() if key != "usage"} == assembled(chunks, reply)


def test_pieces_come_in_order(client: httpx.Client) -> None:
    """The role comes first, then a word at a time, then the reason why it ends, and no usage unless it is asked for."""
    chunks = data_of(ask(client, stream=True).content)
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}],
        *(
            [{"index": 0, "delta": {"content": word}, "finish_reason": None}]
            for word in ("[stand-in]", " Hello", " there.")
        ),
        [{"index": 0, "delta": {}, "finish_reason": "stop"}],
    ]
    assert all("usage" not in chunk for chunk in chunks)


def test_usage_comes_last_when_asked_for(client: httpx.Client) -> None:
    """With include_usage a last chunk without choices has the plain reply's usage, and the others a null."""
    *chunks, last = data_of(ask(client, stream=True, stream_options={"include_usage": True}).content)
    assert (last["choices"], last["usage"]) == ([], ask(client).json()["usage"])
    assert all(chunk["usage"] is None for chunk in chunks)
    chunks = data_of(ask(client, stream=True, stream_options={"include_usage": False}).content)
    assert all("usage" not in chunk for chunk in chunks)


def test_tool_call_comes_in_pieces(client: httpx.Client) -> None:
    """A call is named first, without arguments; these follow in several pieces that have its index alone."""
    chunks = data_of(ask(client, "Weather in Rome", tools=[TOOL], stream=True).content)
    calls = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert calls[0]["function"] == {"name": "get_weather", "arguments": ""}
    assert [call["function"]["arguments"] for call in calls[1:]] == ['{"locati', 'on":"Rom', 'e"}']
    assert all(call.keys() == {"index", "function"} for call in calls[1:])


def test_choices_come_in_turns(client: httpx.Client) -> None:
    """The chunks of two choices are interleaved."""
    chunks = data_of(ask(client, n=2, stream=True).content)
    assert [chunk["choices"][0]["index"] for chunk in chunks[:6]] == [0, 1, 0, 1, 0, 1]


def test_logprobs_go_with_their_words(client: httpx.Client) -> None:
    """Each delta of content has the log probabilities of its own words; together they are the plain reply's."""
    chunks = data_of(ask(client, logprobs=True, stream=True).content)
    spoken = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["delta"].get("content")]
    for choice in spoken:
        assert "".join(entry["token"] for entry in choice["logprobs"]["content"]) == choice["delta"]["content"]
    entries = [entry for choice in spoken for entry in choice["logprobs"]["content"]]
    assert entries == ask(client, logprobs=True).json()["choices"][0]["logprobs"]["content"]


def test_refusal_is_no_stream(client: httpx.Client) -> None:
    """What is refused is refused in JSON, whether a stream was asked for or not."""
    response = client.post("/chat/completions", json={"model": "gpt-5", "stream": True})
    assert response.json() == {"error": {"message": "Messages array cannot be empty"}}
    assert response.headers["content-type"] == "application/json"


def streamed_text(text: str) -> str:
    """Return what the pieces of a text make, of which there may be so many at most."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    events = events_of({"object": "chat.completion", "choices": [choice], "usage": {}}, has_usage=False)
    assert len(events) <= MAX_PIECES + 3
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in data_of(b"".join(events)))


@given(st.text())
def test_any_text_is_whole_again(text: str) -> None:
    """Whatever a text is made of, its pieces put together are the text."""
    assert streamed_text(text) == text


def test_long_text_has_a_bounded_number_of_events() -> None:
    """A text of a hundred thousand words takes no more events than one of a thousand, and is whole all the same."""
    assert streamed_text("word " * 100_000) == "word " * 100_000


def outcome(client: httpx.Client, number: int) -> str:
    """Return what came of one streamed request, as a client sees it."""
    received = b""
    try:
        with client.stream("POST", "/chat/completions", json=body_of(number)) as response:
            for part in response.iter_raw():
                received += part
    except httpx.RemoteProtocolError:
        return "cut" if received else "closed"
    if response.status_code != 200:
        return str(response.status_code)
    assert response.headers["content-type"].startswith("text/event-stream")
    if received.startswith(b'data: {"error"'):
        return "error"
    return "whole" if received.endswith(b"data: [DONE]\n\n") else "ended early" if received else "empty"


def body_of(number: int) -> dict[str, Any]:
    """Return a request that asks for a stream."""
    return {"model": "gpt-5", "stream": True, "messages": [{"role": "user", "content": f"Ticket number {number}."}]}


@pytest.mark.slow
def test_every_fault_strikes_streams(tmp_path: Path) -> None:
    """Each kind of fault reaches the client of a stream in its streamed form, and the ledger has it by name."""
    log = tmp_path / "ledger.jsonl"
    settings = ServeSettings(fault_rate=1, log_path=log)
    with EmbeddedEndpoint(settings) as endpoint, httpx.Client(base_url=endpoint.base_url) as client:
        seen = Counter(outcome(client, number) for number in range(120))
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    counted = Counter(entry["fault"] for entry in entries)
    assert set(counted) == {*UNANSWERED, *ANSWERED}
    assert seen["cut"] + seen["closed"] == counted["cut_body"] + counted["closed_before_reply"]
    assert seen["ended early"] == counted["truncated_json"]
    assert seen["error"] == counted["error_in_200"]
    assert seen["empty"] == counted["empty_body"]
    assert seen["whole"] == counted["slow"] == sum(entry["delivered"] for entry in entries)
    assert seen["502"] == counted["bad_gateway"]


@pytest.mark.slow
def test_broken_stream_never_says_why_it_ends() -> None:
    """A stream that is cut, or ends early, has no finish_reason: with one it would be a whole answer."""
    settings = ServeSettings(fault_rate=1, seed=3)
    with EmbeddedEndpoint(settings) as endpoint, httpx.Client(base_url=endpoint.base_url) as client:
        for number in range(60):
            received = b""
            try:
                with client.stream("POST", "/chat/completions", json=body_of(number)) as response:
                    for part in response.iter_raw():
                        received += part
            except httpx.RemoteProtocolError:
                assert b'"finish_reason":"stop"' not in received
            is_whole = received.endswith(b"data: [DONE]\n\n")
            assert is_whole or b'"finish_reason":"stop"' not in received
