"""Oddities of the embedded endpoint: each name gives the reply that it promises, plain and streamed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from batchchat.records import Completion, Failure
from batchchat.send.reply import read_reply
from batchchat.send.stream import ReplyBody
from batchchat.serve.oddity import ODDITIES, STATUSES
from batchchat.serve.server import EmbeddedEndpoint
from batchchat.serve.settings import ServeSettings

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}
STREAMED: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
BREAK_THE_CONNECTION = ("cut-connection", "closed-connection")
OF_A_STREAM = tuple(ODDITIES)[tuple(ODDITIES).index("no-done") : tuple(ODDITIES).index("html-200")]
PLAIN = "[stand-in] Hi there."


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """A client of one endpoint as it stands."""
    with EmbeddedEndpoint(ServeSettings()) as endpoint, httpx.Client(base_url=endpoint.base_url) as client:
        yield client


def ask(client: httpx.Client, name: str | None, content: str = "Hi there.", **more: Any) -> httpx.Response:
    """Ask for one completion with an oddity, or without."""
    headers = {} if name is None else {"x-batchchat-odd": name}
    body = {"model": "gpt-5", "messages": [{"role": "user", "content": content}], "max_tokens": 50, **more}
    return client.post("/chat/completions", json=body, headers=headers)


def choice_of(response: httpx.Response) -> Any:
    """Return the first choice of a reply."""
    return response.json()["choices"][0]


def message_of(response: httpx.Response) -> Any:
    """Return the message of a reply."""
    return choice_of(response)["message"]


def chunks_of(response: httpx.Response) -> list[Any]:
    """Return the JSON of a stream in the simplest form."""
    events = response.content.decode().split("\n\n")
    return [json.loads(event.removeprefix("data: ")) for event in events if event not in ("", "data: [DONE]")]


def read(response: httpx.Response) -> Completion | Failure:
    """Return what batchchat makes of a reply."""
    is_event_stream = response.headers["content-type"].startswith("text/event-stream")
    body = ReplyBody(is_event_stream=is_event_stream)
    body.feed(response.content, 0.0)
    whole = body.whole()
    return (
        whole if isinstance(whole, Failure) else read_reply(response.status_code, response.headers, whole, unix_now=0)
    )


def suited(name: str) -> dict[str, Any]:
    """Return what a request needs for an oddity to have something to bear on."""
    return {"response_format": JSON_SCHEMA} if "json" in name or "response-format" in name else {}


@pytest.mark.parametrize("name", [name for name in ODDITIES if name not in BREAK_THE_CONNECTION])
def test_every_oddity_makes_a_difference(client: httpx.Client, name: str) -> None:
    """Each name changes the reply to a request: the plain one, or for those of a stream the streamed one."""
    more = {**suited(name), **(STREAMED if name in OF_A_STREAM else {})}
    odd, usual = ask(client, name, **more), ask(client, None, **more)
    assert usual.status_code == 200
    is_split = name == "split-utf8"
    assert (odd.status_code, odd.content) != (usual.status_code, usual.content) or is_split
    assert ODDITIES[name]


@pytest.mark.parametrize("name", [name for name in OF_A_STREAM if name not in ("split-utf8", "whole-call")])
def test_stream_oddities_leave_plain_replies(client: httpx.Client, name: str) -> None:
    """What is odd in a stream does nothing to a plain reply, but for the tool calls that it needs."""
    odd, usual = ask(client, name).json(), ask(client, None).json()
    assert odd == usual or choice_of(ask(client, name))["finish_reason"] == "tool_calls"


# A stream that ends early, fails half-way or says nothing of its end is another outcome than a plain reply; calls that
# have one id in common are one call to who goes by the id.
ANOTHER_OUTCOME = (
    "done-without-finish",
    "cut-stream",
    "error-event",
    "error-data",
    "pretty-error",
    "plain-error",
    "empty-body",
)


@pytest.mark.parametrize(
    "name",
    [name for name in ODDITIES if name not in (*ANOTHER_OUTCOME, *BREAK_THE_CONNECTION, "tool-id-duplicate")],
)
def test_stream_says_what_the_plain_reply_says(client: httpx.Client, name: str) -> None:
    """What batchchat reads in the odd stream is what it reads in the odd plain reply."""
    plain, streamed = read(ask(client, name, **suited(name))), read(ask(client, name, **suited(name), **STREAMED))
    if isinstance(plain, Failure):
        assert isinstance(streamed, Failure)
        assert (streamed.kind, streamed.status) == (plain.kind, plain.status)
    else:
        assert streamed == plain


def test_model_asks_for_an_oddity_too(client: httpx.Client) -> None:
    """A model odd/<name> gives the oddity of that name, so that a job file can ask for it; the header counts first."""
    assert message_of(ask(client, None, model="odd/null-content"))["content"] is None
    assert ask(client, None, model="odd/null-content").json()["model"] == "odd/null-content (batchchat stand-in)"
    assert message_of(ask(client, "empty-content", model="odd/null-content"))["content"] == ""


@pytest.mark.parametrize("how", ["header", "model"])
def test_unknown_oddity_is_refused(client: httpx.Client, how: str) -> None:
    """A name that is none is 400, which lists those there are."""
    reply = ask(client, "no-such") if how == "header" else ask(client, None, model="odd/no-such")
    assert reply.status_code == 400
    assert reply.json()["error"]["detail"] == f'"no-such" is no oddity; there are: {", ".join(ODDITIES)}'


@pytest.mark.parametrize(
    ("name", "choices"),
    [("empty-choices", []), ("null-choices", None), ("error-null", None)],
)
def test_choices_may_be_none(client: httpx.Client, name: str, choices: Any) -> None:
    """The choices are there and have nothing in them."""
    assert ask(client, name).json()["choices"] == choices


@pytest.mark.parametrize(
    ("name", "message", "finish_reason"),
    [
        ("null-content", {"content": None}, "stop"),
        ("empty-content", {"content": ""}, "stop"),
        (
            "list-content",
            {"content": [{"type": "text", "text": PLAIN[:10]}, {"type": "text", "text": PLAIN[10:]}]},
            "stop",
        ),
        ("finish-unknown", {"content": PLAIN}, "eos"),
        ("finish-null", {"content": PLAIN}, None),
        ("finish-error", {"content": PLAIN[:10]}, "error"),
        ("content-filter", {"content": PLAIN[:10]}, "content_filter"),
        ("refusal", {"content": None, "refusal": "I cannot help with that."}, "stop"),
        (
            "thought-only",
            {"content": None, "reasoning_content": "The question is short. A short answer will do."},
            "length",
        ),
        ("length-once", {"content": PLAIN[:10]}, "length"),
        ("nul", {"content": f"{PLAIN}\0"}, "stop"),
    ],
)
def test_message_is_odd(client: httpx.Client, name: str, message: dict[str, Any], finish_reason: str | None) -> None:
    """The message has exactly what the oddity says, and the finish_reason that goes with it."""
    choice = choice_of(ask(client, name))
    assert choice["message"] == {"role": "assistant", **message}
    assert choice["finish_reason"] == finish_reason


@pytest.mark.parametrize(
    ("name", "usage"),
    [
        ("usage-null", None),
        ("usage-partial", {"prompt_tokens": 10}),
        ("usage-zero", {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}),
        ("usage-text", {"prompt_tokens": "10", "completion_tokens": 5.0, "total_tokens": "15.0"}),
        ("usage-total", {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115}),
    ],
)
def test_usage_is_odd(client: httpx.Client, name: str, usage: Any) -> None:
    """The usage is what the oddity says, in the reply and in the last chunk of a stream."""
    assert ask(client, name).json()["usage"] == usage
    assert chunks_of(ask(client, name, **STREAMED))[-1]["usage"] == usage


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("lone-surrogate", b'there.\\ud83d"'),
        ("invalid-utf8", b'there.\xff\xfe"'),
        ("nul", b'there.\\u0000"'),
        ("nan", b'"cost":NaN'),
        ("huge-integer", b'"total_tokens":123456789012345678901234567890'),
        ("duplicate-keys", b'"content":"(the first of two)","content":"[stand-in] Hi there."'),
    ],
)
def test_json_is_odd(client: httpx.Client, name: str, part: bytes) -> None:
    """The body has bytes that strict readers of JSON do not take, or take differently."""
    assert part in ask(client, name).content


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("arguments-object", [{}, {}]),
        ("arguments-null", [None, None]),
        ("arguments-empty", ["", ""]),
        ("arguments-invalid", ["{", "{"]),
    ],
)
def test_arguments_are_odd(client: httpx.Client, name: str, calls: list[Any]) -> None:
    """The arguments of two calls of the tool offered are odd; a streamed call may carry them whole."""
    message = message_of(ask(client, name, tools=[TOOL]))
    assert [call["function"]["arguments"] for call in message["tool_calls"]] == calls
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["get_weather", "get_weather"]


def test_tool_ids_are_odd(client: httpx.Client) -> None:
    """The ids of the calls are missing, empty or the same; calls that the words ask for are those of the words."""
    assert ["id" in call for call in message_of(ask(client, "tool-id-missing"))["tool_calls"]] == [False, False]
    assert [call["id"] for call in message_of(ask(client, "tool-id-empty"))["tool_calls"]] == ["", ""]
    same = message_of(ask(client, "tool-id-duplicate", "Is there weather?", tools=[TOOL]))["tool_calls"]
    assert [call["id"] for call in same] == ["call_0"]
    assert message_of(ask(client, "function-call", tools=[TOOL]))["function_call"] == {
        "name": "get_weather",
        "arguments": "{}",
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("fenced-json", 'Here is the JSON:\n\n```json\n{"a":"Hi there."}\n```\n'),
        ("prose-json", 'Sure! {"a":"Hi there."} Is there anything else?'),
        ("truncated-json", '{"a":"Hi there."'),
        ("wrong-json", '{"wrong":true}'),
        ("always-wrong-json", '{"wrong":true}'),
        ("length-once", '{"a":"Hi '),
    ],
)
def test_json_answer_is_odd(client: httpx.Client, name: str, content: str) -> None:
    """The JSON asked for is there, and something is wrong with it."""
    assert message_of(ask(client, name, response_format=JSON_SCHEMA))["content"] == content


def test_some_oddities_pass_at_a_second_turn(client: httpx.Client) -> None:
    """wrong-json gives way to a correction, length-once to more tokens; always-wrong-json never does."""
    corrected = [
        {"role": "user", "content": "Hi there."},
        {"role": "assistant", "content": '{"wrong":true}'},
        {"role": "user", "content": "It does not fit the JSON Schema."},
    ]
    right = '{"a":"Hi there."}'
    more: dict[str, Any] = {"response_format": JSON_SCHEMA}
    assert message_of(ask(client, "wrong-json", messages=corrected, **more))["content"] == right
    assert message_of(ask(client, "always-wrong-json", messages=corrected, **more))["content"] == '{"wrong":true}'
    assert message_of(ask(client, "length-once", max_tokens=500, **more))["content"] == right
    assert message_of(ask(client, "length-once", max_tokens=None, **more))["content"] == right


@pytest.mark.parametrize(
    ("name", "kind", "status"),
    [
        ("no-json-schema", "json_schema", 400),
        ("no-json-schema", "json_object", 200),
        ("no-json-schema", "text", 200),
        ("no-response-format", "json_schema", 400),
        ("no-response-format", "json_object", 400),
        ("no-response-format", "text", 200),
    ],
)
def test_response_format_is_refused(client: httpx.Client, name: str, kind: str, status: int) -> None:
    """A kind of response format that the endpoint does not have is 400, with its name in the message."""
    response = ask(client, name, response_format=JSON_SCHEMA if kind == "json_schema" else {"type": kind})
    assert response.status_code == status
    assert status == 200 or "response_format" in response.json()["error"]["detail"]


@pytest.mark.parametrize("status", STATUSES)
def test_status_is_as_asked(client: httpx.Client, status: int) -> None:
    """status-<n> is an error of that status in JSON, whether a stream is asked for or not."""
    for more in ({}, STREAMED):
        response = ask(client, f"status-{status}", **more)
        assert response.status_code == status
        assert response.json()["error"]


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("no-done", "role words finish"),
        ("cut-stream", "role words"),
        ("done-without-finish", "role words nothing done"),
        ("after-done", "role words finish done rest"),
        ("error-event", "role words error"),
        ("error-data", "role words error done"),
    ],
)
def test_stream_ends_oddly(client: httpx.Client, name: str, body: str) -> None:
    """The stream has these parts, in this order, and no others."""
    raw = ask(client, name, stream=True).content
    marks = {
        "role": b'"role":"assistant"',
        "words": b'"content":"[stand-in]"',
        "finish": b'"finish_reason":"stop"',
        "error": b'data: {"error":{"message":"The upstream connection was lost.","code":502}}\n\n',
        "nothing": b'"delta":{},"finish_reason":null',
        "done": b"data: [DONE]",
        "rest": b"\xff\xfe\x00",
    }
    places = {word: raw.find(mark) for word, mark in marks.items()}
    assert sorted((word for word in places if places[word] >= 0), key=lambda word: places[word]) == body.split()
    assert (b"event: error\n" in raw) is (name == "error-event")


def test_lines_of_a_stream_are_odd(client: httpx.Client) -> None:
    """Line ends, spaces, marks, comments and fields are as their names say."""
    usual = ask(client, None, stream=True).content
    assert ask(client, "crlf", stream=True).content == usual.replace(b"\n", b"\r\n")
    assert ask(client, "cr", stream=True).content == usual.replace(b"\n", b"\r")
    assert ask(client, "no-space", stream=True).content == usual.replace(b"data: ", b"data:")
    assert ask(client, "bom", stream=True).content == b"\xef\xbb\xbf" + usual
    assert ask(client, "blank-lines", stream=True).content == b"\n\n\n" + usual
    assert ask(client, "comments", stream=True).content.replace(b": OPENROUTER PROCESSING\n\n", b"") == usual
    assert ask(client, "keepalive-comments", stream=True).content.endswith(b": keep-alive\n\n\n" + usual)
    assert ask(client, "event-fields", stream=True).content.startswith(b"event: message\nid: 0\nretry: 3000\ndata: {")
    assert b'data: {\ndata:   "id": ' in ask(client, "multi-line-data", stream=True).content
    assert ask(client, "no-blank-line", stream=True).content == usual.removesuffix(b"\n\ndata: [DONE]\n\n")


def test_plain_body_may_come_for_a_stream(client: httpx.Client) -> None:
    """Where a stream was asked for, the plain reply or an error comes as JSON."""
    response = ask(client, "plain-json", stream=True)
    assert response.headers["content-type"] == "application/json"
    assert response.json() == ask(client, None).json()
    assert ask(client, "plain-error", stream=True).json()["error"]["code"] == 502


def deltas_of_calls(client: httpx.Client, name: str) -> list[Any]:
    """Return the deltas of the tool calls in an odd stream."""
    chunks = chunks_of(ask(client, name, tools=[TOOL], stream=True))
    return [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", ())]


def test_indexes_of_calls_are_odd(client: httpx.Client) -> None:
    """The index of two tool calls is missing, always 0, or that of the next call after the start."""
    assert ["index" in call for call in deltas_of_calls(client, "no-index")] == [False] * 4
    assert [call["index"] for call in deltas_of_calls(client, "same-index")] == [0, 0, 0, 0]
    assert [call["index"] for call in deltas_of_calls(client, "wrong-index")] == [0, 1, 1, 2]


def test_parts_of_calls_come_oddly(client: httpx.Client) -> None:
    """A call comes whole in one chunk, or its name after its arguments."""
    whole = deltas_of_calls(client, "whole-call")
    assert [call["function"] for call in whole] == [{"name": "get_weather", "arguments": "{}"}] * 2
    parts = deltas_of_calls(client, "name-after-arguments")
    assert [call["function"] for call in parts] == [{"arguments": "{}"}, {"name": "get_weather"}] * 2


def test_usage_stands_elsewhere(client: httpx.Client) -> None:
    """The usage stands in the chunk with the finish_reason, whether asked for or not, or in every chunk."""
    usage = ask(client, None).json()["usage"]
    for more in ({"stream": True}, STREAMED):
        chunks = chunks_of(ask(client, "usage-in-finish-chunk", **more))
        assert (chunks[-1]["choices"][0]["finish_reason"], chunks[-1]["usage"]) == ("stop", usage)
    chunks = chunks_of(ask(client, "usage-in-every-chunk", stream=True))
    assert [chunk["usage"]["prompt_tokens"] for chunk in chunks] == [10] * len(chunks)


def test_split_characters_make_the_text(client: httpx.Client) -> None:
    """The text with characters of several bytes is the same, plain and streamed in pieces."""
    content = message_of(ask(client, "split-utf8"))["content"]
    assert content == f"{PLAIN} Zo\u00eb, \u6f22\u5b57, \U0001f642."
    streamed = chunks_of(ask(client, "split-utf8", stream=True))
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in streamed) == content


def test_bodies_that_are_no_reply(client: httpx.Client) -> None:
    """A page, nothing, text, and blank lines before the reply come at status 200."""
    page = ask(client, "html-200")
    assert (page.status_code, page.headers["content-type"], page.content[:6]) == (200, "text/html", b"<html>")
    assert ask(client, "empty-body").content == ask(client, "empty-body", stream=True).content == b""
    assert ask(client, "not-json").text == "upstream says hello"
    assert ask(client, "blank-lines").content == b"\n\n\n" + ask(client, None).content


@pytest.mark.parametrize("name", BREAK_THE_CONNECTION)
@pytest.mark.parametrize("more", [{}, STREAMED], ids=["plain", "streamed"])
def test_connection_ends(client: httpx.Client, name: str, more: dict[str, Any]) -> None:
    """The connection ends half-way, or before the first byte."""
    message = "disconnected without sending" if name == "closed-connection" else "without sending complete message body"
    with pytest.raises(httpx.RemoteProtocolError, match=message):
        ask(client, name, **more)


def test_waits_are_told(client: httpx.Client) -> None:
    """Errors that pass come with a short Retry-After, also the 402 that is no empty account."""
    waits = {
        name: ask(client, name).headers.get("retry-after") for name in ODDITIES if name not in BREAK_THE_CONNECTION
    }
    told = {"credits-in-flight", "status-429", "status-503", "status-529"}
    assert {name for name, wait in waits.items() if wait is not None} == told
    assert {waits[name] for name in told} == {"0.05"}


def test_ledger_names_oddities(tmp_path: Path) -> None:
    """The ledger has each oddity by its name; none counts as delivered, and none suffers another fault."""
    log = tmp_path / "ledger.jsonl"
    settings = ServeSettings(log_path=log, fault_rate=1)
    with EmbeddedEndpoint(settings) as endpoint, httpx.Client(base_url=endpoint.base_url) as client:
        answered = ask(client, "comments")
        ask(client, None, model="odd/status-500")
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(one["status"], one["fault"], one["delivered"], one["response_id"]) for one in entries] == [
        (200, "odd/comments", False, answered.json()["id"]),
        (500, "odd/status-500", False, None),
    ]
