"""A reply's JSON -> the Completion in it; nothing that a model or a gateway may put there makes it raise."""

import re
from collections.abc import Mapping
from typing import Any

from batchchat.json_values import items_of, json_text, mapping_of, number_of, text_of
from batchchat.records import Completion, ToolCall, Usage

CUT_REASONS = frozenset({"length", "max_tokens"})
"""The finish reasons of an answer that ends at its limit of tokens."""
_CUT_OFF_REASONS = CUT_REASONS | {"model_length", "content_filter"}
"""Those of an answer that may have been cut off before its first word; `model_length`: the context is full."""
MAX_COUNT = 2**40
"""Tokens of a reply beyond which a count is nonsense; the sums of millions of counts below it fit in 64 bits."""
MAX_DOLLARS = 1e6
"""What a reply may say that it cost; more is nonsense."""

_THOUGHT = re.compile(r"\s*<think>(.*?)</think>", re.DOTALL)
_THOUGHT_TYPES = ("thinking", "reasoning", "redacted_thinking")
_NO_USAGE = Usage()


def choices_of(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the choices in order of their `index`; one that has none counts where it stands."""
    found = items_of(data.get("choices"))
    if len(found) == 1 and isinstance(found[0], dict):
        return found
    choices: list[Mapping[str, Any]] = [one for one in found if isinstance(one, dict)]
    indexes = [choice.get("index") for choice in choices]
    places = [index if isinstance(index, int) else place for place, index in enumerate(indexes)]
    return [choices[place] for place in sorted(range(len(choices)), key=places.__getitem__)]


def completion_of(data: Mapping[str, Any]) -> Completion:
    """Return what the first choice says, and the contents of all where there are several."""
    choices = choices_of(data)
    first = choices[0] if choices else {}
    message = mapping_of(first.get("message"))
    return Completion(
        content=_content(message.get("content")),
        tool_calls=_tool_calls(message),
        reasoning=_reasoning(message),
        refusal=_text(message.get("refusal")),
        finish_reason=_text(first.get("finish_reason")),
        usage=_usage(data.get("usage")),
        model=_text(data.get("model")),
        response_id=_text(data.get("id")),
        completions=_contents(choices) if len(choices) > 1 else (),
        logprobs=None if first.get("logprobs") is None else json_text(first["logprobs"]),
    )


def says_nothing(data: Mapping[str, Any]) -> bool:
    """Whether no choice holds an answer.

    A null content is one beside tool calls, reasoning or a refusal, or when the model was cut off.
    """
    return all(_is_empty(choice) for choice in choices_of(data))


def _is_empty(choice: Mapping[str, Any]) -> bool:
    message = mapping_of(choice.get("message"))
    has_more = _tool_calls(message) or _reasoning(message) or message.get("refusal")
    is_cut_off = text_of(choice.get("finish_reason")) in _CUT_OFF_REASONS
    return not has_more and not is_cut_off and _content(message.get("content")) is None


def _contents(choices: list[Mapping[str, Any]]) -> tuple[str | None, ...]:
    return tuple(_content(mapping_of(choice.get("message")).get("content")) for choice in choices)


def _text(value: Any) -> str | None:
    return (value if isinstance(value, str) else text_of(value)) or None


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


def _tool_calls(message: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    if not message.get("tool_calls") and message.get("function_call") is None:
        return ()
    calls = [call for call in items_of(message.get("tool_calls")) if isinstance(call, dict)]
    if not calls and isinstance(message.get("function_call"), dict):
        calls = [{"function": message["function_call"]}]  # as it was before there were several
    return tuple([_tool_call(call) for call in calls])


def _tool_call(call: Mapping[str, Any]) -> ToolCall:
    function = mapping_of(call.get("function"))
    arguments = function.get("arguments")
    verbatim = arguments if isinstance(arguments, str) or arguments is None else json_text(arguments)
    return ToolCall(_text(call.get("id")), _text(function.get("name")), verbatim)


def _reasoning(message: Mapping[str, Any]) -> str | None:
    """Return the first that is not empty of the places in which a message carries its reasoning."""
    for name in ("reasoning_content", "reasoning"):
        value = message.get(name)
        if value and isinstance(value, str):
            return value
    if message.get("reasoning_details"):
        details = [part for part in items_of(message["reasoning_details"]) if isinstance(part, dict)]
        said = "".join(_texts(details, "text")) or "".join(_texts(details, "summary"))
        if said:
            return said
    content = message.get("content")
    if not isinstance(content, list):
        return _tagged_thought(content)
    thoughts = [part for part in content if isinstance(part, dict) and not _is_answer(part)]
    return "".join(text for part in thoughts for text in _thought(part)) or None


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
        return _NO_USAGE
    prompt, completion = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    return Usage(
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
        _count(usage.get("total_tokens")),
        _count(prompt.get("cached_tokens")) if isinstance(prompt, dict) else None,
        _count(completion.get("reasoning_tokens")) if isinstance(completion, dict) else None,
        _cost(usage) if "cost" in usage else None,
    )


def _cost(usage: Mapping[str, Any]) -> float | None:
    """Return the dollars that a reply says it cost (OpenRouter).

    With a key of the user's own at the model's provider, `cost` is what OpenRouter takes beside what the provider does.
    """
    cost = _dollars(usage["cost"])
    if cost is None or usage.get("is_byok") is not True:
        return cost
    upstream = _dollars(mapping_of(usage.get("cost_details")).get("upstream_inference_cost"))
    return None if upstream is None else cost + upstream


def _dollars(value: Any) -> float | None:
    dollars = number_of(value)
    return dollars if dollars is not None and 0 <= dollars < MAX_DOLLARS else None


def _count(value: Any) -> int | None:
    """Return a token count; some gateways send it as a float or as text."""
    if type(value) is int and 0 <= value < MAX_COUNT:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = int(float(value)) if not isinstance(value, int) else value
    except (ValueError, OverflowError):
        return None
    return number if 0 <= number < MAX_COUNT else None
