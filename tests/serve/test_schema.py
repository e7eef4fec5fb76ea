"""Instances of JSON Schemas: made from a text where it fits, as short as may be, and always valid."""

from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchchat.serve.request.schema import SchemaError, instance_of

TEXT = "My parcel AB-1234 has not been delivered, tracking says 7 days late. I need it urgently!"


def test_ticket_schema_is_filled_by_words() -> None:
    """Labels, flags, numbers and strings come from the text; what may be null or empty is."""
    schema = {
        "type": "object",
        "properties": {
            "category": {"enum": ["billing", "shipping", "bug", "other"]},
            "urgent": {"type": "boolean"},
            "refund_requested": {"type": "boolean"},
            "days_late": {"type": "integer", "minimum": 0, "maximum": 30},
            "order": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
            "name": {"type": ["string", "null"]},
            "tags": {"type": "array", "items": {"type": "string"}},
            "summary": {"type": "string", "maxLength": 9},
        },
        "required": ["category", "urgent"],
        "additionalProperties": False,
    }
    assert instance_of(schema, TEXT) == {
        "category": "shipping",
        "urgent": True,
        "refund_requested": False,
        "days_late": 7,
        "order": "AB-1234",
        "name": None,
        "tags": [],
        "summary": "My parcel",
    }


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (True, "nothing of note"),
        ({"const": {"a": [1, None]}}, {"a": [1, None]}),
        ({"enum": [3, 5, 8], "minimum": 5, "maximum": 6}, 5),
        ({"type": "integer", "minimum": 10}, 10),
        ({"type": "integer", "exclusiveMinimum": 10, "exclusiveMaximum": 12}, 11),
        ({"type": "integer", "multipleOf": 17, "minimum": 30, "maximum": 40}, 34),
        ({"type": "string", "minLength": 3, "maxLength": 3, "pattern": "^[0-9]+$"}, "000"),
        ({"type": "string", "maxLength": 0}, ""),
        ({"type": "string", "format": "date"}, "2025-01-01"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, None),
        ({"anyOf": [False, {"type": "integer"}]}, 0),
        ({"allOf": [{"type": ["integer", "string"]}, {"type": "integer", "minimum": 900}]}, 900),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"const": 1}}}, 1),
        ({"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "minItems": 2}, [1, 2]),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2, "uniqueItems": True}, [False, True]),
        ({"type": "array", "contains": {"const": 9}}, [9]),
        ({"type": "object", "properties": {"a": False, "b": {"const": 1}}}, {"b": 1}),
        ({"type": "object", "required": ["x"], "additionalProperties": {"const": 2}}, {"x": 2}),
    ],
)
def test_keyword_decides_the_value(schema: Any, expected: Any) -> None:
    """Where a schema leaves one natural value, that is the instance."""
    assert instance_of(schema, "nothing of note") == expected


def test_schema_that_refers_to_itself_ends_soon() -> None:
    """A list of itself ends with null, a tree of optional parts after a few levels."""
    there = {"$ref": "#/$defs/node"}
    node = {
        "type": "object",
        "properties": {"next": {"anyOf": [there, {"type": "null"}]}, "left": there, "right": there},
        "required": ["next"],
    }
    schema = {"$ref": "#/$defs/node", "$defs": {"node": node}}
    made = instance_of(schema, TEXT)
    assert jsonschema_rs.is_valid(schema, made)
    assert made["left"]["right"]["next"] is None
    assert len(str(made)) < 2_000


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"type": "string", "minLength": 5, "maxLength": 4},
        {"type": "string", "pattern": "^X{7}$"},
        {"type": "integer", "minimum": 1.2, "maximum": 1.8},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"$ref": "#"},
        {"$ref": "https://example.com/schema"},
        {"$ref": "#/nowhere"},
        {"type": "text"},
        {"type": "array", "minItems": 10**9},
        {"type": "array", "items": {"type": "null"}, "minItems": 2, "uniqueItems": True},
        {"type": "string", "not": {"type": "string"}},
        {"type": "object", "properties": {"a": {"const": 1}}, "maxProperties": 0},
        {"oneOf": [{"type": "integer"}, {"type": "number"}]},
    ],
)
def test_impossible_schema_is_an_error(schema: Any) -> None:
    """What has no instance, or none that is found, is an error and not an invalid value."""
    with pytest.raises(SchemaError):
        instance_of(schema, TEXT)


SCALARS = st.one_of(
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"enum": ["billing", 3, None]}, {"const": 1}]),
    st.builds(
        lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more}, *[st.integers(0, 300)] * 2
    ),
    st.builds(
        lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more}, *[st.integers(0, 10**9)] * 2
    ),
    st.floats(-1e300, 1e300).map(lambda low: {"type": "number", "minimum": low}),
)
SCHEMAS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.builds(lambda items, least: {"type": "array", "items": items, "minItems": least}, inner, st.integers(0, 4)),
        st.dictionaries(st.text(max_size=10), inner, max_size=4).map(
            lambda properties: {"type": "object", "properties": properties, "required": list(properties)}
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"anyOf": parts}),
    ),
    max_leaves=8,
)


@pytest.mark.slow
@settings(max_examples=200)
@given(schema=SCHEMAS, text=st.text(max_size=200))
def test_every_usual_schema_gets_a_valid_instance(schema: dict[str, Any], text: str) -> None:
    """For any such schema and any text the instance is valid, and asking again gives the same."""
    value = instance_of(schema, text)
    assert jsonschema_rs.is_valid(schema, value)
    assert instance_of(schema, text) == value
