"""The job's `request` compiled once; a row's values in, the request body out."""

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from types import MappingProxyType
from typing import Any

import orjson
from jinja2 import Template, TemplateSyntaxError, Undefined, nodes
from jinja2.meta import find_undeclared_variables

from batchchat.errors import TemplateError
from batchchat.prompt.body_parts import ROW, Piece, plain_pieces
from batchchat.prompt.environment import RowEnvironment, joined, require
from batchchat.prompt.json_text import as_text

ValuePath = tuple[str | int, ...]
Values = Mapping[str, Any]
Render = Callable[[Values], Any]
Place = Callable[[Iterator[Any]], Any]

_TAGS: Mapping[type, str] = MappingProxyType(
    {nodes.Include: "include", nodes.Import: "import", nodes.FromImport: "from", nodes.Extends: "extends"}
)
_MARKS = ("{{", "{%", "{#")
_SINGLE_BRACES = re.compile(r"(?<![{$\\])\{([^{}\n]{1,200})\}(?!\})")


@dataclass(frozen=True, slots=True)
class RequestTemplate:
    """A compiled `request`: which columns it reads (None: it uses the whole row), and how to render it.

    `are_texts` says that all that moves from row to row are contents and texts of messages.
    """

    columns: frozenset[str] | None
    are_texts: bool
    _renders: tuple[Render, ...]
    _place: Place

    @property
    def part_count(self) -> int:
        """How many parts each row has."""
        return len(self._renders)

    def render(self, values: Values) -> dict[str, Any]:
        """Return the request body for one row: `body` of its `parts`.

        Raises:
            Exception: as `parts` and `body`.
        """
        return self.body(self.parts(values))

    def parts(self, values: Values) -> list[Any]:
        """Return what the templates make of one row, in the order in which they stand in the request.

        Raises:
            Exception: whatever an expression raised on this row's values; the sandbox lets nothing else out.
        """
        return [render(values) for render in self._renders]

    def body(self, parts: Sequence[Any]) -> dict[str, Any]:
        """Return the request with the parts in their places.

        Raises:
            ValueError: `messages` did not come out as a list of messages, or `model` as text.
        """
        body = self._place(iter(parts))
        if not (isinstance(body["model"], str) and body["model"]):
            message = f"`model` must be text; this row gives {body['model']!r}"
            raise ValueError(message)
        return {**body, "messages": _conversation(body["messages"])}


def compile_request(request: Mapping[str, Any], columns: Sequence[str]) -> RequestTemplate:
    """Compile every string in `request` that holds a template.

    Raises:
        TemplateError: a syntax error, an unknown column, or a `{column}` that looks like a template and is none.
    """
    compiler = _Compiler(RowEnvironment(), columns)
    place = compiler.compile(request, ()) or (lambda _: request)
    used = None if compiler.uses_whole_row else frozenset(compiler.used)
    are_texts = all(map(_is_text_position, compiler.paths))
    return RequestTemplate(used, are_texts, tuple(compiler.renders), place)


class _Compiler:
    """Turns a nested value into a function of its moving parts; gathers how to render them, and the columns they read.

    `paths` has the place of each part, `renders` what makes it of a row's values.
    """

    def __init__(self, environment: RowEnvironment, columns: Sequence[str]) -> None:
        self.environment = environment
        self.columns = frozenset(columns)
        self.used: set[str] = set()
        self.uses_whole_row = False
        self.paths: list[ValuePath] = []
        self.renders: list[Render] = []

    def compile(self, value: Any, path: ValuePath) -> Place | None:
        """Return how to place the parts that move within `value`, or None for one that is the same for every row."""
        if isinstance(value, str):
            render = self._compile_text(value, path)
            if render is None:
                return None
            self.paths.append(path)
            self.renders.append(render)
            return next
        if isinstance(value, Mapping):
            return self._compile_mapping(value, path)
        if isinstance(value, list):
            places = [self.compile(item, (*path, index)) for index, item in enumerate(value)]
            if not any(places):
                return None
            pairs = list(zip(places, value, strict=True))
            return lambda parts: [place(parts) if place else item for place, item in pairs]
        return None

    def _compile_mapping(self, value: Mapping[str, Any], path: ValuePath) -> Place | None:
        places = {key: self.compile(item, (*path, key)) for key, item in value.items()}
        moving = [(key, place) for key, place in places.items() if place]
        if not moving:
            return None
        return lambda parts: {**value, **{key: place(parts) for key, place in moving}}

    def _compile_text(self, text: str, path: ValuePath) -> Render | None:
        if not any(mark in text for mark in _MARKS):
            self._refuse_single_braces(text, 1, path)
            return None
        is_text = _is_text_position(path)
        try:
            tree = self.environment.parse(text)
            for literal in tree.find_all(nodes.TemplateData):
                self._refuse_single_braces(literal.data, literal.lineno, path)
            _refuse_other_templates(tree, path)
            self._check_columns(tree, path)
            plain = plain_pieces(tree, self.columns)
            expression = self._bare_expression(text if is_text else text.strip())
            if expression is not None:
                evaluate = self._evaluated(expression) if plain is None else _column_getter(plain)
                render = _content(evaluate) if is_text else _native(evaluate)
            elif plain is None:
                render = self._rendered(self.environment.from_string(text))
            else:
                render = _joined(plain)
        except TemplateSyntaxError as error:
            message = f"not a valid template: {error.message} (line {error.lineno} of the text)"
            raise TemplateError(path, error.lineno, message) from error
        except (RecursionError, SyntaxError, MemoryError) as error:  # a MemoryError is one of Python's own parser
            raise TemplateError(path, 1, "not a valid template: it is nested too deeply") from error
        return render

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

    def _names(self, values: Values) -> dict[str, Any]:
        return {**self.environment.globals, **values, ROW: values}

    def _evaluated(self, expression: Template) -> Render:
        def evaluate(values: Values) -> Any:
            context = expression.new_context(self._names(values), shared=True)
            for _ in expression.root_render_func(context):
                pass
            value = context.vars["result"]
            if isinstance(value, Undefined):
                value._fail_with_undefined_error()
            return value

        return evaluate

    def _rendered(self, template: Template) -> Render:
        def render(values: Values) -> str:
            context = template.new_context(self._names(values), shared=True)
            return joined(template.root_render_func(context))

        return render

    def _check_columns(self, tree: nodes.Template, path: ValuePath) -> None:
        """Note which columns a text reads.

        Raises:
            TemplateError: there is no such column.
        """
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


def _column_getter(pieces: Sequence[Piece]) -> Render:
    """Return what gives the value of the one column among the pieces."""
    return itemgetter(next(piece.column for piece in pieces if piece.column is not None))


def _joined(plain: Sequence[Piece]) -> Render:
    """Return what Jinja makes of texts and columns, without Jinja's detours."""

    def render(values: Values) -> str:
        text = "".join([piece.text if piece.column is None else str(as_text(values[piece.column])) for piece in plain])
        require(len(text))
        return text

    return render


def _content(evaluate: Render) -> Render:
    """Return what makes a message's text of a value; a list of content parts stays one.

    The API takes no number and no null for a content.
    """

    def render(values: Values) -> Any:
        value = evaluate(values)
        if isinstance(value, list) and value and all(_is_part(part) for part in value):
            return value
        text = value if type(value) is str else str(as_text(value))
        require(len(text))
        return text

    return render


def _native(evaluate: Render) -> Render:
    def render(values: Values) -> Any:
        value = evaluate(values)
        _refuse_non_finite(value)
        return value

    return render


def _refuse_other_templates(tree: nodes.Template, path: ValuePath) -> None:
    """Raise TemplateError for a tag that would load another template: there is nowhere to load one from."""
    for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        tag = _TAGS[type(node)]
        message = f"the tag `{tag}` reads another file, which templates cannot; write all of the text here"
        raise TemplateError(path, node.lineno, message)


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


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping) and "type" in value


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
