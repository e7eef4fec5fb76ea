"""The Jinja environment in which a job's templates run: sandboxed, strict, deterministic.

Row values are data and are never compiled. It does not know the job file, requests or rows.
"""

import datetime
import decimal
import json
from collections.abc import Mapping
from typing import Any

import orjson
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

_TEXT_TYPES = (datetime.date, datetime.time)


class RowEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox, in which a struct's field wins over a mapping's method of the same name."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return `obj.attribute`; for a struct that has such a field, the field: `meta.items` is data, not a method."""
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


def as_text(value: Any) -> Any:
    """Return what a value looks like inside text: null as nothing, lists and structs as JSON, dates as ISO 8601.

    Raises:
        ValueError: a binary value that is not UTF-8 text.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bytes):
        return _decoded(value)
    if isinstance(value, (list, tuple, dict)):
        return to_json(value)
    if isinstance(value, _TEXT_TYPES):
        return value.isoformat()
    return value


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
    return as_text(value) if isinstance(value, (bytes, *_TEXT_TYPES)) else str(value)


def json_value(value: Any) -> Any:
    """Return a value that orjson does not know as one that it does, for its `default`.

    Raises:
        TypeError: nothing in JSON stands for it.
    """
    if isinstance(value, decimal.Decimal):
        return orjson.Fragment(format(value, "f")) if value.is_finite() else None
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
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
