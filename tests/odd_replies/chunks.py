"""Cut a reply of any shape into chunks: what an odd reply does not have, its chunks do not have."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from typing import Any

from batchchat.serve.answer.stream import ARGUMENT_CHARS, MAX_PIECES, Chunk
from batchchat.serve.request.tokens import pieces

_SENT_LAST = ("content", "tool_calls")


def chunks_of(reply: Mapping[str, Any], *, has_usage: bool) -> list[Chunk]:
    """Return the chunks of a reply, those of several choices in turns."""
    named = {"object": "chat.completion.chunk"} if "object" in reply else {}
    head = {key: named.get(key, value) for key, value in reply.items() if key not in ("choices", "usage")}
    tail = {"usage": None} if has_usage else {}
    choices = reply.get("choices")
    if isinstance(choices, list) and choices:
        chunks = [{**head, "choices": [part], **tail} for part in _interleaved([_parts(one) for one in choices])]
    else:
        chunks = [{**head, **({"choices": choices} if "choices" in reply else {}), **tail}]
    if has_usage and "usage" in reply:
        chunks.append({**head, "choices": [], "usage": reply["usage"]})
    return chunks


def _interleaved(streams: Sequence[list[Chunk]]) -> Iterator[Chunk]:
    if len(streams) == 1:
        return iter(streams[0])
    return (part for turn in zip_longest(*streams) for part in turn if part is not None)


def _parts(choice: Mapping[str, Any]) -> list[Chunk]:
    """Return what the chunks have of one choice, in order."""
    index = {"index": choice["index"]}
    message = choice.get("message")
    others = {
        key: value for key, value in choice.items() if key not in ("index", "message", "finish_reason", "logprobs")
    }
    end = {"finish_reason": choice["finish_reason"]} if "finish_reason" in choice else {}
    if not isinstance(message, dict):
        delta = {"delta": message} if "message" in choice else {}
        return [{**index, **delta, **end, **others}]
    parts = [{**index, "delta": delta, **more, "finish_reason": None} for delta, more in _deltas(message, choice)]
    return [*parts, {**index, "delta": {}, **end, **others}]


def _deltas(message: Mapping[str, Any], choice: Mapping[str, Any]) -> Iterator[tuple[Chunk, Chunk]]:
    """Yield each delta, and what stands beside it."""
    content = message.get("content")
    yield {"role": message.get("role"), "content": "" if isinstance(content, str) else None}, {}
    for key, value in message.items():
        if key not in ("role", *_SENT_LAST):
            yield from (({key: piece}, {}) for piece in _split(value))
    yield from _content_deltas(content, choice.get("logprobs"))
    for call in message.get("tool_calls") or ():
        yield from (({"tool_calls": [part]}, {}) for part in call_deltas(call))


def _split(value: Any) -> list[Any]:
    """Return a value of a message in pieces of the same kind."""
    if isinstance(value, str):
        return pieces(value)
    return [[item] for item in value] if isinstance(value, list) else [value]


def _content_deltas(content: Any, logprobs: Any) -> Iterator[tuple[Chunk, Chunk]]:
    if not isinstance(content, str):
        yield from (({"content": piece}, {}) for piece in (_split(content) if content is not None else ()))
        return
    words = pieces(content)
    size = 1 + len(words) // MAX_PIECES
    entries = iter(logprobs["content"]) if logprobs else None
    for start in range(0, len(words), size):
        group = words[start : start + size]
        more = {} if entries is None else {"logprobs": {"content": list(islice(entries, len(group))), "refusal": None}}
        yield {"content": "".join(group)}, more


def call_deltas(call: Mapping[str, Any]) -> list[Chunk]:
    """Return the deltas of one tool call: what names it, then its arguments in pieces."""
    function = call["function"]
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        return [dict(call)]
    index = {"index": call["index"]} if "index" in call else {}
    size = max(ARGUMENT_CHARS, 1 + len(arguments) // MAX_PIECES)
    cut = [arguments[start : start + size] for start in range(0, len(arguments), size)]
    return [
        {**call, "function": {**function, "arguments": ""}},
        *({**index, "function": {"arguments": piece}} for piece in cut),
    ]
