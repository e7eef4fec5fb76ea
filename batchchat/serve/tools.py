"""The `tools` and `tool_choice` of a request -> values, or `RefusedError` with what is wrong with them.

It does not know messages, nor which tool a conversation speaks for.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

from batchchat.serve.refusal import refused, shown
from batchchat.serve.schema import Schema, SchemaError, check_schema

MAX_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")

ChoiceKind = Literal["none", "auto", "required", "named"]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that may be called; `parameters` is the schema of its arguments, which are an object."""

    name: str
    description: str
    parameters: Schema


@dataclass(frozen=True, slots=True)
class Offer:
    """What may be called: the tools, whether one must be, and whether several may be at once."""

    tools: tuple[Tool, ...] = ()
    choice: ChoiceKind = "none"
    is_parallel: bool = True


NOTHING_OFFERED = Offer()


def read_offer(tools: Any, choice: Any, parallel: Any) -> Offer:
    """Return what the three parameters say. Raises RefusedError with status 400."""
    if parallel is not None and not isinstance(parallel, bool):
        raise refused(f"parallel_tool_calls is {shown(parallel)}; it must be true or false")
    if tools is None and choice is None:
        return NOTHING_OFFERED
    read = _tools(tools)
    is_parallel = parallel is not False
    if choice is None or choice == "auto":
        return Offer(read, "auto" if read else "none", is_parallel)
    if choice == "none":
        return Offer(read, "none", is_parallel)
    if choice == "required" or (isinstance(choice, dict) and choice.get("type") == "function"):
        if not read:
            raise refused("tool_choice needs tools, and there are none")
        return Offer(read, "required", is_parallel) if choice == "required" else _named(read, choice, is_parallel)
    raise refused(
        f"tool_choice is {shown(choice)}; it must be none, auto, required, or an object with the type function and a "
        "function that has a name"
    )


def _named(tools: tuple[Tool, ...], choice: dict[str, Any], is_parallel: bool) -> Offer:
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    named = tuple(tool for tool in tools if tool.name == name)
    if not named:
        known = ", ".join(tool.name for tool in tools)
        raise refused(f"tool_choice.function.name is {shown(name)}; it must be one of the tools: {known}")
    return Offer(named[:1], "named", is_parallel)


def _tools(tools: Any) -> tuple[Tool, ...]:
    if tools is None:
        return ()
    if not isinstance(tools, list) or len(tools) > MAX_TOOLS:
        raise refused(f"tools is {shown(tools)}; it must be an array of at most {MAX_TOOLS}")
    return tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools))


def _tool(tool: Any, where: str) -> Tool:
    function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
    if not isinstance(function, dict):
        raise refused(f"{where} is {shown(tool)}; it must be an object with the type function and a function")
    where = f"{where}.function"
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise refused(f"{where}.name is {shown(name)}; it must be 1 to 64 letters, digits, underscores and dashes")
    description = function.get("description")
    if description is not None and not isinstance(description, str):
        raise refused(f"{where}.description is {shown(description)}; it must be a string")
    return Tool(name, description or "", _parameters(function.get("parameters"), f"{where}.parameters"))


def _parameters(schema: Any, where: str) -> Schema:
    if schema is None:
        return {"type": "object", "properties": {}}
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        raise refused(f"{where} is {shown(schema)}; it must be a JSON Schema of the type object")
    try:
        check_schema(schema)
    except SchemaError as error:
        raise refused(f"{where}: {error}") from error
    return schema if "type" in schema else {**schema, "type": "object"}
