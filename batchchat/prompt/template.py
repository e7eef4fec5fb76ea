"""The job's `request` compiled once; a row's values in, the request body out.

What passes in is the `request` section and the names of the input's columns; what comes out for each row is a plain
JSON-like body. It does not know keys, bytes or the endpoint.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from jinja2 import Template, TemplateSyntaxError, Undefined, nodes
from jinja2.meta import find_undeclared_variables

from batchchat.errors import TemplateError
from batchchat.prompt.environment import RowEnvironment, as_text, row_environment

ValuePath = tuple[str | int, ...]
Render = Callable[[dict[str, Any]], Any]

ROW = "row"
"""The name under which a template finds the whole row: `{{ row["order id"] }}`."""

_MARKS = ("{{", "{%", "{#")
_SINGLE_BRACES = re.compile(r"(?<![{$\\])\{([^{}\n]{1,200})\}(?!\})")


@dataclass(frozen=True, slots=True)
class RequestTemplate:
    """A compiled `request`: which columns it reads (None: it uses the whole row), and how to render it."""

    columns: frozenset[str] | None
    _render: Render
    _globals: Mapping[str, Any]

    def render(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request body for one row.

        Raises:
            Exception: whatever an expression raised on this row's values; the sandbox lets nothing else out.
            ValueError: `messages` did not come out as a list of messages, or `model` as text.
        """
        body = self._render({**self._globals, **values, ROW: values})
        if not (isinstance(body["model"], str) and body["model"]):
            message = f"`model` must be text; this row gives {body['model']!r}"
            raise ValueError(message)
        return {**body, "messages": _conversation(body["messages"])}


def compile_request(request: Mapping[str, Any], columns: Sequence[str]) -> RequestTemplate:
    """Compile every string in `request` that holds a template.

    Raises:
        TemplateError: a syntax error, an unknown column, or a `{column}` that looks like a template and is none.
    """
    compiler = _Compiler(row_environment(), columns)
    render = compiler.compile(request, ())
    used = None if compiler.uses_whole_row else frozenset(compiler.used)
    return RequestTemplate(used, render or (lambda _: request), compiler.environment.globals)


class _Compiler:
    """Turns a nested value into a function of the row, and gathers the columns it reads."""

    def __init__(self, environment: RowEnvironment, columns: Sequence[str]) -> None:
        self.environment = environment
        self.columns = frozenset(columns)
        self.used: set[str] = set()
        self.uses_whole_row = False

    def compile(self, value: Any, path: ValuePath) -> Render | None:
        """Return how to render `value`, or None for a value that is the same for every row."""
        if isinstance(value, str):
            return self._compile_text(value, path)
        if isinstance(value, Mapping):
            return self._compile_mapping(value, path)
        if isinstance(value, list):
            parts = [self.compile(item, (*path, index)) for index, item in enumerate(value)]
            if not any(parts):
                return None
            pairs = list(zip(parts, value, strict=True))
            return lambda names: [part(names) if part else item for part, item in pairs]
        return None

    def _compile_mapping(self, value: Mapping[str, Any], path: ValuePath) -> Render | None:
        parts = {key: self.compile(item, (*path, key)) for key, item in value.items()}
        moving = [(key, part) for key, part in parts.items() if part]
        if not moving:
            return None
        return lambda names: {**value, **{key: part(names) for key, part in moving}}

    def _compile_text(self, text: str, path: ValuePath) -> Render | None:
        if not any(mark in text for mark in _MARKS):
            self._refuse_single_braces(text, 1, path)
            return None
        is_text = _is_text_position(path)
        try:
            tree = self.environment.parse(text)
            for literal in tree.find_all(nodes.TemplateData):
                self._refuse_single_braces(literal.data, literal.lineno, path)
            self._check_columns(tree, path)
            if (evaluate := self._bare_expression(text if is_text else text.strip())) is not None:
                return self._native(evaluate, is_text=is_text)
            template = self.environment.from_string(text)
        except TemplateSyntaxError as error:
            message = f"not a valid template: {error.message} (line {error.lineno} of the text)"
            raise TemplateError(path, error.lineno, message) from error
        except (RecursionError, SyntaxError) as error:
            raise TemplateError(path, 1, "not a valid template: it is nested too deeply") from error
        return lambda names: _rendered(template, names)

    def _bare_expression(self, text: str) -> Template | None:
        """Return the compiled inside of a text that is one `{{ expression }}` and nothing else, or None."""
        body = self.environment.parse(text).body
        is_single = len(body) == 1 and isinstance(body[0], nodes.Output) and len(body[0].nodes) == 1
        if not is_single or not (text.startswith("{{") and text.endswith("}}")):
            return None
        inside = text[2:-2]
        inside = inside[1:] if inside[:1] in ("-", "+") else inside
        inside = inside[:-1] if inside[-1:] in ("-", "+") else inside
        try:
            expression = self.environment.compile_expression(inside.strip(), undefined_to_none=False)
        except TemplateSyntaxError:
            return None  # more than an expression, such as `{{ a }}{# and a comment with }}`
        return expression._template  # the template itself: TemplateExpression copies all names for each call

    def _native(self, template: Template, *, is_text: bool) -> Render:
        def render(names: dict[str, Any]) -> Any:
            context = template.new_context(names, shared=True)
            for _ in template.root_render_func(context):
                pass
            value = context.vars["result"]
            if isinstance(value, Undefined):
                value._fail_with_undefined_error()
            if is_text:
                return _as_content(value)
            _refuse_non_finite(value)
            return value

        return render

    def _check_columns(self, tree: nodes.Template, path: ValuePath) -> None:
        # A name that the template sets somewhere is its own; a column wins over a global such as `range` or `dict`.
        own = {node.name for node in tree.find_all(nodes.Name) if node.ctx == "store"}
        loaded = {node.name for node in tree.find_all(nodes.Name) if node.ctx == "load"}
        hidden = loaded & self.columns & set(self.environment.globals)
        names = (find_undeclared_variables(tree) - (own - self.columns)) | hidden
        for name, line in self._row_lookups(tree, path):
            self._require(name, line, path)
        for name in sorted(names - {ROW}):
            self._require(name, _line_of(tree, name), path)

    def _refuse_hidden_column(self, tree: nodes.Template, path: ValuePath) -> None:
        if ROW in self.columns:
            message = (
                f'the input has a column "{ROW}"; write `{{{{ {ROW}["{ROW}"] }}}}` for it: `{ROW}` is the whole row'
            )
            raise TemplateError(path, _line_of(tree, ROW), message)

    def _row_lookups(self, tree: nodes.Template, path: ValuePath) -> Iterator[tuple[str, int]]:
        """Yield the columns named by `row["x"]` and `row.x`; any other use of `row` may read every column."""
        named = 0
        for field in tree.find_all(nodes.Getattr):
            if isinstance(field.node, nodes.Name) and field.node.name == ROW:
                named += 1
                yield field.attr, field.lineno
        for item in tree.find_all(nodes.Getitem):
            if isinstance(item.node, nodes.Name) and item.node.name == ROW and isinstance(item.arg, nodes.Const):
                named += 1
                yield str(item.arg.value), item.lineno
        if sum(node.name == ROW for node in tree.find_all(nodes.Name)) > named:
            self._refuse_hidden_column(tree, path)
            self.uses_whole_row = True

    def _require(self, name: str, line: int, path: ValuePath) -> None:
        if name not in self.columns:
            raise TemplateError(path, line, f"the input has no column {name!r}{nearest(name, self.columns)}")
        self.used.add(name)

    def _refuse_single_braces(self, text: str, first_line: int, path: ValuePath) -> None:
        for match in _SINGLE_BRACES.finditer(text):
            name = match.group(1)
            if name in self.columns:
                line = first_line + text.count("\n", 0, match.start())
                right = f"{{{{ {name} }}}}" if name.isidentifier() else f'{{{{ row["{name}"] }}}}'
                literal = f'{{{{ "{{{name}}}" }}}}'
                message = f"`{{{name}}}` is not a template; write `{right}`, or `{literal}` for the braces themselves"
                raise TemplateError(path, line, message)


def nearest(name: str, columns: Sequence[str] | frozenset[str]) -> str:
    """Return the end of a sentence that names the nearest column and what columns there are."""
    close = difflib.get_close_matches(name, sorted(columns), n=1, cutoff=0.5)
    shown = ", ".join(sorted(columns)[:20]) + (", ..." if len(columns) > 20 else "")
    return (f"; did you mean {close[0]!r}?" if close else ";") + f" Columns: {shown or '(none)'}"


def _rendered(template: Template, names: dict[str, Any]) -> str:
    return "".join(template.root_render_func(template.new_context(names, shared=True)))


def _is_text_position(path: ValuePath) -> bool:
    return bool(path) and path[0] == "messages" and path[-1] in ("content", "text")


def _refuse_non_finite(value: Any) -> None:
    """Raise ValueError for NaN and infinity at any depth: JSON has no such number, and null is another thing."""
    if isinstance(value, float) and not math.isfinite(value):
        message = f"{value} is not a number that JSON has"
        raise ValueError(message)
    if isinstance(value, (list, tuple, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            _refuse_non_finite(item)


def _as_content(value: Any) -> Any:
    """Keep a list of content parts; make text of anything else, since the API takes no number or null for a content."""
    is_parts = isinstance(value, list) and value and all(isinstance(part, Mapping) and "type" in part for part in value)
    return value if is_parts else str(as_text(value))


def _line_of(tree: nodes.Template, name: str) -> int:
    return next((node.lineno for node in tree.find_all(nodes.Name) if node.name == name), 1)


def _conversation(messages: Any) -> list[Any]:
    """Return the messages of a row; a column may hold them as a list of structs, or as the JSON text of such a list."""
    if isinstance(messages, str):
        messages = _loaded(messages)
    if not isinstance(messages, list) or not messages or not all(isinstance(message, Mapping) for message in messages):
        message = "`messages` must be a list with at least one message, each with a role and a content"
        raise ValueError(message)
    return [_without_nulls(message) for message in messages]


def _loaded(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        shown = text if len(text) <= 60 else f"{text[:60]}…"
        message = f"`messages` must be a list of messages, or the JSON text of one; this row gives {shown!r} ({error})"
        raise ValueError(message) from error


def _without_nulls(value: Any) -> Any:
    """Leave out null fields of a message and its parts: a column of structs has every field that any of them has."""
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    return {key: _without_nulls(item) for key, item in value.items() if item is not None or key == "content"}
