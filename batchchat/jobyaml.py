"""YAML text -> plain values, with the line of each; the only module that knows a YAML library.

Types are those of YAML 1.2's core schema. `${NAME}` and `${NAME:-default}` are replaced by environment variables in any
scalar. Tags, cycles, duplicate keys and aliases that unfold to a huge document are refused.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from batchchat.errors import JobError, Problem
from batchchat.job import PRESETS

KeyPath = tuple[str | int, ...]

MAX_VALUES = 100_000
"""Values in a document once its aliases are unfolded; a bomb of nine nested anchors would have a billion."""

_VARIABLE = re.compile(r"\$(\$?)\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_SECRET_NAME = re.compile(r"(^|_)(API_?KEY|ACCESS_KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
_KEY_VARIABLES = {preset.api_key_env for preset in PRESETS.values()}


@dataclass(frozen=True, slots=True)
class Position:
    """Where a value stands: 1-based lines of its key and of its text, or the option that set it."""

    line: int
    value_line: int
    label: str = ""


class _CoreLoader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's core types: `no`, `02:00`, `1_000` and `2026-11-22` are text, `1e3` is a number."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 -- PyYAML's own class attribute


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    ("merge", r"<<", ["<"]),
):
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def _construct_int(loader: _CoreLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node), 0)


_CoreLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def parse_yaml(text: str, label: str) -> tuple[Any, dict[KeyPath, Position]]:
    """Return the document's value and the position of every value in it.

    Raises:
        JobError: not YAML, or more than plain data; `label` names the file in the message.
    """
    try:
        return _Document(text, label).read()
    except yaml.YAMLError as error:
        raise JobError([_syntax_problem(error, text, label)]) from error
    except RecursionError as error:
        raise JobError([Problem(label, "", "is nested too deeply to be a job file")]) from error


def parse_value(text: str, label: str) -> Any:
    """Return the value of one YAML scalar or flow collection, as `--set` takes it; text that is not YAML stays text."""
    try:
        return _Document(text, label, substitutes=False).read()[0]
    except (yaml.YAMLError, JobError):
        return text


def _syntax_problem(error: yaml.YAMLError, text: str, label: str) -> Problem:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return Problem(label, "", f"is not YAML: {error}")
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    reason = str(getattr(error, "problem", None) or "syntax error")
    if "\t" in line[: mark.column + 1]:
        reason = "a tab stands where YAML wants spaces; indent with spaces"
    elif getattr(error, "context", None) == "while scanning an alias":
        reason = "`*` begins an alias; put a glob in quotes"
    return Problem(f"{label}:{mark.line + 1}", "", f"is not YAML: {reason}, at: {line.strip()[:80]!r}")


class _Document:
    """One pass over a YAML document: values out, positions and problems gathered."""

    def __init__(self, text: str, label: str, *, substitutes: bool = True) -> None:
        self.loader = _CoreLoader(text)
        self.label = label
        self.substitutes = substitutes
        self.positions: dict[KeyPath, Position] = {}
        self.problems: list[Problem] = []

    def read(self) -> tuple[Any, dict[KeyPath, Position]]:
        node = self.loader.get_single_node()
        if node is None:
            return None, {}
        self._refuse_bomb(node)
        value = self._value(node, ())
        if self.problems:
            raise JobError(self.problems)
        return value, self.positions

    def _refuse_bomb(self, root: yaml.Node) -> None:
        sizes: dict[int, int] = {}

        def size(node: yaml.Node) -> int:
            if id(node) not in sizes:
                sizes[id(node)] = MAX_VALUES + 1  # what an alias to an enclosing node finds: a cycle has no size
                sizes[id(node)] = 1 + sum(size(child) for child in _children(node))
            return sizes[id(node)]

        if size(root) > MAX_VALUES:
            text = f"its aliases unfold to more than {MAX_VALUES:,} values; write the values out instead"
            raise JobError([Problem(self.label, "", text)])

    def _value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.positions.setdefault(path, _position(node, node))
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, path)
        self._problem(node, path, f"the tag {node.tag} is not allowed; write plain values")
        return None

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self._problem(key, path, 'a key must be text; a template must stand in quotes: "{{ column }}"')
                return {}
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                self._problem(key, (*path, key.value), f"stands twice: here and in line {seen[key.value]}; remove one")
            seen[key.value] = line
        self.loader.flatten_mapping(node)
        result = {}
        for key, value in node.value:
            inner = (*path, key.value)
            self.positions[inner] = _position(key, value)
            result[key.value] = self._value(value, inner)
        return result

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        if self.substitutes and "${" in node.value:
            node.value = _VARIABLE.sub(lambda match: self._variable(match, node, path), node.value)
            if node.style is None:
                node.tag = self.loader.resolve(yaml.ScalarNode, node.value, (True, False))  # type: ignore[no-untyped-call]
        try:
            return self.loader.construct_object(node)
        except ValueError as error:
            self._problem(node, path, f"{node.value!r} cannot be read: {error}")
            return None

    def _variable(self, match: re.Match[str], node: yaml.Node, path: KeyPath) -> str:
        escape, name, default = match.groups()
        if escape:
            return match.group(0)[1:]
        if name in _KEY_VARIABLES or _SECRET_NAME.search(name):
            text = f"${{{name}}} looks like a secret, which must not get into the job; name it in endpoint.api_key_env"
            self._problem(node, path, text)
            return ""
        value = os.environ.get(name) or default  # `:-` is the shell's: the default also stands in for an empty value
        if value is None and name not in os.environ:
            self._problem(
                node, path, f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}"
            )
        return value or ""

    def _problem(self, node: yaml.Node, path: KeyPath, text: str) -> None:
        where = f"{self.label}:{node.start_mark.line + 1}"
        self.problems.append(Problem(where, ".".join(str(part) for part in path), text))


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value


def _position(key: yaml.Node, value: yaml.Node) -> Position:
    is_block = isinstance(value, yaml.ScalarNode) and value.style in ("|", ">")
    return Position(key.start_mark.line + 1, value.start_mark.line + (2 if is_block else 1))
