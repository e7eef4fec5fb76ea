"""Bytes -> a JSON value, and a value -> text, both forgiving; they know no field of any reply.

NaN, stray bytes, a byte-order mark, numbers beyond all bounds and lone surrogates, all of which JSON or its readers
forbid, do not cost the rest: an answer that was paid for is in there.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import orjson

_SURROGATE = re.compile("[\ud800-\udfff]")
_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
_LONG_NUMBER = b"0" * 20
_SEARCHED_BYTES = 2**18
"""Bytes that are searched at a time: for as long as that takes, no other thread runs."""
MAX_DIGITS = 4_000
"""Digits of an integer that is read; Python itself refuses to read much more."""


def read_json(body: bytes) -> Any:
    """Return the body as a value, or None where it is none; every string in it can be stored."""
    try:
        return _strict(body)
    except ValueError:
        value = _forgiving(body, takes_more=True)
    try:
        text = json.dumps(value, ensure_ascii=False)
        return json.loads(_SURROGATE.sub("\ufffd", text)) if _SURROGATE.search(text) else value
    except (ValueError, RecursionError):
        return None


def read_pieces(body: bytes) -> Any:
    """Return the body as a value, or None; halves of a surrogate pair stay, for the other half may be in the next."""
    try:
        return _strict(body)
    except ValueError:
        return _forgiving(body, takes_more=False)


def _strict(body: bytes) -> Any:
    for start in range(0, len(body), _SEARCHED_BYTES):
        if _LONG_NUMBER in body[start : start + _SEARCHED_BYTES + len(_LONG_NUMBER)].translate(_DIGITS):
            raise ValueError  # orjson would round it
    return orjson.loads(body)


def _forgiving(body: bytes, *, takes_more: bool) -> Any:
    """Return the body as a value, or None; with `takes_more` whatever follows an object or a list."""
    try:
        text = body.decode("utf-8", "replace").removeprefix("\ufeff")
        if not (takes_more and text.lstrip().startswith(("{", "["))):
            return _FORGIVING.decode(text)
        value, _ = _FORGIVING.raw_decode(text.lstrip())
        return value
    except (ValueError, RecursionError):
        return None


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= MAX_DIGITS else None


# Raw control characters in strings are taken.
_FORGIVING = json.JSONDecoder(strict=False, parse_constant=lambda _: None, parse_float=_finite, parse_int=_integer)


def json_text(value: Any) -> str:
    """Return a value as JSON, whatever is in it."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        pass  # nested more deeply than orjson writes, though it reads it; or a large integer
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        return "(nested too deeply to be written)"


def json_bytes(value: Any) -> bytes | None:
    """Return a value as JSON in ASCII where it cannot be in UTF-8, or None when it is nested too deeply."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        pass
    try:
        return json.dumps(value, separators=(",", ":")).encode()
    except RecursionError:
        return None


def text_of(value: Any) -> str:
    """Return a string for what should be one: some providers send lists of strings or objects as their message."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " ".join(value)
    return json_text(value)


def number_of(value: Any) -> float | None:
    """Return a finite number, which may be written as text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def mapping_of(value: Any) -> Mapping[str, Any]:
    """Return an object, or an empty one for what is none."""
    return value if isinstance(value, dict) else {}


def items_of(value: Any) -> list[Any]:
    """Return a list, or an empty one for what is none."""
    return value if isinstance(value, list) else []
