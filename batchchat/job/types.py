"""The types of values in a job file: what is accepted for each, and as what it comes out."""

import re
from datetime import time
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    ByteSize,
    Field,
    StringConstraints,
    WithJsonSchema,
)

NonEmpty = Annotated[str, StringConstraints(min_length=1)]


def _checked_path(path: Any) -> Any:
    """Refuse what pathlib would quietly take for another file: nothing at all, and URLs."""
    if isinstance(path, str) and "://" in path:
        raise ValueError("is a URL, and batchchat reads and writes files; download or upload them with another tool")
    if path == "":
        raise ValueError("must not be empty")
    return path


FilePath = Annotated[Path, BeforeValidator(_checked_path)]


def _no_bool(value: Any) -> Any:
    """Refuse true and false where Python would take them for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


NoBool = BeforeValidator(_no_bool)
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False), NoBool]
Size = Annotated[
    ByteSize, Field(ge=1), NoBool, WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string"}]})
]

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def _seconds(value: Any) -> Any:
    """Return the seconds of a text such as `90s`, `10m`, `1h30m` or `2d`; anything else as it is."""
    parts = _DURATION.fullmatch(value.replace(" ", "")) if isinstance(value, str) else None
    if parts is None or not any(parts.groups()):
        return value
    return sum(
        float(number) * unit for number, unit in zip(parts.groups(), (86400, 3600, 60, 1), strict=True) if number
    )


def duration_s(text: str) -> float:
    """Return the seconds of a duration of any length.

    Raises:
        ValueError: it is none; the message says what is allowed.
    """
    seconds = _seconds(text)
    if not isinstance(seconds, float):
        raise ValueError(f"{text!r} is no duration; write one such as 90s, 10m, 1h30m or 90d")
    return seconds


Duration = Annotated[
    float,
    Field(gt=0, le=30 * 86400, allow_inf_nan=False),
    BeforeValidator(_seconds),
    NoBool,
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string"}]}),
]

_TIME_OF_DAY = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


def time_of_day(text: str) -> time | None:
    """Return the time of a text such as `06:30`; None for anything else."""
    clock = _TIME_OF_DAY.fullmatch(text.strip())
    return time(int(clock[1]), int(clock[2])) if clock else None


def _seconds_or_time(value: Any) -> Any:
    """Return the seconds of a duration, or the time of day of a text such as `06:30`."""
    return (time_of_day(value) if isinstance(value, str) else None) or _seconds(value)


Deadline = Annotated[
    Annotated[float, Field(gt=0, le=30 * 86400, allow_inf_nan=False)] | time,
    BeforeValidator(_seconds_or_time),
    NoBool,
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string"}]}),
]
