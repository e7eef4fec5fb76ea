"""Make the tool calls of a reply odd."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson

from batchchat.serve.answer.text import calls_of
from batchchat.serve.request.request import ChatRequest, Tool

Reply = Mapping[str, Any]
Call = Mapping[str, Any]

_ANY_TOOL = Tool("odd_tool", "", {"type": "object", "properties": {"text": {"type": "string"}}})


def with_calls(reply: Reply, chat: ChatRequest) -> Reply:
    """Return the reply with tool calls: its own, or two of the first tool offered."""
    if "tool_calls" in reply["choices"][0]["message"]:
        return reply
    tool = (*chat.tools, _ANY_TOOL)[0]
    forced = replace(chat, tools=(tool,), must_call=True)
    calls = [{**call, "index": index} for index in range(2) for call in calls_of(forced, index)]
    return _calling(reply, {"content": None, "tool_calls": calls}, "tool_calls")


def odd_calls(name: str, reply: Reply, chat: ChatRequest) -> Reply | None:
    """Return the reply with odd tool calls, None for an oddity of another kind."""
    if name == "function-call":
        called = with_calls(reply, chat)
        function = called["choices"][0]["message"]["tool_calls"][0]["function"]
        return _calling(called, {"content": None, "function_call": function}, "function_call")
    if name not in _CHANGES:
        return None
    called = with_calls(reply, chat)
    calls = called["choices"][0]["message"]["tool_calls"]
    return _calling(called, {"content": None, "tool_calls": [_CHANGES[name](call) for call in calls]}, "tool_calls")


def _calling(reply: Reply, parts: Mapping[str, Any], finish_reason: str) -> Reply:
    choices = [
        {"index": choice["index"], "message": {"role": "assistant", **parts}, "finish_reason": finish_reason}
        for choice in reply["choices"]
    ]
    return {**reply, "choices": choices}


def _with_arguments(call: Call, arguments: Any) -> Call:
    return {**call, "function": {**call["function"], "arguments": arguments}}


_CHANGES: Mapping[str, Callable[[Call], Call]] = {
    "arguments-object": lambda call: _with_arguments(call, orjson.loads(call["function"]["arguments"])),
    "arguments-null": lambda call: _with_arguments(call, None),
    "arguments-empty": lambda call: _with_arguments(call, ""),
    "arguments-invalid": lambda call: _with_arguments(call, call["function"]["arguments"][:-1]),
    "tool-id-missing": lambda call: {key: value for key, value in call.items() if key != "id"},
    "tool-id-empty": lambda call: {**call, "id": ""},
    "tool-id-duplicate": lambda call: {**call, "id": "call_0"},
}
