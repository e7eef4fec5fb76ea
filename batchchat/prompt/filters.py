"""The filters and tests that a template has: Jinja's, without those that a prompt has no use for, all of them counted.

What passes in is the environment's meter; what comes out are functions by name. Those left out escape for HTML, draw
lots, reach attributes, or take a time that grows faster than their text.
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from jinja2 import Environment, pass_environment
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.tests import TESTS

from batchchat.prompt.bounds import Meter, is_iterator
from batchchat.prompt.methods import count_matches, join, line_count, replace
from batchchat.prompt.plain import to_json

COUNTED, WEIGHED, SLICED, CONCATENATED = "counted rounds", "weighed value", "sliced value", "concatenated texts"
"""Filters that no template can name: they stand where it loops, compares, slices and joins by `~`."""

# fmt: off
_OF_ONE_STEP = ("abs", "count", "d", "default", "first", "last", "length")
_OF_ITEMS = ("list", "map", "reject", "rejectattr", "reverse", "select", "selectattr", "slice")
_OF_VALUES = (
    "dictsort", "filesizeformat", "float", "groupby", "int", "items", "max", "min", "sort", "truncate", "unique",
)
_OF_TEXTS = ("capitalize", "lower", "striptags", "trim", "upper")
_OF_CHARACTERS = ("groupby", "join", "max", "min", "sort", "sum", "unique", "urlencode")
_TESTS = (
    "boolean", "defined", "false", "float", "integer", "iterable", "mapping", "none", "number", "sameas", "sequence",
    "string", "true", "undefined",
)
_TESTS_OF_VALUES = (
    "!=", "<", "<=", "==", ">", ">=", "divisibleby", "eq", "equalto", "even", "ge", "greaterthan", "gt", "in", "le",
    "lessthan", "lt", "ne", "odd",
)
_TESTS_OF_TEXTS = ("lower", "upper")
# fmt: on
_WORD = re.compile(r"\w+")
_WORD_START = re.compile(r"([-\s({\[<]+)")
_MOST_PRECISION = 400

Function = Callable[..., Any]
_JINJA_FILTERS: Mapping[str, Any] = FILTERS
_JINJA_TESTS: Mapping[str, Any] = TESTS


def filters(meter: Meter) -> dict[str, Function]:
    """Return the filters by name, those for `COUNTED` and so on among them."""
    bound = functools.partial
    return {
        **{name: _counted(meter, _JINJA_FILTERS[name], _as_it_is) for name in _OF_ONE_STEP},
        **{name: _counted(meter, _JINJA_FILTERS[name], meter.counted) for name in _OF_ITEMS},
        **{name: _counted(meter, _JINJA_FILTERS[name], _look(meter, name)) for name in _OF_VALUES},
        **{name: _counted(meter, _JINJA_FILTERS[name], bound(_seen_text, meter)) for name in _OF_TEXTS},
        **{name: _counted(meter, bound(own, meter), _look(meter, name)) for name, own in _OWN.items()},
        "join": _counted(meter, pass_environment(bound(_joined, meter)), _look(meter, "join")),
        "sum": _counted(meter, pass_environment(_summed), _look(meter, "sum")),
        "format": _counted(meter, pass_environment(_formatted), meter.seen),
        "tojson": _counted(meter, bound(_json, meter), _as_it_is),
        COUNTED: meter.counted,
        **{name: bound(own, meter) for name, own in _HIDDEN.items()},
    }


def tests(meter: Meter) -> dict[str, Function]:
    """Return the tests by name."""
    return {
        **{name: _counted(meter, _JINJA_TESTS[name], _as_it_is) for name in _TESTS},
        **{name: _counted(meter, _JINJA_TESTS[name], meter.seen) for name in _TESTS_OF_VALUES},
        **{name: _counted(meter, _JINJA_TESTS[name], functools.partial(_seen_text, meter)) for name in _TESTS_OF_TEXTS},
    }


def _counted(meter: Meter, function: Function, look: Function) -> Function:
    """Return a filter or test that counts its call, its value by `look`, its other arguments and what it makes."""
    before = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        meter.take_steps(1)
        if len(args) == 1 and not kwargs:
            return meter.made(function(look(args[0])))
        seen = map(meter.seen, args[before + 1 :])
        named = {name: meter.seen(value) for name, value in kwargs.items()}
        return meter.made(function(*args[:before], look(args[before]), *seen, **named))

    return counted


def _as_it_is(value: Any) -> Any:
    return value


def _look(meter: Meter, name: str) -> Function:
    """Return how to look at the value of a filter: as at any argument, or character by character as well."""
    if name not in _OF_CHARACTERS:
        return meter.seen

    def look(value: Any) -> Any:
        value = meter.seen(value)
        meter.take_steps(len(value) if isinstance(value, str) else 0)
        return value

    return look


# Filters that Jinja would do without looking at the size of the result, or in a time that grows faster than it.


def _string(meter: Meter, value: Any) -> str:
    if type(value) is str:
        return value  # counted before, as an argument, and where it is put together with others
    meter.weigh(value, is_text=True)
    return str(value)


def _seen_text(meter: Meter, value: Any) -> str:
    return str(meter.seen(value)) if isinstance(value, str) else _string(meter, value)


def _replaced(meter: Meter, value: Any, old: Any, new: Any, count: int | None = None) -> str:
    texts = [_string(meter, one) for one in (value, old, new)]
    return replace(meter, texts[0], texts[1], texts[2], -1 if count is None else count)


def _joined(meter: Meter, environment: Environment, value: Iterable[Any], d: str = "", attribute: Any = None) -> str:
    items = value if attribute is None else map(make_attrgetter(environment, attribute), value)
    return join(meter, _string(meter, d), [_string(meter, item) for item in items])


def _summed(environment: Any, value: Iterable[Any], attribute: Any = None, start: Any = 0) -> Any:
    items = value if attribute is None else map(make_attrgetter(environment, attribute), value)
    return functools.reduce(lambda total, item: environment.call_binop(None, "+", total, item), items, start)


def _indented(meter: Meter, value: Any, width: int | str = 4, first: Any = False, blank: Any = False) -> str:
    text = _string(meter, value)
    prefix = len(width) if isinstance(width, str) else width
    meter.require_characters(len(text) + prefix * line_count(meter, text))
    return str(_JINJA_FILTERS["indent"](text, width, first, blank))


def _escaped(meter: Meter, value: Any) -> str:
    return str(_JINJA_FILTERS["escape"](_string(meter, value)))  # text like any other: nothing here is safe or unsafe


def _titled(meter: Meter, value: Any) -> str:
    words = _WORD_START.split(_string(meter, value), meter.steps_left + 1)
    meter.take_steps(len(words))
    return "".join(word[0].upper() + word[1:].lower() for word in words if word)


def _word_count(meter: Meter, value: Any) -> int:
    return count_matches(meter, _WORD.finditer(_string(meter, value)))


def _rounded(_: Meter, value: Any, precision: int = 0, method: str = "common") -> Any:
    if abs(precision) > _MOST_PRECISION:
        message = f"round: the precision {precision} is beyond {_MOST_PRECISION} digits"
        raise ValueError(message)
    return _JINJA_FILTERS["round"](value, precision, method)


def _formatted(environment: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
    if args and kwargs:
        message = "format: give it values by position or by name, not both"
        raise ValueError(message)
    return environment.call_binop(None, "%", _string(environment.meter, value), kwargs or args)


def _url_encoded(meter: Meter, value: Any) -> str:
    items = meter.listed(value) if is_iterator(value) else value
    meter.weigh(items, is_text=True)
    return str(_JINJA_FILTERS["urlencode"](items))


def _batched(meter: Meter, value: Iterable[Any], linecount: int, fill_with: Any = None) -> Any:
    items = list(meter.counted(value))
    batches = [items[start : start + linecount] for start in range(0, len(items), linecount)]
    if batches and fill_with is not None:
        meter.take_steps(linecount)
        batches[-1] += [fill_with] * (linecount - len(batches[-1]))
    return iter(batches)


def _json(meter: Meter, value: Any, indent: Any = None) -> str:
    width = len(indent) if isinstance(indent, str) else indent or 0
    meter.require_characters(meter.weigh(value, indent=width))
    return to_json(value, indent)


def _weighed(meter: Meter, value: Any) -> Any:
    meter.weigh(value)
    return value


def _sliced(meter: Meter, value: Any, start: Any, stop: Any, step: Any) -> Any:
    part = slice(start, stop, step)
    if isinstance(value, (str, bytes, list, tuple)):
        length = len(range(*part.indices(len(value))))
        meter.take_steps(1 + (length // 64 if isinstance(value, (str, bytes)) else length))
        meter.require_characters(length)
    return value[part]


def _concatenated(meter: Meter, values: list[Any]) -> str:
    return meter.joined([_string(meter, value) for value in values])


_OWN: Mapping[str, Function] = MappingProxyType(
    {
        "batch": _batched,
        "e": _escaped,
        "escape": _escaped,
        "indent": _indented,
        "replace": _replaced,
        "round": _rounded,
        "string": _string,
        "title": _titled,
        "urlencode": _url_encoded,
        "wordcount": _word_count,
    }
)
_HIDDEN: Mapping[str, Function] = MappingProxyType({WEIGHED: _weighed, SLICED: _sliced, CONCATENATED: _concatenated})
