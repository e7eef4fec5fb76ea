"""An oddity of any kind -> the delivery that has it.

What passes in are the name of an oddity, the reply as it should be, and the request; what comes out is a delivery, of
one body or of a stream. It does not know limits, keys or routes.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from batchchat.serve.body import ChatBody
from batchchat.serve.delivery import Delivery, EventStream
from batchchat.serve.oddity_calls import odd_calls, with_calls
from batchchat.serve.oddity_reply import INNER_ERROR, odd_reply
from batchchat.serve.oddity_stream import odd_chunks, odd_events
from batchchat.serve.stream import DONE, chunks_of

Reply = Mapping[str, Any]

_CALLING = ("no-index", "same-index", "wrong-index", "name-after-arguments", "whole-call")
# These stand for what JSON cannot say, until it is bytes.
_SURROGATE, _BYTES, _NUMBER = "\ue000", "\ue001", "\ue002"
_NOT_ASCII = " Zo\u00eb, \u6f22\u5b57, \U0001f642."
_HUGE = b"123456789012345678901234567890"


def odd_delivery(name: str, reply: Reply, chat: ChatBody) -> Delivery | EventStream:
    """Return the reply with the oddity, as the request wants it delivered."""
    if name == "closed-connection":
        return Delivery(0, b"")
    if name == "plain-error" and chat.parameters.is_streamed:
        return Delivery(200, orjson.dumps({"error": INNER_ERROR}))
    made = _changed(name, reply, chat)
    is_plain = not chat.parameters.is_streamed or name in ("plain-json", "not-json")
    if name == "empty-body":
        return Delivery(200, b"") if is_plain else EventStream(())
    return _plain(name, made) if is_plain else _streamed(name, made, chat)


def _changed(name: str, reply: Reply, chat: ChatBody) -> Reply:
    called = odd_calls(name, reply, chat)
    if called is not None:
        return called
    if name in _CALLING:
        return with_calls(reply, chat)
    if name in _MARKS:
        return _marked(reply, _MARKS[name], is_text=chat.response_kind == "text")
    if name in ("nan", "huge-integer"):
        return _with_number(name, reply)
    return odd_reply(name, reply, chat)


def _marked(reply: Reply, mark: str, *, is_text: bool) -> Reply:
    """Return the reply with a mark at the end of every content, or of the last string in it where it is JSON."""

    def marked(text: str) -> str:
        if is_text:
            return text + mark
        escaped = mark.replace("\0", "\\u0000")
        return f'{text[:-2]}{escaped}"}}' if text.endswith('"}') else text

    choices = [
        {**choice, "message": {**choice["message"], "content": marked(choice["message"]["content"])}}
        if choice["message"]["content"]
        else choice
        for choice in reply["choices"]
    ]
    return {**reply, "choices": choices}


def _with_number(name: str, reply: Reply) -> Reply:
    if name == "nan":
        return {**reply, "usage": {**reply["usage"], "cost": _NUMBER}, "odds": _NUMBER}
    return {**reply, "created": _NUMBER, "usage": {**reply["usage"], "total_tokens": _NUMBER}}


def _plain(name: str, reply: Reply) -> Delivery:
    if name == "not-json":
        return Delivery(200, b"upstream says hello", media_type="text/plain")
    body = _as_bytes(name, reply)
    if name == "cut-connection":
        return Delivery(200, body, sent_bytes=len(body) // 2)
    return Delivery(200, b"\n\n\n" + body if name == "blank-lines" else body)


def _streamed(name: str, reply: Reply, chat: ChatBody) -> EventStream:
    chunks = odd_chunks(name, chunks_of(reply, has_usage=chat.parameters.has_usage_chunk), reply)
    events = [*(b"data: %s\n\n" % _as_bytes(name, chunk) for chunk in chunks), DONE]
    if name == "cut-connection":
        return EventStream(tuple(events[: max(1, len(events) // 2 - 1)]), is_cut=True)
    return EventStream(tuple(odd_events(name, events)))


def _as_bytes(name: str, value: Any) -> bytes:
    body = orjson.dumps(value)
    return _BYTE_CHANGES[name](body) if name in _BYTE_CHANGES else body


_MARKS = {"lone-surrogate": _SURROGATE, "invalid-utf8": _BYTES, "nul": "\0", "split-utf8": _NOT_ASCII}
_CONTENT = re.compile(rb'"content":(?=")')
_BYTE_CHANGES: Mapping[str, Callable[[bytes], bytes]] = {
    "lone-surrogate": lambda body: body.replace(_SURROGATE.encode(), b"\\ud83d"),
    "invalid-utf8": lambda body: body.replace(_BYTES.encode(), b"\xff\xfe"),
    "nan": lambda body: body.replace(f'"{_NUMBER}"'.encode(), b"NaN"),
    "huge-integer": lambda body: body.replace(f'"{_NUMBER}"'.encode(), _HUGE),
    "duplicate-keys": lambda body: _CONTENT.sub(b'"content":"(the first of two)","content":', body),
}
