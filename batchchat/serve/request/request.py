"""Read a chat-completions request: its bytes become a `ChatRequest`, or a `RefusedError` in Oxen's words.

Unknown parameters are ignored, as Oxen does; a null is as good as an absent parameter.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from batchchat.serve.request.errors import MESSAGES_EMPTY, MODEL_MISSING, RefusedError, model_not_found, refused
from batchchat.serve.request.media import Medium, read_medium
from batchchat.serve.request.models import is_known_model
from batchchat.serve.request.schema import SchemaError, problem_in, validator_of
from batchchat.serve.request.tokens import token_count

_TOKENS_PER_MESSAGE = 4
_TOKENS_PER_REPLY = 3
_TOKENS_PER_MEDIUM = 85
_DELIVERY = ("stream", "stream_options")


def _number(low: float, high: float) -> dict[str, Any]:
    return {"type": ["number", "null"], "minimum": low, "maximum": high}


def _whole_number(low: int, **more: int) -> dict[str, Any]:
    return {"type": ["integer", "null"], "minimum": low, **more}


def _object(required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties}


_FLAG = {"type": ["boolean", "null"]}
_NAME = {"type": "string", "minLength": 1}
_CALL = _object(("id", "function"), id=_NAME, function=_object(("name", "arguments"), name=_NAME, arguments=_NAME))
_PART = _object(("type",), type={"enum": ["text", "image_url", "video_url"]}, text={"type": "string"})
_MESSAGE = {
    **_object(
        ("role",),
        role={"enum": ["system", "user", "assistant", "tool"]},
        content={"type": ["string", "array", "null"], "items": _PART},
        tool_calls={"type": ["array", "null"], "items": _CALL},
        tool_call_id=_NAME,
    ),
    "allOf": [
        {
            "if": {"properties": {"role": {"const": "assistant"}}},
            "else": _object(("content",), content={"type": ["string", "array"]}),
        },
        {"if": {"properties": {"role": {"const": "tool"}}}, "then": {"required": ["tool_call_id"]}},
    ],
}
_FUNCTION = _object(
    ("name",),
    name={"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$"},
    description={"type": ["string", "null"]},
    parameters={"type": ["object", "null"], "properties": {"type": {"const": "object"}}},
)
_REQUEST = orjson.dumps(
    {
        **_object(
            (),
            model=_NAME,
            messages={"type": "array", "items": _MESSAGE},
            temperature=_number(0, 2),
            top_p=_number(0, 1),
            frequency_penalty=_number(-2, 2),
            presence_penalty=_number(-2, 2),
            max_tokens=_whole_number(1),
            max_completion_tokens=_whole_number(1),
            n=_whole_number(1, maximum=8),
            seed={"type": ["integer", "null"]},
            stop={"type": ["string", "array", "null"], "minLength": 1, "maxItems": 4, "items": _NAME},
            logprobs=_FLAG,
            top_logprobs=_whole_number(0, maximum=20),
            stream=_FLAG,
            stream_options={"type": ["object", "null"], "properties": {"include_usage": _FLAG}},
            response_format={
                **_object(("type",), type={"enum": ["text", "json_object", "json_schema"]}),
                "type": ["object", "null"],
                "if": {"properties": {"type": {"const": "json_schema"}}},
                "then": {"required": ["json_schema"], "properties": {"json_schema": _object(("schema",))}},
            },
            tools={
                "type": ["array", "null"],
                "maxItems": 128,
                "items": _object(("type", "function"), type={"const": "function"}, function=_FUNCTION),
            },
            tool_choice={
                **_object(("function",), function=_object(("name",), name=_NAME)),
                "type": ["string", "object", "null"],
                "if": {"type": "string"},
                "then": {"enum": ["none", "auto", "required"]},
            },
            parallel_tool_calls=_FLAG,
        ),
        "dependentRequired": {"top_logprobs": ["logprobs"]},
    }
)


@dataclass(frozen=True, slots=True)
class Message:
    """One message: its text parts joined, and its images and videos."""

    role: str
    text: str
    media: tuple[Medium, ...] = ()


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that may be called; `parameters` is the JSON Schema of its arguments."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A valid request.

    `tools` are the ones that may be called, `must_call` whether one has to be. `digest` is the same for requests that
    mean the same: spacing, key order and delivery do not count. `top_logprobs` None is no log probabilities at all.
    """

    model: str
    messages: tuple[Message, ...]
    digest: str
    prompt_tokens: int
    response_kind: Literal["text", "json_object", "json_schema"] = "text"
    schema: Any = None
    tools: tuple[Tool, ...] = ()
    must_call: bool = False
    has_parallel_calls: bool = True
    max_tokens: int | None = None
    choice_count: int = 1
    stops: tuple[str, ...] = ()
    top_logprobs: int | None = None
    is_streamed: bool = False
    has_usage_chunk: bool = False


def read_request(body: bytes) -> ChatRequest:
    """Return what the body asks for. Raises RefusedError with status 400 or 404."""
    try:
        value = orjson.loads(body)
        if not isinstance(value, dict):
            raise refused("the body must be a JSON object")
        # How an answer is delivered does not change it.
        meant = {key: part for key, part in value.items() if key not in _DELIVERY}
        canonical = orjson.dumps(meant, option=orjson.OPT_SORT_KEYS)
    except (ValueError, TypeError) as error:
        raise refused("the body is not JSON, or nested too deeply") from error
    _check(value)
    given = {key: part for key, part in value.items() if part is not None}
    messages = tuple(_message(message, f"messages[{index}]") for index, message in enumerate(given["messages"]))
    response_format = given.get("response_format", {"type": "text"})
    schema = response_format["json_schema"]["schema"] if response_format["type"] == "json_schema" else None
    if schema is not None:
        _check_schema(schema, "response_format.json_schema.schema")
    tools, must_call = _tools(given)
    limits = [int(given[name]) for name in ("max_tokens", "max_completion_tokens") if name in given]
    stop = given.get("stop", [])
    return ChatRequest(
        model=given["model"],
        messages=messages,
        digest=hashlib.blake2b(canonical, digest_size=12).hexdigest(),
        prompt_tokens=_prompt_tokens(messages, schema, given.get("tools")),
        response_kind=response_format["type"],
        schema=schema,
        tools=tools,
        must_call=must_call,
        has_parallel_calls=given.get("parallel_tool_calls", True),
        max_tokens=min(limits, default=None),
        choice_count=int(given.get("n", 1)),
        stops=(stop,) if isinstance(stop, str) else tuple(stop),
        top_logprobs=int(given.get("top_logprobs", 0)) if given.get("logprobs") else None,
        is_streamed=given.get("stream", False),
        has_usage_chunk=bool(given.get("stream_options", {}).get("include_usage")),
    )


def _check(value: Mapping[str, Any]) -> None:
    model = value.get("model")
    if model is None or model == "":
        raise RefusedError(MODEL_MISSING)
    if isinstance(model, str) and not is_known_model(model):
        raise RefusedError(model_not_found(model))
    if value.get("messages") in (None, []):
        raise RefusedError(MESSAGES_EMPTY)
    problem = problem_in(value, _REQUEST)
    if problem is not None:
        raise refused(problem)


def _message(message: Mapping[str, Any], where: str) -> Message:
    content = message.get("content") or ""
    if isinstance(content, str):
        return Message(message["role"], content)
    texts = [part.get("text", "") for part in content if part["type"] == "text"]
    media = [
        read_medium(part, f"{where}.content[{index}]") for index, part in enumerate(content) if part["type"] != "text"
    ]
    return Message(message["role"], "\n".join(texts), tuple(media))


def _tools(given: Mapping[str, Any]) -> tuple[tuple[Tool, ...], bool]:
    """Return the tools that may be called, and whether one must be."""
    functions = [tool["function"] for tool in given.get("tools", ())]
    tools = []
    for index, function in enumerate(functions):
        parameters = {"type": "object", **(function.get("parameters") or {})}
        _check_schema(parameters, f"tools[{index}].function.parameters")
        tools.append(Tool(function["name"], function.get("description") or "", parameters))
    choice = given.get("tool_choice", "auto")
    if choice == "none":
        return (), False
    if isinstance(choice, dict):
        tools = [tool for tool in tools if tool.name == choice["function"]["name"]][:1]
    must_call = choice != "auto"
    if must_call and not tools:
        raise refused("tool_choice asks for a tool that is not among the tools")
    return tuple(tools), must_call


def _check_schema(schema: Any, where: str) -> None:
    try:
        validator_of(orjson.dumps(schema))
    except SchemaError as error:
        raise refused(f"{where}: {error}") from error


def _prompt_tokens(messages: tuple[Message, ...], *extras: Any) -> int:
    tokens = _TOKENS_PER_REPLY
    for extra in extras:
        tokens += 0 if extra is None else token_count(orjson.dumps(extra).decode())
    for message in messages:
        tokens += _TOKENS_PER_MESSAGE + token_count(message.text) + _TOKENS_PER_MEDIUM * len(message.media)
    return tokens
