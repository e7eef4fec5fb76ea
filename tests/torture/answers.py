"""What the scripted server says: an answer that depends on the request's model and messages alone.

Only `id` is not made of the request.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

MODEL = "stand-in"
_WORDS = ("parcel", "refund", "login", "invoice", "crash", "hello", "late", "lost", "broken", "blue", "double", "café")


@dataclass(frozen=True, slots=True)
class Said:
    """What an answer says, under the names of the output's columns; `arguments` are those of its one call, if any."""

    completion: str | None
    arguments: str | None
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    model: str


def digest_of(body: dict[str, Any]) -> str:
    """Return the digest of what a body asks, whether it wants a stream or not."""
    return digest_of_messages(body["model"], body["messages"])


def digest_of_messages(model: str, messages: Any) -> str:
    """Return the digest of a model and messages."""
    return hashlib.sha256(orjson.dumps([model, messages], option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def digest_of_text(text: str) -> str:
    """Return the digest of a row whose text is its only message, as the jobs here have it."""
    return digest_of_messages(MODEL, [{"role": "user", "content": text}])


def said(digest: str) -> Said:
    """Return what the request of this digest is answered."""
    numbers = bytes.fromhex(digest)
    text = " ".join([digest[:12], *(_WORDS[number % len(_WORDS)] for number in numbers[2 : 4 + numbers[2] % 12])])
    calls = numbers[0] % 8 == 0
    finish_reason = "tool_calls" if calls else "length" if numbers[0] % 8 == 1 else "stop"
    return Said(
        completion=None if calls else text,
        arguments=orjson.dumps({"words": text}).decode() if calls else None,
        finish_reason=finish_reason,
        prompt_tokens=20 + numbers[3],
        completion_tokens=1 + numbers[4],
        model=f"{MODEL}-{numbers[1] % 3}",
    )


def plain_reply(digest: str, response_id: str) -> bytes:
    """Return the body of a plain reply."""
    answer = said(digest)
    message: dict[str, Any] = {"role": "assistant", "content": answer.completion}
    if answer.arguments is not None:
        message["tool_calls"] = [_call(digest, answer.arguments)]
    choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason}
    reply = {"id": response_id, "object": "chat.completion", "created": 1, "model": answer.model, "choices": [choice]}
    return orjson.dumps({**reply, "usage": _usage(answer)})


def stream_events(digest: str, response_id: str) -> list[bytes]:
    """Return the events of a streamed reply: words, or pieces of a call; the reason, the usage, and `[DONE]`."""
    answer = said(digest)
    head = {"id": response_id, "object": "chat.completion.chunk", "created": 1, "model": answer.model}
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None}]
    if answer.arguments is None:
        deltas += [{"content": piece} for piece in _pieces(answer.completion or "")]
    else:
        first, *rest = _pieces(answer.arguments)
        deltas.append({"tool_calls": [{"index": 0, **_call(digest, first)}]})
        deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in rest]
    choices: list[dict[str, Any]] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": answer.finish_reason})
    events = [orjson.dumps({**head, "choices": [choice]}) for choice in choices]
    events.append(orjson.dumps({**head, "choices": [], "usage": _usage(answer)}))
    return [b"data: " + event + b"\n\n" for event in (*events, b"[DONE]")]


def _call(digest: str, arguments: str) -> dict[str, Any]:
    return {"id": f"call-{digest[:8]}", "type": "function", "function": {"name": "file", "arguments": arguments}}


def _usage(answer: Said) -> dict[str, int]:
    counts = {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens}
    return {**counts, "total_tokens": sum(counts.values())}


def _pieces(text: str) -> Iterator[str]:
    return (text[start : start + 16] for start in range(0, len(text), 16))
