"""A JSON Schema and a subject -> a JSON value that is an instance of the schema.

What passes in is a schema that `check_schema` has passed; what comes out is a value, with every property that the
schema names, required or not, values of an `enum` chosen by the subject's words, strings and numbers taken from it. It
does not know requests or replies. The value is checked before it is returned: what cannot be made (nothing meets the
schema, or a pattern with a lookaround) is a `SchemaError`, never an invalid answer.

A schema that refers to itself is followed twice; after that optional properties are left out and arrays are as short as
they may be, until it ends.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from batchchat.serve.scalar import number_value, text_value
from batchchat.serve.schema import TYPES, Document, Schema, SchemaError, merged
from batchchat.serve.subject import Subject, best_option, speaks_for
from batchchat.serve.validity import is_equal, is_valid, item_schemas, property_schemas
from batchchat.serve.wording import text_for

MAX_ITEMS = 500
_MAX_DEPTH = 60
_MAX_REFERENCES = 200
_FOLLOWED_TIMES = 1
_USUAL_ITEMS = 2
_MAX_UNIQUE_TRIES = 20
_HINTS = {
    "object": ("properties", "required", "additionalProperties", "minProperties", "patternProperties", "propertyNames"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the instance a value goes, and the references that led there."""

    name: str = ""
    variant: int = 0
    depth: int = 0
    references: tuple[str, ...] = ()

    @property
    def is_deep(self) -> bool:
        return self.depth > 12 or any(self.references.count(ref) > _FOLLOWED_TIMES for ref in self.references[-1:])

    def within(self, name: str, variant: int) -> "_Place":
        return _Place(name, variant, self.depth + 1, self.references)


@dataclass(frozen=True, slots=True)
class _Task:
    """What every value of one instance is made from."""

    document: Document
    subject: Subject


def instance_of(schema: Schema, subject: Subject, variant: int = 0) -> Any:
    """Return an instance of the schema; variants 0, 1, 2... differ as far as it allows, and as the subject has words.

    Raises SchemaError when none can be made.
    """
    document = Document(schema)
    value = _made(schema, _Place(variant=variant), _Task(document, subject))
    if not is_valid(value, schema, document):
        raise SchemaError("the embedded endpoint cannot make an instance of it")
    return value


def instance_with(schema: Schema, subject: Subject, known: Mapping[str, Any], variant: int = 0) -> Any:
    """Return an instance of the schema in which properties of the root have the values that are `known` of them.

    `known` has names in lower case; a value that is not allowed does not count. Raises SchemaError when there is none.
    """
    properties = schema.get("properties", {}) if isinstance(schema, dict) else {}
    named = {name: known[name.casefold()] for name in properties if name.casefold() in known}
    if isinstance(schema, dict) and named:
        with suppress(SchemaError):
            document = Document(schema)
            fixed = {
                name: {"const": value} for name, value in named.items() if is_valid(value, properties[name], document)
            }
            value = instance_of({**schema, "properties": {**properties, **fixed}}, subject, variant)
            if is_valid(value, schema, document):
                return value
    return instance_of(schema, subject, variant)


def _made(schema: Schema, place: _Place, task: _Task) -> Any:
    task.document.spend()
    if place.depth > _MAX_DEPTH:
        raise SchemaError("every instance of it is nested without end, or too deeply")
    schema, place = _flat(schema, place, task)
    if schema is False:
        raise SchemaError(f"nothing is allowed for {place.name!r}")
    if schema is True:
        return text_for(place.name, task.subject, place.variant)
    branches = _branches(schema)
    if branches:
        if place.is_deep:
            branches = sorted(branches, key=_reaches_deeper)
        return _first_valid([partial(_made, branch, place, task) for branch in branches], schema, task)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return _listed(schema, place, task)
    kinds = [partial(_typed, name, schema, place, task) for name in _type_names(schema)]
    return _first_valid(kinds, schema, task)


def _flat(schema: Schema, place: _Place, task: _Task) -> tuple[Schema, _Place]:
    """Return the schema with its own `$ref` and `allOf` merged into it."""
    while not isinstance(schema, bool) and ("$ref" in schema or "allOf" in schema):
        task.document.spend()
        rest = {key: value for key, value in schema.items() if key not in ("$ref", "allOf")}
        merging: Schema = rest
        for part in schema.get("allOf", ()):
            merging = merged(merging, part)
        if "$ref" in schema:
            if len(place.references) > _MAX_REFERENCES:
                raise SchemaError(f"$ref {schema['$ref']!r} refers to itself without end")
            place = replace(place, references=(*place.references, schema["$ref"]))
            merging = merged(merging, task.document.resolved(schema["$ref"]))
        schema = merging
    return schema, place


def _branches(schema: dict[str, Any]) -> list[Schema]:
    """Return the schemas that a schema gives the choice of, each with what holds in any case."""
    for keyword in ("oneOf", "anyOf"):
        if keyword in schema:
            rest = {key: value for key, value in schema.items() if key != keyword}
            return [_merged_or_false(rest, branch) for branch in schema[keyword]]
    if "if" in schema:
        rest = {key: value for key, value in schema.items() if key not in ("if", "then", "else")}
        met = _merged_or_false(rest, _merged_or_false(schema["if"], schema.get("then", True)))
        return [met, _merged_or_false(rest, schema.get("else", True))]
    return []


def _merged_or_false(first: Schema, second: Schema) -> Schema:
    """Return the merged schema, or false when nothing meets both."""
    try:
        return merged(first, second)
    except SchemaError:
        return False


def _reaches_deeper(schema: Schema) -> bool:
    if isinstance(schema, bool):
        return False
    return "$ref" in schema or _type_names(schema)[0] in ("object", "array")


def _first_valid(makers: Sequence[Callable[[], Any]], schema: Schema, task: _Task) -> Any:
    """Return the first value that can be made and is an instance of the schema."""
    if len(makers) == 1:
        # There is no other to try: whether it is valid is for the check of the whole to say.
        return makers[0]()
    failed = SchemaError("nothing is allowed by it")
    for make in makers:
        try:
            value = make()
        except SchemaError as error:
            failed = error
            continue
        if is_valid(value, schema, task.document):
            return value
    raise failed


def _type_names(schema: dict[str, Any]) -> list[str]:
    """Return the types to try in turn; where the schema has none, the ones that its keywords hint at come first."""
    named = schema.get("type")
    if named is None:
        hinted = [name for name, keywords in _HINTS.items() if any(keyword in schema for keyword in keywords)]
        return [*hinted, "string", *(name for name in TYPES if name != "string" and name not in hinted)]
    names = named if isinstance(named, list) else [named]
    return sorted(names, key=lambda name: name == "null")


def _typed(name: str, schema: dict[str, Any], place: _Place, task: _Task) -> Any:
    if name == "object":
        return _object(schema, place, task)
    if name == "array":
        return _array(schema, place, task)
    if name == "string":
        return text_value(schema, place.name, task.subject, place.variant)
    if name == "boolean":
        return speaks_for(place.name, task.subject) is (place.variant % 2 == 0)
    if name == "null":
        return None
    return number_value(schema, task.subject, place.variant, is_integer=name == "integer")


def _listed(schema: dict[str, Any], place: _Place, task: _Task) -> Any:
    """Return the value of an `enum` that the subject speaks for; other variants give its neighbours."""
    allowed = [value for value in schema["enum"] if is_valid(value, schema, task.document)]
    if not allowed:
        raise SchemaError(f"none of the values listed for {place.name!r} is allowed")
    shown = [value if isinstance(value, str) else str(value) for value in allowed]
    if place.name and {text.casefold() for text in shown} in ({"yes", "no"}, {"true", "false"}):
        chosen = next(
            text for text in shown if (text.casefold() in ("yes", "true")) is speaks_for(place.name, task.subject)
        )
    else:
        chosen = best_option(shown, task.subject)
    return allowed[(shown.index(chosen) + place.variant) % len(allowed)]


def _object(schema: dict[str, Any], place: _Place, task: _Task) -> dict[str, Any]:
    required = dict.fromkeys(schema.get("required", ()))
    optional = [] if place.is_deep else [name for name in schema.get("properties", {}) if name not in required]
    optional = optional[
        : max(0, int(min(schema.get("maxProperties", len(optional) + len(required)), 10_000)) - len(required))
    ]
    named = [name for name in schema.get("properties", {}) if name in required or name in set(optional)]
    value: dict[str, Any] = {}
    for name in dict.fromkeys([*named, *required]):
        try:
            value[name] = _property(name, schema, place, task)
        except SchemaError:
            # A property that nothing is allowed for is one that must be left out.
            if name in required:
                raise
    return _filled(value, schema, place, task)


def _property(name: str, schema: dict[str, Any], place: _Place, task: _Task) -> Any:
    both: Schema = True
    for part in property_schemas(name, schema):
        both = merged(both, part)
    return _made(both, place.within(name, place.variant), task)


def _filled(value: dict[str, Any], schema: dict[str, Any], place: _Place, task: _Task) -> dict[str, Any]:
    """Return the object with as many more properties as `minProperties` asks for."""
    wanted = min(schema.get("minProperties", 0), MAX_ITEMS)
    if len(value) >= wanted:
        return value
    optional = (name for name in schema.get("properties", {}) if name not in value)
    extra = (f"extra_{number}" for number in range(1, MAX_ITEMS + 1))
    for name in (*optional, *extra):
        if len(value) >= wanted:
            break
        value = {**value, name: _property(name, schema, place, task)}
    return value


def _array(schema: dict[str, Any], place: _Place, task: _Task) -> list[Any]:
    least = int(min(schema.get("minItems", 0), MAX_ITEMS + 1))
    if least > MAX_ITEMS:
        raise SchemaError(f"{place.name!r} must have more items than the embedded endpoint makes ({MAX_ITEMS})")
    most = int(min(schema.get("maxItems", MAX_ITEMS), MAX_ITEMS))
    schemas = _item_schemas(schema, min(most, max(least, _usual_items(schema, place, task))))
    items: list[Any] = []
    for index, part in enumerate(schemas):
        try:
            items.append(_item(part, items, index, schema, place, task))
        except SchemaError:
            if index < least:
                raise
            break
    return items


def _usual_items(schema: dict[str, Any], place: _Place, task: _Task) -> int:
    """Return how many items an array gets when the schema leaves it open."""
    prefix, rest = item_schemas(schema)
    least = max(len(prefix), int(min(schema.get("minContains", 1), MAX_ITEMS)) if "contains" in schema else 0)
    if place.is_deep:
        return least
    if isinstance(rest, dict) and "enum" in rest:
        spoken_for = sum(isinstance(value, str) and speaks_for(value, task.subject) for value in rest["enum"])
        return max(least, 1, min(spoken_for, 3))
    return max(least, _USUAL_ITEMS) if rest is not False else least


def _item_schemas(schema: dict[str, Any], count: int) -> Iterator[Schema]:
    prefix, rest = item_schemas(schema)
    containing = int(min(schema.get("minContains", 1), MAX_ITEMS)) if "contains" in schema else 0
    for index in range(count):
        part = prefix[index] if index < len(prefix) else rest
        must_contain = index >= min(len(prefix), max(0, count - containing)) and containing > 0
        containing -= must_contain
        yield _merged_or_false(part, schema["contains"]) if must_contain else part


def _item(part: Schema, items: Sequence[Any], index: int, schema: dict[str, Any], place: _Place, task: _Task) -> Any:
    tries = _MAX_UNIQUE_TRIES if schema.get("uniqueItems") else 1
    for variant in range(index, index + tries):
        item = _made(part, place.within(place.name, variant), task)
        if tries == 1 or not any(is_equal(item, other) for other in items):
            return item
    raise SchemaError(f"the embedded endpoint finds too few different items for {place.name!r}")
