"""A table's cells as JSON, and as the text of a CSV cell.

The rules, at every depth: dates and times in ISO 8601 with all their digits, durations in seconds, decimals and
integers of any size as exact numbers, bytes as base64. A float that is not finite is null in JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate, pairwise
from typing import Any

import orjson
import polars as pl

# Integers that orjson refuses; polars 1.30 has no UInt128.
_HUGE = tuple(getattr(pl, name) for name in ("Int128", "UInt128") if hasattr(pl, name))
# Kinds whose text is a JSON number.
_NUMBERS = (pl.Duration, pl.Decimal, *_HUGE)
# A column's methods, and `struct.field`, take names like `^a.*$` and `*` for patterns.
_PLAIN_NAME = "column"
# What a spreadsheet takes for the beginning of a formula; many skip what is invisible before it.
_FORMULA = r"^(?:[\t\r\n]|[\s\p{Cc}\p{Cf}]*[=+\-@\x{FF1D}\x{FF0B}\x{FF0D}\x{FF20}])"
# The same within a text, behind what separates cells where `,` does not: there a quote opens no cell, but in the first.
_FORMULA_INSIDE = r"([;\t][\s\p{Cc}\p{Cf}\";]*)([=+\-@\x{FF1D}\x{FF0B}\x{FF0D}\x{FF20}])"
_PLAIN_NUMBER = r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"
_UNITS_PER_S = {"ms": 10**3, "us": 10**6, "ns": 10**9}


def json_values(column: pl.Series) -> list[Any]:
    """Return the column's values, one per row, as what orjson writes: plain values, and fragments for exact numbers."""
    column = column.alias(_PLAIN_NAME)
    kind = column.dtype.base_type()
    if kind is pl.List:
        return _list_values(column)
    if kind is pl.Array:
        return _list_values(column.arr.to_list())
    if kind is pl.Struct:
        return _struct_values(column)
    if kind in _NUMBERS:
        return [None if text is None else orjson.Fragment(text) for text in _scalar_texts(column).to_list()]
    return _scalar_texts(column).to_list()


def csv_column(column: pl.Series) -> pl.Series:
    """Return the column under its name as polars can write it to CSV: nested values as JSON text, null as null."""
    if not column.dtype.is_nested():
        return _scalar_texts(column.alias(_PLAIN_NAME)).alias(column.name)
    texts = [None if value is None else orjson.dumps(value).decode() for value in json_values(column)]
    return pl.Series(column.name, texts, dtype=pl.String)


def spreadsheet_safe(column: pl.Series) -> pl.Series:
    """Return a column as from `csv_column` with `'` before each text that a spreadsheet would take for a formula.

    That is one which begins with = + - @ (full-width ones too), invisible characters before it or not, or with a tab or
    the end of a line. A text that is a plain number, such as `-5`, stays as it is; so does what is no text.
    Within a text, `'` also goes before such a sign behind a `;` or a tab, where some spreadsheets would begin a cell.
    """
    if column.dtype != pl.String:
        return column
    column_name, column = column.name, column.alias(_PLAIN_NAME)
    column = column.str.replace_all(_FORMULA_INSIDE, "${1}'${2}")
    is_formula = column.str.contains(_FORMULA) & ~column.str.contains(_PLAIN_NUMBER)
    if is_formula.any():
        column = ("'" + column).zip_with(is_formula.fill_null(value=False), column)
    return column.alias(column_name)


def _scalar_texts(column: pl.Series) -> pl.Series:
    """Return the column as text where its dtype has a rule of its own, otherwise as it is."""
    text = _TEXTS.get(column.dtype.base_type())
    return column if text is None else text(column)


def _datetime_texts(column: pl.Series) -> pl.Series:
    # Through polars, not Python's datetime, which has no nanoseconds and ends at the year 9999.
    has_zone = isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone is not None
    return column.dt.to_string("%FT%T%.f%:z" if has_zone else "%FT%T%.f")


def _duration_texts(column: pl.Series) -> pl.Series:
    assert isinstance(column.dtype, pl.Duration)
    per_s = _UNITS_PER_S[column.dtype.time_unit]
    ticks = column.to_physical().to_list()
    return pl.Series(column.name, [None if tick is None else _seconds(tick, per_s) for tick in ticks], dtype=pl.String)


def _seconds(ticks: int, per_s: int) -> str:
    """Return ticks as a decimal number of seconds, exactly and without trailing zeros."""
    whole, rest = divmod(abs(ticks), per_s)
    digits = len(str(per_s)) - 1
    fraction = f".{rest:0{digits}d}".rstrip("0") if rest else ""
    return f"{'-' if ticks < 0 else ''}{whole}{fraction}"


_TEXTS: Mapping[Any, Callable[[pl.Series], pl.Series]] = {
    pl.Datetime: _datetime_texts,
    pl.Date: lambda column: column.dt.to_string("%F"),
    pl.Time: lambda column: column.dt.to_string("%T%.f"),
    pl.Duration: _duration_texts,
    pl.Binary: lambda column: column.bin.encode("base64"),
    **dict.fromkeys((pl.Decimal, pl.Categorical, pl.Enum, *_HUGE), lambda column: column.cast(pl.String)),
}


def _list_values(column: pl.Series) -> list[Any]:
    """Return a list column's values: all elements in one pass, then cut by the lengths."""
    lengths = column.list.len()
    elements = json_values(column.filter(lengths > 0).explode())
    bounds = pairwise(accumulate(lengths.fill_null(0).to_list(), initial=0))
    is_null = column.is_null().to_list()
    return [None if null else elements[start:end] for null, (start, end) in zip(is_null, bounds, strict=True)]


def _struct_values(column: pl.Series) -> list[Any]:
    """Return a struct column's values as dicts with the fields in their order."""
    names = column.struct.fields
    fields = [json_values(field) for field in column.struct.unnest().get_columns()]
    rows = zip(*fields, strict=True) if fields else ((),) * len(column)
    return [
        None if null else dict(zip(names, values, strict=True))
        for null, values in zip(column.is_null().to_list(), rows, strict=True)
    ]
