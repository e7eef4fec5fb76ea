"""Answer a request in text: a label, a quoted sentence, or a JSON object.

It never pretends to be a language model: what is neither a label nor a summary begins with "[stand-in]".
"""

import hashlib
import re
from itertools import takewhile
from typing import Any

import orjson

from batchchat.serve.request.errors import refused
from batchchat.serve.request.labels import ranked, speaks_for
from batchchat.serve.request.request import ChatRequest, Message, Tool
from batchchat.serve.request.schema import SchemaError, instance_of
from batchchat.serve.request.words import first_sentence, listed_options

MARK = "[stand-in]"
# A longer text is read at its start only: a cell of 5 MB must not hold up the server.
_READ_CHARS = 16_000
_TASK = re.compile(r"\A[^\n]{0,200}:[ \t]*\n")
_KEYS = re.compile(r"\b(?:keys?|fields)\b[^.\n]{0,200}", re.IGNORECASE)
_COUNTED = re.compile(r"\b([2-9]|1\d) (\w+)")


def content_of(request: ChatRequest) -> str:
    """Return the text of the answer. Raises RefusedError when no instance of the schema can be made."""
    text = _asked(request)
    if request.response_kind == "json_schema":
        try:
            return orjson.dumps(instance_of(request.schema, text)).decode()
        except SchemaError as error:
            raise refused(f"response_format.json_schema.schema: {error}") from error
    if request.response_kind == "json_object":
        return orjson.dumps(_object(request, text)).decode()
    return _plain(request, text)


def calls_of(request: ChatRequest, index: int) -> list[dict[str, Any]]:
    """Return the tool calls of a choice: of the tools whose names the text speaks for, or of the likeliest one."""
    if not request.tools or (request.messages[-1].role == "tool" and not request.must_call):
        return []
    text = _asked(request)
    called = [tool for tool in request.tools if speaks_for(tool.name, text)]
    if request.must_call:
        described = {f"{tool.name} {tool.description}": tool for tool in request.tools}
        called = [described[ranked(list(described), text)[0]]]
    called = called if request.has_parallel_calls else called[:1]
    return [_call(tool, text, at, f"{request.digest}:{index}:{at}") for at, tool in enumerate(called)]


def _call(tool: Tool, text: str, index: int, salt: str) -> dict[str, Any]:
    try:
        arguments = orjson.dumps(instance_of(tool.parameters, text)).decode()
    except SchemaError as error:
        raise refused(f"the parameters of the tool {tool.name}: {error}") from error
    number = hashlib.blake2b(salt.encode(), digest_size=12).hexdigest()
    function = {"name": tool.name, "arguments": arguments}
    return {"index": index, "id": f"call_{number}", "type": "function", "function": function}


def _last_of_user(request: ChatRequest) -> Message:
    return next((one for one in reversed(request.messages) if one.role == "user"), request.messages[-1])


def _asked(request: ChatRequest) -> str:
    """Return what the answer is about: the user's last message without a task at its start or options in it."""
    text = listed_options(_last_of_user(request).text[:_READ_CHARS])[1]
    return _TASK.sub("", text) if _TASK.sub("", text).strip() else text


def _plain(request: ChatRequest, text: str) -> str:
    prompts = [message.text[:_READ_CHARS] for message in request.messages if message.role in ("system", "user")]
    options = next(filter(None, (listed_options(prompt)[0] for prompt in prompts)), None)
    if options:
        return str(ranked(options, text)[0])
    results = [one.text for one in takewhile(lambda one: one.role == "tool", reversed(request.messages))][::-1]
    if results:
        return f"{MARK} The {'tools say' if len(results) > 1 else 'tool says'}: {'; '.join(results)[:_READ_CHARS]}"
    sentence = first_sentence(text)
    if sentence and any("summar" in prompt.casefold() for prompt in prompts):
        return sentence
    seen = [medium.sentence for medium in _last_of_user(request).media]
    return " ".join([MARK, *seen, *([sentence] if sentence or seen else ["The message has no words."])]).rstrip()


def _object(request: ChatRequest, text: str) -> dict[str, Any]:
    """Return an object with the quoted keys that a prompt names, with the things it counts, or with one answer."""
    prompts = "\n".join(message.text[:_READ_CHARS] for message in request.messages)
    named = _KEYS.search(prompts)
    keys = re.findall(r"[\"'`](\w+)[\"'`]", named[0]) if named else []
    counted = _COUNTED.search(text)
    if keys:
        return dict.fromkeys(keys, first_sentence(text))
    if counted:
        return {counted[2]: [f"{counted[2]} {number + 1}" for number in range(int(counted[1]))]}
    return {"answer": _plain(request, text)}
