"""The bytes of a request -> a `ChatBody`, or `RefusedError` with what Oxen would say of them.

Unknown parameters are accepted and ignored, as Oxen does; a null is as good as an absent one. It does not know what
will be answered, nor limits, keys or faults.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from batchchat.serve.catalogue import is_known_model
from batchchat.serve.message import Message, read_messages
from batchchat.serve.parameters import DEFAULTS, Parameters, read_parameters
from batchchat.serve.refusal import MODEL_MISSING, RefusedError, model_not_found, refused, shown
from batchchat.serve.schema import SchemaError, check_schema
from batchchat.serve.tokens import token_count
from batchchat.serve.tools import NOTHING_OFFERED, Offer, read_offer

_TOKENS_PER_MESSAGE = 4
_TOKENS_PER_REPLY = 3
_TOKENS_PER_MEDIA_PART = 85

_DELIVERY = ("stream", "stream_options")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

ResponseKind = Literal["text", "json_object", "json_schema"]


@dataclass(frozen=True, slots=True)
class ChatBody:
    """A valid request. `digest` is the same for bodies that mean the same: spacing and key order do not count."""

    model: str
    messages: tuple[Message, ...]
    response_kind: ResponseKind
    schema: Any
    digest: str
    prompt_tokens: int
    parameters: Parameters = DEFAULTS
    offer: Offer = NOTHING_OFFERED


def read_body(body: bytes) -> ChatBody:
    """Return what the body asks for. Raises RefusedError with status 400 or 404."""
    value = _parsed(body)
    model = _model(value.get("model"))
    messages = read_messages(value.get("messages"))
    parameters = read_parameters(value)
    offer = read_offer(value.get("tools"), value.get("tool_choice"), value.get("parallel_tool_calls"))
    kind, schema = _response_format(value.get("response_format"))
    canonical = _canonical(value)
    return ChatBody(
        model=model,
        messages=messages,
        response_kind=kind,
        schema=schema,
        digest=hashlib.blake2b(canonical, digest_size=12).hexdigest(),
        prompt_tokens=_prompt_tokens(messages, schema, value.get("tools")),
        parameters=parameters,
        offer=offer,
    )


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        value = _loads(body)
    except (ValueError, RecursionError) as error:
        raise refused("the body is not JSON, or nested too deeply") from error
    if not isinstance(value, dict):
        raise refused(f"the body is {shown(value)}; it must be a JSON object")
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


def _canonical(value: Mapping[str, Any]) -> bytes:
    # How the answer is delivered does not change it.
    is_streamed = "stream" in value or "stream_options" in value
    meant = {key: part for key, part in value.items() if key not in _DELIVERY} if is_streamed else value
    try:
        return orjson.dumps(meant, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        raise refused("the body is nested too deeply; 250 levels are allowed") from error


def _model(model: Any) -> str:
    if model is None or model == "":
        raise RefusedError(MODEL_MISSING)
    if not isinstance(model, str):
        raise refused(f"model is {shown(model)}; it must be a string")
    if not is_known_model(model):
        raise RefusedError(model_not_found(model))
    return model


def _response_format(value: Any) -> tuple[ResponseKind, Any]:
    if value is None:
        return "text", None
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return "text", None
    if kind == "json_object":
        return "json_object", None
    if kind != "json_schema":
        raise refused(f"response_format is {shown(value)}; its type must be text, json_object or json_schema")
    return "json_schema", _schema(value.get("json_schema"))


def _schema(value: Any) -> Any:
    if not isinstance(value, dict) or "schema" not in value:
        raise refused(f"response_format.json_schema is {shown(value)}; it must be an object with a schema")
    try:
        check_schema(value["schema"])
    except SchemaError as error:
        raise refused(f"response_format.json_schema.schema: {error}") from error
    return value["schema"]


def _prompt_tokens(messages: tuple[Message, ...], *extras: Any) -> int:
    tokens = _TOKENS_PER_REPLY
    for extra in extras:
        tokens += 0 if extra is None else token_count(orjson.dumps(extra).decode())
    for message in messages:
        tokens += _TOKENS_PER_MESSAGE + token_count(message.text) + _TOKENS_PER_MEDIA_PART * len(message.media)
    return tokens
