"""Make the chunks and events of a stream odd."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from batchchat.serve.answer.stream import DONE, Chunk
from tests.odd_replies.contents import INNER_ERROR

Chunks = Sequence[Chunk]
Events = Sequence[bytes]

_ERROR = orjson.dumps({"error": INNER_ERROR})
_COMMENT = b": OPENROUTER PROCESSING\n\n"


def odd_chunks(name: str, chunks: Chunks, reply: Mapping[str, Any]) -> Chunks:
    """Return the chunks with an oddity; `reply` is what they make."""
    if name == "one-chunk":
        return [_whole(chunk, reply) for chunk in chunks[:1]]
    if name in ("usage-in-finish-chunk", "usage-in-every-chunk"):
        return _with_usage(chunks, reply["usage"], is_at_end=name == "usage-in-finish-chunk")
    if name == "null-delta":
        return [{**chunks[0], "choices": [{"index": 0, "delta": None, "finish_reason": None}]}, *chunks]
    if name == "filter-chunk":
        return [{**chunks[0], "id": "", "model": "", "choices": [], "prompt_filter_results": []}, *chunks]
    if name == "empty-deltas":
        return [one for chunk in chunks for one in (_empty(chunk), chunk) if one is not None]
    if name in ("name-after-arguments", "whole-call"):
        return _regrouped(chunks, is_whole=name == "whole-call")
    change = _CHOICES.get(name)
    return chunks if change is None else _changed(chunks, change)


def odd_events(name: str, events: Events) -> Events:
    """Return the events with an oddity; the last of them is `[DONE]`."""
    return _EVENTS[name](events) if name in _EVENTS else events


def _changed(chunks: Chunks, change: Callable[[Chunk], Chunk]) -> Chunks:
    return [
        {**chunk, "choices": [change(choice) for choice in chunk["choices"]]} if chunk.get("choices") else chunk
        for chunk in chunks
    ]


def _without_role(choice: Chunk) -> Chunk:
    return {**choice, "delta": {key: value for key, value in choice["delta"].items() if key != "role"}}


def _with_call(choice: Chunk, change: Callable[[Chunk], Chunk]) -> Chunk:
    if "tool_calls" not in choice["delta"]:
        return choice
    return {
        **choice,
        "delta": {**choice["delta"], "tool_calls": [change(call) for call in choice["delta"]["tool_calls"]]},
    }


def _without_index(value: Chunk) -> Chunk:
    return {key: part for key, part in value.items() if key != "index"}


def _shifted(call: Chunk) -> Chunk:
    return call if "id" in call else {**call, "index": call["index"] + 1}


def _whole(chunk: Chunk, reply: Mapping[str, Any]) -> Chunk:
    return {**chunk, "choices": reply["choices"], "usage": reply["usage"]}


def _empty(chunk: Chunk) -> Chunk | None:
    if not chunk["choices"]:
        return None
    index = chunk["choices"][0]["index"]
    return {**chunk, "choices": [{"index": index, "delta": {"content": ""}, "finish_reason": None}]}


def _with_usage(chunks: Chunks, usage: Any, *, is_at_end: bool) -> Chunks:
    choosing = [chunk for chunk in chunks if chunk["choices"]]
    if not is_at_end:
        so_far = {**usage, "completion_tokens": 1, "total_tokens": usage["prompt_tokens"] + 1}
        return [*({**chunk, "usage": so_far} for chunk in choosing[:-1]), {**choosing[-1], "usage": usage}]
    return [*choosing[:-1], {**choosing[-1], "usage": usage}]


def _regrouped(chunks: Chunks, *, is_whole: bool) -> Chunks:
    """Return the chunks with those of each tool call put into one, or into its arguments and its name."""
    kept: list[Chunk] = []
    opened: dict[int, int] = {}
    for chunk in chunks:
        call = _call_of(chunk)
        if call is None or "id" in call:
            if call is not None:
                opened[chunk["choices"][0]["index"]] = len(kept)
            kept.append(chunk)
            continue
        at = opened[chunk["choices"][0]["index"]]
        first = _call_of(kept[at]) or call
        arguments = first["function"]["arguments"] + call["function"]["arguments"]
        kept[at] = _with_only_call(kept[at], {**first, "function": {**first["function"], "arguments": arguments}})
    return kept if is_whole else [part for chunk in kept for part in _name_last(chunk)]


def _name_last(chunk: Chunk) -> Iterator[Chunk]:
    call = _call_of(chunk)
    if call is None:
        yield chunk
        return
    index = {"index": call["index"]}
    arguments, name = call["function"]["arguments"], call["function"]["name"]
    yield _with_only_call(chunk, {**call, "function": {"arguments": arguments}})
    yield _with_only_call(chunk, {**index, "function": {"name": name}})


def _call_of(chunk: Chunk) -> Chunk | None:
    for choice in chunk["choices"]:
        for call in choice.get("delta", {}).get("tool_calls", ()):
            return dict(call)
    return None


def _with_only_call(chunk: Chunk, call: Chunk) -> Chunk:
    return {**chunk, "choices": [{**chunk["choices"][0], "delta": {"tool_calls": [call]}}]}


def _first_half(events: Events) -> Events:
    """Return what comes before an error: at least one event, and no reason why the reply ends."""
    return events[: max(1, (len(events) - 2) // 2)]


def _in_lines(event: bytes) -> bytes:
    """Return an event whose data takes several lines; JSON has no line breaks but between its tokens."""
    if event == DONE:
        return event
    lines = orjson.dumps(orjson.loads(event[len(b"data: ") :]), option=orjson.OPT_INDENT_2).split(b"\n")
    return b"".join(b"data: %s\n" % line for line in lines) + b"\n"


def _cut_characters(events: Events) -> Events:
    """Return the bytes of the events in pieces that end within each character of more than one byte."""
    whole = b"".join(events)
    starts = [at + 1 for at, byte in enumerate(whole) if byte >= 0b1100_0000]
    return [whole[start:end] for start, end in zip([0, *starts], [*starts, len(whole)], strict=True)]


def _with_fields(events: Events) -> Events:
    return [b"event: message\nid: %d\nretry: 3000\n%s" % item for item in enumerate(events)]


_CHOICES: Mapping[str, Callable[[Chunk], Chunk]] = {
    "role-missing": _without_role,
    "done-without-finish": lambda choice: {**choice, "finish_reason": None},
    "no-choice-index": _without_index,
    "no-index": lambda choice: _with_call(choice, _without_index),
    "same-index": lambda choice: _with_call(choice, lambda call: {**call, "index": 0}),
    "wrong-index": lambda choice: _with_call(choice, _shifted),
}
_EVENTS: Mapping[str, Callable[[Events], Events]] = {
    "no-done": lambda events: events[:-1],
    "cut-stream": _first_half,
    "no-blank-line": lambda events: [*events[:-2], events[-2].rstrip(b"\n")],
    "after-done": lambda events: [*events, b"data: {this is no JSON\n\n", b"\xff\xfe\x00"],
    "error-event": lambda events: [*_first_half(events), b"event: error\ndata: %s\n\n" % _ERROR],
    "error-data": lambda events: [*_first_half(events), b"data: %s\n\n" % _ERROR, DONE],
    "pretty-error": lambda events: [
        *_first_half(events),
        b"data: %s\n\n" % orjson.dumps({"error": INNER_ERROR}, option=orjson.OPT_INDENT_2),
    ],
    "comments": lambda events: [part for event in events for part in (_COMMENT, event)],
    "keepalive-comments": lambda events: [*[b": keep-alive\n\n", b"\n"] * 50, *events],
    "event-fields": _with_fields,
    "crlf": lambda events: [event.replace(b"\n", b"\r\n") for event in events],
    "cr": lambda events: [event.replace(b"\n", b"\r") for event in events],
    "no-space": lambda events: [event.replace(b"data: ", b"data:", 1) for event in events],
    "blank-lines": lambda events: [b"\n\n\n", *events],
    "bom": lambda events: [b"\xef\xbb\xbf", *events],
    "multi-line-data": lambda events: [*map(_in_lines, events)],
    "split-utf8": _cut_characters,
}
