"""Fragments of streamed tool calls -> whole calls, in order of their first appearance.

Endpoints number and name the fragments in every wrong way, so an id decides before an index, and an index before the
order: a known id is that call, a new one opens a call even where the index is taken, an index alone is the newest call
that has it, and what has neither belongs to the call that was opened last.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batchchat.json_values import items_of, json_text, mapping_of, text_of

_OWN_KEYS = ("id", "index", "function")


@dataclass(slots=True)
class FunctionPieces:
    """What came so far of one function's name and arguments; `arguments` is empty where none were ever given."""

    name: str = ""
    arguments: list[str] = field(default_factory=list)
    is_begun: bool = False

    def add(self, function: Any) -> None:
        """Take a fragment; a name that is given again is the same one."""
        name, arguments = _parts(function)
        if name != self.name:
            self.name += name
        if arguments is not None:
            self.arguments.append(arguments)
            self.is_begun = self.is_begun or bool(arguments)

    def is_followed_by(self, function: Any) -> bool:
        """Whether a fragment, by its name, can only be the beginning of another call.

        A name may come in pieces, but not once the arguments have begun; it may also come again with every fragment.
        """
        name, arguments = _parts(function)
        if not name or not self.name:
            return False
        if name != self.name:
            return self.is_begun or bool(arguments)
        return self.is_begun and _is_seam(self.arguments[-1], arguments or "")

    def as_reply(self) -> dict[str, Any]:
        """Return it as a plain reply has it."""
        return {"name": self.name or None, "arguments": "".join(self.arguments) if self.arguments else None}


def _parts(function: Any) -> tuple[str, str | None]:
    fields = mapping_of(function)
    arguments = fields.get("arguments")
    is_text = arguments is None or isinstance(arguments, str)
    return text_of(fields.get("name")), arguments if is_text else json_text(arguments)


def _is_seam(before: str, after: str) -> bool:
    """Whether one object ends here and another begins, which no JSON has outside of its strings."""
    return before.rstrip().endswith("}") and after.lstrip().startswith("{")


@dataclass(slots=True)
class _Call:
    id: str
    index: int | None
    delta: int = 0
    function: FunctionPieces = field(default_factory=FunctionPieces)
    others: dict[str, Any] = field(default_factory=dict)


class ToolCallPieces:
    """The calls of one choice, as far as they came."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_id: dict[str, _Call] = {}
        self._by_index: dict[int, _Call] = {}
        self._delta = 0

    def add(self, fragments: Any) -> None:
        """Take the fragments of one delta."""
        self._delta += 1
        for fragment in items_of(fragments):
            if isinstance(fragment, dict):
                self._add(fragment)

    def as_reply(self) -> list[dict[str, Any]]:
        """Return the calls as a plain reply has them."""
        return [
            {"id": call.id or None, "type": "function", **call.others, "function": call.function.as_reply()}
            for call in self._calls
        ]

    def _add(self, fragment: Mapping[str, Any]) -> None:
        call_id, index, function = text_of(fragment.get("id")), fragment.get("index"), fragment.get("function")
        index = index if isinstance(index, int) else None
        is_named = bool(mapping_of(function).get("name"))
        call = self._with_id(call_id, index, is_named) if call_id else self._without_id(index, is_named)
        if call is None or self._is_another(call, function, is_named):
            call = self._open(call_id, index)
        call.delta = self._delta
        call.function.add(function)
        for key, value in fragment.items():
            if key not in _OWN_KEYS and value:
                call.others.setdefault(key, value)

    def _with_id(self, call_id: str, index: int | None, is_named: bool) -> _Call | None:
        if call_id in self._by_id:
            return self._by_id[call_id]
        call = self._at(index)
        if call is None or call.id or (is_named and call.function.name):
            return None
        call.id = call_id  # the arguments came first
        self._by_id[call_id] = call
        return call

    def _without_id(self, index: int | None, is_named: bool) -> _Call | None:
        last = self._calls[-1] if self._calls else None
        if last is None or index is None or index in self._by_index:
            return self._at(index) or last
        is_new = (is_named and last.function.name) or (not last.id and last.index is not None)
        if is_new:
            return None
        self._by_index[index] = last  # the end of a call has another number than its beginning
        return last

    def _at(self, index: int | None) -> _Call | None:
        return None if index is None else self._by_index.get(index)

    def _is_another(self, call: _Call, function: Any, is_named: bool) -> bool:
        is_named_twice = is_named and bool(call.function.name) and call.delta == self._delta
        return is_named_twice or call.function.is_followed_by(function)

    def _open(self, call_id: str, index: int | None) -> _Call:
        call = _Call(call_id, index)
        self._calls.append(call)
        if call_id:
            self._by_id[call_id] = call
        if index is not None:
            self._by_index[index] = call
        return call
