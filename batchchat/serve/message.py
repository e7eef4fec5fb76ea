"""The messages of a request -> `Message` values, or `RefusedError` with the place, the value found and what is allowed.

It does not know what the conversation is about, nor parameters beside `messages`.
"""

from dataclasses import dataclass
from typing import Any

from batchchat.serve.media import MEDIA_PARTS, Medium, read_medium
from batchchat.serve.refusal import MESSAGES_EMPTY, RefusedError, refused, shown

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Message:
    """One message: its text parts joined, and the parts that are media."""

    role: str
    text: str
    media: tuple[Medium, ...] = ()


def read_messages(messages: Any) -> tuple[Message, ...]:
    """Return the messages, of which there is at least one. Raises RefusedError with status 400."""
    if messages is None or messages == []:
        raise RefusedError(MESSAGES_EMPTY)
    if not isinstance(messages, list):
        raise refused(f"messages is {shown(messages)}; it must be an array")
    return tuple(_message(message, f"messages[{index}]") for index, message in enumerate(messages))


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, dict):
        raise refused(f"{where} is {shown(message)}; it must be an object")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise refused(f"{where}.role is {shown(role)}; it must be one of {', '.join(ROLES)}")
    if role == "assistant":
        _check_calls(message.get("tool_calls"), f"{where}.tool_calls")
    if role == "tool" and not _is_named(message.get("tool_call_id")):
        found = shown(message.get("tool_call_id"))
        raise refused(f"{where}.tool_call_id is {found}; it must be the id of the tool call that this answers")
    return _with_content(role, message.get("content"), f"{where}.content")


def _with_content(role: str, content: Any, where: str) -> Message:
    if isinstance(content, str):
        return Message(role, content)
    if isinstance(content, list):
        read = [_part(part, f"{where}[{index}]") for index, part in enumerate(content)]
        return Message(
            role,
            "\n".join(part for part in read if isinstance(part, str)),
            tuple(part for part in read if isinstance(part, Medium)),
        )
    if content is None and role == "assistant":
        return Message(role, "")
    raise refused(f"{where} is {shown(content)}; it must be a string or an array of parts")


def _part(part: Any, where: str) -> str | Medium:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if isinstance(kind, str) and kind in MEDIA_PARTS and part.get(kind) is not None:
        return read_medium(part, where)
    raise refused(f"{where} is {shown(part)}; it must be an object with a type (text, {', '.join(MEDIA_PARTS)}) and it")


def _check_calls(calls: Any, where: str) -> None:
    if calls is None:
        return
    if not isinstance(calls, list):
        raise refused(f"{where} is {shown(calls)}; it must be an array")
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        function = function if isinstance(function, dict) else {}
        is_named = _is_named(function.get("name")) and _is_named(call.get("id"))
        if not is_named or not isinstance(function.get("arguments"), str):
            raise refused(
                f"{where}[{index}] is {shown(call)}; it must be an object with an id and a function with name and "
                "arguments, all of them strings"
            )


def _is_named(name: Any) -> bool:
    return isinstance(name, str) and name != ""
