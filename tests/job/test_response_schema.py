"""`request.response_schema`: every form becomes a strict response format, and what is wrong is said."""

from __future__ import annotations

import json
import sys
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from batchchat.job.response_schema import resolved

HERE = Path("/nowhere")
STRING = {"type": "string"}
NULL = {"type": "null"}


class Colour(Enum):
    """Two colours."""

    RED = "red"
    BLUE = "blue"


class Address(BaseModel):
    """A part of another model."""

    street: str
    number: int | None = None


class Person(BaseModel):
    """A model with most of what models have."""

    name: str = Field(description="as written")
    colour: Colour = Colour.RED
    address: Address = Field(description="where they live")
    mood: Literal["good", "bad"]
    nicknames: list[str] = []


class Branch(BaseModel):
    """A model that refers to itself."""

    value: int
    branches: list[Branch]
    parent: Branch | None = Field(default=None, description="one above")


class Cat(BaseModel):
    """One of two."""

    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    """The other."""

    kind: Literal["dog"]


class Owner(BaseModel):
    """A model with a union that a field tells apart."""

    pet: Cat | Dog = Field(discriminator="kind")


class Closed(BaseModel):
    """A model that takes no more than it names."""

    model_config = ConfigDict(extra="forbid")
    note: str


class OpenModel(BaseModel):
    """A model that takes more than it names."""

    model_config = ConfigDict(extra="allow")
    note: str


def inner(value: Any, base: Path = HERE) -> dict[str, Any]:
    """Return what stands under `json_schema`."""
    made = resolved(value, base)[0]
    assert made["type"] == "json_schema"
    assert made.keys() == {"type", "json_schema"}
    found: dict[str, Any] = made["json_schema"]
    return found


def schema(value: Any, base: Path = HERE) -> dict[str, Any]:
    """Return the schema of the response format."""
    found: dict[str, Any] = inner(value, base)["schema"]
    return found


def field(value: Any) -> Any:
    """Return the schema of one field of the short form."""
    return schema({"it": value})["properties"]["it"]


def property_of(part: Any, *, is_required: bool, **more: Any) -> Any:
    """Return what becomes of one property of a JSON Schema."""
    whole = {"type": "object", "properties": {"it": part}, "required": ["it"] if is_required else [], **more}
    return schema(whole)["properties"]["it"]


def is_valid(value: Any, instance: Any) -> bool:
    """Tell whether an instance fits the schema that is made of a value."""
    return jsonschema_rs.validator_for(schema(value)).is_valid(instance)


def problem(value: Any, base: Path = HERE) -> str:
    """Return what is said about a value that is wrong."""
    with pytest.raises(ValueError, match=r".+") as caught:
        resolved(value, base)[0]
    return str(caught.value)


def closed(properties: dict[str, Any]) -> dict[str, Any]:
    """Return a strict object of these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def test_the_short_form_gives_the_whole_format() -> None:
    """The short form of the job file's manual becomes one strict response format."""
    made, _ = resolved({"category": ["billing", "shipping"], "urgent": "boolean", "summary": "string"}, HERE)
    assert made == {
        "type": "json_schema",
        "json_schema": {
            "name": "response",
            "strict": True,
            "schema": closed(
                {
                    "category": {"type": "string", "enum": ["billing", "shipping"]},
                    "urgent": {"type": "boolean"},
                    "summary": STRING,
                }
            ),
        },
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("string", STRING),
        ("integer", {"type": "integer"}),
        ("number", {"type": "number"}),
        ("boolean", {"type": "boolean"}),
        ("string?", {"type": ["string", "null"]}),
        ("boolean?", {"type": ["boolean", "null"]}),
        (["string"], {"type": "array", "items": STRING}),
        (["integer?"], {"type": "array", "items": {"type": ["integer", "null"]}}),
        ([["a", "b"]], {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}}),
        ([{"name": "string"}], {"type": "array", "items": closed({"name": STRING})}),
        (["billing"], {"type": "string", "enum": ["billing"]}),
        (["a", "b", "a"], {"type": "string", "enum": ["a", "b"]}),
        (["string", "x"], {"type": "string", "enum": ["string", "x"]}),
        ([1, 2], {"type": "integer", "enum": [1, 2]}),
        ([1, 2.5], {"type": "number", "enum": [1, 2.5]}),
        (["a", None], {"type": ["string", "null"], "enum": ["a", None]}),
        ([1, True], {"type": ["integer", "boolean"], "enum": [1, True]}),
        ({"name": "string"}, closed({"name": STRING})),
        ({"type": "string"}, closed({"type": STRING})),
        ({"type": "string", "maxLength": 9}, {"type": "string", "maxLength": 9}),
        ({"type": "string", "enum": ["a"]}, {"type": "string", "enum": ["a"]}),
        ({"type": "array", "items": STRING}, {"type": "array", "items": STRING}),
        ({"anyOf": [STRING, NULL]}, {"anyOf": [STRING, NULL]}),
        ({"anyOf": [{"name": "string"}]}, closed({"anyOf": {"type": "array", "items": closed({"name": STRING})}})),
    ],
)
def test_a_field_of_the_short_form_becomes_its_schema(value: Any, expected: Any) -> None:
    """Each way to write a field has one meaning."""
    assert field(value) == expected


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ({"type": ["a", "b"], "x": "string"}, ["type", "x"]),
        ({"type": "string"}, ["type"]),
        ({"type": "string", "title": "string", "description": "string?"}, ["type", "title", "description"]),
        ({"type": ["string"], "enum": "string"}, ["type", "enum"]),
        ({"type": "integer", "properties": {"colour": "string"}}, ["type", "properties"]),
        ({"properties": {"colour": "string"}}, ["properties"]),
        ({"anyOf": ["a", "b"]}, ["anyOf"]),
    ],
)
def test_fields_named_as_keywords_stay_fields(value: Any, names: list[str]) -> None:
    """A short form may have fields whose names JSON Schema knows."""
    assert list(schema(value)["properties"]) == names


@pytest.mark.parametrize(
    "value",
    [
        {"type": "object", "properties": {"a": STRING}},
        {"properties": {"a": STRING}},
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "properties": {"a": STRING}},
        {"$defs": {"x": STRING}, "type": "object", "properties": {"a": {"$ref": "#/$defs/x"}}},
        {"type": "object", "title": "Some title", "x-order": 3, "properties": {"a": STRING}},
    ],
)
def test_json_schemas_are_known_for_what_they_are(value: Any) -> None:
    """A mapping with JSON Schema's own keywords is taken as it is, and its properties are the fields."""
    assert list(schema(value)["properties"]) == ["a"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": "strng"}, "field a is 'strng'; it must be string, integer, number or boolean (with ? when it may be "),
        ({"a": "strng"}, "did you mean string?"),
        ({"a": {"b": True}}, "field a.b is True; it must be string, integer"),
        ({"a": None}, "field a is None; it must be"),
        ({"a": []}, "field a is []; a list must have values to choose from, or one type for its items"),
        ({"a": [{"b": "string"}, {"c": "string"}]}, "a list must have values to choose from, or one type"),
        ({"a": ["string", "null"]}, "a choice between the names of types; write string? for text or null"),
        ({"a": ["string", "integer"]}, "a choice between the names of types"),
        ({"a": {}}, "field a is an empty mapping; name at least one field"),
        ({}, "is an empty mapping; name at least one field"),
        ({1: "string"}, "has a field named 1; names must be text (put it in quotes)"),
        ({"a": ["x", float("nan")]}, "holds what JSON has not: Out of range float values"),
        ({"type": "object", "colour": "string"}, "field type is 'object'; it must be"),
        ({"type": "string", "maxLength": 9}, "has type: 'string' at its root; endpoints take an object only: wrap it"),
        ({"type": "array", "items": STRING}, "has type: 'array' at its root"),
        ({"type": ["object", "null"], "properties": {}}, "has type: ['object', 'null'] at its root"),
        ({"anyOf": [STRING, NULL]}, "has anyOf: [{'type': 'string'}, {'type': 'null'}] at its root"),
        ({"$schema": "x"}, "has no type at its root"),
        (5, "is 5; it must be a JSON Schema, the short form such as {category: [billing, shipping]"),
        (["a"], "is ['a']; it must be a JSON Schema"),
        ("", "is ''; it must be a JSON Schema"),
        ("schema.yaml", "is 'schema.yaml'; it must be a JSON Schema"),
        ("schema.json", "names /nowhere/schema.json, and there is no such file"),
        (int, "names int, which is <class 'int'>; it must be a class derived from pydantic.BaseModel"),
    ],
)
def test_what_is_no_form_is_refused_with_advice(value: Any, text: str) -> None:
    """The message says what was found, what is allowed, and what to do."""
    assert text in problem(value)


@pytest.mark.parametrize("value", ["{{ schema }}", {"a": ["x", "{{ y }}"]}, {"{{ a }}": "string"}, {"a": "{% if x %}"}])
def test_templates_are_refused(value: Any) -> None:
    """A schema is the same for every row, so that a template in it would be sent as it stands."""
    assert "response_schema is the same for every row" in problem(value)


def test_templates_in_a_file_are_refused(tmp_path: Path) -> None:
    """What a file or a model says is looked through as well."""
    text = {"type": "object", "properties": {"a": {"type": "string", "description": "the {{ name }}"}}}
    (tmp_path / "schema.json").write_text(json.dumps(text))
    assert "has a template ({{ name }}" in problem("schema.json", tmp_path)


def test_a_deep_schema_is_refused() -> None:
    """Nesting without measure is an error of the job, not of the program."""
    value: Any = "string"
    for _ in range(5_000):
        value = {"a": value}
    assert problem(value) == "is nested too deeply; use $defs and $ref for what repeats"


def test_a_file_is_read_from_the_jobs_folder(tmp_path: Path) -> None:
    """A path counts from the job file's folder; a byte order mark does no harm."""
    (tmp_path / "schemas").mkdir()
    whole = {"type": "object", "title": "A ticket!", "properties": {"a": STRING}, "required": ["a"]}
    (tmp_path / "schemas" / "ticket.json").write_text(json.dumps(whole), encoding="utf-8-sig")
    made = inner("schemas/ticket.json", tmp_path)
    assert made == {"name": "A_ticket", "strict": True, "schema": {**closed({"a": STRING}), "title": "A ticket!"}}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"{", "which is not JSON: Expecting property name"),
        (b"\xff", "which is not JSON: 'utf-8' codec"),
        (b"[]", "which holds []; it must hold a JSON Schema, an object"),
        (b'{"a": "string"}', "has no type at its root"),
        (b'{"type": "object", "maxProperties": NaN}', "holds what JSON has not"),
    ],
)
def test_a_wrong_file_is_named(content: bytes, text: str, tmp_path: Path) -> None:
    """A file that is no JSON Schema says what it is instead; the short form has no place in a file."""
    (tmp_path / "schema.json").write_bytes(content)
    assert text in problem("schema.json", tmp_path)


def test_a_folder_is_no_schema(tmp_path: Path) -> None:
    """A folder may be named like a file."""
    (tmp_path / "schema.json").mkdir()
    assert "there is no such file" in problem("schema.json", tmp_path)


MODULE = """
from pydantic import BaseModel

class Ticket(BaseModel):
    {name}: str

    class Part(BaseModel):
        number: int

class Plain:
    pass
"""


def test_a_model_is_imported_from_the_jobs_folder(tmp_path: Path) -> None:
    """`module:Class` is looked for beside the job file first, and sys.path is as it was afterwards."""
    (tmp_path / "ticket_models_one.py").write_text(MODULE.format(name="summary"))
    path_before = list(sys.path)
    made = inner("ticket_models_one:Ticket", tmp_path)
    assert made["name"] == "Ticket"
    assert made["schema"]["required"] == ["summary"]
    assert inner("ticket_models_one:Ticket.Part", tmp_path)["schema"]["required"] == ["number"]
    assert sys.path == path_before


def test_a_model_in_a_package_is_imported(tmp_path: Path) -> None:
    """A module may stand in a package."""
    (tmp_path / "ticket_package").mkdir()
    (tmp_path / "ticket_package" / "__init__.py").write_text("")
    (tmp_path / "ticket_package" / "models.py").write_text(MODULE.format(name="body"))
    assert schema("ticket_package.models:Ticket", tmp_path)["required"] == ["body"]


def test_a_model_in_the_current_folder_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder is searched after the job's."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "ticket_models_here.py").write_text(MODULE.format(name="body"))
    monkeypatch.chdir(tmp_path / "here")
    assert schema("ticket_models_here:Ticket", tmp_path)["required"] == ["body"]


def test_modules_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    """Two jobs in one process may each have a module of the same name; the first stays the one that is known."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ticket_models_same.py").write_text(MODULE.format(name=folder))
    assert schema("ticket_models_same:Ticket", tmp_path / "one")["required"] == ["one"]
    assert schema("ticket_models_same:Ticket", tmp_path / "two")["required"] == ["two"]
    assert str(sys.modules["ticket_models_same"].__file__) == str(tmp_path / "one" / "ticket_models_same.py")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ticket_models_two:Tickt", "names Tickt, and ticket_models_two has none; did you mean Ticket?"),
        ("ticket_models_two:Zzz", "names Zzz, and ticket_models_two has none; its Pydantic models: BaseModel, Ticket"),
        ("ticket_models_two:Plain", "it must be a class derived from pydantic.BaseModel"),
        ("ticket_models_none:Ticket", "cannot be imported (ModuleNotFoundError: No module named 'ticket_models_none')"),
        ("ticket_models_broken:Ticket", "cannot be imported (RuntimeError: broken)"),
        ("ticket_models_leaving:Ticket", "cannot be imported (SystemExit: 3)"),
    ],
)
def test_a_model_that_cannot_be_had_says_why(text: str, expected: str, tmp_path: Path) -> None:
    """Whatever goes wrong in the user's module is a problem of that value of the job."""
    (tmp_path / "ticket_models_two.py").write_text(MODULE.format(name="summary"))
    (tmp_path / "ticket_models_broken.py").write_text("raise RuntimeError('broken')")
    (tmp_path / "ticket_models_leaving.py").write_text("raise SystemExit(3)")
    assert expected in problem(text, tmp_path)


def test_a_model_without_a_schema_is_refused() -> None:
    """A model may have fields that JSON Schema cannot say."""

    class Callback(BaseModel):
        """Has a field of a plain class."""

        model_config = ConfigDict(arbitrary_types_allowed=True)
        path: Structureless

    assert "names Callback, of which Pydantic makes no JSON Schema" in problem(Callback)


class Structureless:
    """Nothing that Pydantic knows."""


def test_a_model_becomes_strict() -> None:
    """Nested models keep their descriptions, enums their values, and what has a default becomes nullable."""
    made = inner(Person)
    assert (made["name"], made["strict"]) == ("Person", True)
    properties = made["schema"]["properties"]
    assert made["schema"]["required"] == ["name", "colour", "address", "mood", "nicknames"]
    assert properties["name"] == {"type": "string", "title": "Name", "description": "as written"}
    assert properties["colour"] == {"anyOf": [{"$ref": "#/$defs/Colour"}, NULL]}
    assert made["schema"]["$defs"]["Colour"]["enum"] == ["red", "blue"]
    assert properties["address"]["description"] == "where they live"
    assert properties["address"]["required"] == ["street", "number"]
    assert properties["mood"]["enum"] == ["good", "bad"]
    assert properties["nicknames"]["type"] == ["array", "null"]
    assert "default" not in json.dumps(made)


def test_a_model_takes_the_answers_that_it_describes() -> None:
    """What the strict schema of a model takes, the model takes too, but for the nulls of what has a default."""
    answer = {"name": "Ada", "colour": "blue", "address": {"street": "x", "number": None}, "mood": "good"}
    assert is_valid(Person, {**answer, "nicknames": ["a"]})
    assert is_valid(Person, {**answer, "nicknames": None})
    assert not is_valid(Person, answer)
    assert not is_valid(Person, {**answer, "nicknames": [], "extra": 1})
    assert not is_valid(Person, {**answer, "nicknames": [], "colour": "green"})


def test_a_recursive_model_stays_recursive() -> None:
    """The root is an object, what refers to itself goes on doing so, and no reference has other keys beside it."""
    made = inner(Branch)
    assert made["strict"] is True
    assert made["schema"]["type"] == "object"
    leaf = {"value": 1, "branches": [], "parent": None}
    assert is_valid(Branch, {"value": 2, "branches": [leaf], "parent": leaf})
    assert not is_valid(Branch, {"value": 2, "branches": [{**leaf, "value": "x"}], "parent": None})
    references = [part for part in parts(made["schema"]) if "$ref" in part]
    assert references
    assert all(part.keys() == {"$ref"} for part in references)


def test_a_described_reference_to_itself_loses_its_description() -> None:
    """Writing out what refers to itself would have no end."""
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node", "description": "the one after"}}}
    made = schema({"type": "object", "properties": {"first": {"$ref": "#/$defs/node"}}, "$defs": {"node": node}})
    inside = made["$defs"]["node"]["properties"]["next"]
    assert inside["description"] == "the one after"
    assert inside["properties"]["next"] == {"anyOf": [{"$ref": "#/$defs/node"}, NULL]}


def test_a_union_of_models_becomes_anyof() -> None:
    """`oneOf` with a discriminator is refused by strict endpoints; `anyOf` is not."""
    made = inner(Owner)
    assert made["strict"] is True
    assert made["schema"]["properties"]["pet"]["anyOf"] == [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]
    assert "discriminator" not in made["schema"]["properties"]["pet"]


def test_an_open_model_is_not_strict() -> None:
    """A model that allows extra fields goes on doing so."""
    made = inner(OpenModel)
    assert made["strict"] is False
    assert is_valid(OpenModel, {"note": "x", "more": 1})


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (STRING, {"type": ["string", "null"]}),
        ({"type": ["string", "integer"]}, {"type": ["string", "integer", "null"]}),
        ({"type": ["string", "null"]}, {"type": ["string", "null"]}),
        ({"type": "string", "enum": ["a"]}, {"type": ["string", "null"], "enum": ["a", None]}),
        ({"type": ["string", "null"], "enum": ["a"]}, {"type": ["string", "null"], "enum": ["a", None]}),
        ({"type": ["string", "null"], "const": "a"}, {"anyOf": [{"type": ["string", "null"], "const": "a"}, NULL]}),
        (
            {"type": ["string", "null"], "anyOf": [STRING]},
            {"anyOf": [{"type": ["string", "null"], "anyOf": [STRING]}, NULL]},
        ),
        ({"anyOf": [{"enum": ["a", None]}]}, {"anyOf": [{"type": ["string", "null"], "enum": ["a", None]}]}),
        ({"$ref": "#/$defs/a%20b"}, {"anyOf": [{"$ref": "#/$defs/a%20b"}, NULL]}),
        ({"$ref": "#/$defs/a%20b", "title": "t"}, {"type": ["integer", "null"], "title": "t"}),
        ({"$ref": "#/$defs/either/anyOf/1", "title": "t"}, {"type": ["integer", "null"], "title": "t"}),
        ({"$ref": "#part", "title": "t"}, {"anyOf": [{"$ref": "#part", "title": "t"}, NULL]}),
        ({"enum": ["a", 1]}, {"type": ["string", "integer", "null"], "enum": ["a", 1, None]}),
        ({"const": "a"}, {"anyOf": [{"type": "string", "const": "a"}, NULL]}),
        ({"anyOf": [STRING, {"type": "integer"}]}, {"anyOf": [STRING, {"type": "integer"}, NULL]}),
        ({"anyOf": [STRING, NULL]}, {"anyOf": [STRING, NULL]}),
        ({"$ref": "#/$defs/text"}, {"anyOf": [{"$ref": "#/$defs/text"}, NULL]}),
        ({"$ref": "#/$defs/text", "description": "d"}, {"type": ["string", "null"], "description": "d"}),
        ({"type": "object", "properties": {}}, {**closed({}), "type": ["object", "null"]}),
        ({"type": "string", "default": "x"}, {"type": ["string", "null"]}),
    ],
)
def test_an_optional_property_becomes_nullable(part: Any, expected: Any) -> None:
    """Strict endpoints know no optional properties, so that a missing one is null."""
    integer = {"type": "integer"}
    named = {
        "text": STRING,
        "a b": integer,
        "either": {"anyOf": [STRING, integer]},
        "part": {"$anchor": "part", **STRING},
    }
    assert property_of(part, is_required=False, **{"$defs": named}) == expected


def test_what_is_written_out_has_no_anchor() -> None:
    """An anchor names one place."""
    part = {"$ref": "#/$defs/text", "description": "d"}
    made = property_of(part, is_required=True, **{"$defs": {"text": {"$anchor": "text", **STRING}}})
    assert made == {"type": "string", "description": "d"}


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "string", "default": "x"}, STRING),
        ({"$ref": "#/$defs/text"}, {"$ref": "#/$defs/text"}),
        ({"$ref": "#/$defs/text", "description": "d"}, {"type": "string", "description": "d"}),
        ({"allOf": [{"$ref": "#/$defs/text"}], "description": "d"}, {"type": "string", "description": "d"}),
        ({"oneOf": [STRING, NULL]}, {"anyOf": [STRING, NULL]}),
        ({"const": 3}, {"type": "integer", "const": 3}),
        ({"type": "array", "items": {"properties": {"a": STRING}}}, {"type": "array", "items": closed({"a": {}})}),
        ({"type": "object", "properties": {}, "additionalProperties": False}, closed({})),
        ({"type": "object", "additionalProperties": False}, closed({})),
    ],
)
def test_a_required_property_becomes_strict(part: Any, expected: Any) -> None:
    """Defaults go, references stand alone, and unions and constants are written as strict endpoints have them."""
    if "items" in expected:
        expected = {**expected, "items": closed({"a": {"type": ["string", "null"]}})}
    assert property_of(part, is_required=True, **{"$defs": {"text": STRING}}) == expected


def test_properties_named_default_stay() -> None:
    """Only the keyword goes, not a property of that name."""
    assert list(schema({"type": "object", "properties": {"default": STRING, "title": STRING}})["properties"]) == [
        "default",
        "title",
    ]


def test_objects_are_closed_at_every_depth() -> None:
    """In lists, alternatives and definitions."""
    part = {"type": "object", "properties": {"a": STRING}}
    whole = {
        "type": "object",
        "properties": {
            "list": {"type": "array", "items": part},
            "either": {"anyOf": [part, NULL]},
            "named": {"$ref": "#/definitions/part"},
            "deep": {"type": "object", "properties": {"deeper": part}},
        },
        "definitions": {"part": part},
    }
    made = inner(whole)
    objects = [part for part in parts(made["schema"]) if "properties" in part]
    assert made["strict"] is True
    assert len(objects) == 6
    assert all(part["additionalProperties"] is False for part in objects)
    assert all(part["required"] == list(part["properties"]) for part in objects)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "object"},
        {"type": "object", "additionalProperties": True},
        {"type": "object", "additionalProperties": STRING},
        {"type": "object", "properties": {"a": STRING}, "additionalProperties": True},
        {"type": "object", "patternProperties": {"^a": STRING}},
        {"type": "object", "properties": {"a": STRING}, "required": ["b"]},
    ],
)
def test_an_open_object_stays_open(part: Any) -> None:
    """An object that is open on purpose is left as it is, the rest is strict, and the format is not."""
    made = inner({"type": "object", "properties": {"it": part, "other": STRING}, "required": ["it"]})
    assert made["strict"] is False
    assert made["schema"] == closed({"it": part, "other": {"type": ["string", "null"]}})


@pytest.mark.parametrize(
    "part",
    [
        True,
        {},
        {"description": "anything"},
        {"type": "array"},
        {"type": "array", "items": STRING, "uniqueItems": True},
        {"type": "array", "prefixItems": [STRING], "items": False},
        {"$ref": "https://example.com/schema.json"},
        {"$ref": "#text"},
        {"$ref": "#text", "description": "d"},
        {"$ref": "#/$defs/none"},
        {"$ref": "#/$defs/text", "maxLength": 3},
        {"not": STRING, "type": "integer"},
    ],
)
def test_what_strict_endpoints_refuse_is_not_strict(part: Any) -> None:
    """Rather than a refusal of every row, such a schema is sent without `strict`, saying what it said."""
    value = {"type": "object", "properties": {"it": part}, "required": ["it"], "$defs": {"text": STRING}}
    made = inner({**value, "$defs": {"text": {"$anchor": "text", **STRING}}})
    assert made["strict"] is False
    assert made["schema"]["properties"]["it"] == (part if part != {"type": "array"} else {**part, "items": True})


@pytest.mark.parametrize(
    "more",
    [
        {"allOf": [{"$ref": "#/$defs/base"}, {"properties": {"c": STRING}}]},
        {"anyOf": [{"properties": {"a": STRING}, "required": ["a"]}, {"required": ["c"]}]},
        {"if": {"properties": {"a": {"const": "x"}}}, "then": {"required": ["c"]}},
    ],
)
def test_schemas_that_are_put_together_are_left_alone(more: Any) -> None:
    """Closing the parts of an `allOf` would forbid what the other parts ask for."""
    whole = {"type": "object", "properties": {"a": STRING}, **more, "$defs": {"base": {"properties": {"b": STRING}}}}
    made = inner(whole)
    assert made == {"name": "response", "strict": False, "schema": whole}
    assert is_valid(whole, {"a": "x", "b": "y", "c": "z"})


@pytest.mark.parametrize(
    ("title", "name"),
    [("Ticket", "Ticket"), ("ein Täg!", "ein_T_g"), ("...", "response"), ("a" * 80, "a" * 64), ("x-1_y", "x-1_y")],
)
def test_the_name_has_what_the_api_allows(title: str, name: str) -> None:
    """The title is reduced to 64 letters, digits, _ and -."""
    assert inner({"type": "object", "title": title, "properties": {}})["name"] == name


def test_the_value_that_was_given_is_not_changed() -> None:
    """Neither the job's own mapping nor the lists in it are touched."""
    value = {"type": "object", "properties": {"a": {"type": "string", "enum": ["x"], "default": "x"}}}
    before = json.dumps(value)
    resolved(value, HERE)[0]
    assert json.dumps(value) == before


def judges(value: Any, instance: Any) -> bool:
    """Tell whether an answer is taken where a value says what it must be."""
    made, judged_by = resolved(value, HERE)
    assert made == resolved(value, HERE)[0]
    return jsonschema_rs.validator_for(judged_by).is_valid(instance)


NOTED = {"type": "object", "properties": {"a": {"type": "integer"}, "note": STRING}, "required": ["a"]}


@pytest.mark.parametrize(
    ("instance", "fits"),
    [
        ({"a": 1}, True),
        ({"a": 1, "note": "x"}, True),
        ({"a": 1, "note": None}, True),
        ({"a": 1, "more": 2}, True),
        ({"a": 1, "note": 2}, False),
        ({"a": None}, False),
        ({"note": "x"}, False),
        ([], False),
    ],
)
def test_answers_are_judged_by_what_the_job_says(instance: Any, fits: bool) -> None:
    """What is sent is stricter, and many endpoints do not enforce it: what is optional may be missing or null."""
    assert judges(NOTED, instance) is fits
    assert judges({"properties": NOTED["properties"], "required": ["a"]}, instance) is fits


@pytest.mark.parametrize(
    ("whole", "instance", "fits"),
    [
        ({**NOTED, "additionalProperties": False}, {"a": 1}, True),
        ({**NOTED, "additionalProperties": False}, {"a": 1, "more": 2}, False),
        ({**NOTED, "additionalProperties": STRING}, {"a": 1, "more": "x"}, True),
        ({**NOTED, "additionalProperties": STRING}, {"a": 1, "more": 2}, False),
        ({"$ref": "#/$defs/noted", "$defs": {"noted": NOTED}}, {"a": 1}, True),
        ({"type": "object", "properties": {"it": {"$ref": "#/$defs/noted"}}, "$defs": {"noted": NOTED}}, {}, True),
        ({"type": "object", "properties": {"it": {"type": "array", "items": NOTED}}}, {"it": [{"a": 1}]}, True),
        ({"type": "object", "properties": {"it": {"type": "array", "items": NOTED}}}, {"it": [{}]}, False),
        ({"type": "object", "properties": {"it": {"enum": ["x"]}}}, {"it": None}, True),
        ({"type": "object", "properties": {"it": {"enum": ["x"]}}}, {"it": "y"}, False),
        ({"type": "object", "properties": {"it": {"oneOf": [NOTED, NULL]}}}, {"it": {"a": 1, "note": None}}, True),
        ({**NOTED, "if": {"required": ["note"]}, "then": {"required": ["b"]}}, {"a": 1}, True),
        ({**NOTED, "if": {"required": ["note"]}, "then": {"required": ["b"]}}, {"a": 1, "note": "x"}, False),
        ({"a": "string", "b": "integer?"}, {"a": "x", "b": None}, True),
        ({"a": "string", "b": "integer?"}, {"a": "x"}, False),
        ({"a": "string", "b": "integer?"}, {"a": "x", "b": 1, "more": 2}, False),
        ({"a": [{"b": "string"}]}, {"a": [{"b": "x"}]}, True),
        ({"a": [{"b": "string"}]}, {"a": [{"b": "x", "more": 2}]}, False),
        ({"it": NOTED}, {"it": {"a": 1}}, True),
        ({"it": NOTED}, {"it": {"a": 1}, "more": 2}, False),
    ],
)
def test_every_form_has_its_own_measure(whole: Any, instance: Any, fits: bool) -> None:
    """The short form is closed and all of it is required; a JSON Schema is what it says, wherever it stands."""
    assert judges(whole, instance) is fits


def test_a_model_is_judged_as_pydantic_does() -> None:
    """What has a default may be missing; what a model forbids or asks for, it does."""
    answer = {"name": "Ada", "address": {"street": "x"}, "mood": "good"}
    assert judges(Person, answer)
    assert judges(Person, {**answer, "nicknames": None, "colour": "blue", "extra": 1})
    assert not judges(Person, {**answer, "colour": "green"})
    assert not judges(Person, {**answer, "address": {}})
    assert not judges(Closed, {"note": "x", "extra": 1})
    assert judges(Branch, {"value": 2, "branches": [{"value": 1, "branches": []}]})


def test_a_file_is_judged_by_what_it_says(tmp_path: Path) -> None:
    """A schema in a file is a JSON Schema like any other."""
    (tmp_path / "noted.json").write_text(json.dumps(NOTED))
    _, judged_by = resolved("noted.json", tmp_path)
    validator = jsonschema_rs.validator_for(judged_by)
    assert [validator.is_valid(one) for one in ({"a": 1}, {"a": 1, "note": None}, {})] == [True, True, False]


def parts(whole: Any) -> list[dict[str, Any]]:
    """Return every mapping in a JSON value."""
    found = [whole] if isinstance(whole, dict) else []
    for part in whole.values() if isinstance(whole, dict) else whole if isinstance(whole, list) else []:
        found += parts(part)
    return found


KEYWORDS = ["type", "properties", "required", "items", "anyOf", "oneOf", "allOf", "enum", "const", "$ref", "$defs"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["string", "object", "#/$defs/a", "#", "a", "array"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KEYWORDS, "a"]), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_arbitrary_values_give_a_format_or_a_valueerror(value: Any) -> None:
    """No value of a job raises anything but ValueError, and what is made is an object that JSON can say."""
    try:
        made = inner(value)
    except ValueError:
        return
    assert made["schema"]["type"] == "object"
    assert json.loads(json.dumps(made)) == made


NAMES = st.text("abc", min_size=1, max_size=3)
SHORT = st.recursive(
    st.sampled_from(["string", "integer", "number", "boolean", "string?", ["x", "y"], [1, 2], ["string"]]),
    lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3) | inner.map(lambda one: [{"item": one}]),
    max_leaves=8,
)


def example(short: Any) -> Any:
    """Return a value of the kind that a short form asks for."""
    if isinstance(short, dict):
        return {name: example(part) for name, part in short.items()}
    if isinstance(short, list):
        return short[0] if len(short) > 1 else [example(short[0])]
    return {"string": "x", "integer": 1, "number": 1.5, "boolean": True, "string?": None}[short]


@given(st.dictionaries(NAMES, SHORT, min_size=1, max_size=3))
def test_a_short_form_takes_what_it_says(short: dict[str, Any]) -> None:
    """An answer of the kinds that the short form names fits; one with a field more, or less, does not."""
    answer = example(short)
    made = inner(short)
    validator = jsonschema_rs.validator_for(made["schema"])
    assert made["strict"] is True
    assert validator.is_valid(answer)
    assert not validator.is_valid({**answer, "another": 1})
    assert not validator.is_valid(dict(list(answer.items())[1:]))


SCALARS: list[tuple[Any, Any]] = [
    (STRING, "x"),
    ({"type": "integer"}, 1),
    ({"type": ["string", "null"], "enum": ["x"]}, "x"),
    ({"const": 2}, 2),
    ({"anyOf": [STRING, {"type": "integer"}]}, 3),
    ({"$ref": "#/$defs/text"}, "x"),
    ({"$ref": "#/$defs/text", "description": "d"}, "x"),
    (NOTED, {"a": 1}),
]


@st.composite
def objects(draw: st.DrawFn, depth: int = 0) -> tuple[Any, Any]:
    """Draw a JSON Schema of an object, and an answer that fits but for the nulls of its optional properties."""
    properties: dict[str, Any] = {}
    required: list[str] = []
    answer: dict[str, Any] = {}
    for name in draw(st.sets(NAMES, max_size=3)):
        part, value = draw(objects(depth + 1) if depth < 3 and draw(st.booleans()) else st.sampled_from(SCALARS))
        if draw(st.booleans()):
            part, value = {"type": "array", "items": part}, [value, value]
        properties[name] = part
        state = draw(st.sampled_from(["required", "given", "null", "missing"]))
        if state == "required":
            required.append(name)
        if state != "missing":
            answer[name] = None if state == "null" else value
    rest: dict[str, Any] = draw(st.sampled_from([{}, {"additionalProperties": False}, {"title": "T"}]))
    return {"type": "object", "properties": properties, "required": required, **rest}, answer


@pytest.mark.slow
@given(objects())
def test_what_fits_the_job_or_what_is_sent_is_taken(drawn: tuple[Any, Any]) -> None:
    """An optional property is given, null or missing, at any depth; one that is required is not missing."""
    whole, answer = drawn
    whole = {**whole, "$defs": {"text": STRING}}
    made, judged_by = resolved(whole, HERE)
    validator = jsonschema_rs.validator_for(judged_by)
    full = completed(whole, answer)
    assert validator.is_valid(answer)
    assert jsonschema_rs.validator_for(made["json_schema"]["schema"]).is_valid(full)
    assert validator.is_valid(full)
    for name in whole["required"]:
        assert not validator.is_valid({key: value for key, value in answer.items() if key != name})


def completed(part: Any, answer: Any) -> Any:
    """Return an answer with nulls for the properties that it does not have."""
    if isinstance(answer, list):
        return [completed(part["items"], one) for one in answer]
    if not isinstance(answer, dict):
        return answer
    return {name: completed(inner, answer.get(name)) for name, inner in part["properties"].items()}
