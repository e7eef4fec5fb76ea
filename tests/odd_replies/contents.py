"""Make the content of a reply odd."""

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from batchchat.serve.request.request import ChatRequest
from batchchat.serve.request.schema import validator_of

Reply = Mapping[str, Any]

INNER_ERROR = {"message": "The upstream connection was lost.", "code": 502}
LENGTH_ONCE_LIMIT = 500
_THOUGHT = "The question is short. A short answer will do."
_WRONG: Mapping[str, Any] = {'{"wrong":true}': {"wrong": True}, '"wrong"': "wrong", "[]": [], "0": 0, "null": None}
_FILTER_RESULTS = {"violence": {"filtered": True, "severity": "medium"}}
_DETAILS = {
    "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 1, "audio_tokens": 0},
    "cost": 0.00042,
}


def odd_reply(name: str, reply: Reply, chat: ChatRequest) -> Reply:
    """Return the reply with an oddity of its content, or as it is for an oddity of another kind."""
    if name in _CONTENTS:
        return _with_content(reply, _CONTENTS[name])
    if name in ("wrong-json", "always-wrong-json"):
        is_corrected = name == "wrong-json" and any(message.role == "assistant" for message in chat.messages)
        return reply if is_corrected else _with_content(reply, lambda text: _misfit(chat))
    if name == "length-once":
        limit = chat.max_tokens
        return reply if limit is None or limit >= LENGTH_ONCE_LIMIT else _halved(reply, "length")
    return _CHANGES[name](reply) if name in _CHANGES else reply


def _with(reply: Reply, **changes: Any) -> Reply:
    return {**reply, **changes}


def _without(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: part for key, part in value.items() if key != name}


def _with_choice(reply: Reply, **changes: Any) -> Reply:
    return _with(reply, choices=[{**choice, **changes} for choice in reply["choices"]])


def _with_message(reply: Reply, **changes: Any) -> Reply:
    choices = [{**choice, "message": {**choice["message"], **changes}} for choice in reply["choices"]]
    return _with(reply, choices=choices)


def _with_content(reply: Reply, change: Callable[[str], Any]) -> Reply:
    """Return the reply with every content changed that is text, and without that text's log probabilities."""
    texts = [choice["message"]["content"] for choice in reply["choices"]]
    choices = [
        choice
        if text is None
        else {**_without(choice, "logprobs"), "message": {**choice["message"], "content": change(text)}}
        for choice, text in zip(reply["choices"], texts, strict=True)
    ]
    return _with(reply, choices=choices)


def _silent(reply: Reply, finish_reason: str = "stop", **parts: Any) -> Reply:
    """Return the reply with a null content, and these parts of a message beside it."""
    message = {"role": "assistant", "content": None, **parts}
    choices = [{"index": one["index"], "message": message, "finish_reason": finish_reason} for one in reply["choices"]]
    return _with(reply, choices=choices)


def _halved(reply: Reply, finish_reason: str, **changes: Any) -> Reply:
    return _with_choice(_with_content(reply, _half), finish_reason=finish_reason, **changes)


def _half(text: str) -> str:
    return text[: (len(text) + 1) // 2]


def _in_two(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": _half(text)}, {"type": "text", "text": text[len(_half(text)) :]}]


def _thinking_parts(text: str) -> list[dict[str, Any]]:
    return [{"type": "thinking", "thinking": [{"type": "text", "text": _THOUGHT}]}, {"type": "text", "text": text}]


def _misfit(chat: ChatRequest) -> str:
    """Return JSON that does not fit the schema that the request asks for, unless that allows everything."""
    if chat.schema is None:
        return next(iter(_WRONG))
    validator = validator_of(orjson.dumps(chat.schema))
    return next((text for text, value in _WRONG.items() if not validator.is_valid(value)), "null")


def _as_text(usage: Mapping[str, int]) -> Mapping[str, Any]:
    prompt, completion, total = usage.values()
    return {"prompt_tokens": str(prompt), "completion_tokens": float(completion), "total_tokens": f"{total}.0"}


def _extended(reply: Reply) -> Reply:
    changed = _with_choice(_with_message(reply, annotations=[]), native_finish_reason="STOP")
    return _with(changed, service_tier="whatever", system_fingerprint="fp_0", odd={"deep": [None, {"er": 1}]})


_CONTENTS: Mapping[str, Callable[[str], Any]] = {
    "empty-content": lambda text: "",
    "list-content": _in_two,
    "think-tags": lambda text: f"<think>\n{_THOUGHT}\n</think>\n\n{text}",
    "thinking-parts": _thinking_parts,
    "fenced-json": lambda text: f"Here is the JSON:\n\n```json\n{text}\n```\n",
    "prose-json": lambda text: f"Sure! {text} Is there anything else?",
    "truncated-json": lambda text: text.rstrip("}]") if text.startswith(("{", "[")) else text,
}
_REASONING_DETAILS = [{"type": "reasoning.text", "text": _THOUGHT, "format": None}]
_CHANGES: Mapping[str, Callable[[Reply], Reply]] = {
    "null-content": _silent,
    "empty-choices": lambda reply: _with(reply, choices=[]),
    "null-choices": lambda reply: _with(reply, choices=None),
    "no-choices": lambda reply: _without(reply, "choices"),
    "no-message": lambda reply: _with(reply, choices=[_without(one, "message") for one in reply["choices"]]),
    "null-message": lambda reply: _with_choice(reply, message=None),
    "usage-null": lambda reply: _with(reply, usage=None),
    "usage-missing": lambda reply: _without(reply, "usage"),
    "usage-partial": lambda reply: _with(reply, usage={"prompt_tokens": reply["usage"]["prompt_tokens"]}),
    "usage-zero": lambda reply: _with(reply, usage=dict.fromkeys(reply["usage"], 0)),
    "usage-text": lambda reply: _with(reply, usage=_as_text(reply["usage"])),
    "usage-total": lambda reply: _with(
        reply, usage={**reply["usage"], "total_tokens": reply["usage"]["total_tokens"] + 100}
    ),
    "usage-details": lambda reply: _with(reply, usage={**reply["usage"], **_DETAILS}),
    "finish-unknown": lambda reply: _with_choice(reply, finish_reason="eos"),
    "finish-null": lambda reply: _with_choice(reply, finish_reason=None),
    "finish-error": lambda reply: _halved(reply, "error"),
    "finish-abort": lambda reply: _halved(reply, "abort"),
    "reasoning-content": lambda reply: _with_message(reply, reasoning_content=_THOUGHT),
    "reasoning": lambda reply: _with_message(reply, reasoning=_THOUGHT),
    "reasoning-details": lambda reply: _with_message(reply, reasoning_details=_REASONING_DETAILS),
    "thought-only": lambda reply: _silent(reply, "length", reasoning_content=_THOUGHT),
    "refusal": lambda reply: _silent(reply, refusal="I cannot help with that."),
    "content-filter": lambda reply: _halved(reply, "content_filter", content_filter_results=_FILTER_RESULTS),
    "error-in-200": lambda reply: {"error": INNER_ERROR},
    "error-in-choice": lambda reply: _halved(reply, "error", error=INNER_ERROR),
    "error-null": lambda reply: _with(reply, error=None, choices=None),
    "nested-reply": lambda reply: {"provider": reply, "choices": []},
    "blank-names": lambda reply: _with(reply, id="", created=None, model=""),
    "extra-fields": _extended,
}
