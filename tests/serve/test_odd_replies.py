"""The odd replies that tests ask for: each is odd, and means the same plain and streamed."""

from typing import Any

import orjson
import pytest

from batchchat.records import Completion, Failure
from batchchat.send.reply.reply import read_reply
from batchchat.serve.answer.completion import complete
from batchchat.serve.answer.stream import events_of
from batchchat.serve.delivery import Delivery, EventStream
from batchchat.serve.request.request import ChatRequest, read_request
from tests.bodies import read as read_body
from tests.odd_replies import ODDITIES, respond

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
OF_A_STREAM = tuple(ODDITIES)[tuple(ODDITIES).index("no-done") : tuple(ODDITIES).index("html-200")]
OTHERWISE_STREAMED = {
    *("done-without-finish", "cut-stream", "error-event", "error-data", "pretty-error", "plain-error", "empty-body"),
    *("cut-connection", "closed-connection", "tool-id-duplicate"),
}
"""They end a stream early, or have calls with one id, which is one call to who goes by the id."""


def request_for(name: str, *, is_streamed: bool) -> ChatRequest:
    """Return a request that the oddity has something to bear on."""
    body: dict[str, Any] = {"model": f"odd/{name}", "messages": [{"role": "user", "content": "Hi there."}]}
    body |= {"max_tokens": 50, "stream": is_streamed, "stream_options": {"include_usage": True}}
    if "json" in name or "response-format" in name:
        body["response_format"] = JSON_SCHEMA
    return read_request(orjson.dumps(body))


def odd(name: str, *, is_streamed: bool) -> Delivery | EventStream:
    """Return an odd reply."""
    request = request_for(name, is_streamed=is_streamed)
    delivery = respond(request, complete(request, 0))
    assert delivery is not None
    return delivery


def usual(name: str, *, is_streamed: bool) -> Delivery | EventStream:
    """Return the reply that the same request gets from the endpoint itself."""
    request = request_for(name, is_streamed=is_streamed)
    reply = complete(request, 0).reply
    return EventStream(events_of(reply, has_usage=True)) if is_streamed else Delivery(200, orjson.dumps(reply))


def read(delivery: Delivery | EventStream) -> Completion | Failure:
    """Return what batchchat makes of a reply."""
    is_stream = isinstance(delivery, EventStream)
    parts = list(delivery.events) if isinstance(delivery, EventStream) else [delivery.body]
    whole = read_body(parts, is_event_stream=is_stream).content
    return whole if isinstance(whole, Failure) else read_reply(delivery.status, {}, whole, unix_now=0)


@pytest.mark.parametrize("name", ODDITIES)
def test_every_odd_reply_is_odd(name: str) -> None:
    """A name changes the reply, those of a stream the streamed one."""
    is_streamed = name in OF_A_STREAM
    assert odd(name, is_streamed=is_streamed) != usual(name, is_streamed=is_streamed)


@pytest.mark.parametrize("name", [name for name in ODDITIES if name not in OTHERWISE_STREAMED])
def test_stream_says_what_the_plain_reply_says(name: str) -> None:
    """What batchchat reads in the odd stream is what it reads in the odd plain reply."""
    plain, streamed = read(odd(name, is_streamed=False)), read(odd(name, is_streamed=True))
    if isinstance(plain, Failure):
        assert isinstance(streamed, Failure)
        assert (streamed.kind, streamed.status) == (plain.kind, plain.status)
    else:
        assert streamed == plain
