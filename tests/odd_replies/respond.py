"""Reply oddly to the requests that ask for it by the model's name."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from json import JSONDecoder
from typing import Any

import orjson

from batchchat.serve.answer.completion import Completed, complete
from batchchat.serve.answer.stream import DONE
from batchchat.serve.delivery import Delivery, EventStream
from batchchat.serve.request.errors import refused
from batchchat.serve.request.request import ChatRequest
from tests.odd_replies.calls import odd_calls, with_calls
from tests.odd_replies.chunks import chunks_of
from tests.odd_replies.contents import INNER_ERROR, odd_reply
from tests.odd_replies.errors import odd_error
from tests.odd_replies.names import ODDITIES
from tests.odd_replies.streams import odd_chunks, odd_events

Reply = Mapping[str, Any]

_CALLING = ("no-index", "same-index", "wrong-index", "name-after-arguments", "whole-call")
# These stand for what JSON cannot say, until it is bytes.
_SURROGATE, _BYTES, _NUMBER = "\ue000", "\ue001", "\ue002"
_NOT_ASCII = " Zo\u00eb, \u6f22\u5b57, \U0001f642."
_HUGE = b"123456789012345678901234567890"


def respond(chat: ChatRequest, completed: Completed) -> Delivery | EventStream | None:
    """Return the odd reply that the model `odd/NAME` asks for; None for any other model.

    Raises RefusedError for a name that is none.
    """
    prefix, _, name = chat.model.partition("/")
    if prefix != "odd":
        return None
    if name not in ODDITIES:
        raise refused(f"{name!r} is no odd reply; there are: {', '.join(ODDITIES)}")
    error = odd_error(name, chat)
    if error is not None:
        return error
    schema = _schema_in_prompt(chat) if chat.schema is None else None
    if schema is not None:
        chat = replace(chat, response_kind="json_schema", schema=schema)
        completed = complete(chat, completed.reply["created"])
    return odd_delivery(name, completed.reply, chat)


def _schema_in_prompt(chat: ChatRequest) -> Any:
    """Return the schema that a client spells out for an endpoint without `json_schema`, or None."""
    for message in chat.messages:
        _, is_there, text = message.text.partition("JSON Schema")
        start = text.find("{")
        if is_there and start >= 0:
            return JSONDecoder().raw_decode(text, start)[0]
    return None


def odd_delivery(name: str, reply: Reply, chat: ChatRequest) -> Delivery | EventStream:
    """Return the reply with the oddity, as the request wants it delivered."""
    if name == "closed-connection":
        return Delivery(0, b"")
    if name == "plain-error" and chat.is_streamed:
        return Delivery(200, orjson.dumps({"error": INNER_ERROR}))
    made = _changed(name, reply, chat)
    is_plain = not chat.is_streamed or name in ("plain-json", "not-json")
    if name == "empty-body":
        return Delivery(200, b"") if is_plain else EventStream(())
    return _plain(name, made) if is_plain else _streamed(name, made, chat)


def _changed(name: str, reply: Reply, chat: ChatRequest) -> Reply:
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


def _streamed(name: str, reply: Reply, chat: ChatRequest) -> EventStream:
    chunks = odd_chunks(name, chunks_of(reply, has_usage=chat.has_usage_chunk), reply)
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
