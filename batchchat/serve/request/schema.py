"""Make the shortest instance of a JSON Schema, from the words and numbers of a text where they fit.

Every instance is checked with jsonschema-rs before it is returned: what cannot be made is a `SchemaError`, never an
invalid answer.
"""

import math
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache, reduce
from typing import Any, NoReturn

import jsonschema_rs
import orjson

from batchchat.serve.request.labels import ranked, speaks_for
from batchchat.serve.request.words import first_sentence, named_place

_MAX_ERROR_CHARS = 300
_MAX_STEPS = 2_000
_MAX_DEPTH = 30
# Deeper than this, optional properties are left out, so that a schema that refers to itself ends.
_MAX_OPTIONAL_DEPTH = 3
_NUMBER = re.compile(r"(?<![\w.-])-?\d{1,15}(?:\.\d{1,6})?(?!\w)")
_PLACE = re.compile(r"location|city|place|country|address", re.IGNORECASE)
_OF_FORMATS = {
    "date": "2025-01-01",
    "time": "12:00:00Z",
    "date-time": "2025-01-01T12:00:00Z",
    "duration": "P1D",
    "email": "stand-in@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "192.0.2.1",
    "hostname": "example.com",
}


class SchemaError(Exception):
    """The schema is malformed, or no instance of it can be made."""


@lru_cache(maxsize=256)
def validator_of(schema: bytes) -> jsonschema_rs.Validator:
    """Return the validator of a schema, given as JSON. Raises SchemaError when it is none."""
    try:
        validator: jsonschema_rs.Validator = jsonschema_rs.validator_for(
            orjson.loads(schema), retriever=_refuse_document, validate_formats=False
        )
    except ValueError as error:
        reason = error.message if isinstance(error, jsonschema_rs.ValidationError) else str(error)
        raise SchemaError(f"it is not a JSON Schema ({reason[:_MAX_ERROR_CHARS]})") from error
    return validator


def problem_in(value: Any, schema: bytes) -> str | None:
    """Return the first thing that is wrong with a value, with the way to it; None when it fits the schema."""
    try:
        validator_of(schema).validate(value)
    except jsonschema_rs.ValidationError as error:
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path)
        return f"{path.removeprefix('.') or 'the body'}: {error.message[:_MAX_ERROR_CHARS]}"
    return None


def instance_of(schema: Any, text: str) -> Any:
    """Return an instance of a schema for a text. Raises SchemaError when the embedded endpoint can make none."""
    value = _Maker(schema, text).made(schema, "", 0)
    if not validator_of(orjson.dumps(schema)).is_valid(value):
        raise SchemaError("the embedded endpoint cannot make an instance of it")
    return value


class _Maker:
    """Makes one instance: values to try for each place, the first that fits is taken."""

    def __init__(self, root: Any, text: str) -> None:
        self._root = root
        self._defs = {key: root[key] for key in ("$defs", "definitions") if isinstance(root, dict) and key in root}
        self._text = text
        self._steps = 0

    def made(self, schema: Any, name: str, depth: int, taken: Sequence[Any] = ()) -> Any:
        """Return a value for the place `name` that is not in `taken`."""
        self._steps += 1
        if self._steps > _MAX_STEPS or depth > _MAX_DEPTH:
            raise SchemaError("every instance of it is too large, or nested without end")
        flat = self._flat(schema)
        if flat.get("not") == {}:
            raise SchemaError(f"nothing is allowed for {name or 'the whole'}")
        for value in self._candidates(flat, name, depth):
            if value not in taken and self._fits(value, flat):
                return value
        asked = f"the pattern {flat['pattern']!r}" if "pattern" in flat else "its schema"
        raise SchemaError(f"the embedded endpoint finds no value for {name or 'the whole'} that fits {asked[:200]}")

    def _fits(self, value: Any, schema: dict[str, Any]) -> bool:
        """Tell whether a scalar fits its schema; what has parts is checked with the whole."""
        if isinstance(value, dict | list):
            return True
        return (not isinstance(value, float) or math.isfinite(value)) and validator_of(
            orjson.dumps({**self._defs, **schema})
        ).is_valid(value)

    def _flat(self, schema: Any) -> dict[str, Any]:
        """Return the schema with its own `$ref` and `allOf` merged into it."""
        flat: dict[str, Any] = schema if isinstance(schema, dict) else {} if schema is True else {"not": {}}
        while "$ref" in flat or "allOf" in flat:
            self._steps += 1
            if self._steps > _MAX_STEPS:
                raise SchemaError("it refers to itself without end")
            parts = [*flat.get("allOf", ()), *([self._pointed_to(flat["$ref"])] if "$ref" in flat else ())]
            rest = {key: value for key, value in flat.items() if key not in ("$ref", "allOf")}
            flat = reduce(_merged, parts, rest)
        return flat

    def _pointed_to(self, reference: str) -> Any:
        target = self._root
        try:
            for part in reference.split("/")[1:]:
                key = part.replace("~1", "/").replace("~0", "~")
                target = target[int(key)] if isinstance(target, list) else target[key]
        except (LookupError, TypeError, ValueError) as error:
            raise SchemaError(f"$ref {reference[:100]!r} is of no kind that the embedded endpoint knows") from error
        return target

    def _candidates(self, schema: dict[str, Any], name: str, depth: int) -> Iterator[Any]:
        if "const" in schema:
            yield schema["const"]
        elif "enum" in schema:
            yield from ranked(schema["enum"], self._text)
        elif "anyOf" in schema or "oneOf" in schema:
            rest = {key: value for key, value in schema.items() if key not in ("anyOf", "oneOf")}
            for branch in sorted(schema.get("anyOf") or schema["oneOf"], key=_is_not_null):
                try:
                    yield self.made(_merged(rest, branch), name, depth + 1)
                except SchemaError:
                    continue
        else:
            for kind in _types(schema):
                yield from self._typed(kind, schema, name, depth)

    def _typed(self, kind: str, schema: dict[str, Any], name: str, depth: int) -> Iterator[Any]:
        if kind == "null":
            yield None
        elif kind == "boolean":
            yield speaks_for(name, self._text)
            yield not speaks_for(name, self._text)
        elif kind == "string":
            yield from self._strings(schema, name)
        elif kind == "array":
            yield self._array(schema, name, depth)
        elif kind == "object":
            yield self._object(schema, depth)
        else:
            yield from self._numbers(schema)

    def _strings(self, schema: dict[str, Any], name: str) -> Iterator[str]:
        least, most = int(schema.get("minLength", 0)), int(schema.get("maxLength", 1_000))
        if least > 10_000:
            raise SchemaError(f"{name or 'the whole'} must be longer than the embedded endpoint makes strings")
        sample = _OF_FORMATS.get(schema.get("format", ""))
        place = named_place(self._text) if _PLACE.search(name) else None
        # A pattern often is that of an order number, which is one of the words.
        words = self._text.split()[:300] if "pattern" in schema or schema.get("minLength", 0) else []
        for text in (sample or place or first_sentence(self._text), *words, *"aA01- "):
            yield text[:most].ljust(least, text[-1:] or "-")

    def _numbers(self, schema: dict[str, Any]) -> Iterator[float]:
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        high = schema.get("maximum", schema.get("exclusiveMaximum", low))
        unit = schema.get("multipleOf", 1)
        said = [float(number) for number in _NUMBER.findall(self._text)[:20]]
        for number in (*said, 0, low, high, low + 1, high - 1, (low + high) / 2, -(-low // unit) * unit):
            is_whole = abs(number) < 2**53 and number == int(number)
            yield int(number) if is_whole else number

    def _array(self, schema: dict[str, Any], name: str, depth: int) -> list[Any]:
        prefix, rest = schema.get("prefixItems", []), schema.get("contains", schema.get("items", True))
        items: list[Any] = []
        for index in range(int(schema.get("minItems", 1 if "contains" in schema else 0))):
            part = prefix[index] if index < len(prefix) else rest
            items.append(self.made(part, name, depth + 1, items if schema.get("uniqueItems") else ()))
        return items

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        """Return an object with the properties that the schema names, required or not."""
        properties, required = schema.get("properties", {}), schema.get("required", [])
        value: dict[str, Any] = {}
        for name in dict.fromkeys([*properties, *required]):
            if name not in required and depth > _MAX_OPTIONAL_DEPTH:
                continue
            try:
                value[name] = self.made(properties.get(name, schema.get("additionalProperties", True)), name, depth + 1)
            except SchemaError:
                if name in required:
                    raise
        return value


def _merged(first: dict[str, Any], second: Any) -> dict[str, Any]:
    """Return a schema with the keywords of both; where both have one, the check of the whole decides."""
    if not isinstance(second, dict):
        return first if second else {"not": {}}
    properties = {**first.get("properties", {}), **second.get("properties", {})}
    required = [*first.get("required", ()), *second.get("required", ())]
    both = {**first, **second}
    return both | ({"properties": properties} if properties else {}) | ({"required": required} if required else {})


def _types(schema: dict[str, Any]) -> list[str]:
    """Return the types to try, null first, as it is the shortest."""
    named = schema.get("type", [])
    hinted = "object" if "properties" in schema or "required" in schema else "array" if "items" in schema else "string"
    names = [named] if isinstance(named, str) else named or [hinted, "number", "boolean", "array", "object", "null"]
    return names if not named else sorted(names, key=lambda name: name != "null")


def _is_not_null(schema: Any) -> bool:
    return not (isinstance(schema, dict) and schema.get("type") == "null")


def _refuse_document(uri: str) -> NoReturn:
    message = f"{uri} is another document, and none is fetched"
    raise ValueError(message)
