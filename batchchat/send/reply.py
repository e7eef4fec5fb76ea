"""(status, headers, body) -> Completion or Failure; never raises on bad bytes.

It reads every shape that chat-completions endpoints are known to send, keeps what it is told, and invents nothing.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from batchchat.records import Completion, Failure, ToolCall, Usage
from batchchat.send.failures import kind_of
from batchchat.send.retry import retry_after_s

MAX_MESSAGE = 2_000
"""Characters of a provider's message that are kept."""

_MODERATION_FIELDS = frozenset({"reasons", "flagged_input", "patterns"})
_REQUEST_ID_HEADERS = ("x-request-id", "request-id", "x-generation-id")


def read_reply(status: int, headers: Mapping[str, str], body: bytes, *, unix_now: float) -> Completion | Failure:
    """Return what a reply says; `unix_now` is the wall clock in seconds, to read dates against."""
    data = _parse(body)
    if not 200 <= status < 300:
        return _error(status, headers, body, data, unix_now)
    error = _error_inside(data)
    if error is not None:
        return _error(_inner_status(error), headers, body, {"error": error}, unix_now)
    if not isinstance(data, dict):
        message = f"the reply is not a chat completion: {_snippet(body)}"
        return Failure("protocol", message, status, request_id=_request_id(headers), is_outcome_unknown=True)
    return _completion(data, status, headers)


def _parse(body: bytes) -> Any:
    """Return the body as JSON, or None; NaN, lone surrogates and stray bytes, which JSON forbids, are tolerated."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        text = body.decode("utf-8", "replace").removeprefix("\ufeff")
        value = json.loads(text, parse_constant=lambda _: None, parse_float=_finite)
        return orjson.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _error_inside(data: Any) -> Any:
    """Return the error that a 200 carries: at the top, in a list (Gemini), or in the first choice (OpenRouter)."""
    if isinstance(data, list):
        data = data[0] if data and isinstance(data[0], dict) and "error" in data[0] else None
    if not isinstance(data, dict):
        return None
    choice = _first(data.get("choices"))
    if data.get("error"):
        return data["error"]
    if choice.get("error") or choice.get("finish_reason") in ("error", "abort"):
        return choice.get("error") or {"message": "the model stopped with an error"}
    return None


def _inner_status(error: Any) -> int:
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, str) and code.isascii() and code.isdecimal() and len(code) == 3:
        code = int(code)
    return code if isinstance(code, int) and 400 <= code < 600 else 502


def _error(status: int, headers: Mapping[str, str], body: bytes, data: Any, unix_now: float) -> Failure:
    fields = _error_fields(data)
    codes = frozenset(str(fields[key]) for key in ("code", "type") if isinstance(fields.get(key), (str, int)))
    if not _MODERATION_FIELDS.isdisjoint(_mapping(fields.get("metadata"))):
        codes |= {"content_filter"}
    message = _message(fields) or _snippet(body) or "no message"
    if 300 <= status < 400:
        message = f"the base URL redirects to {headers.get('location', 'an unnamed place')}; redirects are not followed"
    is_page = status == 403 and data is None  # from something in front of the API: a block that may pass
    return Failure(
        kind="server" if is_page else kind_of(status, codes, message),
        message=message[:MAX_MESSAGE],
        status=status,
        code=str(fields["code"]) if isinstance(fields.get("code"), (str, int)) else None,
        retry_after_s=retry_after_s(headers, unix_now),
        request_id=_request_id(headers) or _text(fields.get("request_id")) or None,
        is_outcome_unknown=status in (200, 408, 499, 502, 504),
    )


def _error_fields(data: Any) -> dict[str, Any]:
    """Return an error's fields, whichever shape it came in; what stands outside `error` fills in what is missing."""
    if isinstance(data, list):
        data = data[0] if data else None
    if not isinstance(data, dict):
        return {}
    choice = _first(data.get("choices"))
    inner = data.get("error") or choice.get("error")
    if isinstance(inner, str):
        inner = {"message": inner}
    outer = {key: value for key, value in data.items() if key not in ("error", "choices")}
    return {**outer, **inner} if isinstance(inner, dict) else outer


def _message(fields: Mapping[str, Any]) -> str:
    """Return the human sentence: `title` with its `detail` (Oxen, problem+json), or the first of the usual names."""
    title, detail = _text(fields.get("title")), _text(fields.get("detail"))
    if title:
        return f"{title} {detail}" if detail else title
    for name in ("message", "description", "detail", "status_message"):
        text = _text(fields.get(name))
        if text:
            return text
    return ""


def _completion(data: Mapping[str, Any], status: int, headers: Mapping[str, str]) -> Completion | Failure:
    choice = _first(data.get("choices"))
    message = choice.get("message")
    if not isinstance(message, dict):
        text = f"the reply has no message: {_snippet(_json(data).encode())}"
        return Failure("empty_reply", text, status, request_id=_request_id(headers), is_outcome_unknown=True)
    completion = Completion(
        content=_content(message.get("content")),
        tool_calls=tuple(_tool_calls(message.get("tool_calls"))),
        reasoning=_reasoning(message),
        refusal=_text(message.get("refusal")) or None,
        finish_reason=_text(choice.get("finish_reason")) or None,
        usage=_usage(data.get("usage")),
        model=_text(data.get("model")) or None,
        response_id=_text(data.get("id")) or None,
    )
    if _says_nothing(completion):
        return Failure(
            "empty_reply",
            "the model answered nothing",
            status,
            request_id=_request_id(headers),
            is_outcome_unknown=True,
        )
    return completion


def _says_nothing(completion: Completion) -> bool:
    """A null content is an answer beside tool calls, reasoning or a refusal, or when the model was cut off."""
    has_more = completion.tool_calls or completion.reasoning or completion.refusal
    return completion.content is None and not has_more and completion.finish_reason not in ("length", "content_filter")


def _content(content: Any) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        return _json(content)
    texts = [part if isinstance(part, str) else part.get("text") for part in content if isinstance(part, (str, dict))]
    return "".join(text for text in texts if isinstance(text, str))


def _tool_calls(calls: Any) -> Iterator[ToolCall]:
    for call in calls if isinstance(calls, list) else []:
        if not isinstance(call, dict):
            continue
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        arguments = function.get("arguments")
        verbatim = arguments if isinstance(arguments, str) or arguments is None else _json(arguments)
        yield ToolCall(_text(call.get("id")) or None, _text(function.get("name")) or None, verbatim)


def _reasoning(message: Mapping[str, Any]) -> str | None:
    """Return the first non-empty of the three places in which a message carries its reasoning."""
    for name in ("reasoning_content", "reasoning"):
        if isinstance(message.get(name), str) and message[name]:
            return str(message[name])
    details = message.get("reasoning_details")
    texts = [part.get("text") for part in details if isinstance(part, dict)] if isinstance(details, list) else []
    return "".join(text for text in texts if isinstance(text, str)) or None


def _usage(usage: Any) -> Usage:
    if not isinstance(usage, dict):
        return Usage()
    return Usage(
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        total_tokens=_count(usage.get("total_tokens")),
        cached_tokens=_count(_mapping(usage.get("prompt_tokens_details")).get("cached_tokens")),
        reasoning_tokens=_count(_mapping(usage.get("completion_tokens_details")).get("reasoning_tokens")),
    )


def _count(value: Any) -> int | None:
    """Return a token count; some gateways send it as a float or as text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = int(float(value)) if not isinstance(value, int) else value
    except (ValueError, OverflowError):
        return None
    return number if 0 <= number < 2**63 else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _first(choices: Any) -> Mapping[str, Any]:
    return _mapping(choices[0]) if isinstance(choices, list) and choices else {}


def _text(value: Any) -> str:
    """Return a string for what should be one: some providers send lists of strings or objects as their message."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " ".join(value)
    return _json(value)


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        pass  # nested more deeply than orjson writes, though it reads it
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "(nested too deeply to be written)"


def _snippet(body: bytes) -> str:
    text = " ".join(body[:1_000].decode("utf-8", "replace").split())
    return text if len(text) <= 200 else f"{text[:197]}..."


def _request_id(headers: Mapping[str, str]) -> str | None:
    return next((headers[name] for name in _REQUEST_ID_HEADERS if name in headers), None)
