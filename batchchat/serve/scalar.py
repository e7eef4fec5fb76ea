"""One string or number that a schema allows, made of a subject's words and numbers where they fit.

What passes in are the keywords that bear on it, the property's name and a `Subject`; what comes out is a value, or
`SchemaError`. It does not know objects, arrays or references. `variant` counts from 0: other variants give other
values, as far as the schema allows.
"""

import math
import re
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import Any
from uuid import UUID

from batchchat.serve.pattern import MAX_CHARS, matching_text
from batchchat.serve.schema import SchemaError
from batchchat.serve.subject import Subject
from batchchat.serve.validity import is_number_within, matches
from batchchat.serve.wording import text_for
from batchchat.serve.words import shortened

_FOUND_FORMATS = {
    "email": re.compile(r"[\w.+-]{1,60}@[\w-]{1,60}(?:\.[\w-]{1,30}){1,4}"),
    "uri": re.compile(r"https?://[^\s\"'<>]{1,300}"),
    "date": re.compile(r"\b(?:19|20)\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])\b"),
    "time": re.compile(r"\b(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:Z|[+-]\d\d:\d\d)"),
}
_EXACT_INT = 2**63


def text_value(schema: Mapping[str, Any], name: str, subject: Subject, variant: int) -> str:
    """Return a string within the schema's lengths that matches its pattern and has its format."""
    least, most = int(schema.get("minLength", 0)), int(min(schema.get("maxLength", MAX_CHARS), MAX_CHARS))
    if least > most:
        raise SchemaError(f"no string of {name!r} has at least {least} and at most {most} characters")
    pattern = schema.get("pattern", "")
    for text in _texts(schema, name, subject, variant):
        fitted = text if pattern else _fitted(text, least, most)
        if least <= len(fitted) <= most and matches(pattern, fitted):
            return fitted
    raise SchemaError(f"the embedded endpoint finds no string for the pattern {pattern[:100]!r} of these lengths")


def _texts(schema: Mapping[str, Any], name: str, subject: Subject, variant: int) -> Iterator[str]:
    formatted = _formatted(schema.get("format", ""), subject, variant)
    if formatted is not None:
        yield formatted
    pattern = schema.get("pattern")
    if pattern is None:
        yield text_for(name, subject, variant)
        return
    # What the prompt has of this form, such as an order number, is what is asked for.
    yield from subject.text.split()[variant : variant + 300]
    least = int(schema.get("minLength", 0))
    for extra in (*range(variant, variant + 40), least):
        text = matching_text(pattern, extra)
        yield text
        yield text.ljust(least, text[-1:] or "a")


def _fitted(text: str, least: int, most: int) -> str:
    """Return the text cut to whole words, or repeated, until its length fits."""
    if len(text) > most:
        cut = shortened(text, most) if most else ""
        return cut if len(cut) >= least else text[:most]
    while len(text) < least:
        text = f"{text} {text}" if text else "-" * least
    return _fitted(text, least, most) if len(text) > most else text


def _formatted(kind: str, subject: Subject, variant: int) -> str | None:
    """Return a text of a format: the subject's own, when it has one; None for a format that is not known."""
    found = _FOUND_FORMATS[kind].findall(subject.text[:8_000]) if kind in _FOUND_FORMATS else []
    if len(found) > variant:
        return str(found[variant])
    number = subject.hash(kind) + variant
    day = (date(2025, 1, 1) + timedelta(days=number % 365)).isoformat()
    clock = f"{number % 24:02d}:{number // 24 % 60:02d}:00Z"
    return {
        "date": day,
        "time": clock,
        "date-time": f"{day}T{clock}",
        "duration": f"P{number % 30 + 1}D",
        "email": f"stand-in-{variant}@example.com",
        "idn-email": f"stand-in-{variant}@example.com",
        "uri": f"https://example.com/{variant}",
        "url": f"https://example.com/{variant}",
        "uri-reference": f"/stand-in/{variant}",
        "hostname": f"host-{variant}.example.com",
        "ipv4": f"192.0.2.{variant % 256}",
        "ipv6": f"2001:db8::{variant % 65536:x}",
        "uuid": str(UUID(int=subject.hash("uuid") << 64 | variant, version=4)),
        "json-pointer": f"/{variant}",
        "regex": "a" * (variant + 1),
    }.get(kind)


def number_value(schema: Mapping[str, Any], subject: Subject, variant: int, *, is_integer: bool) -> float:
    """Return a number within the schema's bounds: one that the subject has, or the middle of the range."""
    for number in _numbers(schema, subject, variant, is_integer=is_integer):
        value = _exact(number, is_integer=is_integer)
        if value is not None and is_number_within(value, schema):
            return value
    raise SchemaError("the embedded endpoint finds no number within the schema's bounds")


def _exact(number: float, *, is_integer: bool) -> float | None:
    """Return the number as JSON should have it, an int when whole; None when it is not what is asked for."""
    if not math.isfinite(number) or (is_integer and number != math.floor(number)):
        return None
    # Greater integers are not portable in JSON; the float that is as great is an integer to JSON Schema all the same.
    is_int = number == math.floor(number) and abs(number) < _EXACT_INT
    return int(number) if is_int else float(number)


def _numbers(schema: Mapping[str, Any], subject: Subject, variant: int, *, is_integer: bool) -> Iterator[float]:
    """Yield numbers to try, the best first."""
    yield from subject.numbers[variant:]
    low, high = _bound(schema, "minimum", "exclusiveMinimum"), _bound(schema, "maximum", "exclusiveMaximum")
    unit = schema.get("multipleOf", 1)
    middle = _middle(low, high)
    for shift in (variant, -variant, 0):
        yield middle + shift * unit
        if is_integer or low is None or high is None:
            yield math.floor(middle) + shift * unit
    if not is_integer and low is not None and high is not None:
        yield middle + (high - low) / 4 * math.sin(variant)
    for start in (middle, low or 0.0, high or 0.0):
        first = math.floor(start / unit) if math.isfinite(start / unit) else 0
        for times in range(first - variant - 12, first + variant + 13):
            yield round(times * unit, 12) if isinstance(unit, float) else times * unit
    yield from (bound for bound in (low, high) if bound is not None)


def _bound(schema: Mapping[str, Any], inclusive: str, exclusive: str) -> float | None:
    bounds = [schema[key] for key in (inclusive, exclusive) if not isinstance(schema.get(key, True), bool)]
    if not bounds:
        return None
    return float(max(bounds) if inclusive == "minimum" else min(bounds))


def _middle(low: float | None, high: float | None) -> float:
    if low is not None and high is not None:
        return low / 2 + high / 2
    if low is not None:
        return low + 1
    return high - 1 if high is not None else 1.0
