"""(status, headers, body) -> Completion or Failure; never raises on bad bytes.

It reads every shape of an error that endpoints are known to send, also inside a 200; what a reply that is none says is
in `answer.py`. It keeps what it is told, and invents nothing.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from batchchat.records import Completion, Failure
from batchchat.send.answer import choices_of, completion_of, says_nothing
from batchchat.send.failures import kind_of, status_of
from batchchat.send.jsonvalue import items_of, json_text, mapping_of, read_json, text_of
from batchchat.send.retry import retry_after_s

MAX_MESSAGE = 2_000
"""Characters of a provider's message that are kept."""

_MODERATION_FIELDS = frozenset({"reasons", "flagged_input", "patterns"})
_REQUEST_ID_HEADERS = ("x-request-id", "request-id", "x-generation-id")
_ERROR_REASONS = ("error", "abort")


def read_reply(status: int, headers: Mapping[str, str], body: bytes, *, unix_now: float) -> Completion | Failure:
    """Return what a reply says; `unix_now` is the wall clock in seconds, to read dates against."""
    data = read_json(body)
    if not 200 <= status < 300:
        return _error(status, headers, body, data, unix_now)
    if error_inside(data):
        return _error(_inner_status(_error_fields(data)), headers, body, data, unix_now)
    if not isinstance(data, dict):
        return _no_answer("protocol", f"the reply is not a chat completion: {snippet(body)}", status, headers)
    if not any(isinstance(choice.get("message"), dict) for choice in choices_of(data)):
        message = f"the reply has no message: {snippet(json_text(data).encode())}"
        return replace(_no_answer("empty_reply", message, status, headers), usage=completion_of(data).usage)
    if says_nothing(data):
        failure = _no_answer("empty_reply", "the model answered nothing", status, headers)
        return replace(failure, usage=completion_of(data).usage)
    return completion_of(data)


def error_inside(data: Any) -> Any:
    """Return the error that a 200 or an event carries, or None.

    It stands at the top, in a list (Gemini), as the whole (old vLLM), or in any of the choices (OpenRouter).
    """
    if isinstance(data, list):
        data = data[0] if data and isinstance(data[0], dict) and "error" in data[0] else None
    if not isinstance(data, dict):
        return None
    if data.get("error"):
        return data["error"]
    if "error" in (data.get("type"), data.get("object"), data.get("status")):
        return data
    for choice in items_of(data.get("choices")):
        if isinstance(choice, dict) and (choice.get("error") or choice.get("finish_reason") in _ERROR_REASONS):
            return choice.get("error") or {"message": "the model stopped with an error"}
    return None


def snippet(body: bytes) -> str:
    """Return the beginning of a body, on one line."""
    text = " ".join(body[:1_000].decode("utf-8", "replace").split())
    return text if len(text) <= 200 else f"{text[:197]}..."


def _no_answer(kind: str, message: str, status: int, headers: Mapping[str, str]) -> Failure:
    return Failure(kind, message, status, request_id=_request_id(headers), is_outcome_unknown=True)


def _inner_status(fields: Mapping[str, Any]) -> int:
    """Return the status that an error inside a 200 would have had: its own number, or what its words mean."""
    for name in ("code", "status"):
        code = fields.get(name)
        if isinstance(code, str) and code.isascii() and code.isdecimal() and len(code) == 3:
            code = int(code)
        if isinstance(code, int) and 400 <= code < 600:
            return code
    return status_of(_words(fields) | {text_of(fields.get(name)) for name in ("status", "status_message")})


def _words(fields: Mapping[str, Any]) -> frozenset[str]:
    """Return the structured words of an error, by which it is judged."""
    words = frozenset(str(fields[key]) for key in ("code", "type") if isinstance(fields.get(key), (str, int)))
    is_moderation = not _MODERATION_FIELDS.isdisjoint(mapping_of(fields.get("metadata")))
    return words | {"content_filter"} if is_moderation else words


def _error(status: int, headers: Mapping[str, str], body: bytes, data: Any, unix_now: float) -> Failure:
    fields = _error_fields(data)
    message = _message(fields) or snippet(body) or "no message"
    if 300 <= status < 400:
        message = f"the base URL redirects to {headers.get('location', 'an unnamed place')}; redirects are not followed"
    is_page = status == 403 and data is None  # from something in front of the API: a block that may pass
    kind = "server" if is_page else kind_of(status, _words(fields), message)
    failed_generation = text_of(fields.get("failed_generation"))
    if failed_generation:
        message = f"{message} It was: {failed_generation}"
    return Failure(
        kind=kind,
        message=message[:MAX_MESSAGE],
        status=status,
        code=str(fields["code"]) if isinstance(fields.get("code"), (str, int)) else None,
        param=text_of(fields.get("param"))[:MAX_MESSAGE] or None,
        retry_after_s=retry_after_s(headers, unix_now),
        request_id=_request_id(headers) or text_of(fields.get("request_id")) or None,
        is_outcome_unknown=status in (200, 408, 499, 502, 504),
    )


def _error_fields(data: Any) -> dict[str, Any]:
    """Return an error's fields, whichever shape it came in; what stands outside `error` fills in what is missing."""
    if isinstance(data, list):
        data = data[0] if data else None
    if not isinstance(data, dict):
        return {}
    inner = error_inside(data)
    if isinstance(inner, str):
        inner = {"message": inner}
    outer = {key: value for key, value in data.items() if key not in ("error", "choices")}
    return {**outer, **inner} if isinstance(inner, dict) else outer


def _message(fields: Mapping[str, Any]) -> str:
    """Return the human sentence: `title` with its `detail` (Oxen, problem+json), or the first of the usual names."""
    title, detail = text_of(fields.get("title")), text_of(fields.get("detail"))
    if title:
        return f"{title} {detail}" if detail else title
    for name in ("message", "description", "detail", "status_message"):
        text = text_of(fields.get(name))
        if text:
            return text
    return ""


def _request_id(headers: Mapping[str, str]) -> str | None:
    return next((headers[name] for name in _REQUEST_ID_HEADERS if name in headers), None)
