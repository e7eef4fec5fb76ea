"""(status, headers, body) -> Completion or Failure; never raises on bad bytes.

It reads errors also inside a 200. Where an error says what is in `error_body.py`, what a reply that is none says in
`completion.py`. It keeps what it is told, and invents nothing.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from batchchat.json_values import items_of, json_text, read_json, text_of
from batchchat.records import Completion, Failure
from batchchat.redaction import without_keys, without_own_keys
from batchchat.send.reply.completion import choices_of, completion_of, says_nothing
from batchchat.send.reply.error_body import fields_of, message_of, name_of, request_id_of, status_in, words_of
from batchchat.send.reply.failures import kind_of, status_of
from batchchat.send.reply.provider_errors import HINTED, PAGE
from batchchat.send.reply.retry_after import LONGEST_HINT_S, LONGEST_QUOTA_HINT_S, quota_reset_s, retry_after_s

MAX_MESSAGE_BYTES = 2_048
"""Bytes of UTF-8 of a provider's message that are kept."""

_REQUEST_ID_HEADERS = ("x-request-id", "request-id", "x-generation-id")
_ERROR_REASONS = ("error", "abort")
_UNKNOWN_STATUSES = frozenset({408, 499, 502, 504, *range(520, 525)})
"""Statuses by which something in front gives up waiting, and does not know what the model did meanwhile."""


def read_reply(status: int, headers: Mapping[str, str], body: bytes, *, unix_now: float) -> Completion | Failure:
    """Return what a reply says; `unix_now` is the wall clock in seconds, to read dates against."""
    data = read_json(body)
    if not 200 <= status < 300 or error_inside(data):
        return _error(status, headers, body=body, data=data, unix_now=unix_now)
    if not isinstance(data, dict):
        return _no_answer(
            "protocol", f"the reply is not a chat completion: {snippet(body)}", status=status, headers=headers
        )
    completion = completion_of(data)
    if completion.content is not None:
        return completion
    if not any(isinstance(choice.get("message"), dict) for choice in choices_of(data)):
        message = f"the reply has no message: {snippet(json_text(data).encode())}"
        return replace(_no_answer("empty_reply", message, status=status, headers=headers), usage=completion.usage)
    if says_nothing(data):
        failure = _no_answer("empty_reply", "the model answered nothing", status=status, headers=headers)
        return replace(failure, usage=completion.usage)
    return completion


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
    return Failure(kind, shown_message(message), status, request_id=_request_id(headers), is_outcome_unknown=True)


def _error(status: int, headers: Mapping[str, str], body: bytes, data: Any, unix_now: float) -> Failure:
    fields = fields_of(data, error_inside(data))
    if 200 <= status < 300:
        status = status_in(fields) or status_of(words_of(fields))
    message = message_of(fields)[: 2 * MAX_MESSAGE_BYTES] or snippet(body) or "no message"
    sentence = _cut(message) if isinstance(data, (dict, list)) else ""  # a text or a page is nobody's sentence
    words = words_of(fields) | _told(status, headers, data=data, fields=fields, unix_now=unix_now)
    kind = kind_of(status, words, sentence)
    if 300 <= status < 400:
        message = f"the base URL redirects to {headers.get('location', 'an unnamed place')}; redirects are not followed"
    failed_generation = text_of(fields.get("failed_generation"))
    if failed_generation:
        message = f"{_cut(message)} It was: {failed_generation}"
    return Failure(
        kind=kind,
        message=shown_message(message),
        status=status,
        code=name_of(fields.get("code")),
        param=_cut(text_of(fields.get("param"))) or None,
        retry_after_s=_wish_s(kind, status, headers=headers, fields=fields, sentence=sentence, unix_now=unix_now),
        request_id=_request_id(headers) or request_id_of(fields),
        is_outcome_unknown=status in _UNKNOWN_STATUSES,
        is_by_words=kind != kind_of(status, words, ""),
    )


def _told(
    status: int, headers: Mapping[str, str], data: Any, fields: Mapping[str, Any], unix_now: float
) -> frozenset[str]:
    """Return what a reply says without a word for it."""
    is_hinted = retry_after_s(headers, unix_now, status=status, fields=fields) is not None
    told = {PAGE: not isinstance(data, (dict, list)), HINTED: is_hinted}
    return frozenset(word for word, is_told in told.items() if is_told)


def _wish_s(
    kind: str, status: int, headers: Mapping[str, str], fields: Mapping[str, Any], sentence: str, unix_now: float
) -> float | None:
    """Return the seconds that a reply asks to wait; only of a quota that comes back is more than an hour believed."""
    wish_s = retry_after_s(
        headers, unix_now, status=status, fields=fields, sentence=sentence, longest_s=LONGEST_QUOTA_HINT_S
    )
    if kind == "unavailable":
        return quota_reset_s(headers, fields, unix_now) if wish_s is None else wish_s
    return None if wish_s is None else min(wish_s, LONGEST_HINT_S)


def shown_message(text: str) -> str:
    """Return a failure's message as it is kept: without anybody's key, and at most `MAX_MESSAGE_BYTES` in UTF-8."""
    return _cut(without_keys(without_own_keys(text[: 2 * MAX_MESSAGE_BYTES], with_words=True)))


def _cut(text: str) -> str:
    return text[:MAX_MESSAGE_BYTES].encode("utf-8", "replace")[:MAX_MESSAGE_BYTES].decode("utf-8", "ignore")


def _request_id(headers: Mapping[str, str]) -> str | None:
    return next((headers[name] for name in _REQUEST_ID_HEADERS if headers.get(name)), None)
