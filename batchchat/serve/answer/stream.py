"""Cut a reply into the chunks and events in which it is streamed, as OpenAI and Oxen send them."""

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

import orjson

from batchchat.serve.request.tokens import pieces

DONE = b"data: [DONE]\n\n"
# A text of a million words is streamed in fewer, longer pieces.
MAX_PIECES = 1_000
ARGUMENT_CHARS = 8

Chunk = dict[str, Any]


def events_of(reply: Mapping[str, Any], *, has_usage: bool) -> tuple[bytes, ...]:
    """Return the server-sent events of a reply; put together they have all of it, the usage where asked for."""
    head = {**reply, "object": "chat.completion.chunk"} | ({"usage": None} if has_usage else {})
    if not has_usage:
        del head["usage"]
    turns = zip_longest(*map(_parts, reply["choices"]))
    chunks = [{**head, "choices": [part]} for turn in turns for part in turn if part is not None]
    if has_usage:
        chunks.append({**reply, "object": "chat.completion.chunk", "choices": []})
    return (*(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks), DONE)


def _parts(choice: Mapping[str, Any]) -> Iterator[Chunk]:
    """Yield what the chunks have of one choice."""
    part = {"index": choice["index"], "finish_reason": None}
    message = choice["message"]
    content = message["content"]
    yield {**part, "delta": {"role": "assistant", "content": None if content is None else ""}}
    words = pieces(content or "")
    size = 1 + len(words) // MAX_PIECES
    for start in range(0, len(words), size):
        spoken = {**part, "delta": {"content": "".join(words[start : start + size])}}
        if "logprobs" in choice:
            spoken["logprobs"] = {**choice["logprobs"], "content": choice["logprobs"]["content"][start : start + size]}
        yield spoken
    for call in message.get("tool_calls", ()):
        yield from ({**part, "delta": {"tool_calls": [delta]}} for delta in _call_deltas(call))
    yield {**part, "delta": {}, "finish_reason": choice["finish_reason"]}


def _call_deltas(call: Mapping[str, Any]) -> Iterator[Chunk]:
    """Yield what names a call, then its arguments in pieces."""
    yield {**call, "function": {**call["function"], "arguments": ""}}
    arguments = call["function"]["arguments"]
    size = max(ARGUMENT_CHARS, 1 + len(arguments) // MAX_PIECES)
    for start in range(0, len(arguments), size):
        yield {"index": call["index"], "function": {"arguments": arguments[start : start + size]}}
