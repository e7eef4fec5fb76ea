"""The chunks of a stream -> the JSON that the plain reply would have had.

Unknown fields are kept, and the time is linear in what is given.
"""

from collections.abc import Mapping
from typing import Any

from batchchat.json_values import items_of, json_text
from batchchat.send.reply.tool_call_deltas import FunctionPieces, ToolCallPieces

_HEAD_KEYS = frozenset({"id", "model", "created"})
_NO_HEAD_KEYS = frozenset({"object", "choices", "error", "obfuscation"})
_NO_CHOICE_KEYS = frozenset({"index", "delta", "message", "finish_reason", "logprobs"})
_WHOLE_KEYS = frozenset({"role", "name", "type", "id"})
"""Keys of a delta whose text comes whole, however often; any other text comes in pieces."""


class Assembly:
    """One reply, as far as its chunks came."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._choices: dict[int, _ChoicePieces] = {}

    @property
    def is_finished(self) -> bool:
        """Whether there are choices, and each has said why it ended."""
        return bool(self._choices) and all(choice.is_finished for choice in self._choices.values())

    def add(self, chunk: Mapping[str, Any]) -> bool:
        """Take one chunk; return whether it brought any content, reasoning, refusal or tool call."""
        for key, value in chunk.items():
            if value is None or key in _NO_HEAD_KEYS or (key in _HEAD_KEYS and self._head.get(key)):
                continue
            if value or key not in self._head:
                self._head[key] = value
        says_something = False
        for choice in items_of(chunk.get("choices")):
            if self._add(choice, chunk.get("object") == "chat.completion"):
                says_something = True
        return says_something

    def as_reply(self) -> dict[str, Any]:
        """Return the reply; what no chunk had, it does not have."""
        usage = {key: self._head[key] for key in ("usage",) if key in self._head}
        head = {key: value for key, value in self._head.items() if key != "usage"}
        choices = [choice.as_reply(index) for index, choice in sorted(self._choices.items())]
        return {**head, "object": "chat.completion", "choices": choices, **usage}

    def _add(self, choice: Any, is_whole: bool) -> bool:
        if not isinstance(choice, dict):
            return False
        index = choice.get("index")
        index = index if isinstance(index, int) else 0
        pieces = self._choices.get(index)
        if pieces is None:
            pieces = self._choices[index] = _ChoicePieces()
        return pieces.add(choice, is_whole)


class _ChoicePieces:
    """One choice, as far as it came."""

    def __init__(self) -> None:
        self._message: _MessagePieces | None = None
        self._logprobs: dict[str, Any] | None = None
        self._others: dict[str, Any] = {}
        self._finish_reason: Any = None
        self._is_whole = False

    @property
    def is_finished(self) -> bool:
        return bool(self._finish_reason) or self._is_whole

    def add(self, choice: Mapping[str, Any], is_whole: bool) -> bool:
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        if isinstance(choice.get("logprobs"), dict):
            self._logprobs = self._logprobs or {}
            _extend(self._logprobs, choice["logprobs"])
        for key, value in choice.items():
            if key not in _NO_CHOICE_KEYS and value is not None:
                self._others[key] = value
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            delta = choice.get("message")
            self._is_whole = self._is_whole or (is_whole and isinstance(delta, dict))
        if not isinstance(delta, dict):
            return False
        if self._message is None:
            self._message = _MessagePieces()
        return self._message.add(delta)

    def as_reply(self, index: int) -> dict[str, Any]:
        message = {} if self._message is None else {"message": self._message.as_reply()}
        ending = {"logprobs": self._logprobs, "finish_reason": self._finish_reason}
        return {"index": index, **message, **ending, **self._others}


class _MessagePieces:
    """One message, as far as it came: text in pieces, lists, and what comes whole."""

    def __init__(self) -> None:
        self._content: list[Any] = []
        self._texts: dict[str, list[str]] = {}
        self._others: dict[str, Any] = {}
        self._calls = ToolCallPieces()
        self._function: FunctionPieces | None = None

    def add(self, delta: Mapping[str, Any]) -> bool:
        """Take a delta; return whether it says anything."""
        says_something = False
        for key, value in delta.items():
            if value is None:
                continue
            if key == "content":
                self._content.append(value)
            elif key == "tool_calls":
                self._calls.add(value)
            elif key == "function_call":
                self._function = self._function or FunctionPieces()
                self._function.add(value)
            elif isinstance(value, str) and key not in _WHOLE_KEYS:
                self._texts.setdefault(key, []).append(value)
            else:
                _extend(self._others, {key: value})
            says_something = says_something or (bool(value) and key not in _WHOLE_KEYS)
        return says_something

    def as_reply(self) -> dict[str, Any]:
        """Return the message; a content of nothing beside something else is null, as in a plain reply."""
        texts = {key: "".join(pieces) for key, pieces in self._texts.items()}
        calls = self._calls.as_reply()
        more: dict[str, Any] = {"tool_calls": calls} if calls else {}
        if self._function is not None:
            more["function_call"] = self._function.as_reply()
        content = _joined(self._content)
        if content == "" and (more or texts.get("refusal")):
            content = None
        return {"role": "assistant", **self._others, "content": content, **texts, **more}


def _extend(whole: dict[str, Any], part: Mapping[str, Any]) -> None:
    """Add a part's lists to those of the whole; of what is no list, the last one counts."""
    for key, value in part.items():
        if isinstance(value, list) and isinstance(whole.get(key), list):
            whole[key] += value
        elif value is not None or key not in whole:
            whole[key] = list(value) if isinstance(value, list) else value


def _joined(pieces: list[Any]) -> Any:
    """Return the pieces of a content as one text, or as one list of parts where any of them was a list."""
    if not pieces:
        return None
    parts: list[Any] = []
    texts: list[str] = []
    for piece in pieces:
        if isinstance(piece, list):
            parts += [*_text_parts(texts), *piece]
            texts = []
        else:
            texts.append(piece if isinstance(piece, str) else json_text(piece))
    has_lists = any(isinstance(piece, list) for piece in pieces)
    return [*parts, *_text_parts(texts)] if has_lists else "".join(texts)


def _text_parts(texts: list[str]) -> list[dict[str, str]]:
    text = "".join(texts)
    return [{"type": "text", "text": text}] if text else []
