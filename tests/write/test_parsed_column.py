"""Structured answers as typed columns: the dtype of a schema, and JSON texts as values of it."""

from __future__ import annotations

import enum
import io
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from pydantic import BaseModel, Field

from batchchat.records import Answer, Batch, Completion
from batchchat.write.columns import answer_columns, plan_output
from batchchat.write.parsed_column import MAX_NESTING, series_of, shape_of
from batchchat.write.sink import Sink

STRING = {"type": "string"}
INTEGER = {"type": "integer"}
NUMBER = {"type": "number"}
BOOLEAN = {"type": "boolean"}
NULL = {"type": "null"}
TEXT = pl.String()


def shape_dtype(schema: Any) -> pl.DataType:
    """Return the dtype of a column with values that fit the schema."""
    return shape_of(schema).dtype


def an_object(**properties: Any) -> dict[str, Any]:
    """Return the schema of an object."""
    return {"type": "object", "properties": properties}


def an_array(items: Any) -> dict[str, Any]:
    """Return the schema of an array."""
    return {"type": "array", "items": items}


def a_struct(**fields: pl.DataType) -> pl.Struct:
    """Return the dtype of a struct."""
    return pl.Struct(fields)


NODE = an_object(value=INTEGER, children=an_array({"$ref": "#/$defs/Node"}))


@pytest.mark.parametrize(
    ("schema", "dtype"),
    [
        (STRING, TEXT),
        (INTEGER, pl.Int64()),
        (NUMBER, pl.Float64()),
        (BOOLEAN, pl.Boolean()),
        (an_object(b=STRING, a=INTEGER), a_struct(b=TEXT, a=pl.Int64())),
        (an_array(NUMBER), pl.List(pl.Float64())),
        (an_array(an_object(x=an_array(BOOLEAN))), pl.List(a_struct(x=pl.List(pl.Boolean())))),
        ({"properties": {"a": INTEGER}}, a_struct(a=pl.Int64())),
        ({"items": INTEGER}, pl.List(pl.Int64())),
        ({"enum": ["a", "b"]}, TEXT),
        ({"enum": [1, 2]}, pl.Int64()),
        ({"enum": [1, 2.5]}, pl.Float64()),
        ({"enum": [True, None]}, pl.Boolean()),
        ({"const": 3}, pl.Int64()),
        ({"type": ["string", "integer"], "enum": [1, 2]}, pl.Int64()),
        ({"type": ["integer", "null"]}, pl.Int64()),
        ({"type": "integer", "nullable": True}, pl.Int64()),
        ({"type": ["integer", "number"]}, pl.Float64()),
        ({"anyOf": [INTEGER, NULL]}, pl.Int64()),
        ({"oneOf": [NULL, an_object(a=STRING)]}, a_struct(a=TEXT)),
        ({"anyOf": [INTEGER, NUMBER]}, pl.Float64()),
        ({"anyOf": [{"const": 1}, {"const": 2}]}, pl.Int64()),
        ({"anyOf": [INTEGER, {"type": "integer", "minimum": 5}]}, pl.Int64()),
        ({"allOf": [INTEGER]}, pl.Int64()),
        ({"allOf": [an_object(a=STRING), an_object(b=INTEGER)]}, a_struct(a=TEXT, b=pl.Int64())),
        ({"allOf": [an_object(a=NUMBER), an_object(a=INTEGER)]}, a_struct(a=pl.Int64())),
        ({"allOf": [an_object(a=INTEGER), an_object(a=NUMBER)]}, a_struct(a=pl.Int64())),
        ({"allOf": [an_array({}), an_array(INTEGER)]}, pl.List(pl.Int64())),
        ({**an_object(a=INTEGER), "anyOf": [{"required": ["a"]}, {"required": []}]}, a_struct(a=pl.Int64())),
        ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, pl.Int64()),
    ],
)
def test_schema_has_a_dtype(schema: Any, dtype: pl.DataType) -> None:
    """A schema that says what its values are gives their dtype, at any depth."""
    assert shape_dtype(schema) == dtype
    assert shape_dtype(an_object(x=an_array(schema))) == a_struct(x=pl.List(dtype))


@pytest.mark.parametrize(
    "schema",
    [
        True,
        False,
        {},
        NULL,
        {"enum": [None]},
        {"enum": []},
        {"enum": ["a", 1]},
        {"enum": [True, 1]},
        {"enum": [["a"]]},
        {"const": {"a": 1}},
        {"const": 2**63},
        {"type": ["string", "integer"]},
        {"anyOf": [STRING, INTEGER, NULL]},
        {"oneOf": [an_object(a=STRING), an_object(b=STRING)]},
        {"anyOf": [STRING, {}]},
        {"allOf": [STRING, INTEGER]},
        {**an_object(a=STRING), "anyOf": [an_object(b=STRING), an_object(c=STRING)]},
        {"type": "object"},
        {"type": "object", "properties": {}, "additionalProperties": False},
        {"type": "object", "additionalProperties": INTEGER},
        {**an_object(a=STRING), "additionalProperties": True},
        {**an_object(a=STRING), "additionalProperties": {}},
        {**an_object(a=STRING), "patternProperties": {"^x": STRING}},
        {**an_object(a=STRING), "if": {}, "then": an_object(b=STRING)},
        an_object(**{"a\0b": STRING}),
        an_object(**{"\ud800": STRING}),
        {"type": "array"},
        {"type": "array", "items": [STRING]},
        {"type": "array", "prefixItems": [STRING], "items": INTEGER},
        {"$ref": "#"},
        {"$ref": "#/nowhere"},
        {"$ref": "#/allOf/7", "allOf": [{}]},
        {"$ref": "https://example.com/schema.json"},
        {"type": "integer", "maximum": 2**63},
        {"type": "integer", "exclusiveMinimum": -1e30},
        {"type": 5, "properties": 5, "allOf": 5, "$ref": 5},
        5,
    ],
)
def test_else_it_is_json_text(schema: Any) -> None:
    """Whatever is no column of its own is JSON text: unions, what is open, odd or nonsense."""
    assert shape_of(schema).kind == "json"
    assert shape_dtype(schema) == TEXT


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/A", "description": "x", "$defs": {"A": INTEGER}},
        {"$ref": "#/definitions/a~1b%20c", "definitions": {"a/b c": INTEGER}},
        {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/B"}, "B": INTEGER}},
        {"$ref": "#/$defs/A", "type": "number", "$defs": {"A": INTEGER}},
        {"anyOf": [{"$ref": "#/anyOf/1"}, INTEGER]},
    ],
)
def test_references_are_followed(schema: Any) -> None:
    """A reference within the schema is what it leads to, together with what stands beside it."""
    assert shape_dtype(schema) == pl.Int64()


def test_recursion_ends_in_json_text() -> None:
    """A reference that leads back to where it stands is JSON text; beside each other, references are followed."""
    schema = {"$ref": "#/$defs/Node", "$defs": {"Node": NODE}}
    assert shape_dtype(schema) == a_struct(value=pl.Int64(), children=pl.List(TEXT))
    twice = {**an_object(a={"$ref": "#/$defs/P"}, b={"$ref": "#/$defs/P"}), "$defs": {"P": an_object(x=NUMBER)}}
    point = a_struct(x=pl.Float64())
    assert shape_dtype(twice) == a_struct(a=point, b=point)


def test_nesting_is_bounded() -> None:
    """Deeper than a file can hold, values are JSON text."""
    schema: dict[str, Any] = INTEGER
    for _ in range(100):
        schema = an_array(schema)
    shape = shape_of(schema)
    depth = 0
    while shape.items:
        shape, depth = shape.items, depth + 1
    assert (depth, shape.kind) == (MAX_NESTING, "json")


def test_endless_schema_is_json_text() -> None:
    """References that double at each of many steps, or a chain of thousands, end as JSON text at once."""
    defs = {f"d{n}": an_object(a={"$ref": f"#/$defs/d{n + 1}"}, b={"$ref": f"#/$defs/d{n + 1}"}) for n in range(60)}
    assert shape_dtype({"$ref": "#/$defs/d0", "$defs": {**defs, "d60": INTEGER}}) == TEXT
    chain: dict[str, Any] = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(5000)}
    assert shape_dtype({"$ref": "#/$defs/d0", "$defs": {**chain, "d5000": INTEGER}}) == TEXT


class Color(enum.Enum):
    """Colours of a product."""

    RED = "red"
    BLUE = "blue"


class Part(BaseModel):
    """A part of a product."""

    name: str
    color: Color = Color.RED
    price: float | None = None


class Product(BaseModel):
    """A product, with most kinds of fields that models have."""

    kind: Literal["tool", "toy"]
    version: Literal[1] = 1
    main: Part
    parts: list[Part] = Field(default_factory=list)
    spare: Part | None = None
    sizes: list[int | None] | None = None
    code: int | str
    notes: dict[str, str] = Field(default_factory=dict)
    anything: Any = None
    related: list[Product] = Field(default_factory=list, description="Others like it.")
    pair: tuple[int, str] | None = None
    default_color: Color = Field(Color.BLUE, description="When none is asked for.")


PART = a_struct(name=TEXT, color=TEXT, price=pl.Float64())


@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_pydantic_model_is_a_struct(mode: Literal["validation", "serialization"]) -> None:
    """The schema of a Pydantic model gives a struct of its fields, and an instance comes back."""
    schema = Product.model_json_schema(mode=mode)
    assert shape_dtype(schema) == a_struct(
        kind=TEXT,
        version=pl.Int64(),
        main=PART,
        parts=pl.List(PART),
        spare=PART,
        sizes=pl.List(pl.Int64()),
        code=TEXT,
        notes=TEXT,
        anything=TEXT,
        related=pl.List(TEXT),
        pair=TEXT,
        default_color=TEXT,
    )
    product = Product(kind="toy", main=Part(name="é"), sizes=[1, None], code="x", notes={"a": "b"}, pair=(1, "z"))
    assert series_of("p", [product.model_dump_json()], shape_of(schema)).to_list() == [
        {
            "kind": "toy",
            "version": 1,
            "main": {"name": "é", "color": "red", "price": None},
            "parts": [],
            "spare": None,
            "sizes": [1, None],
            "code": '"x"',
            "notes": '{"a":"b"}',
            "anything": None,
            "related": [],
            "pair": '[1,"z"]',
            "default_color": "blue",
        }
    ]


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        (INTEGER, "1.0", 1),
        (INTEGER, "-0", 0),
        (INTEGER, "9223372036854775807", 2**63 - 1),
        (INTEGER, "-9223372036854775808", -(2**63)),
        (INTEGER, "9223372036854775808", None),
        (INTEGER, "-9223372036854775809", None),
        (INTEGER, "9007199254740993.0", None),
        (INTEGER, "1" * 5000, None),
        (INTEGER, "1e400", None),
        (INTEGER, "1.5", None),
        (INTEGER, "true", None),
        (INTEGER, '"1"', None),
        (NUMBER, "1", 1.0),
        (NUMBER, "1e300", 1e300),
        (NUMBER, "1" + "0" * 30, 1e30),
        (NUMBER, "1" * 5000, None),
        (NUMBER, "-1e400", None),
        (NUMBER, "NaN", None),
        (NUMBER, "false", None),
        (BOOLEAN, "true", True),
        (BOOLEAN, "1", None),
        (STRING, '"a\\u0000\\n\\u00e9"', "a\0\né"),
        (STRING, '"\\ud83d\\ude00"', "\U0001f600"),
        (STRING, '"\\ud800x"', "\ufffdx"),
        (STRING, '"\ud800x"', "\ufffdx"),
        (STRING, "5", None),
        (STRING, "null", None),
        (STRING, "", None),
        (STRING, "{", None),
        (STRING, DEEP, None),
        ({}, '"a"', '"a"'),
        ({}, " [1, 2.50, null] ", "[1,2.5,null]"),
        ({}, '{"b": 1, "a": {}}', '{"b":1,"a":{}}'),
        ({}, '"é\\u2028/"', '"é\u2028/"'),
        ({}, "null", None),
        ({}, '{"a": 123456789012345678901234567890}', '{"a":123456789012345678901234567890}'),
        ({}, "[-9223372036854775809]", "[-9223372036854775809]"),
        ({}, "[18446744073709551615]", "[18446744073709551615]"),
        ({}, "[1e400]", "[1e400]"),
        ({}, "1" * 5000, "1" * 5000),
        ({}, '{"\\ud800": "\\ud800"}', '{"\ufffd":"\ufffd"}'),
        ({}, "[" * 250 + "]" * 250, "[" * 250 + "]" * 250),
        ({}, DEEP, None),
        ({}, "no JSON", None),
        (an_object(a=INTEGER), '{"a": 1, "b": 2}', {"a": 1}),
        (an_object(a=INTEGER, b=STRING), "{}", {"a": None, "b": None}),
        (an_object(a=INTEGER), '{"a": 1, "a": 2}', {"a": 2}),
        (an_object(a=INTEGER), '{"a": "\\ud800"}', {"a": None}),
        (an_object(a=INTEGER), "[]", None),
        (an_object(a=INTEGER), "null", None),
        (an_array(INTEGER), "[1.0, null, 3]", [1, None, 3]),
        (an_array(INTEGER), "[]", []),
        (an_array(INTEGER), "{}", None),
        (an_array(an_array(STRING)), '[[], null, ["a"]]', [[], None, ["a"]]),
        (an_array({}), '["a", 1, {"b": []}, null]', ['"a"', "1", '{"b":[]}', None]),
    ],
)
def test_text_becomes_value(schema: Any, text: str, value: Any) -> None:
    """A text is a value of the column, alone and between others; what the column cannot hold is null."""
    column = series_of("x", [None, text, None], shape_of(schema))
    assert column.name == "x"
    assert column.dtype == shape_dtype(schema)
    assert column.to_list() == [None, value, None]
    assert type(column.to_list()[1]) is type(value)


@pytest.mark.parametrize("texts", [[], [None], [None, None]])
def test_no_values_have_the_dtype(texts: list[None]) -> None:
    """Without rows, and with nulls alone, the column has the same dtype."""
    shape = shape_of(Product.model_json_schema())
    column = series_of("x", texts, shape)
    assert column.dtype == shape.dtype
    assert column.to_list() == texts


@pytest.mark.slow
def test_many_rows_keep_their_order() -> None:
    """In a large column with lists of structs, every value stands in its own row."""
    schema = an_object(n=INTEGER, parts=an_array(an_object(name=STRING, tags=an_array(STRING))))
    values = [
        {"n": n, "parts": [{"name": f"part {n} of many, {k}", "tags": [f"t{k}"] * k} for k in range(n % 4)]}
        for n in range(10_000)
    ]
    texts = [json.dumps(value) if value["n"] != 77 else None for value in values]
    found = series_of("x", texts, shape_of(schema)).to_list()
    assert found == [*values[:77], None, *values[78:]]


@dataclass(frozen=True)
class Case:
    """A schema, the dtype it must give, its instances, what must come of one, and how to read that from the column."""

    schema: dict[str, Any]
    dtype: pl.DataType
    instances: SearchStrategy[Any]
    expected: Callable[[Any], Any]
    seen: Callable[[Any], Any]


def same(value: Any) -> Any:
    """Return the value."""
    return value


def stored(value: Any) -> Any:
    """Return a JSON value with its strings as a file can hold them, by another way than the code's."""
    if isinstance(value, str):
        return value.encode("utf-16-be", "surrogatepass").decode("utf-16-be", "replace")
    if isinstance(value, dict):
        return {key: stored(part) for key, part in value.items()}
    return list(map(stored, value)) if isinstance(value, list) else value


def unless_null(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return the function with null for null."""
    return lambda value: None if value is None else function(value)


texts = st.text(st.characters(codec=None), max_size=8)
int64s = st.integers(-(2**63), 2**63 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | finite | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=5,
)


def json_case(schema: dict[str, Any], instances: SearchStrategy[Any]) -> Case:
    """Return a case that must be JSON text."""
    return Case(schema, TEXT, instances, stored, unless_null(json.loads))


LEAVES = [
    Case(STRING, TEXT, texts, stored, same),
    Case(INTEGER, pl.Int64(), int64s | st.integers(-(2**53) + 1, 2**53 - 1).map(float), int, same),
    Case(NUMBER, pl.Float64(), finite | st.integers(-(2**80), 2**80), float, same),
    Case(BOOLEAN, pl.Boolean(), st.booleans(), same, same),
    Case({"enum": ["a", "\0", "é"]}, TEXT, st.sampled_from(["a", "\0", "é"]), same, same),
    Case({"type": "integer", "enum": [1, 2**60]}, pl.Int64(), st.sampled_from([1, 2**60]), same, same),
    Case({"const": 0.5}, pl.Float64(), st.just(0.5), same, same),
    json_case({}, json_values),
    json_case({"anyOf": [STRING, INTEGER, an_array(BOOLEAN), NULL]}, st.none() | texts | st.integers()),
    json_case({"type": "object"}, st.dictionaries(st.sampled_from("abc"), json_values)),
    json_case({"type": "integer", "maximum": 2**80}, st.integers(0, 2**80)),
]


def array_of(case: Case) -> Case:
    """Return the case of an array."""
    return Case(
        an_array(case.schema),
        pl.List(case.dtype),
        st.lists(case.instances, max_size=3),
        lambda value: list(map(case.expected, value)),
        unless_null(lambda value: list(map(case.seen, value))),
    )


def nullable(case: Case, way: str) -> Case:
    """Return the case with null allowed, in one of the ways to say so."""
    ways: Mapping[str, dict[str, Any]] = {
        "anyOf": {"anyOf": [case.schema, NULL]},
        "oneOf": {"oneOf": [NULL, case.schema], "default": None},
        "allOf": {"allOf": [case.schema], "nullable": True},
    }
    return Case(ways[way], case.dtype, st.none() | case.instances, unless_null(case.expected), case.seen)


def object_of(cases: list[Case], required: int) -> Case:
    """Return the case of an object whose first properties are required, and which may have others."""
    named = dict(zip(["a", "*", "^x$", "é b"], cases, strict=False))
    given_always = {name: case.instances for name, case in list(named.items())[:required]}
    given_at_times = {name: case.instances for name, case in list(named.items())[required:]}

    def expected(value: dict[str, Any]) -> dict[str, Any]:
        return {name: case.expected(value[name]) if name in value else None for name, case in named.items()}

    return Case(
        {**an_object(**{name: case.schema for name, case in named.items()}), "required": list(given_always)},
        pl.Struct({name: case.dtype for name, case in named.items()}),
        st.fixed_dictionaries(given_always, optional={**given_at_times, "more": json_values}),
        expected,
        unless_null(lambda value: {name: case.seen(value[name]) for name, case in named.items()}),
    )


cases = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.one_of(
        inner.map(array_of),
        st.builds(nullable, inner, st.sampled_from(["anyOf", "oneOf", "allOf"])),
        st.builds(object_of, st.lists(inner, min_size=1, max_size=4), st.integers(0, 4)),
    ),
    max_leaves=6,
)


@pytest.mark.slow
@settings(max_examples=200)
@given(st.data(), cases, st.booleans(), st.integers(1, 4))
def test_instances_come_back(data: st.DataObject, case: Case, ascii_only: bool, size: int) -> None:
    """Instances of any schema come back from its column, and from a real Parquet file written in batches."""
    instances = data.draw(st.lists(case.instances, max_size=6))
    answers = [
        Answer(Completion("", parsed=json.dumps(instance, ensure_ascii=ascii_only)), b"", 0.0, 1)
        for instance in instances
    ]
    plan = plan_output([], keep=None, rename={}, prefix="", schema=case.schema)
    assert plan.columns["parsed"] == case.dtype
    expected = [case.expected(instance) for instance in instances]
    column = answer_columns(answers, plan)["parsed"]
    assert column.dtype == case.dtype
    assert [case.seen(value) for value in column.to_list()] == expected
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "o.parquet"
        with Sink(path, plan, pl.Schema()) as sink:
            for start in range(0, len(answers), size):
                part = answer_columns(answers[start : start + size], plan)
                sink.write(Batch(pl.DataFrame(height=part.height), []), part)
        back = pl.read_parquet(path)["parsed"]
    assert back.equals(column, null_equal=True)
    assert back.dtype == case.dtype


keywords = ["type", "properties", "items", "anyOf", "allOf", "$ref", "enum", "const", "additionalProperties", "maximum"]
odd_schemas = st.recursive(
    json_values | st.sampled_from(["object", "array", "string", "null", "#", "#/properties/a", "#/anyOf/0"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*keywords, "a", "b"]), inner, max_size=4)
        | st.builds(lambda a, b: an_object(a=a, b=b), inner, inner)
    ),
    max_leaves=12,
)


@pytest.mark.slow
@given(odd_schemas, st.lists(st.none() | texts | json_values.map(json.dumps), max_size=4))
def test_nothing_raises(schema: Any, some: list[str | None]) -> None:
    """Whatever stands for a schema, and whatever for its instances, gives a column that Parquet can hold."""
    shape = shape_of(schema)
    column = series_of("x", some, shape)
    assert column.dtype == shape.dtype
    assert column.len() == len(some)
    file = io.BytesIO()
    pq.write_table(pl.DataFrame([column]).to_arrow(), file)
    assert pl.read_parquet(file.getvalue())["x"].equals(column, null_equal=True)


def test_digit_limit_is_as_shipped() -> None:
    """The interpreter's bound on the digits of an integer, which the long numbers above exceed, is in force."""
    assert 0 < sys.get_int_max_str_digits() < 5000
