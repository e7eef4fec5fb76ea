"""The JSON of an error -> its fields, structured words, sentence and names, wherever a provider put them."""

from collections.abc import Iterator, Mapping
from typing import Any

from batchchat.json_values import items_of, json_text, mapping_of, read_json, text_of
from batchchat.send.reply.provider_errors import (
    CONTENT_CODES,
    CONTEXT_CODES,
    DAILY_QUOTA,
    FILTERED,
    NO_QUOTA,
    NOT_RETRYABLE,
    QUOTA_DAILY,
    QUOTA_NOTHING,
    RETRYABLE,
)

LONGEST_WORD = 100
"""Characters of a code, a type or an id; what is longer is a text, and none of these."""

_WORD_FIELDS = ("code", "type", "error_type", "status", "status_message")
_METADATA_FIELDS = ("error_type", "provider_code", "limit_source")
_MODERATION_FIELDS = frozenset({"reasons", "flagged_input", "patterns"})
_FILTER_FIELDS = ("content_filter_result", "content_filter_results")
_SENTENCE_FIELDS = ("message", "description", "detail", "msg", "status_message")
_QUOTA_LINES = 4_000
_STATUS_FIELDS = ("code", "status", "http_status", "status_code")


def fields_of(data: Any, error: Any) -> dict[str, Any]:
    """Return an error's fields; what stands outside of the `error` that was found fills in what is missing in it."""
    if isinstance(data, list):
        data = data[0] if data else None
    if not isinstance(data, dict):
        return {}
    outer = {key: value for key, value in data.items() if key not in ("error", "errors", "choices")}
    inner = _first_mapping(error) or error or _first_mapping(data.get("errors"))
    if isinstance(inner, str):
        inner = {"message": inner}
    fields = {**outer, **inner} if isinstance(inner, dict) else outer
    return {**fields, **_within(fields)}


def message_of(fields: Mapping[str, Any]) -> str:
    """Return the human sentence: `title` with its `detail` (Oxen, problem+json), or the first of the usual names.

    Where a gateway passes on what the provider behind it said (OpenRouter's `metadata.raw`), that stands after it.
    """
    title, detail = text_of(fields.get("title")), _sentence(fields.get("detail"))
    if title:
        return f"{title} {detail}" if detail else title
    message = next(filter(None, (_sentence(fields.get(name)) for name in _SENTENCE_FIELDS)), "")
    raw = _raw(fields)
    passed_on = message_of(raw) if isinstance(raw, dict) else text_of(raw)
    return f"{message}: {passed_on}" if message and passed_on and passed_on != message else message or passed_on


def words_of(fields: Mapping[str, Any]) -> frozenset[str]:
    """Return the structured words of an error in lower case, and what its structure says, as `errorwords` names it."""
    words = {value.lower() for value in _values(fields) if _is_word(value)}
    availability = mapping_of(fields.get("availability"))
    if isinstance(availability.get("retryable"), bool):
        words.add(RETRYABLE if availability["retryable"] else NOT_RETRYABLE)
    if _is_filtered(fields):
        words.add(FILTERED)
    if "resource_exhausted" in words:
        words.update(_quota_words(fields))
    return frozenset(words)


def status_in(fields: Mapping[str, Any]) -> int | None:
    """Return the HTTP status that an error says it has, from 400 to 599."""
    for name in _STATUS_FIELDS:
        code = fields.get(name)
        if isinstance(code, str) and code.isascii() and code.isdecimal() and len(code) == 3:
            code = int(code)
        if isinstance(code, int) and 400 <= code < 600:
            return code
    return None


def name_of(value: Any) -> str | None:
    """Return a code or an id, its beginning where it is none; numbers as text, nothing for anything else."""
    is_name = isinstance(value, (str, int)) and not isinstance(value, bool)
    return str(value)[:LONGEST_WORD] or None if is_name else None


def request_id_of(fields: Mapping[str, Any]) -> str | None:
    """Return the provider's name for the request, where the body has it."""
    places = (fields, *(mapping_of(fields.get(name)) for name in ("metadata", "innererror", "detail")))
    return next((name for place in places if (name := name_of(place.get("request_id")))), None)


def _within(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an object that stands where a sentence should: FastAPI's `detail`, Mistral's `message`."""
    for name in ("detail", "message"):
        inner = fields.get(name)
        if isinstance(inner, dict):
            error = inner.get("error")
            return {name: None, **inner, **(error if isinstance(error, dict) else {})}
    return {}


def _first_mapping(value: Any) -> dict[str, Any] | None:
    return next((item for item in items_of(value) if isinstance(item, dict)), None)


def _sentence(value: Any) -> str:
    """Return a sentence; of a list of problems (FastAPI) where each is and what it says, without the value found."""
    problems = items_of(value)
    if not problems or not all(isinstance(one, dict) and isinstance(one.get("msg"), str) for one in problems):
        return text_of(value)
    return "; ".join(_problem(one) for one in problems)


def _problem(problem: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in items_of(problem.get("loc")) if isinstance(part, (str, int)))
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])


def _raw(fields: Mapping[str, Any]) -> Any:
    """Return what the provider behind a gateway said: its error's fields, or a text."""
    raw = mapping_of(fields.get("metadata")).get("raw")
    data = read_json(raw.encode("utf-8", "replace")) if isinstance(raw, str) else raw
    if not isinstance(data, dict):
        return raw if isinstance(raw, str) else None
    return {**fields_of(data, data.get("error")), "metadata": None}


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST_WORD and not any(c in " ()\n" for c in value)


def _values(fields: Mapping[str, Any]) -> Iterator[Any]:
    """Yield what stands in each place that providers have for a structured word."""
    yield from (fields.get(name) for name in _WORD_FIELDS)
    metadata = mapping_of(fields.get("metadata"))
    yield from (metadata.get(name) for name in _METADATA_FIELDS)
    yield mapping_of(fields.get("availability")).get("code")
    inner = mapping_of(fields.get("innererror"))
    yield from (inner.get("code"), mapping_of(inner.get("innererror")).get("code"))
    for detail in items_of(fields.get("details")):
        yield from (mapping_of(detail).get(name) for name in ("reason", "code"))
    raw = _raw(fields)
    if isinstance(raw, dict):  # of a provider's own words to its gateway, those on the request alone concern the row
        yield from (word for word in _values(raw) if str(word).lower() in _OF_THE_ROW)


_OF_THE_ROW = CONTENT_CODES | CONTEXT_CODES


def _is_filtered(fields: Mapping[str, Any]) -> bool:
    """Whether a moderation (OpenRouter) or a content filter (Azure, with both of its spellings) is the cause."""
    if not _MODERATION_FIELDS.isdisjoint(mapping_of(fields.get("metadata"))):
        return True
    for place in (fields, mapping_of(fields.get("innererror"))):
        for name in _FILTER_FIELDS:
            found = mapping_of(place.get(name)).values()
            if any(mapping_of(one).get("filtered") is True for one in found):
                return True
    return False


def _quota_words(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield what Gemini says about the quota that is used up, in its details or the lines of its message."""
    message = text_of(fields.get("message"))[:_QUOTA_LINES]
    details = [mapping_of(one) for one in items_of(fields.get("details"))]
    violations = [mapping_of(one) for detail in details for one in items_of(detail.get("violations"))]
    names = " ".join(json_text(one.get(name)) for one in violations for name in ("quotaId", "quotaMetric"))
    metadata = [mapping_of(detail.get("metadata")) for detail in details]
    if QUOTA_NOTHING.search(message) or any(one.get("quota_limit_value") == "0" for one in metadata):
        yield NO_QUOTA
    if "PerDay" in names or "per_day" in names or QUOTA_DAILY.search(message):
        yield DAILY_QUOTA
