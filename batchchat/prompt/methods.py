"""What a template may call on a row's values, and how the methods that could make huge texts are kept in bounds.

What passes in is a bound method and its arguments; what comes out is its result. A method that is not listed here is
not there for a template: it might read a clock, a time zone of the machine, a codec or a file, in this Python or a
later one.
"""

import datetime
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from itertools import islice
from types import MappingProxyType
from typing import Any

from jinja2 import Environment
from jinja2.sandbox import SandboxedFormatter

from batchchat.prompt.bounds import Meter

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
        }.items()
    }
)
_CODECS = frozenset({"ascii", "cp1252", "latin1", "utf8", "utf16", "utf16le", "utf16be"})
_LOOKS_AT_ITEMS = frozenset({"copy", "count", "index"})
_LINE_ENDS = re.compile("\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_WIDTHS = re.compile(r"[-+ #0]*(\*|[0-9]*)(?:\.(\*|[0-9]*))?")
_DIGITS = re.compile("[0-9]+")
_DATE_CODE = re.compile(r"%[-_0^#+:0-9]*[EO]?(.)", re.DOTALL)
_PARENTHESES = re.compile("[()]")


def is_listed(value: Any, name: str) -> bool:
    """Whether a template may call that method of a value."""
    if name == "timestamp" and isinstance(value, datetime.datetime) and value.tzinfo is None:
        return False  # the machine's time zone would decide
    known = (kind for kind in type(value).__mro__ if kind in _METHODS)
    kind = next(known, None)
    return kind is not None and name in _METHODS[kind]


def call_method(meter: Meter, method: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return what a listed method of a row's value gives.

    Raises:
        LimitError: it would make or look at too much.
        Exception: whatever the method raises.
    """
    owner, name = method.__self__, method.__name__
    if isinstance(owner, (str, bytes)) or name in _LOOKS_AT_ITEMS:
        meter.weigh(owner)
    args = tuple(map(meter.seen, args))
    for value in kwargs.values():
        meter.weigh(value)
    special = _SPECIAL.get((type(owner), name))
    if special is not None:
        return special(meter, owner, *args, **kwargs)
    if name == "strftime":
        refuse_local_time(args[0] if args else kwargs.get("format", ""))
    return method(*args, **kwargs)


def replace(meter: Meter, text: str, old: str, new: str, count: int = -1) -> str:
    """Return `text.replace(old, new, count)`, its length known before it is made."""
    found = text.count(old)
    times = found if count < 0 else min(found, count)
    meter.require_characters(len(text) + times * (len(new) - len(old)))
    return text.replace(old, new, count)


def join(meter: Meter, separator: str, parts: list[str]) -> str:
    """Return `separator.join(parts)`, its length known before it is made."""
    if all(isinstance(part, str) for part in parts):
        meter.require_characters(sum(map(len, parts)) + len(separator) * len(parts))
    return separator.join(parts)


def line_count(meter: Meter, text: str) -> int:
    """Return how many lines `text.splitlines()` would give, or one more."""
    return 1 + count_matches(meter, _LINE_ENDS.finditer(text))


def count_matches(meter: Meter, matches: Iterator[Any]) -> int:
    """Return how many there are, each of them a step."""
    found = sum(1 for _ in islice(matches, meter.steps_left + 1))
    meter.take_steps(found)
    return found


def _join(meter: Meter, separator: str, parts: Any) -> str:
    return join(meter, separator, meter.listed(parts))


def _split(from_right: bool) -> Callable[..., list[str]]:
    def split(meter: Meter, text: str, sep: str | None = None, maxsplit: int = -1) -> list[str]:
        most = meter.steps_left + 1 if maxsplit < 0 else min(maxsplit, meter.steps_left + 1)
        return text.rsplit(sep, most) if from_right else text.split(sep, most)

    return split


def _split_lines(meter: Meter, text: str, keepends: bool = False) -> list[str]:
    line_count(meter, text)
    return text.splitlines(keepends)


def _padded(name: str) -> Callable[..., str]:
    def pad(meter: Meter, text: str, width: int, *fill: str) -> str:
        meter.require_characters(width)
        return str(getattr(text, name)(width, *fill))

    return pad


def _decode(_: Meter, content: bytes, encoding: str = "utf-8", errors: str = "strict") -> str:
    if encoding.lower().replace("-", "").replace("_", "") not in _CODECS:
        message = f"decode: {encoding!r} is not available; there are utf-8, utf-16, latin-1, cp1252 and ascii"
        raise ValueError(message)
    return content.decode(encoding, errors)


_SPECIAL: Mapping[tuple[type, str], Callable[..., Any]] = MappingProxyType(
    {
        (str, "replace"): replace,
        (str, "join"): _join,
        (str, "split"): _split(from_right=False),
        (str, "rsplit"): _split(from_right=True),
        (str, "splitlines"): _split_lines,
        (bytes, "decode"): _decode,
        **{(str, name): _padded(name) for name in ("center", "ljust", "rjust", "zfill")},
    }
)


def refuse_local_time(form: Any) -> None:
    """Raise ValueError for a date format with `%s`, which the machine's time zone decides."""
    if isinstance(form, str) and any(code[1] == "s" for code in _DATE_CODE.finditer(form)):
        message = "a date format has no `%s` here, since it depends on the time zone of the machine; use `.timestamp()`"
        raise ValueError(message)


def refuse_wide(meter: Meter, text: str, values: Any) -> None:
    """Raise LimitError when `text % values` would be too long: it has widths, and may use a value many times."""
    characters = len(text) + (0 if isinstance(values, dict) else meter.weigh(values, is_text=True))
    position = text.find("%")
    while position >= 0:
        meter.take_steps(1)
        start, name = _name(meter, text, position + 1)
        widths = _WIDTHS.match(text, start)
        assert widths is not None  # it matches nothing as well
        if isinstance(values, dict) and text[widths.end() : widths.end() + 1] != "%":
            # Without a name, it is the text of the whole mapping.
            characters += meter.weigh(values if name is None else values.get(name), is_text=True)
        characters += sum(_width(width, values) for width in widths.groups(""))
        meter.require_characters(characters)
        position = text.find("%", widths.end() + 1)


def _name(meter: Meter, text: str, start: int) -> tuple[int, str | None]:
    """Return where the `(name)` of a conversion ends, and the name; parentheses in it are balanced."""
    if text[start : start + 1] != "(":
        return start, None
    depth = 0
    for mark in _PARENTHESES.finditer(text, start):
        meter.take_steps(1)
        depth += 1 if mark[0] == "(" else -1
        if not depth:
            return mark.end(), text[start + 1 : mark.start()]
    return len(text), None


def _width(written: str, values: Any) -> int:
    if written == "*":
        given = values if isinstance(values, tuple) else (values,)
        return sum(abs(value) for value in given if isinstance(value, int))
    return _number(written) if written else 0


def _number(digits: str) -> int:
    significant = digits.lstrip("0")
    return int(significant[:12] or "0")  # twelve digits are too many in any case


class MeteredFormatter(SandboxedFormatter):
    """`str.format` with the environment's rules for attributes, and its output counted."""

    def __init__(self, environment: Environment, meter: Meter) -> None:
        super().__init__(environment)
        self._meter = meter

    def convert_field(self, value: Any, conversion: Any) -> Any:
        """Return the value as `!r`, `!s` or `!a` wants it."""
        if conversion is not None:
            self._meter.weigh(value, is_text=True)
        return super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> str:
        """Return the value's text; the widths and precisions in `format_spec` are known before it is made."""
        self._meter.weigh(value, is_text=True)
        self._meter.require_characters(sum(_number(digits) for digits in _DIGITS.findall(format_spec)))
        if isinstance(value, (datetime.date, datetime.time)):
            refuse_local_time(format_spec)
        text = format(value, format_spec)
        self._meter.take_characters(len(text))
        return text
