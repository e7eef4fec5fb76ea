"""Write values, and lines of a structured log, as JSON."""

import json
from datetime import UTC, datetime
from typing import Any

import orjson

from batchchat.redaction import without_own_keys
from batchchat.show.printable import printable


def json_text(value: Any, *, indent: bool = False) -> str:
    """Return a value as JSON without the keys in use, on one line unless `indent` is set."""
    try:
        text = orjson.dumps(value, option=orjson.OPT_INDENT_2 if indent else None, default=str).decode()
    except TypeError:  # a path that is not UTF-8, which escapes alone can say
        text = json.dumps(value, indent=2 if indent else None, default=str)
    return without_own_keys(text)


def log_line(level: str, event: str, message: str, **fields: Any) -> str:
    """Return one line of a structured log, without its end.

    time      when, as ISO 8601 in UTC, to the millisecond
    level     info, warning or error
    event     progress, note, message, end or error
    message   the same words as in the log for people
    ...       the fields of the event
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json_text({"time": now, "level": level, "event": event, "message": printable(message), **fields})
