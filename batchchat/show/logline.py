"""What a run says -> lines of a structured log, one JSON object each.

What passes in are an event's words and figures; what comes out is a line with

    time      when, as ISO 8601 in UTC, to the millisecond
    level     info, warning or error
    event     progress, note, message, end or error
    message   the same words as in the log for people
    ...       the fields of the event

It does not know where lines go.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from batchchat.show.jsontext import json_text
from batchchat.show.printable import printable


def log_line(level: str, event: str, message: str, **fields: Any) -> str:
    """Return one line, without its end."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json_text({"time": now, "level": level, "event": event, "message": printable(message), **fields})
