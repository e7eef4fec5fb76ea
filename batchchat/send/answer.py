"""A reply's JSON -> the Completion in it; nothing that a model or a gateway may put there makes it raise.

What passes in is an object with choices that have a message; what comes out keeps every text as it is. It does not know
HTTP, streams or errors.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from batchchat.records import Completion, ToolCall, Usage
from batchchat.send.jsonvalue import items_of, json_text, mapping_of, text_of

CUT_REASONS = frozenset({"length", "max_tokens"})
"""The finish reasons of an answer that ends at its limit of tokens."""
_CUT_OFF_REASONS = CUT_REASONS | {"model_length", "content_filter"}
"""Those of an answer that may have been cut off before its first word; `model_length`: the context is full."""
MAX_COUNT = 2**40
"""Tokens of a reply beyond which a count is nonsense; the sums of millions of counts below it fit in 64 bits."""

_THOUGHT = re.compile(r"\s*<think>(.*?)</think>", re.DOTALL)
_THOUGHT_TYPES = ("thinking", "reasoning", "redacted_thinking")


def choices_of(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the choices in order of their `index`; one that has none counts where it stands."""
    choices: list[Mapping[str, Any]] = [one for one in items_of(data.get("choices")) if isinstance(one, dict)]
    if len(choices) < 2:
        return choices
    indexes = [choice.get("index") for choice in choices]
    places = [index if isinstance(index, int) else place for place, index in enumerate(indexes)]
    return [choices[place] for place in sorted(range(len(choices)), key=places.__getitem__)]


def completion_of(data: Mapping[str, Any]) -> Completion:
    """Return what the first choice says, and the contents of all where there are several."""
    choices = choices_of(data)
    first = choices[0] if choices else {}
    message = mapping_of(first.get("message"))
    contents = tuple(_content(mapping_of(choice.get("message")).get("content")) for choice in choices)
    return Completion(
        content=contents[0] if contents else None,
        tool_calls=tuple(_tool_calls(message)),
        reasoning=_reasoning(message),
        refusal=text_of(message.get("refusal")) or None,
        finish_reason=text_of(first.get("finish_reason")) or None,
        usage=_usage(data.get("usage")),
        model=text_of(data.get("model")) or None,
        response_id=text_of(data.get("id")) or None,
        completions=contents if len(contents) > 1 else (),
        logprobs=None if first.get("logprobs") is None else json_text(first["logprobs"]),
    )


def says_nothing(data: Mapping[str, Any]) -> bool:
    """Whether no choice holds an answer.

    A null content is one beside tool calls, reasoning or a refusal, or when the model was cut off.
    """
    return all(_is_empty(choice) for choice in choices_of(data))


def _is_empty(choice: Mapping[str, Any]) -> bool:
    message = mapping_of(choice.get("message"))
    has_more = any(_tool_calls(message)) or _reasoning(message) or message.get("refusal")
    is_cut_off = text_of(choice.get("finish_reason")) in _CUT_OFF_REASONS
    return not has_more and not is_cut_off and _content(message.get("content")) is None


def _content(content: Any) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        return json_text(content)
    texts = [part if isinstance(part, str) else part.get("text") for part in content if _is_answer(part)]
    strings = [text for text in texts if isinstance(text, str)]
    return "".join(strings) if strings else None


def _is_answer(part: Any) -> bool:
    return isinstance(part, str) or (isinstance(part, dict) and part.get("type") not in _THOUGHT_TYPES)


def _tool_calls(message: Mapping[str, Any]) -> Iterator[ToolCall]:
    calls = [call for call in items_of(message.get("tool_calls")) if isinstance(call, dict)]
    if not calls and isinstance(message.get("function_call"), dict):
        calls = [{"function": message["function_call"]}]  # as it was before there were several
    for call in calls:
        function = mapping_of(call.get("function"))
        arguments = function.get("arguments")
        verbatim = arguments if isinstance(arguments, str) or arguments is None else json_text(arguments)
        yield ToolCall(text_of(call.get("id")) or None, text_of(function.get("name")) or None, verbatim)


def _reasoning(message: Mapping[str, Any]) -> str | None:
    """Return the first that is not empty of the places in which a message carries its reasoning."""
    for name in ("reasoning_content", "reasoning"):
        if isinstance(message.get(name), str) and message[name]:
            return str(message[name])
    details = [part for part in items_of(message.get("reasoning_details")) if isinstance(part, dict)]
    content = message.get("content")
    thoughts = [part for part in items_of(content) if isinstance(part, dict) and not _is_answer(part)]
    return (
        "".join(_texts(details, "text"))
        or "".join(_texts(details, "summary"))
        or "".join(text for part in thoughts for text in _thought(part))
        or _tagged_thought(content)
    )


def _thought(part: Mapping[str, Any]) -> list[str]:
    """Return the texts of a part that is a thought: a string (Anthropic), or parts of its own (Mistral)."""
    inner = part.get("thinking", part.get("text"))
    if isinstance(inner, str):
        return [inner]
    return _texts([each if isinstance(each, dict) else {"text": each} for each in items_of(inner)], "text")


def _texts(parts: list[dict[str, Any]], name: str) -> list[str]:
    return [part[name] for part in parts if isinstance(part.get(name), str)]


def _tagged_thought(content: Any) -> str | None:
    found = _THOUGHT.match(content) if isinstance(content, str) else None
    return (found[1].strip() or None) if found else None


def _usage(usage: Any) -> Usage:
    if not isinstance(usage, dict):
        return Usage()
    return Usage(
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        total_tokens=_count(usage.get("total_tokens")),
        cached_tokens=_count(mapping_of(usage.get("prompt_tokens_details")).get("cached_tokens")),
        reasoning_tokens=_count(mapping_of(usage.get("completion_tokens_details")).get("reasoning_tokens")),
    )


def _count(value: Any) -> int | None:
    """Return a token count; some gateways send it as a float or as text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = int(float(value)) if not isinstance(value, int) else value
    except (ValueError, OverflowError):
        return None
    return number if 0 <= number < MAX_COUNT else None
