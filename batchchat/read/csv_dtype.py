"""Cells of a CSV column, as text -> the dtype that holds all of them without loss.

Int64 only if every cell would be printed the same again ("007", "+1" and "-0" make it String), Float64 only up to 15
significant digits, which a double always gives back.
"""

from collections.abc import Sequence

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

INT64, FLOAT64, BOOLEAN, STRING = pl.Int64(), pl.Float64(), pl.Boolean(), pl.String()
CANDIDATES: tuple[pl.DataType, ...] = (INT64, FLOAT64, BOOLEAN)

_INTEGER = r"^(?:0|-?[1-9][0-9]{0,18})$"
# Exponents of at most 199 and 99 decimals stay clear of infinity and of underflow.
_EXPONENT = r"[eE][+-]?1?[0-9]{1,2}"
_NUMBER = rf"^(?:0|-?[1-9][0-9]*|-?(?:0|[1-9][0-9]*)(?:\.[0-9]{{1,99}}(?:{_EXPONENT})?|{_EXPONENT}))$"
_MORE_THAN_15_DIGITS = r"^-?[0.]*[1-9]\.?(?:[0-9]\.?){15}"
_DOUBLE_DIGITS = 15
_INT64_DIGITS = 19
_BOOLEANS = pa.array(["true", "false"])


def remaining(candidates: tuple[pl.DataType, ...], cells: pa.Array) -> tuple[pl.DataType, ...]:
    """Return those of `candidates`, narrowest first, that can hold every one of `cells`; null fits all."""
    if INT64 in candidates and _are_integers(cells):
        # Short integers are numbers as well, and no integer is a boolean: two slow questions less.
        is_number = _longest(cells) <= _DOUBLE_DIGITS or _are_numbers(cells)
        return tuple(dtype for dtype in candidates if dtype is INT64 or (dtype is FLOAT64 and is_number))
    return tuple(dtype for dtype in candidates if dtype is not INT64 and _HOLDS[dtype](cells))


def typed(text: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """Return the frame of strings with the dtypes that the schema gives its columns."""
    return pl.DataFrame({cells.name: _typed(cells, schema[cells.name]) for cells in text})


def _typed(cells: pl.Series, dtype: pl.DataType) -> pl.Series:
    if isinstance(dtype, pl.String):
        return cells
    return cells == "true" if isinstance(dtype, pl.Boolean) else cells.cast(dtype)


def _are_integers(cells: pa.Array) -> bool:
    if not _all_match(cells, _INTEGER):
        return False
    if _longest(cells) < _INT64_DIGITS:
        return True
    try:
        pc.cast(cells, pa.int64())
    except pa.ArrowInvalid:
        return False
    return True


def _longest(cells: pa.Array) -> int:
    return int(pc.max(pc.binary_length(cells)).as_py() or 0)


def _are_numbers(cells: pa.Array) -> bool:
    return _all_match(cells, _NUMBER) and not pc.any(pc.match_substring_regex(cells, _MORE_THAN_15_DIGITS)).as_py()


def _are_booleans(cells: pa.Array) -> bool:
    return bool(pc.all(pc.is_in(cells.drop_null(), _BOOLEANS)).as_py() is not False)


def _all_match(cells: pa.Array, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(cells, pattern)).as_py() is not False)


_HOLDS = {FLOAT64: _are_numbers, BOOLEAN: _are_booleans}


def final_dtype(candidates: Sequence[pl.DataType], *, is_all_null: bool) -> pl.DataType:
    """Return the column's dtype once every cell was seen; a column without any cell is String."""
    return STRING if is_all_null or not candidates else candidates[0]
