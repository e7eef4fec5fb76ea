"""The Jinja environment in which a job's templates run: sandboxed, strict, deterministic.

Row values are data and are never compiled. It does not know the job file, requests or rows.
"""

import datetime
import decimal
import json
from collections.abc import Mapping
from typing import Any

import orjson
from jinja2 import StrictUndefined, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

_TEXT_TYPES = (datetime.date, datetime.time)
_PLAIN_TYPES = (int, float, decimal.Decimal, datetime.timedelta)
_CLOCKS = frozenset({"now", "utcnow", "today"})


class RowEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox, in which a struct's field wins over a mapping's method of the same name."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return `obj.attribute`; for a struct that has such a field, the field: `meta.items` is data, not a method."""
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Refuse what Jinja's sandbox does, and the clock: `{{ day.today() }}` would be another request each day."""
        is_clock = attr in _CLOCKS and isinstance(obj, datetime.date)
        return not is_clock and super().is_safe_attribute(obj, attr, value)


def as_text(value: Any) -> Any:
    """Return what a value looks like inside text: null as nothing, what JSON has as JSON, dates as ISO 8601.

    Raises:
        ValueError: a binary value that is not UTF-8 text; or no value at all but a function, a generator or the like,
            whose text would be its address in memory and so another request each time.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, Undefined, *_PLAIN_TYPES)):
        return value  # an Undefined says by itself what is missing, when Jinja makes text of it
    if value is None:
        return ""
    if isinstance(value, bytes):
        return _decoded(value)
    if isinstance(value, (list, tuple, dict)):
        return to_json(value)
    if isinstance(value, _TEXT_TYPES):
        return value.isoformat()
    message = f"a {type(value).__name__} is not a value; call it, or end the expression with `| list` or `| join`"
    raise ValueError(message)


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        message = f"a binary value of {len(value)} bytes is not UTF-8 text, so it cannot stand in a prompt"
        raise ValueError(message) from error


def to_json(value: Any, indent: int | None = None) -> str:
    """Return JSON as a model should read it: no HTML escapes, no ASCII escapes; dates as ISO 8601."""
    return json.dumps(value, ensure_ascii=False, indent=indent, default=_json_default)


def _json_default(value: Any) -> Any:
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    return as_text(value)


def json_value(value: Any) -> Any:
    """Return a value that orjson does not know as one that it does, for its `default`.

    Raises:
        TypeError, ValueError: nothing in JSON stands for it.
    """
    if isinstance(value, decimal.Decimal):
        if not value.is_finite():
            message = f"{value} is not a number that JSON has"
            raise ValueError(message)
        return orjson.Fragment(format(value, "f"))
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, float):
        return float(value)  # a subclass, such as the number of a CSV cell
    if isinstance(value, bytes):
        return _decoded(value)
    message = f"a value of type {type(value).__name__} cannot stand in a request"
    raise TypeError(message)


def row_environment() -> RowEnvironment:
    """Return a new environment; nothing in it depends on the clock, on chance, on files or on the process."""
    environment = RowEnvironment(undefined=StrictUndefined, finalize=as_text, keep_trailing_newline=True)
    del environment.filters[
        "random"
    ]  # the same row must give the same request, or its answer would never be found again
    del environment.filters["attr"]
    del environment.globals["lipsum"]
    environment.filters["tojson"] = to_json
    return environment
