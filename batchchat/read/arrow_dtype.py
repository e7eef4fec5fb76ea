"""Which Arrow types can be read, and which dtype holds the values of two.

It reads no values.
"""

from pathlib import Path

import polars as pl
import pyarrow as pa

from batchchat.errors import InputError

_TEXT = (pl.String, pl.Categorical, pl.Enum)


def check_readable(file: Path, schema: pa.Schema) -> None:
    """Raise InputError for a column that polars cannot hold (it would panic, not raise), or that is there twice."""
    for field in schema:
        if schema.get_field_index(field.name) < 0:
            message = f'{file} has the column "{field.name}" more than once; give every column a name of its own'
            raise InputError(message)
        if not _is_readable(field.type):
            raise InputError(
                f'{file}: the column "{field.name}" is of type {field.type}, which cannot be read; '
                "cast that column to another type, or leave it out"
            )


def common_dtype(one: pl.DataType, other: pl.DataType) -> pl.DataType | None:
    """Return the dtype that holds the values of both; None when they are not of one kind."""
    if one == other or other == pl.Null:
        return one
    if one == pl.Null:
        return other
    if isinstance(one, _TEXT) and isinstance(other, _TEXT):
        return pl.String()
    if isinstance(one, pl.List) and isinstance(other, pl.List):
        inner = common_dtype(_inner(one), _inner(other))
        return None if inner is None else pl.List(inner)
    if _is_plain_number(one) and _is_plain_number(other):
        frames = [pl.DataFrame(schema={"number": dtype}) for dtype in (one, other)]
        return pl.concat(frames, how="vertical_relaxed").schema["number"]
    return None


def _is_plain_number(dtype: pl.DataType) -> bool:
    return dtype.is_integer() or dtype.is_float()


def _inner(dtype: pl.List) -> pl.DataType:
    return pl.Series(dtype=dtype.inner).dtype


def _is_readable(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _is_readable(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _is_readable(kind.value_type)
    if (
        pa.types.is_union(kind)
        or pa.types.is_interval(kind)
        or pa.types.is_decimal256(kind)
        or pa.types.is_run_end_encoded(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
    ):
        return False
    return all(_is_readable(kind.field(index).type) for index in range(kind.num_fields))
