"""Whether a JSON value is an instance of a JSON Schema.

What passes in are a value and a schema that `check_schema` has passed; what comes out is true or false. It does not
know how instances are made: it is what the maker tries its candidates on, so that nothing invalid is ever served.
Formats are notes, as in draft 2020-12; `unevaluated*`, `$dynamicRef` and references to other documents are not known.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from batchchat.serve.schema import Document, Schema, SchemaError

_MAX_DEPTH = 100


def is_valid(value: Any, schema: Schema, document: Document, depth: int = 0) -> bool:
    """Tell whether the value is an instance of the schema; `document` is what its references start from."""
    document.spend()
    if isinstance(schema, bool):
        return schema
    if depth > _MAX_DEPTH:
        raise SchemaError("the schema refers to itself without end")
    if "$ref" in schema and not is_valid(value, document.resolved(schema["$ref"]), document, depth + 1):
        return False
    if not (_is_typed(value, schema) and _is_listed(value, schema)):
        return False
    if not all(is_valid(part, sub, document, depth + 1) for part, sub in _parts(value, schema)):
        return False
    return _is_combined(value, schema, document, depth + 1) and _is_measured(value, schema, document, depth + 1)


def is_equal(first: Any, second: Any) -> bool:
    """Tell whether two JSON values are the same: 1 is 1.0, and is not true."""
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(is_equal, first, second))
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(is_equal(first[key], second[key]) for key in first)
    return bool(first == second)


def type_names(value: Any) -> tuple[str, ...]:
    """Return the JSON Schema types that a value has; a whole number has two."""
    if value is None:
        return ("null",)
    if isinstance(value, bool):
        return ("boolean",)
    if isinstance(value, int | float):
        return ("integer", "number") if value == math.floor(value) else ("number",)
    return ("string",) if isinstance(value, str) else ("array",) if isinstance(value, list) else ("object",)


def _is_typed(value: Any, schema: Mapping[str, Any]) -> bool:
    wanted = schema.get("type")
    if wanted is None:
        return True
    names = wanted if isinstance(wanted, list) else [wanted]
    return any(name in names for name in type_names(value))


def _is_listed(value: Any, schema: Mapping[str, Any]) -> bool:
    if "const" in schema and not is_equal(value, schema["const"]):
        return False
    return "enum" not in schema or any(is_equal(value, allowed) for allowed in schema["enum"])


def _parts(value: Any, schema: Mapping[str, Any]) -> Iterator[tuple[Any, Schema]]:
    """Yield the parts of a value, each with the schema that it must meet."""
    if isinstance(value, list):
        prefix, rest = item_schemas(schema)
        yield from zip(value, prefix, strict=False)
        yield from ((item, rest) for item in value[len(prefix) :])
    if isinstance(value, dict):
        for key, part in value.items():
            yield key, schema.get("propertyNames", True)
            yield from ((part, sub) for sub in property_schemas(key, schema))


def item_schemas(schema: Mapping[str, Any]) -> tuple[list[Schema], Schema]:
    """Return the schemas of the first items, and the schema of the rest."""
    items = schema.get("items", True)
    if isinstance(items, list):
        return items, schema.get("additionalItems", True)
    return schema.get("prefixItems", []), items


def property_schemas(key: str, schema: Mapping[str, Any]) -> list[Schema]:
    """Return every schema that a property of this name must meet."""
    found = [schema["properties"][key]] if key in schema.get("properties", {}) else []
    found += [part for pattern, part in schema.get("patternProperties", {}).items() if matches(pattern, key)]
    return found or [schema.get("additionalProperties", True)]


def matches(pattern: str, text: str) -> bool:
    """Tell whether a pattern, in Python's dialect, is found in the text. Raises SchemaError when it is not one."""
    try:
        return re.search(pattern, text) is not None
    except (re.error, OverflowError, RecursionError) as error:
        raise SchemaError(f"pattern {pattern[:100]!r} is not a regular expression ({error})") from error


def _is_combined(value: Any, schema: Mapping[str, Any], document: Document, depth: int) -> bool:
    def meets(part: Schema) -> bool:
        return is_valid(value, part, document, depth)

    if "not" in schema and meets(schema["not"]):
        return False
    if "if" in schema and not meets(schema.get("then" if meets(schema["if"]) else "else", True)):
        return False
    return (
        all(map(meets, schema.get("allOf", ())))
        and ("anyOf" not in schema or any(map(meets, schema["anyOf"])))
        and ("oneOf" not in schema or sum(map(meets, schema["oneOf"])) == 1)
    )


def _is_measured(value: Any, schema: Mapping[str, Any], document: Document, depth: int) -> bool:
    if isinstance(value, str):
        return _is_within(len(value), schema, "Length") and matches(schema.get("pattern", ""), value)
    if isinstance(value, dict):
        is_complete = all(name in value for name in schema.get("required", ()))
        return is_complete and _is_within(len(value), schema, "Properties")
    if isinstance(value, list):
        return _is_array_measured(value, schema, document, depth)
    return not isinstance(value, int | float) or isinstance(value, bool) or is_number_within(value, schema)


def _is_array_measured(value: list[Any], schema: Mapping[str, Any], document: Document, depth: int) -> bool:
    if not _is_within(len(value), schema, "Items"):
        return False
    if schema.get("uniqueItems") and any(
        is_equal(item, other) for at, item in enumerate(value) for other in value[:at]
    ):
        return False
    if "contains" not in schema:
        return True
    containing = sum(is_valid(item, schema["contains"], document, depth) for item in value)
    return bool(schema.get("minContains", 1) <= containing <= schema.get("maxContains", len(value)))


def _is_within(size: int, schema: Mapping[str, Any], what: str) -> bool:
    return bool(schema.get(f"min{what}", 0) <= size <= schema.get(f"max{what}", size))


def is_number_within(value: float, schema: Mapping[str, Any]) -> bool:
    """Tell whether a number is within the bounds and a multiple; draft 4's true and false as bounds are known."""
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    above, below = schema.get("exclusiveMinimum", False), schema.get("exclusiveMaximum", False)
    is_above = value >= low if above is False else value > low if above is True else value >= low and value > above
    is_below = value <= high if below is False else value < high if below is True else value <= high and value < below
    return is_above and is_below and _is_multiple(value, schema.get("multipleOf"))


def _is_multiple(value: float, unit: float | None) -> bool:
    if unit is None:
        return True
    if isinstance(value, int) and isinstance(unit, int):
        return value % unit == 0
    times = value / unit
    # 0.3 is a multiple of 0.1, whatever binary fractions make of it.
    return math.isfinite(times) and abs(times - round(times)) < 1e-9 * max(1.0, abs(times))
