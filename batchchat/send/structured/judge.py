"""What to make of an answer that should fit a schema: take it, mend it, ask once more, or give it up.

It asks nothing itself, and fetches nothing.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NoReturn

import jsonschema_rs
import orjson

from batchchat.records import Completion, Failure, Usage, added
from batchchat.send.reply.completion import CUT_REASONS
from batchchat.send.reply.reply import shown_message
from batchchat.send.state.turn import Turn
from batchchat.send.structured.lenient_json import FoundJson, Reading, read

MAX_TOLD_ERRORS = 5
MAX_ERROR = 300
MAX_CORRECTION = 1_000
"""Characters of one error, and of all that the model is told."""
MAX_WHOLLY_CHECKED = 10_000
"""Characters of the largest value of which more errors than the first are looked for: there may be one for each."""

_LIMITS = frozenset({"max_tokens", "max_completion_tokens"})

_WORDS_READ = 300
_FORMAT_WORDS = re.compile(r"response[_ ]format|json_schema|json_object|structured[_ ]outputs?", re.IGNORECASE)


class Structure:
    """A schema that answers must fit.

    Raises:
        ValueError: it is no JSON Schema, or refers to another document.
    """

    def __init__(self, schema: Any) -> None:
        try:
            # Formats are notes, as in draft 2020-12; the older drafts would have them checked.
            self._validator = jsonschema_rs.validator_for(schema, retriever=_refuse_document, validate_formats=False)
        except ValueError as error:
            reason = _told(error) if isinstance(error, jsonschema_rs.ValidationError) else _cut(str(error), MAX_ERROR)
            advice = "correct it; what it refers to must stand in it, under $defs"
            raise ValueError(f"is not a valid JSON Schema ({reason}); {advice}") from error

    def judge(self, completion: Completion, body: bytes, turn: Turn) -> Completion | Turn | Failure:
        """Return what follows from a completion that a row's `body` and `turn` brought.

        A refusal is an answer, and so are tool calls whose text does not fit. A text that was cut at the token limit is
        asked for again with more, once; then what can be mended is, and what cannot is corrected by the model, once.
        """
        return self._judged(completion, body, turn=turn, usage=added(turn.usage, completion.usage))

    def resume(self, completion: Completion, body: bytes, turn: Turn) -> Completion | Turn | Failure:
        """Return what follows when the endpoint refuses a `turn` to which `completion` led: what can be had without it.

        Where more tokens are refused, the cut text is mended or corrected; a correction that is refused ends the row.
        `turn.usage` has the completion's in it already.
        """
        return self._judged(completion, body, turn=replace(turn, max_tokens=0), usage=turn.usage)

    def fallback(self, failure: Failure, turn: Turn) -> Turn | None:
        """Return another way to ask, when an endpoint refuses the response format; None when it refuses another thing.

        What it refuses of a turn beside the format, `resume` deals with.
        """
        is_refusal = failure.kind == "bad_request" or (failure.kind == "server" and failure.status == 501)
        if not is_refusal or failure.status not in (400, 422, 501) or turn.mode >= 2:
            return None
        words = f"{failure.code or ''} {failure.param or ''} {failure.message[:_WORDS_READ]}"
        return replace(turn, mode=turn.mode + 1) if _FORMAT_WORDS.search(words) else None

    def _judged(self, completion: Completion, body: bytes, turn: Turn, usage: Usage) -> Completion | Turn | Failure:
        text = (completion.content or "").encode("utf-8", "replace").decode()
        reading = Reading([], []) if completion.refusal else read(text)
        parsed = self._fitting(reading.whole)
        if parsed is not None or completion.refusal or completion.tool_calls:
            return replace(completion, parsed=parsed, usage=usage)
        is_cut = completion.finish_reason in CUT_REASONS and turn.max_tokens is None
        more = _more_tokens(body) if is_cut else None
        if more is not None:
            return replace(turn, max_tokens=more, usage=usage)
        parsed = self._fitting(reading.mended)
        if parsed is not None:
            return replace(completion, parsed=parsed, usage=usage)
        errors = self._errors(text, [*reading.whole, *reading.mended])
        if turn.said or completion.finish_reason == "content_filter":
            return Failure("schema", shown_message(f"the answer does not fit the schema: {errors}"), status=200)
        return replace(turn, said=_correction(text, errors), usage=usage)

    def _fitting(self, found: Iterable[FoundJson]) -> str | None:
        """Return the first JSON that fits the schema, as compact text."""
        return next((one.text for one in found if self._validator.is_valid(one.value)), None)

    def _errors(self, text: str, found: Sequence[FoundJson]) -> str:
        """Return what is wrong with a text, in words that a model can act on."""
        if not text.strip():
            return "the answer is empty"
        if not found:
            return "the answer is not JSON"
        likeliest = next((one for one in found if isinstance(one.value, dict)), found[0])
        if len(likeliest.text) <= MAX_WHOLLY_CHECKED:
            return "; ".join(map(_told, islice(self._validator.iter_errors(likeliest.value), MAX_TOLD_ERRORS)))
        try:
            self._validator.validate(likeliest.value)
        except jsonschema_rs.ValidationError as error:
            return _told(error)
        return ""


def body_for(body: bytes, turn: Turn) -> bytes:
    """Return the body of a row's next request: its own with the turn applied.

    What a turn adds stands behind what is there, in the messages and in their parts, so that nothing changes its place.
    """
    if not (turn.mode or turn.said or turn.max_tokens):
        return body
    data = orjson.loads(body)
    if turn.mode:
        data["messages"] = _prompted(data["messages"], schema_of(data.pop("response_format", None)))
    if turn.mode == 1:
        data["response_format"] = {"type": "json_object"}
    data["messages"] = [*data["messages"], *turn.said]
    if turn.max_tokens:
        data |= dict.fromkeys(_LIMITS & data.keys(), turn.max_tokens)
    return orjson.dumps(data)


def schema_of(response_format: Any) -> Any:
    """Return the JSON Schema of a `json_schema` response format, None for any other."""
    inner = response_format.get("json_schema") if isinstance(response_format, dict) else None
    return inner.get("schema") if isinstance(inner, dict) else None


def _prompted(messages: Sequence[Any], schema: Any) -> list[Any]:
    """Return the messages with the schema at the end of the last one of the user."""
    wish = "Answer with one JSON object that fits this JSON Schema, and with nothing else:"
    text = f"{wish}\n{orjson.dumps(schema).decode()}"
    for at in reversed(range(len(messages))):
        message = messages[at]
        content = message.get("content") if message.get("role") == "user" else None
        if isinstance(content, (str, list)):
            more = f"{content}\n\n{text}" if isinstance(content, str) else [*content, {"type": "text", "text": text}]
            return [*messages[:at], {**message, "content": more}, *messages[at + 1 :]]
    return [*messages, {"role": "user", "content": text}]


def _more_tokens(body: bytes) -> int | None:
    """Return a larger limit of tokens than a body has; None when it has none."""
    data = orjson.loads(body)
    limit = max((data[name] for name in _LIMITS & data.keys() if isinstance(data[name], int)), default=0)
    return more_tokens(limit) if 0 < limit < 2**31 else None


def more_tokens(limit: int) -> int:
    """Return the limit of tokens with which an answer is asked for again that was cut at this one."""
    return max(4 * limit, limit + 256)


def _correction(text: str, errors: str) -> tuple[Mapping[str, Any], ...]:
    asked = _cut(f"Your answer does not fit the JSON Schema: {errors}", MAX_CORRECTION)
    correction = {"role": "user", "content": f"{asked}\n\nAnswer again with only the corrected JSON."}
    return ({"role": "assistant", "content": text}, correction) if text.strip() else (correction,)


def _told(error: jsonschema_rs.ValidationError) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path)
    return f"{_cut(path.removeprefix('.') or 'the whole', MAX_ERROR)}: {_cut(error.message, MAX_ERROR)}"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _refuse_document(uri: str) -> NoReturn:
    raise ValueError(f"{uri} is another document, and none is fetched")
