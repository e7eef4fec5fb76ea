"""Instances of JSON Schemas: what they hold is asserted by hand, and by a validator that knows nothing of the maker."""

import math
import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchchat.serve.instance import instance_of
from batchchat.serve.message import Message
from batchchat.serve.options import find_keys, find_listing
from batchchat.serve.pattern import matching_text
from batchchat.serve.schema import Document, SchemaError, check_schema
from batchchat.serve.subject import Subject, best_option, subject_of
from batchchat.serve.tokens import cut_to_tokens, token_count
from batchchat.serve.validity import is_valid

PROMPT = "My parcel AB-1234 has not been delivered, tracking says 7 days late. I need it urgently!"


def subject(text: str = PROMPT, system: str = "You label tickets.") -> Subject:
    """Return what a conversation of one question is about."""
    return subject_of((Message("system", system), Message("user", text)))


def made(schema: Any, text: str = PROMPT) -> Any:
    """Return the instance of a schema for a text."""
    check_schema(schema)
    return instance_of(schema, subject(text))


def test_ticket_schema_is_filled_by_words() -> None:
    """Every property is there, in the schema's order, chosen or taken from the prompt's words."""
    schema = {
        "type": "object",
        "properties": {
            "category": {"enum": ["billing", "shipping", "bug", "other"]},
            "urgent": {"type": "boolean"},
            "refund_requested": {"type": "boolean"},
            "days_late": {"type": "integer", "minimum": 0, "maximum": 30},
            "score": {"type": "number", "minimum": 0, "maximum": 1},
            "order": {"type": ["string", "null"], "pattern": "^[A-Z]{2}-[0-9]{4}$"},
            "summary": {"type": "string", "maxLength": 30},
        },
        "required": ["category", "urgent"],
        "additionalProperties": False,
    }
    assert made(schema) == {
        "category": "shipping",
        "urgent": True,
        "refund_requested": False,
        "days_late": 7,
        "score": 0.5,
        "order": "AB-1234",
        "summary": "My parcel AB-1234 has not been",
    }


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"const": {"a": [1, None]}}, {"a": [1, None]}),
        ({"type": "null"}, None),
        ({"enum": [3, 5, 8], "minimum": 5, "maximum": 6}, 5),
        ({"type": "integer", "minimum": 10, "maximum": 10}, 10),
        ({"type": "integer", "exclusiveMinimum": 10, "exclusiveMaximum": 12}, 11),
        ({"type": "number", "multipleOf": 0.25, "minimum": 100.1, "maximum": 100.3}, 100.25),
        ({"type": "integer", "multipleOf": 17, "minimum": 30, "maximum": 40}, 34),
        ({"type": "string", "minLength": 3, "maxLength": 3, "pattern": "^[0-9]+$"}, "000"),
        ({"type": "string", "maxLength": 0}, ""),
        ({"anyOf": [False, {"type": "null"}]}, None),
        ({"allOf": [{"type": ["integer", "string"]}, {"type": "number", "minimum": 900}]}, 901),
        ({"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 5}], "maximum": 4}, 3),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"const": 1}}}, 1),
        ({"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": False}, [1, 2]),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2, "uniqueItems": True}, [False, True]),
        ({"type": "array", "items": {"const": 1}, "maxItems": 0}, []),
        ({"type": "array", "contains": {"const": 9}, "maxItems": 1}, [9]),
        ({"type": "object", "properties": {"a": False, "b": {"const": 1}}}, {"b": 1}),
        ({"type": "object", "required": ["x"], "additionalProperties": {"const": 2}}, {"x": 2}),
        ({"if": {"type": "string"}, "then": {"const": "s"}, "else": False}, "s"),
    ],
)
def test_keyword_decides_the_value(schema: Any, expected: Any) -> None:
    """Where a schema leaves one natural value, that is the instance."""
    assert made(schema, "nothing of note") == expected


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("date", r"\d{4}-\d\d-\d\d"),
        ("date-time", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"),
        ("time", r"\d\d:\d\d:\d\dZ"),
        ("email", r"[^@ ]+@example\.com"),
        ("uri", r"https://\S+"),
        ("uuid", r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"),
    ],
)
def test_format_is_kept(kind: str, form: str) -> None:
    """A string has the form that its format asks for."""
    assert re.fullmatch(form, made({"type": "string", "format": kind}))


def test_formatted_text_of_the_prompt_is_used() -> None:
    """An address that the prompt has is the answer where an e-mail is asked for."""
    assert made({"type": "string", "format": "email"}, "Write to a.b@shop.test soon") == "a.b@shop.test"


def test_recursive_schema_ends() -> None:
    """A tree of itself is followed a little way and then ends, with everything required in it."""
    node = {
        "type": "object",
        "properties": {
            "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
        },
        "required": ["children", "next"],
        "additionalProperties": False,
    }
    tree = made({"$ref": "#/$defs/node", "$defs": {"node": node}})
    assert set(tree) == {"children", "next"}
    assert tree["children"]


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"type": "string", "minLength": 5, "maxLength": 4},
        {"type": "integer", "minimum": 1.2, "maximum": 1.8},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"$ref": "#"},
        {"$ref": "https://example.com/schema"},
        {"$ref": "#/nowhere"},
        {"type": "array", "minItems": 10**9},
        {"type": "string", "pattern": "(?=x)y"},
        {"type": "string", "pattern": "["},
        {"type": "array", "items": {"type": "null"}, "minItems": 2, "uniqueItems": True},
        {"allOf": [{"type": "string"}, {"type": "object"}]},
        {"$defs": {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 9} for n in range(30)}, "$ref": "#/$defs/d0"},
    ],
)
def test_impossible_schema_is_an_error(schema: Any) -> None:
    """What has no instance, or none that can be found with bounded work, is an error and not an invalid value."""
    with pytest.raises(SchemaError):
        made(schema)


@pytest.mark.parametrize(
    ("schema", "where"),
    [
        ([], "# is not a schema"),
        ({"type": "text"}, "#/type must be"),
        ({"properties": {"a": {"minimum": "1"}}}, "#/properties/a/minimum must be a number"),
        ({"anyOf": []}, "#/anyOf must be"),
        ({"items": 3}, "#/items/0 is not a schema"),
        ({"required": [1]}, "#/required must be"),
        ({"minLength": -1}, "#/minLength must be"),
    ],
)
def test_malformed_schema_is_named(schema: Any, where: str) -> None:
    """A keyword of the wrong type is told with the way to it."""
    with pytest.raises(SchemaError, match=re.escape(where)):
        check_schema(schema)


# A second, independent reading of the schemas below.
def assert_instance(value: Any, schema: dict[str, Any]) -> None:
    """Assert that a value meets a schema of the strategy `schemas`."""
    if "anyOf" in schema:
        assert any(_meets(value, part) for part in schema["anyOf"])
        return
    if "enum" in schema:
        assert value in schema["enum"]
        return
    kind = schema["type"]
    if kind == "object":
        assert set(value) == set(schema["properties"])
        for name, part in schema["properties"].items():
            assert_instance(value[name], part)
    elif kind == "array":
        assert schema["minItems"] <= len(value) <= schema["maxItems"]
        for item in value:
            assert_instance(item, schema["items"])
    elif kind == "string":
        assert isinstance(value, str)
        assert schema["minLength"] <= len(value) <= schema["maxLength"]
    elif kind in ("integer", "number"):
        assert not isinstance(value, bool)
        assert isinstance(value, int) or (kind == "number" and isinstance(value, float))
        assert schema["minimum"] <= value <= schema["maximum"]
    else:
        assert isinstance(value, bool) if kind == "boolean" else value is None


def _meets(value: Any, schema: dict[str, Any]) -> bool:
    try:
        assert_instance(value, schema)
    except (AssertionError, TypeError):
        return False
    return True


def _between(kind: str, low: str, high: str, pair: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return pair.map(lambda ends: {"type": kind, low: min(ends), high: max(ends)})


SCALARS = st.one_of(
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"enum": ["billing", "shipping", 3, None]}]),
    _between("string", "minLength", "maxLength", st.tuples(st.integers(0, 300), st.integers(0, 300))),
    _between("integer", "minimum", "maximum", st.tuples(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))),
    _between("number", "minimum", "maximum", st.tuples(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9))),
)
SCHEMAS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.tuples(inner, st.integers(0, 4), st.integers(0, 4)).map(
            lambda made: {"type": "array", "items": made[0], "minItems": min(made[1:]), "maxItems": max(made[1:])}
        ),
        st.dictionaries(st.text(max_size=10), inner, max_size=4).map(
            lambda properties: {"type": "object", "properties": properties, "additionalProperties": False}
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"anyOf": parts}),
    ),
    max_leaves=8,
)


@settings(max_examples=300)
@given(schema=SCHEMAS, text=st.text(max_size=200))
def test_every_schema_gets_an_instance(schema: dict[str, Any], text: str) -> None:
    """For any schema and any prompt the instance meets the schema, and asking again gives the same."""
    value = made(schema, text)
    assert_instance(value, schema)
    assert is_valid(value, schema, Document(schema))
    assert made(schema, text) == value


@pytest.mark.parametrize(
    "pattern",
    [
        r"^[A-Z]{3}-\d{4}$",
        r"^\+?[1-9]\d{1,14}$",
        r"(foo|bar)baz?",
        r"^[^a-z]+$",
        r"^\w+@\w+\.com$",
        r"\S\s\D",
        r"^(ab{2,3}c)*x$",
    ],
)
def test_pattern_matches_what_it_makes(pattern: str) -> None:
    """A string made for a pattern is found by it, however often its parts are repeated."""
    for extra in range(4):
        assert re.search(pattern, matching_text(pattern, extra))


@given(st.text(max_size=60))
def test_any_pattern_is_made_or_refused(pattern: str) -> None:
    """No pattern, regular expression or not, ends in anything but a string or a SchemaError."""
    with suppress(SchemaError):
        assert isinstance(matching_text(pattern), str)


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ("Answer with one of: billing, shipping, bug, other.", ("billing", "shipping", "bug", "other")),
        ("Answer with one word: positive, negative or neutral", ("positive", "negative", "neutral")),
        ("labels: a, b, c", ("a", "b", "c")),
        ("choose from [a, b]", ("a", "b")),
        ("Classify it as positive, negative or neutral.", ("positive", "negative", "neutral")),
        ("Pick one of these (billing, shipping, account access).", ("billing", "shipping", "account access")),
        ("Categories:\n- billing: money\n- shipping\n\nTicket: x", ("billing", "shipping")),
        ("Reply with yes or no.", ("yes", "no")),
        ("One of: electronics | clothing | home", ("electronics", "clothing", "home")),
        ('Use one of "high", "medium" or "low" and nothing else.', ("high", "medium", "low")),
    ],
)
def test_listing_is_found(prompt: str, options: tuple[str, ...]) -> None:
    """Options are found in the ways that prompts list them."""
    listing = find_listing(prompt)
    assert listing is not None
    assert listing.options == options


@pytest.mark.parametrize(
    "text", ["", "It is one of my favourite phones, great, nice.", "I say good things, mostly.", "Summarise: a b c"]
)
def test_running_text_is_no_listing(text: str) -> None:
    """Ordinary sentences list no options."""
    assert find_listing(text) is None


def test_named_keys_are_found() -> None:
    """The keys that a prompt names are found, quoted or not."""
    assert find_keys('Return JSON with the keys "label" and "reason".') == ("label", "reason")
    assert find_keys("Fields: summary, sentiment") == ("summary", "sentiment")


@given(text=st.text(max_size=300), system=st.text(max_size=100))
def test_any_conversation_has_a_subject(text: str, system: str) -> None:
    """Any text can be read: it has key words, a sentence, and chooses one of the options."""
    about = subject(text, system)
    assert best_option(("one", "two"), about) in ("one", "two")
    assert len(about.key_words) <= 5
    assert len(about.sentence) <= 160


@given(text=st.text(max_size=400), limit=st.integers(1, 50))
def test_cut_text_keeps_its_limit(text: str, limit: int) -> None:
    """A cut text is a start of the text and has no more tokens than allowed; tokens are a quarter of its bytes."""
    cut = cut_to_tokens(text, limit)
    assert text.startswith(cut)
    assert token_count(cut) <= limit
    assert token_count(text) == math.ceil(len(text.encode()) / 4)
