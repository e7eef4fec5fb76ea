"""The bytes of a request -> a `ChatBody`, or `RefusedError` with what Oxen would say of them.

Unknown parameters are accepted and ignored, as Oxen does; a null is as good as an absent one. It does not know what
will be answered, nor limits, keys or faults.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from batchchat.serve.catalogue import is_known_model
from batchchat.serve.refusal import MESSAGES_EMPTY, MODEL_MISSING, Refusal, RefusedError, bare, invalid_params
from batchchat.serve.schema import SchemaError, check_schema
from batchchat.serve.tokens import token_count

ROLES = ("system", "user", "assistant", "tool")
_NUMBER_BOUNDS = {"temperature": (0, 2), "top_p": (0, 1), "frequency_penalty": (-2, 2), "presence_penalty": (-2, 2)}
_MEDIA_PARTS = ("image_url", "video_url", "audio_url", "file")
_TOKENS_PER_MESSAGE = 4
_TOKENS_PER_REPLY = 3
_TOKENS_PER_MEDIA_PART = 85

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

ResponseKind = Literal["text", "json_object", "json_schema"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message: its text parts joined, and how many parts are media."""

    role: str
    text: str
    media_parts: int = 0


@dataclass(frozen=True, slots=True)
class ChatBody:
    """A valid request. `digest` is the same for bodies that mean the same: spacing and key order do not count."""

    model: str
    messages: tuple[Message, ...]
    max_tokens: int | None
    response_kind: ResponseKind
    schema: Any
    digest: str
    prompt_tokens: int


def read_body(body: bytes) -> ChatBody:
    """Return what the body asks for. Raises RefusedError with status 400 or 404."""
    value = _parsed(body)
    model = _model(value.get("model"))
    messages = _messages(value.get("messages"))
    _check_numbers(value)
    _check_stream(value.get("stream"))
    max_tokens = _max_tokens(value.get("max_tokens"))
    kind, schema = _response_format(value.get("response_format"))
    canonical = _canonical(value)
    return ChatBody(
        model=model,
        messages=messages,
        max_tokens=max_tokens,
        response_kind=kind,
        schema=schema,
        digest=hashlib.blake2b(canonical, digest_size=12).hexdigest(),
        prompt_tokens=_prompt_tokens(messages, schema),
    )


def _refuse(detail: str) -> RefusedError:
    return RefusedError(invalid_params(detail))


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        value = _loads(body)
    except (ValueError, RecursionError) as error:
        raise _refuse("the body is not JSON, or nested too deeply") from error
    if not isinstance(value, dict):
        raise _refuse(f"the body is {_shown(value)}; it must be a JSON object")
    return value


def _loads(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        # orjson refuses escapes of lone surrogates, which json.dumps of any Python client writes without complaint.
        if b"\\ud" not in body.lower():
            raise
    text = json.dumps(json.loads(body), ensure_ascii=False)
    return orjson.loads(_LONE_SURROGATE.sub("\ufffd", text))


def _canonical(value: dict[str, Any]) -> bytes:
    # How the answer is delivered does not change it.
    meant = {key: part for key, part in value.items() if key not in ("stream", "stream_options")}
    try:
        return orjson.dumps(meant, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        raise _refuse("the body is nested too deeply; 250 levels are allowed") from error


def _model(model: Any) -> str:
    if model is None or model == "":
        raise RefusedError(MODEL_MISSING)
    if not isinstance(model, str):
        raise _refuse(f"model is {_shown(model)}; it must be a string")
    if not is_known_model(model):
        raise RefusedError(_model_not_found(model))
    return model


def _model_not_found(model: str) -> Refusal:
    return bare(404, f"Model not found: {model}")


def _messages(messages: Any) -> tuple[Message, ...]:
    if messages is None or messages == []:
        raise RefusedError(MESSAGES_EMPTY)
    if not isinstance(messages, list):
        raise _refuse(f"messages is {_shown(messages)}; it must be an array")
    return tuple(_message(message, f"messages[{index}]") for index, message in enumerate(messages))


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, dict):
        raise _refuse(f"{where} is {_shown(message)}; it must be an object")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise _refuse(f"{where}.role is {_shown(role)}; it must be one of {', '.join(ROLES)}")
    content = message.get("content")
    if isinstance(content, str):
        return Message(role, content)
    if isinstance(content, list):
        texts = [_part_text(part, f"{where}.content[{index}]") for index, part in enumerate(content)]
        return Message(role, "\n".join(text for text in texts if text is not None), texts.count(None))
    if content is None and role == "assistant":
        return Message(role, "")
    raise _refuse(f"{where}.content is {_shown(content)}; it must be a string or an array of parts")


def _part_text(part: Any, where: str) -> str | None:
    """Return the text of a text part, None for a part that is media."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if isinstance(kind, str) and kind in _MEDIA_PARTS and isinstance(part.get(kind), dict):
        return None
    raise _refuse(
        f"{where} is {_shown(part)}; it must be an object with a type (text, {', '.join(_MEDIA_PARTS)}) and it"
    )


def _check_numbers(value: dict[str, Any]) -> None:
    for name, (low, high) in _NUMBER_BOUNDS.items():
        number = value.get(name)
        if number is None:
            continue
        if isinstance(number, bool) or not isinstance(number, int | float) or not low <= number <= high:
            raise _refuse(f"{name} is {_shown(number)}; it must be a number from {low} to {high}")


def _check_stream(stream: Any) -> None:
    if stream is True:
        raise _refuse("stream is true; the embedded endpoint does not stream yet, so leave it out or send false")
    if stream not in (None, False):
        raise _refuse(f"stream is {_shown(stream)}; it must be true or false")


def _max_tokens(max_tokens: Any) -> int | None:
    if max_tokens is None:
        return None
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
        raise _refuse(f"max_tokens is {_shown(max_tokens)}; it must be a whole number of at least 1")
    return max_tokens


def _response_format(value: Any) -> tuple[ResponseKind, Any]:
    if value is None:
        return "text", None
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return "text", None
    if kind == "json_object":
        return "json_object", None
    if kind != "json_schema":
        raise _refuse(f"response_format is {_shown(value)}; its type must be text, json_object or json_schema")
    return "json_schema", _schema(value.get("json_schema"))


def _schema(value: Any) -> Any:
    if not isinstance(value, dict) or "schema" not in value:
        raise _refuse(f"response_format.json_schema is {_shown(value)}; it must be an object with a schema")
    try:
        check_schema(value["schema"])
    except SchemaError as error:
        raise _refuse(f"response_format.json_schema.schema: {error}") from error
    return value["schema"]


def _prompt_tokens(messages: tuple[Message, ...], schema: Any) -> int:
    tokens = _TOKENS_PER_REPLY + (0 if schema is None else token_count(orjson.dumps(schema).decode()))
    for message in messages:
        tokens += _TOKENS_PER_MESSAGE + token_count(message.text) + _TOKENS_PER_MEDIA_PART * message.media_parts
    return tokens


def _shown(value: Any) -> str:
    """Return a value as an error shows it: short, and for a container only what it is."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    shown = json.dumps(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."
