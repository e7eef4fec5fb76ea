"""A JSON Schema -> one that strict endpoints take: objects closed, all their properties required, no defaults."""

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

Schema = dict[str, Any]

_INLINED_DEPTH = 8
"""References with a description that are written out within each other, before the description is dropped instead."""

_ANNOTATIONS = frozenset({"title", "description", "examples", "deprecated", "$comment"})
_COMPOSING = frozenset({"allOf", "oneOf", "not", "if", "then", "else", "dependentSchemas"})
NOT_STRICT = _COMPOSING | frozenset(
    {"patternProperties", "propertyNames", "unevaluatedProperties", "unevaluatedItems", "contains", "prefixItems"}
    | {"additionalItems", "minProperties", "maxProperties", "uniqueItems", "dependentRequired"}
)
"""Keywords that endpoints refuse beside `strict: true`."""
TYPE_NAMES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


def types_of(values: Sequence[Any]) -> str | list[str]:
    """Return the `type` of values as JSON is read."""
    names = list(dict.fromkeys(TYPE_NAMES.get(type(value), "null") for value in values))
    names = [name for name in names if name != "integer" or "number" not in names]
    return names[0] if len(names) == 1 else names


_REJECTING = frozenset({"const", "anyOf", "oneOf", "allOf", "not", "if", "$ref", "$dynamicRef", "$recursiveRef"})
"""Keywords that may refuse null beside a type and an enum that have it."""


class Strictness:
    """Makes one schema strict; `is_strict` turns false when a part of it cannot be.

    Without `closes`, objects keep what they require and what they are open to, so that all that fits the schema fits
    what is made, and so does all that fits its strict form.
    """

    def __init__(self, document: Schema, *, closes: bool = True) -> None:
        self._document = document
        self._closes = closes
        self.is_strict = True
        self._is_composed = False

    def root(self) -> Schema:
        """Return the document made strict. Raises ValueError when it has no object at its root."""
        document = self._document
        target = self._target(document.get("$ref"))
        if isinstance(target, dict):
            document = {**target, **{key: value for key, value in document.items() if key != "$ref"}}
        schema: Schema = self._schema(document, frozenset())
        if self._is_composed:
            schema = document
        if schema.get("type") == "object":
            return schema
        key = next((key for key in ("type", "anyOf", "oneOf", "allOf", "$ref") if key in schema), None)
        found = "no type" if key is None else f"{key}: {schema[key]!r}"[:80]
        wrapped = "{type: object, properties: {answer: ...}}"
        raise ValueError(f"has {found} at its root; endpoints take an object only: wrap it in one, such as {wrapped}")

    def _schema(self, schema: Any, inlined: frozenset[str]) -> Any:
        """Return a schema made strict; `inlined` are the references that are being written out around it."""
        if not isinstance(schema, dict):
            self.is_strict = False
            return schema
        schema = _simplified(schema)
        if "$ref" in schema and len(schema) > 1:
            return self._referring(schema, inlined)
        is_object = "properties" in schema or _is_typed(schema, "object")
        if not _COMPOSING.isdisjoint(schema) or (is_object and "anyOf" in schema):
            self._is_composed, self.is_strict = True, False
        is_open = is_object and _is_open(schema)
        has_type = is_object or not {"type", "$ref", "anyOf"}.isdisjoint(schema)
        is_unknown = "$ref" in schema and self._target(schema["$ref"]) is None
        if is_open or is_unknown or not has_type or not NOT_STRICT.isdisjoint(schema):
            self.is_strict = False
        strict = {**schema, **self._definitions(schema)}
        if is_open:
            return strict
        if "items" in schema or _is_typed(schema, "array"):
            strict["items"] = self._schema(schema.get("items", True), inlined)
        if isinstance(schema.get("anyOf"), list):
            strict["anyOf"] = [self._schema(part, inlined) for part in schema["anyOf"]]
        return self._closed(strict, inlined) if is_object else strict

    def _definitions(self, schema: Schema) -> Schema:
        return {
            key: {name: self._schema(part, frozenset()) for name, part in schema[key].items()}
            for key in ("$defs", "definitions")
            if isinstance(schema.get(key), dict)
        }

    def _closed(self, schema: Schema, inlined: frozenset[str]) -> Schema:
        properties = {name: self._schema(part, inlined) for name, part in schema.get("properties", {}).items()}
        for name in properties.keys() - set(schema.get("required", [])):
            properties[name] = _nullable(properties[name])
        closed: Schema = {"properties": properties}
        if self._closes:
            closed |= {"required": list(properties), "additionalProperties": False}
        return {"type": "object", **schema, **closed}

    def _referring(self, schema: Schema, inlined: frozenset[str]) -> Schema:
        """Return a reference with other keys beside it, which strict endpoints refuse.

        What it refers to is written out in its place, so that the description stays; one that refers to itself loses
        the description.
        """
        reference = schema["$ref"]
        target = self._target(reference)
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        definitions: Schema = self._definitions(schema)
        if not isinstance(target, dict) or not _ANNOTATIONS.issuperset(beside.keys() - definitions.keys()):
            self.is_strict = False
            return {**schema, **definitions}
        if reference in inlined or len(inlined) >= _INLINED_DEPTH:
            return {"$ref": reference, **definitions}
        copied = {key: value for key, value in target.items() if key not in ("$anchor", "$dynamicAnchor")}
        written_out: Schema = self._schema({**copied, **beside}, inlined | {reference})
        return written_out

    def _target(self, reference: Any) -> Any:
        """Return what a pointer within the document leads to, None for an anchor or any other reference."""
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            return None
        found: Any = self._document
        for part in unquote(reference).split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and re.fullmatch(r"[0-9]{1,9}", name) and int(name) < len(found):
                found = found[int(name)]
            else:
                found = found.get(name) if isinstance(found, dict) else None
        return found


def _simplified(schema: Schema) -> Schema:
    """Return the schema in words that strict endpoints know: one of several, with a type, and without defaults."""
    simple = {key: value for key, value in schema.items() if key not in ("default", "discriminator")}
    whole = simple.get("allOf")
    one = whole[0] if isinstance(whole, list) and len(whole) == 1 else None
    if isinstance(one, dict) and simple.keys().isdisjoint(one):
        del simple["allOf"]
        simple = _simplified({**one, **simple})
    if isinstance(simple.get("oneOf"), list) and "anyOf" not in simple:
        simple["anyOf"] = simple.pop("oneOf")
    if "type" not in simple and "const" in simple:
        simple["type"] = types_of([simple["const"]])
    if "type" not in simple and isinstance(simple.get("enum"), list) and simple["enum"]:
        simple["type"] = types_of(simple["enum"])
    return simple


def _is_typed(schema: Schema, name: str) -> bool:
    kind = schema.get("type")
    return name in kind if isinstance(kind, list) else kind == name


def _is_open(schema: Schema) -> bool:
    """Whether an object takes properties which it does not name."""
    rest, names = schema.get("additionalProperties"), schema.get("required", [])
    properties = schema.get("properties", None if rest is None else {})
    if rest not in (None, False) or "patternProperties" in schema or not isinstance(properties, dict):
        return True
    return not isinstance(names, list) or any(name not in list(properties) for name in names)


def _nullable(schema: Any) -> Any:
    """Return a schema that takes null as well."""
    if not isinstance(schema, dict) or not schema:
        return schema
    kind, values, choices = schema.get("type"), schema.get("enum"), schema.get("anyOf")
    if isinstance(kind, (str, list)) and _REJECTING.isdisjoint(schema):
        kinds = [kind] if isinstance(kind, str) else kind
        more = {"enum": [*values, None]} if isinstance(values, list) and None not in values else {}
        return {**schema, **({} if _is_typed(schema, "null") else {"type": [*kinds, "null"]}), **more}
    if isinstance(choices, list) and {"type", "enum"}.isdisjoint(schema) and _REJECTING & schema.keys() == {"anyOf"}:
        has_null = any(isinstance(one, dict) and _nullable(one) == one for one in choices)
        return schema if has_null else {**schema, "anyOf": [*choices, {"type": "null"}]}
    return {"anyOf": [schema, {"type": "null"}]}
