"""A row's values as text and as JSON, the way a model should read them."""

import datetime
import decimal
import json
from collections.abc import ItemsView, KeysView, ValuesView
from typing import Any

import orjson
from jinja2 import Undefined

_DATE_TYPES = (datetime.date, datetime.time)
_NUMBER_TYPES = (int, float, decimal.Decimal, datetime.timedelta)
_COLLECTIONS = (list, tuple, dict, KeysView, ValuesView, ItemsView)
_PLAIN_TYPES = (str, bytes, Undefined, type(None), range, *_DATE_TYPES, *_NUMBER_TYPES)


def as_text(value: Any) -> Any:
    """Return what a value looks like inside text: null as nothing, what JSON has as JSON, dates as ISO 8601.

    Raises:
        ValueError: a binary value that is not UTF-8 text; or no value at all but a function, a generator or the like,
            whose text would be its address in memory and so another request each time.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, Undefined, *_NUMBER_TYPES)):
        return value  # an Undefined says by itself what is missing, when Jinja makes text of it
    if value is None:
        return ""
    if isinstance(value, bytes):
        return _decoded(value)
    if isinstance(value, (list, tuple, dict)):
        return to_json(value)
    if isinstance(value, _DATE_TYPES):
        return value.isoformat()
    raise _no_value(value)


def text_of(value: Any) -> str:
    """Return `str(value)`.

    Raises:
        ValueError: as `refuse_objects`.
    """
    if type(value) is str:
        return value
    refuse_objects(value)
    return str(value)


def refuse_objects(value: Any) -> None:
    """Raise ValueError for what is no value, at any depth: its text would be its address in memory."""
    if isinstance(value, _COLLECTIONS):
        for item in value:
            refuse_objects(item)
        if isinstance(value, dict):
            refuse_objects(list(value.values()))
    elif not isinstance(value, _PLAIN_TYPES):
        raise _no_value(value)


def _no_value(value: Any) -> ValueError:
    name = type(value).__name__
    return ValueError(f"a {name} is not a value; call it, or end the expression with `| list` or `| join`")


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        message = f"a binary value of {len(value)} bytes is not UTF-8 text, so it cannot stand in a prompt"
        raise ValueError(message) from error


def to_json(value: Any, indent: int | str | None = None) -> str:
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
