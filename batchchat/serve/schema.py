"""JSON Schemas as values: checked for shape, references resolved, several merged into one.

What passes in is the schema as the request has it; what comes out are schemas (a dict, or true or false), or
`SchemaError` with the place and what is wrong. It does not know instances or prompts. A schema that passes
`check_schema` has keywords of the right type, so that nothing after it needs to look again.
"""

import math
from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 64
MAX_STEPS = 50_000
_NUMBER_KEYWORDS = ("minimum", "maximum", "multipleOf")
_COUNT_KEYWORDS = tuple(
    f"{end}{what}" for end in ("min", "max") for what in ("Length", "Items", "Properties", "Contains")
)
_STRING_KEYWORDS = ("$ref", "pattern", "format", "title", "description")
_LIST_KEYWORDS = ("enum", "required")
_SCHEMA_KEYWORDS = ("additionalProperties", "additionalItems", "contains", "not", "if", "then", "else", "propertyNames")
_SCHEMA_LIST_KEYWORDS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SCHEMA_MAP_KEYWORDS = ("properties", "patternProperties", "$defs", "definitions")
TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")

Schema = dict[str, Any] | bool


class SchemaError(Exception):
    """The schema is malformed, or no instance of it can be made."""


def check_schema(schema: Any, where: str = "#", depth: int = 0) -> None:
    """Raise SchemaError when a keyword has the wrong type anywhere in the schema, or it is nested too deeply."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise SchemaError(f"{where} is not a schema; it must be an object, true or false")
    if depth > MAX_DEPTH:
        raise SchemaError(f"{where} is nested too deeply; {MAX_DEPTH} levels are allowed")
    _check_keywords(schema, where)
    for name, part in _subschemas(schema, where):
        check_schema(part, f"{where}/{name}", depth + 1)


def _check_keywords(schema: Mapping[str, Any], where: str) -> None:
    for keyword, value in schema.items():
        expected = _expected(keyword, value)
        if expected:
            raise SchemaError(f"{where}/{keyword} must be {expected}")


def _expected(keyword: str, value: Any) -> str | None:
    """Return what a keyword's value must be, when it is not."""
    if keyword == "type":
        names = value if isinstance(value, list) else [value]
        return None if names and all(name in TYPES for name in names) else f"one or more of {', '.join(TYPES)}"
    if keyword in ("exclusiveMinimum", "exclusiveMaximum"):
        return None if isinstance(value, bool) or _is_finite(value) else "a number"
    if keyword in _NUMBER_KEYWORDS:
        is_right = _is_finite(value) and (keyword != "multipleOf" or value > 0)
        return None if is_right else "a number" + (" above 0" if keyword == "multipleOf" else "")
    if keyword in _COUNT_KEYWORDS:
        return None if _is_finite(value) and value >= 0 and value == int(value) else "a whole number of at least 0"
    return _expected_container(keyword, value)


def _expected_container(keyword: str, value: Any) -> str | None:
    if keyword in _STRING_KEYWORDS:
        return None if isinstance(value, str) else "a string"
    if keyword == "required":
        return None if isinstance(value, list) and all(isinstance(name, str) for name in value) else "a list of names"
    if keyword in (*_LIST_KEYWORDS, *_SCHEMA_LIST_KEYWORDS):
        return None if isinstance(value, list) and value else "a list with something in it"
    if keyword in _SCHEMA_MAP_KEYWORDS:
        return None if isinstance(value, dict) else "an object"
    if keyword == "uniqueItems":
        return None if isinstance(value, bool) else "true or false"
    return None


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _subschemas(schema: Mapping[str, Any], where: str) -> list[tuple[str, Any]]:
    """Return the schemas directly within a schema, each with the way to it."""
    found = [(name, schema[name]) for name in _SCHEMA_KEYWORDS if name in schema]
    for name in _SCHEMA_LIST_KEYWORDS:
        found += [(f"{name}/{index}", part) for index, part in enumerate(schema.get(name, ()))]
    for name in _SCHEMA_MAP_KEYWORDS:
        found += [(f"{name}/{key}", part) for key, part in schema.get(name, {}).items()]
    items = schema.get("items", True)
    # Before draft 2020-12, a list of `items` was what `prefixItems` is now.
    many = items if isinstance(items, list) else [items]
    return found + [(f"items/{index}", part) for index, part in enumerate(many)]


class Document:
    """A whole schema: what references start from, and how much work may still be put into it."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._steps_left = MAX_STEPS
        self._resolved: dict[str, Schema] = {}

    def spend(self) -> None:
        """Count one step. Raises SchemaError after `MAX_STEPS`: a small schema can describe endless work."""
        self._steps_left -= 1
        if self._steps_left < 0:
            raise SchemaError("the schema is too much work for the embedded endpoint")

    def resolved(self, reference: str) -> Schema:
        """Return what a local `$ref` points to. Raises SchemaError when it points elsewhere, or to nothing."""
        if reference not in self._resolved:
            target = _pointed_to(reference, self._root)
            # It may lie outside the places that hold schemas, and so not have been looked at.
            check_schema(target, reference)
            self._resolved[reference] = target
        return self._resolved[reference]


def _pointed_to(reference: str, root: Schema) -> Any:
    if not reference.startswith("#"):
        raise SchemaError(
            f"$ref {reference!r} points out of the schema; only references into it (#/$defs/name) are known"
        )
    target: Any = root
    for part in reference[1:].split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(target, list) and key.isascii() and key.isdigit() and int(key) < len(target):
            target = target[int(key)]
        elif isinstance(target, dict) and key in target:
            target = target[key]
        else:
            raise SchemaError(f"$ref {reference!r} points to nothing")
    return target


def merged(first: Schema, second: Schema) -> Schema:
    """Return a schema that allows what both allow, as far as one schema can say it."""
    if first is True or second is False:
        return second
    if second is True or first is False:
        return first
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    both = dict(first)
    for keyword, value in second.items():
        both[keyword] = _merged_keyword(keyword, both[keyword], value) if keyword in both else value
    return both


def _merged_keyword(keyword: str, first: Any, second: Any) -> Any:
    if first == second and type(first) is type(second):
        return first
    if keyword == "type":
        return _common_types(first, second)
    if keyword == "enum":
        return [value for value in first if value in second] or _nothing("enum", first, second)
    if keyword in ("properties", "patternProperties", "$defs", "definitions"):
        return {**first, **{key: merged(first.get(key, True), part) for key, part in second.items()}}
    if keyword == "required":
        return list(dict.fromkeys([*first, *second]))
    if keyword in ("allOf", "anyOf", "oneOf"):
        return [*first, *second] if keyword == "allOf" else first
    if keyword in ("items", "additionalProperties") and not isinstance(first, list) and not isinstance(second, list):
        return merged(first, second)
    if keyword.startswith(("min", "exclusiveMin")) and not isinstance(first, bool):
        return max(first, second)
    if keyword.startswith(("max", "exclusiveMax")) and not isinstance(first, bool):
        return min(first, second)
    return second


def _common_types(first: Any, second: Any) -> list[str]:
    firsts = first if isinstance(first, list) else [first]
    seconds = second if isinstance(second, list) else [second]
    common = [name for name in firsts if name in seconds or (name == "integer" and "number" in seconds)]
    common += [name for name in seconds if name == "integer" and "number" in firsts and name not in common]
    return common or _nothing("type", first, second)


def _nothing(keyword: str, first: Any, second: Any) -> Any:
    raise SchemaError(f"no value has both {keyword} {first!r} and {second!r}"[:300])
