"""JSON Schemas as dtypes, and JSON texts as columns of them.

An object with properties is a struct, an array with items a list; string, integer, number and boolean are String,
Int64, Float64 and Boolean; null is null. An enum or const is what its values are, `allOf` and `$ref` are merged with
what stands beside them, and anything may be null. `properties` and `items` without a `type` count as the object or the
array that they mean. All else is JSON text, so that nothing of it is lost: real unions (an integer or a number is a
number), what has no type, objects that are open or depend on conditions, tuples, references that lead back to where
they stand, integers whose bounds go beyond int64, and what Parquet or Arrow cannot hold.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal
from urllib.parse import unquote

import orjson
import polars as pl
import pyarrow as pa

MAX_NESTING = 32
"""Structs and lists within each other; Arrow passes on 64 at most."""
MAX_LEVELS = 200
"""Schemas within each other, references followed."""
MAX_SCHEMAS = 5_000
"""Schemas looked at; references can make a small schema describe an endless one."""

_INT64 = range(-(2**63), 2**63)
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_CONDITIONS = ("then", "else", "dependentSchemas", "dependencies")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a column's values look like: plain text and JSON text are one dtype, but not one shape.

    `fields` are those of a struct, `items` that of a list. `any` and `null` (nothing said, only null allowed) occur
    while a schema is read.
    """

    kind: Literal["any", "null", "json", "string", "integer", "number", "boolean", "struct", "list"]
    fields: tuple[tuple[str, Shape], ...] = ()
    items: Shape | None = None

    @property
    def dtype(self) -> pl.DataType:
        """The dtype of a column of this shape."""
        if self.kind == "struct":
            return pl.Struct([pl.Field(name, field.dtype) for name, field in self.fields])
        return pl.List(self.items.dtype) if self.items else _DTYPES[self.kind]


_DTYPES: Mapping[str, pl.DataType] = {
    "json": pl.String(),
    "string": pl.String(),
    "integer": pl.Int64(),
    "number": pl.Float64(),
    "boolean": pl.Boolean(),
}
_ANY, _NULL, _JSON = Shape("any"), Shape("null"), Shape("json")
_STRING, _INTEGER, _NUMBER, _BOOLEAN = Shape("string"), Shape("integer"), Shape("number"), Shape("boolean")
_SCALARS = {"string": _STRING, "number": _NUMBER, "boolean": _BOOLEAN, "null": _NULL}


def shape_of(schema: Any) -> Shape:
    """Return the shape of values that fit the schema; JSON text where the schema says nothing better."""
    try:
        return _settled(_Reading(schema).shape(schema, ()))
    except _TooManySchemasError:
        return _JSON


def _settled(shape: Shape, nesting: int = 0) -> Shape:
    """Return the shape without parts that are no column."""
    if shape.kind in ("any", "null") or (nesting == MAX_NESTING and shape.kind in ("struct", "list")):
        return _JSON
    fields = tuple((name, _settled(field, nesting + 1)) for name, field in shape.fields)
    return Shape(shape.kind, fields, shape.items and _settled(shape.items, nesting + 1))


class _TooManySchemasError(Exception):
    """There is no end to the schema, or it is far away."""


class _Reading:
    """One schema being read: where its references start, and how much of it may still be looked at."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._schemas_left = MAX_SCHEMAS

    def shape(self, schema: Any, above: tuple[int, ...]) -> Shape:
        """Return the shape that a schema gives; `above` identifies the schemas that it is a part of."""
        if not isinstance(schema, dict):
            return _ANY
        if id(schema) in above or len(above) == MAX_LEVELS:
            return _JSON
        self._schemas_left -= 1
        if self._schemas_left < 0:
            raise _TooManySchemasError
        within = (*above, id(schema))
        parts = [self._own(schema, within), *self._shapes(schema.get("allOf"), within)]
        if "$ref" in schema:
            parts.append(self.shape(_pointed_to(schema["$ref"], self._root), within))
        parts += [_one_of(self._shapes(schema[key], within)) for key in ("anyOf", "oneOf") if key in schema]
        return _all_of(parts)

    def _shapes(self, schemas: Any, above: tuple[int, ...]) -> list[Shape]:
        return [self.shape(schema, above) for schema in schemas] if isinstance(schemas, list) else []

    def _own(self, schema: Mapping[str, Any], within: tuple[int, ...]) -> Shape:
        """Return the shape that the keywords of a schema give, less those that combine others."""
        if "const" in schema:
            return _value_shape(schema["const"])
        if isinstance(schema.get("enum"), list):
            return _one_of(map(_value_shape, schema["enum"]))
        types = schema.get("type", _implied_type(schema))
        return _one_of([self._typed(kind, schema, within) for kind in (types if isinstance(types, list) else [types])])

    def _typed(self, kind: Any, schema: Mapping[str, Any], within: tuple[int, ...]) -> Shape:
        if kind == "object":
            return self._object(schema, within)
        if kind == "array":
            return self._array(schema, within)
        if kind == "integer":
            bounds = [schema[key] for key in _BOUNDS if isinstance(schema.get(key), int | float)]
            return _INTEGER if all(_INT64.start <= bound < _INT64.stop for bound in bounds) else _JSON
        return _SCALARS.get(kind, _ANY) if isinstance(kind, str) else _ANY

    def _object(self, schema: Mapping[str, Any], within: tuple[int, ...]) -> Shape:
        others = [schema.get("additionalProperties", False), schema.get("unevaluatedProperties", False)]
        if any(other is not False for other in others) or schema.get("patternProperties"):
            return _JSON
        if any(key in schema for key in _CONDITIONS):
            return _JSON
        properties = schema.get("properties")
        if not isinstance(properties, dict) or not properties:
            return _ANY
        if not all(map(_is_column_name, properties)):
            return _JSON
        return Shape("struct", tuple((name, self.shape(part, within)) for name, part in properties.items()))

    def _array(self, schema: Mapping[str, Any], within: tuple[int, ...]) -> Shape:
        items = schema.get("items")
        if "prefixItems" in schema or isinstance(items, list):
            return _JSON
        return Shape("list", items=self.shape(items, within)) if isinstance(items, dict) or items is True else _ANY


def _implied_type(schema: Mapping[str, Any]) -> str | None:
    """Return the type that a schema without one means."""
    if "properties" in schema:
        return "object"
    return "array" if "items" in schema or "prefixItems" in schema else None


def _is_column_name(name: Any) -> bool:
    """Tell whether a property can be a field: Arrow's names are C strings of UTF-8."""
    return isinstance(name, str) and "\0" not in name and storable(name) == name


def _value_shape(value: Any) -> Shape:
    """Return the shape of one value of an enum."""
    if value is None:
        return _NULL
    if isinstance(value, bool):
        return _BOOLEAN
    if isinstance(value, int):
        return _INTEGER if value in _INT64 else _JSON
    if isinstance(value, float):
        return _NUMBER
    return _STRING if isinstance(value, str) else _JSON


def _one_of(shapes: Iterable[Shape]) -> Shape:
    """Return the shape of values that have any one of the shapes."""
    kinds = set(shapes) - {_NULL}
    if kinds == {_INTEGER, _NUMBER}:
        return _NUMBER
    if len(kinds) > 1:
        return _JSON
    return kinds.pop() if kinds else _NULL


def _all_of(shapes: Iterable[Shape]) -> Shape:
    """Return the shape of values that have all of the shapes at once."""
    telling = [shape for shape in shapes if shape != _ANY]
    return reduce(_both, telling) if telling else _ANY


def _both(first: Shape, second: Shape) -> Shape:
    if first == second:
        return first
    if {first, second} == {_INTEGER, _NUMBER}:
        return _INTEGER
    if first.kind == second.kind == "struct":
        fields = dict(first.fields)
        for name, field in second.fields:
            fields[name] = _all_of([fields.get(name, _ANY), field])
        return Shape("struct", tuple(fields.items()))
    if first.items and second.items:
        return Shape("list", items=_all_of([first.items, second.items]))
    return _JSON


def _pointed_to(reference: Any, root: Any) -> Any:
    """Return what a reference within the schema (RFC 6901) leads to, None where that is nothing, or elsewhere."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        return None
    target = root
    for part in unquote(reference).split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(target, list) and re.fullmatch(r"\d{1,9}", key) and int(key) < len(target):
            target = target[int(key)]
        elif isinstance(target, dict):
            target = target.get(key)
        else:
            return None
    return target


def series_of(name: str, texts: Sequence[str | None], shape: Shape) -> pl.Series:
    """Return JSON texts as a column of the shape's dtype, one row per text, in order; None gives null.

    Properties that are absent are null, those that the shape does not have are dropped, and numbers become what their
    column holds: 1.0 an integer, 1 a float. What a column cannot hold is null: an integer beyond int64, or one that is
    written as a float beyond 2**53; a number beyond float64; a value of another type; JSON text nested deeper than
    some 250 levels; a text that is no JSON. Half of a surrogate pair becomes U+FFFD.
    """
    # pl.Series(<dicts>) and str.json_decode are up to four times as fast, but turn 5 into "5", tell no JSON text from
    # text, and raise for all rows when one is odd.
    read = _reader(shape)
    decoded = _exactly_decoded if _has_json(shape) else _decoded
    values = [None if text is None else read(decoded(text)) for text in texts]
    return pl.Series(name, pa.array(values, type=_arrow_type(shape)))


def _has_json(shape: Shape) -> bool:
    return (
        shape.kind == "json"
        or any(_has_json(field) for _, field in shape.fields)
        or (shape.items is not None and _has_json(shape.items))
    )


def _arrow_type(shape: Shape) -> pa.DataType:
    if shape.items:
        return pa.large_list(_arrow_type(shape.items))
    if shape.kind == "struct":
        return pa.struct([(name, _arrow_type(field)) for name, field in shape.fields])
    scalars = {"integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
    return scalars.get(shape.kind, pa.large_string())


def _reader(shape: Shape) -> Callable[[Any], Any]:
    """Return what turns a decoded value into one that has the shape."""
    if shape.kind == "struct":
        return _struct_reader([(name, _reader(field)) for name, field in shape.fields])
    return _list_reader(_reader(shape.items)) if shape.items else _READERS[shape.kind]


def _struct_reader(fields: Sequence[tuple[str, Callable[[Any], Any]]]) -> Callable[[Any], Any]:
    def read(value: Any) -> dict[str, Any] | None:
        if type(value) is not dict:
            return None
        return {name: read_field(value.get(name)) for name, read_field in fields}

    return read


def _list_reader(read_item: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: list(map(read_item, value)) if type(value) is list else None


@dataclass(frozen=True, slots=True)
class _Digits:
    """A number that Python or orjson would not keep as it is written."""

    text: str


def _text(value: Any) -> str | None:
    return value if type(value) is str else None


def _boolean(value: Any) -> bool | None:
    return value if type(value) is bool else None


def _integer(value: Any) -> int | None:
    if type(value) is int:
        return value if value in _INT64 else None
    # From 2**53 on, the float may be another integer than the one that was written.
    is_exact = type(value) is float and abs(value) < 2**53 and value.is_integer()
    return int(value) if is_exact else None


def _number(value: Any) -> float | None:
    if type(value) is float:
        return value
    if type(value) is int:
        return float(value)
    number = float(value.text) if type(value) is _Digits else math.inf
    return number if math.isfinite(number) else None


def _json_text(value: Any) -> str | None:
    if value is None:
        return None
    try:
        return orjson.dumps(value, _as_written, orjson.OPT_PASSTHROUGH_DATACLASS).decode()
    except orjson.JSONEncodeError:
        return None


def _as_written(digits: _Digits) -> orjson.Fragment:
    return orjson.Fragment(digits.text)


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "json": _json_text,
    "string": _text,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
}

# As many digits as an integer has that orjson makes a float of.
_LONG_NUMBER = re.compile(r"\d{19}")


def _exactly_decoded(text: str) -> Any:
    """Return the value of a JSON text, all digits of long integers kept."""
    return _oddly_decoded(text) if _LONG_NUMBER.search(text) else _decoded(text)


def _decoded(text: str) -> Any:
    """Return the value of a JSON text, None where it is no JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return _oddly_decoded(text)


def _oddly_decoded(text: str) -> Any:
    """Return the value of a JSON text that may have numbers too large, or strings too odd, for orjson."""
    try:
        value = json.loads(text, parse_int=_long_integer, parse_float=_large_float, parse_constant=lambda _: None)
        return _storable_value(value)
    except (ValueError, RecursionError):
        return None


def _long_integer(digits: str) -> int | _Digits:
    value = int(digits) if len(digits) <= 20 else 2**64
    return value if -(2**63) <= value < 2**64 else _Digits(digits)


def _large_float(digits: str) -> float | _Digits:
    value = float(digits)
    return value if math.isfinite(value) else _Digits(digits)


def _storable_value(value: Any) -> Any:
    """Return the value with every string in it, keys too, as a column can hold it."""
    if isinstance(value, dict):
        return {storable(key): _storable_value(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_storable_value(part) for part in value]
    return storable(value) if isinstance(value, str) else value


def storable(text: str) -> str:
    """Return the text with its surrogate pairs joined and U+FFFD for every surrogate that has no partner."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
