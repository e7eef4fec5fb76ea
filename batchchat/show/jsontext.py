"""A value -> JSON text, whatever its strings are.

What passes in may hold dates and paths, also such as are not UTF-8; what comes out is valid JSON. It does not know what
the value is, nor who reads it.
"""

import json
from typing import Any

import orjson

from batchchat.redaction import without_own_keys


def json_text(value: Any, *, indent: bool = False) -> str:
    """Return a value as JSON without the keys in use, on one line unless `indent` is set."""
    try:
        text = orjson.dumps(value, option=orjson.OPT_INDENT_2 if indent else None, default=str).decode()
    except TypeError:  # a path that is not UTF-8, which escapes alone can say
        text = json.dumps(value, indent=2 if indent else None, default=str)
    return without_own_keys(text)
