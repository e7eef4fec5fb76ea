"""Read YAML into plain values, with the line of each.

Types are those of YAML 1.2's core schema. `${NAME}` and `${NAME:-default}` are replaced by environment variables in any
scalar; `${TODAY}` and `${YESTERDAY}`, unless they are set, by the local date, such as 2026-11-22. Tags, duplicate keys
and documents that are huge once their aliases are unfolded are refused.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import yaml

from batchchat.errors import JobError, Problem
from batchchat.job.job import PRESETS

KeyPath = tuple[str | int, ...]

MAX_VALUES = 100_000
"""Values in a document once its aliases are unfolded."""

MAX_CHARACTERS = 2**20
"""Characters of a document, and of its texts once its aliases are unfolded; PyYAML reads some 100,000 a second."""

MAX_DEPTH = 100
"""Lists and mappings within each other."""

_VARIABLE = re.compile(r"\$(\$?)\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\}")
_SECRET_NAME = re.compile(r"(^|_)(API)?(KEY|TOKEN|SECRET|PASSWORD|PASSWD)(_?\d+)?$", re.IGNORECASE)
_SURROGATE = re.compile("[\ud800-\udfff]")
_CORE_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str"))
_DAYS_AGO = {"TODAY": 0, "YESTERDAY": 1}
_KEY_VARIABLES = {preset.api_key_env for preset in PRESETS.values()}


@dataclass(frozen=True, slots=True)
class Position:
    """Where a value stands: 1-based lines of its key and of its text, or the option that set it.

    `keeps_lines` says that lines within the value are lines of the file: a block scalar with `|`.
    """

    line: int
    value_line: int
    label: str = ""
    keeps_lines: bool = False

    def line_of(self, line_in_value: int) -> int:
        """Return the line of the file for a 1-based line within the value, as far as its style allows."""
        return self.value_line + (line_in_value - 1 if self.keeps_lines else 0)


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


def dotted(path: KeyPath) -> str:
    """Write a path as people do: `request.messages[0].content`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def position_of(path: KeyPath, positions: Mapping[KeyPath, Position]) -> Position | None:
    """Return the position of a value, or of the nearest value around it that has one."""
    while path not in positions:
        if not path:
            return None
        path = path[:-1]
    return positions[path]


def parse_yaml(text: str, label: str) -> tuple[Any, dict[KeyPath, Position]]:
    """Return the document's value and the position of every value in it.

    Raises:
        JobError: not YAML, or more than plain data; `label` names the file in the message.
    """
    if len(text) > MAX_CHARACTERS:
        what = f"has {len(text):,} characters, but a job file at most {MAX_CHARACTERS:,}; keep data in the input"
        raise JobError([Problem(label, "", what)])
    try:
        return _Document(text, label).read()
    except yaml.YAMLError as error:
        raise JobError([_syntax_problem(error, text, label)]) from error
    except RecursionError as error:
        what = f"is nested more than {MAX_DEPTH} levels deep; a job file is not"
        raise JobError([Problem(label, "", what)]) from error


def parse_value(text: str, label: str) -> Any:
    """Return the value of one YAML scalar or flow collection, as `--set` takes it; text that is not YAML stays text."""
    try:
        return _Document(text, label, substitutes=False).read()[0]
    except (yaml.YAMLError, JobError, RecursionError):
        return text


def _syntax_problem(error: yaml.YAMLError, text: str, label: str) -> Problem:
    mark = getattr(error, "problem_mark", None)
    if isinstance(error, yaml.reader.ReaderError):
        line_number = text.count("\n", 0, error.position) + 1
        what = f"the control character {chr(error.character)!r} is not allowed in YAML; remove it"
        return Problem(f"{label}:{line_number}", "", f"is not YAML: {what}")
    if mark is None:
        return Problem(label, "", f"is not YAML: {error}")
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""  # never printed: a key may stand in it by mistake
    reason = str(getattr(error, "problem", None) or "syntax error")
    if "\t" in line[: mark.column + 1]:
        reason = "a tab stands where YAML wants spaces; indent with spaces"
    elif getattr(error, "context", None) == "while scanning an alias":
        reason = "`*` begins an alias; put a glob in quotes"
    elif reason.endswith("but got '?'"):
        reason = 'within { } or [ ], text with a question mark must stand in quotes, such as "string?"'
    return Problem(f"{label}:{mark.line + 1}", "", f"is not YAML: {reason} (column {mark.column + 1})")


class _Document:
    """One pass over a YAML document: values out, positions and problems gathered."""

    def __init__(self, text: str, label: str, *, substitutes: bool = True) -> None:
        self.loader = _CoreLoader(text)
        self.label = label
        self.substitutes = substitutes
        self.positions: dict[KeyPath, Position] = {}
        self.problems: list[Problem] = []
        self._variables: set[str] = set()
        self._merged: set[int] = set()  # mappings whose `<<` is resolved, in place; an alias brings the same node again
        self._value_count = self._character_count = 0

    def read(self) -> tuple[Any, dict[KeyPath, Position]]:
        node = self.loader.get_single_node()
        if node is None:
            return None, {}
        value = self._value(node, ())
        self._refuse_key_variable(value)
        if self.problems:
            raise JobError(self.problems)
        return value, self.positions

    def _refuse_key_variable(self, value: Any) -> None:
        """Refuse `${NAME}` for the very variable that the job says holds its key."""
        endpoint = value.get("endpoint") if isinstance(value, dict) else None
        name = endpoint.get("api_key_env") if isinstance(endpoint, dict) else None
        if isinstance(name, str) and name in self._variables:
            text = f"${{{name}}} would put the endpoint's key into the job; naming it in endpoint.api_key_env is enough"
            self.problems.append(Problem(self.label, "", text))

    def _count(self, node: yaml.Node, depth: int) -> None:
        """Raise for a document that is too deep, as a value within itself is, or unfolds to too much."""
        if depth > MAX_DEPTH:
            raise RecursionError
        self._value_count += 1
        self._character_count += len(node.value) if isinstance(node, yaml.ScalarNode) else 0
        if self._value_count > MAX_VALUES or self._character_count > MAX_CHARACTERS:
            text = f"has more than {MAX_VALUES:,} values or {MAX_CHARACTERS:,} characters, aliases unfolded"
            raise JobError([Problem(self.label, "", f"{text}; keep data in the input")])

    def _value(self, node: yaml.Node, path: KeyPath) -> Any:
        self._count(node, len(path))
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
        if id(node) not in self._merged:
            self._merged.add(id(node))
            self._refuse_repeated_keys(node, path)
            try:
                self.loader.flatten_mapping(node)
            except TypeError:
                self._problem(node, path, "what `<<` merges must be a mapping")
                return {}
        result = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._problem(key, path, 'a key must be text; a template must stand in quotes: "{{ column }}"')
                return {}
            inner = (*path, key.value)
            self.positions[inner] = _position(key, value)
            result[key.value] = self._value(value, inner)
        return result

    def _refuse_repeated_keys(self, node: yaml.MappingNode, path: KeyPath) -> None:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in lines:
                    text = f"stands twice: here and in line {lines[key.value]}; remove one"
                    self._problem(key, (*path, key.value), text)
                lines[key.value] = key.start_mark.line + 1

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        if node.tag not in _CORE_TAGS:
            self._problem(node, path, f"the tag {node.tag} is not allowed; write plain values")
            return None
        if self.substitutes and "${" in node.value:
            text = _VARIABLE.sub(lambda match: self._variable(match, node, path), node.value)
            tag = self._plain_tag(node, text) if node.tag == self._plain_tag(node, node.value) else node.tag
            node = yaml.ScalarNode(tag, text, node.start_mark, node.end_mark, node.style)
        try:
            return _joined_surrogates(self.loader.construct_object(node))
        except (ValueError, KeyError, IndexError):
            self._problem(node, path, f"{node.value[:80]!r} cannot be read as {node.tag.rpartition(':')[2]}")
            return None

    def _plain_tag(self, node: yaml.ScalarNode, text: str) -> str:
        """Return the type that a scalar of this text has without a tag: by the text, if it is not quoted."""
        tag: str = self.loader.resolve(yaml.ScalarNode, text, (node.style is None, True))  # type: ignore[no-untyped-call]
        return tag

    def _variable(self, match: re.Match[str], node: yaml.Node, path: KeyPath) -> str:
        escape, name, default = match.groups()
        if escape:
            return match.group(0)[1:]
        if name in _KEY_VARIABLES or _SECRET_NAME.search(name):
            text = f"${{{name}}} looks like a secret, which must not get into the job; name it in endpoint.api_key_env"
            self._problem(node, path, text)
            return ""
        self._variables.add(name)
        # `:-` is the shell's: the default also stands in for an empty value.
        value = os.environ.get(name) or _date(name) or default
        if value is None and name not in os.environ:
            text = f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}"
            self._problem(node, path, text)
        return value or ""

    def _problem(self, node: yaml.Node, path: KeyPath, text: str) -> None:
        where = f"{self.label}:{node.start_mark.line + 1}"
        self.problems.append(Problem(where, dotted(path), text))


def _date(name: str) -> str | None:
    """Return the local date that a variable stands for which is given without being set; None for all others."""
    days_ago = _DAYS_AGO.get(name)
    return None if days_ago is None else (date.today() - timedelta(days_ago)).isoformat()  # noqa: DTZ011 - that of the user


def _joined_surrogates(value: Any) -> Any:
    r"""Join the halves of a character that JSON writes as two escapes ("\ud83d\ude00"); a lone half is a ValueError."""
    if not (isinstance(value, str) and _SURROGATE.search(value)):
        return value
    return value.encode("utf-16", "surrogatepass").decode("utf-16")


def _position(key: yaml.Node, value: yaml.Node) -> Position:
    style = value.style if isinstance(value, yaml.ScalarNode) else None
    first_line = value.start_mark.line + (2 if style in ("|", ">") else 1)
    return Position(key.start_mark.line + 1, first_line, keeps_lines=style == "|")
