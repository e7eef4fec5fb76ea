"""JSON values -> the one dtype that holds them all, and the values as that dtype wants them.

The order is null < boolean; integer < float. Objects are merged by field, in the order of first sight, and lists by
item. What does not go together, and integers beyond 64 bits with a sign, is "mixed": a String with the value's text.
Shapes are frozen.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import polars as pl

Scalar: TypeAlias = Literal["null", "boolean", "integer", "float", "string", "mixed"]
Shape: TypeAlias = "Scalar | ListShape | ObjectShape"


@dataclass(frozen=True, slots=True, eq=False)
class ListShape:
    """A list, and the shape of all its items."""

    item: Shape


@dataclass(frozen=True, slots=True, eq=False)
class ObjectShape:
    """An object, and the shapes of its fields in the order of first sight; `{}` when none was ever seen."""

    fields: Mapping[str, Shape]


NO_OBJECT = ObjectShape({})
_NO_LIST = ListShape("null")
_DTYPES: dict[Scalar, pl.DataType] = {
    "null": pl.Null(),
    "boolean": pl.Boolean(),
    "integer": pl.Int64(),
    "float": pl.Float64(),
    "string": pl.String(),
    "mixed": pl.String(),
}


def widened(shape: Shape, value: Any) -> Shape:
    """Return the shape that also holds `value`: the very same object when `shape` does already."""
    if value is None or shape == "mixed":
        return shape
    if isinstance(value, dict):
        known = NO_OBJECT if shape == "null" else shape
        return widened_object(known, value) if isinstance(known, ObjectShape) else "mixed"
    if isinstance(value, list):
        known = _NO_LIST if shape == "null" else shape
        return _widened_list(known, value) if isinstance(known, ListShape) else "mixed"
    kind = _scalar(value)
    if shape in (kind, "null"):
        return kind
    return "float" if {shape, kind} == {"integer", "float"} else "mixed"


def widened_object(shape: ObjectShape, value: Mapping[str, Any]) -> ObjectShape:
    """Return the shape that also holds the object's fields: the very same object when `shape` does already."""
    fields = shape.fields
    changes: dict[str, Shape] = {}
    for name, item in value.items():
        known = fields.get(name)
        new = widened("null" if known is None else known, item)
        if new is not known:
            changes[name] = new
    return ObjectShape({**fields, **changes}) if changes else shape


def dtype(shape: Shape) -> pl.DataType:
    """Return the dtype of a column of this shape."""
    if isinstance(shape, ListShape):
        return pl.List(dtype(shape.item))
    if isinstance(shape, ObjectShape):
        # Parquet cannot hold a struct without fields.
        return pl.Struct({name: dtype(field) for name, field in shape.fields.items()}) if shape.fields else pl.String()
    return _DTYPES[shape]


def is_natural(shape: Shape) -> bool:
    """Whether polars takes values of this shape as they are. Within lists and objects, an integer is no float."""
    if isinstance(shape, ListShape):
        return shape.item != "float" and is_natural(shape.item)
    if isinstance(shape, ObjectShape):
        return bool(shape.fields) and all(field != "float" and is_natural(field) for field in shape.fields.values())
    return shape != "mixed"


def conformed(value: Any, shape: Shape) -> Any:
    """Return the value as its dtype wants it: JSON text where the shape is mixed, and strings as they are."""
    if value is None:
        return None
    if isinstance(shape, ListShape):
        return [conformed(item, shape.item) for item in value]
    if isinstance(shape, ObjectShape) and shape.fields:
        return {name: conformed(value.get(name), field) for name, field in shape.fields.items()}
    if shape == "mixed" or isinstance(shape, ObjectShape):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return float(value) if shape == "float" else value


def _widened_list(shape: ListShape, value: list[Any]) -> ListShape:
    item = shape.item
    for entry in value:
        item = widened(item, entry)
    return shape if item is shape.item else ListShape(item)


def _scalar(value: bool | int | float | str) -> Scalar:
    if isinstance(value, str):
        return "string"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, float):
        return "float"
    return "integer" if -(2**63) <= value < 2**63 else "mixed"
