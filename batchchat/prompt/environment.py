"""The sandbox that a job's templates run in: Jinja's, with less in it.

The same row must make the same request in every run, or its answer is paid for again. So nothing here depends on the
clock, on chance, on the machine's time zone, on an address in memory or on the order of a hash. And no single step may
make so much of one value of a row that memory runs out. Loops are not counted: they are the author's own.
"""

import datetime
import functools
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from decimal import Decimal
from types import BuiltinMethodType, MappingProxyType, MethodType
from typing import Any

from jinja2 import StrictUndefined, Undefined, nodes, pass_environment, pass_eval_context
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.runtime import BlockReference, Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Cycler, Namespace
from jinja2.visitor import NodeTransformer

from batchchat.prompt.json_text import as_text, refuse_objects, text_of, to_json

MAX_CHARACTERS = 64 * 2**20
"""Characters of one rendered text, and of what one step makes."""
MAX_ITEMS = 1_000_000
"""Items of a list that one step makes."""
MAX_DIGITS = 4_200
"""Digits of a power; Python writes no integer of more than 4,300."""
MAX_PRECISION = 400
MAX_LEVELS = 100
"""Macros, blocks and recursive loops within each other; Python's own stack ends sooner in one program than another."""
MAX_JSON_INDENT = 100

_DATE = "ctime isocalendar isoformat isoweekday replace strftime timetuple toordinal weekday"
_ZONE = "dst tzname utcoffset"
_METHODS: Mapping[type, frozenset[str]] = MappingProxyType(
    {
        kind: frozenset(names.split())
        for kind, names in {
            str: "capitalize casefold center count endswith find format format_map index isalnum isalpha isascii"
            " isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower"
            " lstrip partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split"
            " splitlines startswith strip swapcase title upper zfill",
            bytes: "decode hex",
            int: "bit_count bit_length",
            float: "hex is_integer",
            Decimal: "adjusted as_tuple copy_abs is_finite is_infinite is_nan is_signed is_zero normalize quantize"
            " to_integral_value",
            list: "copy count index",
            tuple: "count index",
            dict: "copy get items keys values",
            datetime.timedelta: "total_seconds",
            datetime.time: f"isoformat replace strftime {_ZONE}",
            datetime.date: _DATE,
            datetime.datetime: f"{_DATE} {_ZONE} date time timestamp timetz utctimetuple",
            LoopContext: "changed cycle",
            Cycler: "next reset",
        }.items()
    }
)
_REMOVED_FILTERS = ("attr", "center", "forceescape", "pprint", "random", "safe", "urlize", "wordwrap", "xmlattr")
_REMOVED_TESTS = ("callable", "escaped", "filter", "test")
_CODECS = frozenset({"ascii", "cp1252", "latin1", "utf8", "utf16", "utf16le", "utf16be"})
_CONVERSION = re.compile(r"%(?:%|(?:\((?:[^()]|\([^()]*\))*\)|(\())?[-+ #0]*(\*|\d*)(?:\.(\*|\d*))?)")
_DIGITS = re.compile(r"\d+")
_RECURSIVE = (Macro, BlockReference, LoopContext)
_DATE_CODE = re.compile(r"%[-_0^#+:0-9]*[EO]?(.)", re.DOTALL)


class RowEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox with a short list of methods; a struct's field wins over a mapping's method."""

    intercepted_binops = frozenset({"-", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, finalize=as_text, keep_trailing_newline=True, optimized=False)
        self.binop_table |= {"-": _difference, "*": _product, "**": _power, "%": _percent}
        self.filters |= _OWN_FILTERS
        for name in _REMOVED_FILTERS:
            self.filters.pop(name, None)
        for name in _REMOVED_TESTS:
            self.tests.pop(name, None)
        del self.globals["lipsum"]
        self._level = 0
        self.__dict__["concat"] = joined  # compiled templates put macros and blocks together by it

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        checked: nodes.Template = _JoinTransformer().visit(source)
        checked.set_environment(self)
        return super()._generate(checked, *args, **kwargs)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return a mapping's field of that name, else the attribute."""
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Refuse what the sandbox does, and every method that is not listed: `day.today()` reads a clock."""
        if not super().is_safe_attribute(obj, attr, value):
            return False
        if not callable(value) or isinstance(obj, (Namespace, Undefined)):
            return True
        if isinstance(value, _RECURSIVE):
            return True
        if attr == "timestamp" and isinstance(obj, datetime.datetime) and obj.tzinfo is None:
            return False  # the machine's time zone would decide
        return attr in next((_METHODS[kind] for kind in type(obj).__mro__ if kind in _METHODS), ())

    def call(self, context: Context, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Return `called(*args, **kwargs)`; raise ValueError if it calls itself too deep."""
        if not isinstance(called, _RECURSIVE):
            return super().call(context, called, *args, **kwargs)
        self._level += 1
        try:
            if self._level > MAX_LEVELS:
                message = (
                    f"macros or recursive loops call each other more than {MAX_LEVELS} levels deep; end the recursion"
                    " sooner, or prepare a column before the run"
                )
                raise ValueError(message)
            return super().call(context, called, *args, **kwargs)
        finally:
            self._level -= 1

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        """Return what raises SecurityError once it is used."""
        message = (
            f"`{attribute}` of a value of type {type(obj).__name__} is not available in a template; use a filter, or"
            " prepare a column before the run"
        )
        return self.undefined(message, name=attribute, obj=obj, exc=SecurityError)

    def wrap_str_format(self, value: Any) -> Callable[..., Any] | None:
        """Return the guarded form of a method that has one, else None; Jinja asks for every attribute."""
        if not isinstance(value, (BuiltinMethodType, MethodType)):
            return None
        owner, name = value.__self__, value.__name__
        if isinstance(owner, str) and name == "format":
            return lambda *args, **kwargs: _Formatter(self).vformat(owner, args, kwargs)
        if isinstance(owner, str) and name == "format_map":
            return lambda names, /: _Formatter(self).vformat(owner, (), names)
        guards = (guard for (kind, guarded), guard in _GUARDS.items() if guarded == name and isinstance(owner, kind))
        guard = next(guards, None)
        return guard and functools.partial(guard, owner)


class _JoinTransformer(NodeTransformer):
    """Makes `a ~ b` a `join`: Jinja would compile it to a call of `str` that nothing can guard."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return nodes.Filter(nodes.List(node.nodes), "join", [], [], None, None, lineno=node.lineno)


def require(count: int, most: int = MAX_CHARACTERS, what: str = "characters of text") -> None:
    """Raise ValueError if a step would make more than is allowed."""
    if count > most:
        message = (
            f"a template makes more than {most:,} {what} of this row; use smaller values, or prepare a column before"
            " the run"
        )
        raise ValueError(message)


def joined(pieces: Iterable[str]) -> str:
    """Return the pieces as one text.

    Raises:
        ValueError: it would have more than MAX_CHARACTERS.
    """
    found, size = [], 0
    for piece in pieces:
        if piece:
            size += len(piece)
            if size > MAX_CHARACTERS:
                require(size)
            found.append(piece)
    return "".join(found)


# Operators


def _difference(left: Any, right: Any) -> Any:
    if isinstance(left, Set):  # keys of a mapping: a set has another order in each process
        right = set(right)
        return dict.fromkeys(item for item in left if item not in right).keys()
    return left - right


def _product(left: Any, right: Any) -> Any:
    for value, count in ((left, right), (right, left)):
        if isinstance(value, (str, bytes)) and isinstance(count, int):
            require(len(value) * count)
        elif isinstance(value, (list, tuple)) and isinstance(count, int) and count > 1:
            require(len(value) * count, MAX_ITEMS, "items")
            require(_characters(value) * count)
    return left * right


def _characters(value: Any) -> int:
    """Return how many characters the texts in a value have, at any depth."""
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, dict):
        return sum(_characters(item) for pair in value.items() for item in pair)
    return sum(map(_characters, value)) if isinstance(value, (list, tuple)) else 0


def _power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int) and abs(left) > 1:
        require(left.bit_length() * right * 3 // 10, MAX_DIGITS, "digits")
    return left**right


def _percent(left: Any, right: Any) -> Any:
    if isinstance(left, (str, bytes)):
        refuse_objects(right)
        require(_percent_size(left if isinstance(left, str) else left.decode("latin-1"), right))
    return left % right


def _percent_size(text: str, values: Any) -> int:
    """Return the most characters that `text % values` can have, by its widths and by what it may repeat."""
    conversions = _CONVERSION.findall(text)
    times = len(conversions) if isinstance(values, dict) else 1
    size = len(text) + times * len(str(values))
    for nested, *widths in conversions:
        if nested:
            message = "the parentheses of a name in `%(name)s` must match, with one pair within it at most"
            raise ValueError(message)
        if "*" in widths:
            size += sum(abs(value) for value in (values if isinstance(values, tuple) else ()) if isinstance(value, int))
        size += sum(int(width) for width in widths if width.isdigit())
    return size


# Methods


class _Formatter(SandboxedFormatter):
    """`str.format` of one call, its result counted."""

    size = 0

    def convert_field(self, value: Any, conversion: Any) -> Any:
        refuse_objects(value)
        return super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> str:
        refuse_objects(value)
        if isinstance(value, (datetime.date, datetime.time)):
            _refuse_local_time(format_spec)
        require(self.size + sum(int(digits) for digits in _DIGITS.findall(format_spec)))
        text = format(value, format_spec)
        self.size += len(text)
        require(self.size)
        return text


def _replace(text: str, old: str, new: str, count: int = -1) -> str:
    found = text.count(old)
    times = found if count < 0 else min(found, count)
    require(len(text) + times * (len(new) - len(old)))
    return text.replace(old, new, count)


def _join(separator: str, parts: Iterable[str]) -> str:
    parts = list(parts)
    require(len(separator) * len(parts) + sum(len(part) for part in parts if isinstance(part, str)))
    return separator.join(parts)


def _padded(name: str) -> Callable[..., str]:
    def pad(text: str, width: int, *fill: str) -> str:
        require(width)
        return str(getattr(text, name)(width, *fill))

    return pad


def _decode(content: bytes, encoding: str = "utf-8", errors: str = "strict") -> str:
    if encoding.lower().replace("-", "").replace("_", "") not in _CODECS:
        message = f"decode: {encoding!r} is not available; there are utf-8, utf-16, latin-1, cp1252 and ascii"
        raise ValueError(message)
    return content.decode(encoding, errors)


def _strftime(moment: Any, format: str) -> str:  # noqa: A002
    _refuse_local_time(format)
    return str(moment.strftime(format))


def _refuse_local_time(form: str) -> None:
    if any(code[1] == "s" for code in _DATE_CODE.finditer(form)):
        message = "a date format has no `%s` here, since it depends on the time zone of the machine; use `.timestamp()`"
        raise ValueError(message)


_GUARDS: Mapping[tuple[type, str], Callable[..., Any]] = MappingProxyType(
    {
        (str, "replace"): _replace,
        (str, "join"): _join,
        **{(str, name): _padded(name) for name in ("center", "ljust", "rjust", "zfill")},
        (bytes, "decode"): _decode,
        (datetime.date, "strftime"): _strftime,
        (datetime.time, "strftime"): _strftime,
    }
)


# Filters


def _of_text(name: str) -> Callable[..., Any]:
    """Return a filter of Jinja's that takes a text."""
    function: Callable[..., Any] = FILTERS[name]
    return lambda value, *args, **kwargs: function(text_of(value), *args, **kwargs)


def _replaced(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    return _replace(text_of(value), text_of(old), text_of(new), -1 if count is None else count)


@pass_environment
def _joined(environment: RowEnvironment, value: Iterable[Any], d: Any = "", attribute: Any = None) -> str:
    items = value if attribute is None else map(make_attrgetter(environment, attribute), value)
    return _join(text_of(d), map(text_of, items))


@pass_environment
def _summed(environment: RowEnvironment, value: Iterable[Any], attribute: Any = None, start: Any = 0) -> Any:
    items = value if attribute is None else map(make_attrgetter(environment, attribute), value)
    if isinstance(start, str):
        return _join("", [start, *items])
    if isinstance(start, list):
        return _extended(start, items)
    # Python's `sum` adds floats in another way since 3.12, and would make another request.
    return functools.reduce(operator.add, items, start)


def _extended(start: list[Any], lists: Iterable[Any]) -> list[Any]:
    total = list(start)
    for one in lists:
        if not isinstance(one, list):
            message = f"sum: a {type(one).__name__} cannot be added to a list"
            raise TypeError(message)
        require(len(total) + len(one), MAX_ITEMS, "items")
        total += one
    return total


def _indented(value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    text = text_of(value)
    require(len(text) + (len(width) if isinstance(width, str) else width) * (1 + len(text.splitlines())))
    return str(FILTERS["indent"](text, width, first, blank))


def _escaped(value: Any) -> str:
    return str(FILTERS["escape"](text_of(value)))  # a text like any other: nothing here is safe or unsafe


def _rounded(value: Any, precision: int = 0, method: str = "common") -> Any:
    require(abs(precision), MAX_PRECISION, "digits")
    return FILTERS["round"](value, precision, method)


def _formatted(value: Any, *args: Any, **kwargs: Any) -> Any:
    if args and kwargs:
        message = "format: give it values by position or by name, not both"
        raise ValueError(message)
    return _percent(text_of(value), kwargs or args)


def _url_encoded(value: Any) -> str:
    items = list(value) if isinstance(value, Iterator) else value
    refuse_objects(items)
    return str(FILTERS["urlencode"](items))


def _batched(value: Iterable[Any], linecount: int, fill_with: Any = None) -> Any:
    if fill_with is not None:
        require(linecount, MAX_ITEMS, "items")
    return FILTERS["batch"](value, linecount, fill_with)


@pass_eval_context
def _sliced(context: nodes.EvalContext, value: Iterable[Any], slices: int, fill_with: Any = None) -> Any:
    require(slices, MAX_ITEMS, "items")
    return FILTERS["slice"](context, value, slices, fill_with)


def _json(value: Any, indent: int | str | None = None) -> str:
    require(len(indent) if isinstance(indent, str) else indent or 0, MAX_JSON_INDENT, "blanks before a line")
    return to_json(value, indent)


_OWN_FILTERS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        **{
            name: _of_text(name) for name in ["capitalize", "lower", "striptags", "title", "trim", "upper", "wordcount"]
        },
        "batch": _batched,
        "e": _escaped,
        "escape": _escaped,
        "format": _formatted,
        "indent": _indented,
        "join": _joined,
        "replace": _replaced,
        "round": _rounded,
        "slice": _sliced,
        "string": text_of,
        "sum": _summed,
        "tojson": _json,
        "urlencode": _url_encoded,
    }
)
