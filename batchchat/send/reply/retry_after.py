"""How long a reply asks to wait (RFC 9110, section 10.2.3, and what providers write into headers and bodies)."""

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from batchchat.json_values import items_of, mapping_of, number_of
from batchchat.send.reply.provider_errors import QUOTED

LONGEST_HINT_S = 3_600.0
"""A server that asks for more than an hour is asked again after one."""


LONGEST_QUOTA_HINT_S = 7 * 86_400.0
"""A quota comes back within a week, or nobody knows when."""


_LIMIT_STATUSES = frozenset({402, 403, 429, 503, 529})


_FIRST_MS = 1e11
"""Unix times above this are in milliseconds; in seconds they would be 3,000 years away."""


_LONGEST_DURATION = 60


_UNITS_S = {
    **dict.fromkeys(("ms", "milliseconds", "millisecond"), 0.001),
    **dict.fromkeys(("seconds", "second", "secs", "sec", "s"), 1.0),
    **dict.fromkeys(("minutes", "minute", "mins", "min", "m"), 60.0),
    **dict.fromkeys(("hours", "hour", "h"), 3_600.0),
    **dict.fromkeys(("days", "day", "d"), 86_400.0),
}


_DURATION_PART = rf"\d{{1,9}}(?:\.\d{{1,15}})?[ ]?(?:{'|'.join(_UNITS_S)})(?![a-z])"


_PART = re.compile(rf"(\d{{1,9}}(?:\.\d{{1,15}})?)[ ]?({'|'.join(_UNITS_S)})(?![a-z])", re.IGNORECASE)


_ASKED = re.compile(
    rf"\b(?:(?:try again|retry) (?:in|after)|please wait(?: for)?) ((?:{_DURATION_PART}(?:,? and |,? )?){{1,5}})",
    re.IGNORECASE,
)
"""How providers ask for a wait in their sentences: `Please try again in 1m26.4s`, `Please wait 23 seconds`."""


def retry_after_s(
    headers: Mapping[str, str],
    unix_now: float,
    *,
    status: int | None = None,
    fields: Mapping[str, Any] | None = None,
    sentence: str = "",
    longest_s: float = LONGEST_HINT_S,
) -> float | None:
    """Return the seconds that a reply asks to wait, at most `longest_s`, or None.

    `retry-after-ms` (milliseconds) wins over `retry-after` (seconds, or an HTTP date read against `unix_now`), and both
    win over what the body says: `availability.retry_after`, and with the statuses of a limit `retry_after`, Google's
    `RetryInfo`, or the provider's `sentence`. What is negative, past, or not a number is no wish.
    """
    named = (("retry-after-ms", 0.001), ("retry-after", 1.0))
    wishes = [_seconds(headers[name], unit_s, unix_now) for name, unit_s in named if name in headers]
    wishes += _body_wishes(fields or {}, sentence, is_limit=status in _LIMIT_STATUSES)
    return next((min(wish_s, longest_s) for wish_s in wishes if wish_s is not None and wish_s >= 0), None)


def quota_reset_s(headers: Mapping[str, str], fields: Mapping[str, Any], unix_now: float) -> float | None:
    """Return the seconds to the time at which a quota for a day comes back, or None; only OpenRouter names it.

    Other limits' `x-ratelimit-reset` is when the whole of them is free again, which nobody need wait for.
    """
    told = mapping_of(mapping_of(fields.get("metadata")).get("headers"))
    names = {name.lower(): value for name, value in told.items()}
    reset = number_of(headers.get("x-ratelimit-reset")) or number_of(names.get("x-ratelimit-reset"))
    if reset is None:
        return None
    seconds = (reset / 1000 if reset > _FIRST_MS else reset) - unix_now
    return seconds if 0 <= seconds <= LONGEST_QUOTA_HINT_S else None


def _body_wishes(fields: Mapping[str, Any], sentence: str, *, is_limit: bool) -> list[float | None]:
    wishes = [number_of(mapping_of(fields.get("availability")).get("retry_after"))]
    if not is_limit:
        return wishes
    for place in (fields, mapping_of(fields.get("metadata"))):
        wishes += [number_of(place.get(name)) for name in ("retry_after", "retry_after_seconds")]
    delays = [mapping_of(detail).get("retryDelay") for detail in items_of(fields.get("details"))]
    wishes += [_duration_s(delay) for delay in delays if isinstance(delay, str)]
    asked = _ASKED.search(QUOTED.sub("", sentence))
    return [*wishes, _duration_s(asked[1]) if asked else None]


def _duration_s(text: str) -> float | None:
    """Return the seconds of `41s`, `1h26m24s`, `12ms` or `23 seconds`."""
    parts = [(float(number), _UNITS_S[unit.lower()]) for number, unit in _PART.findall(text[:_LONGEST_DURATION])]
    return sum(number * unit_s for number, unit_s in parts) if parts else None


def _seconds(text: str, unit_s: float, unix_now: float) -> float | None:
    number = number_of(text)
    if number is not None:
        return number * unit_s
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - unix_now
    except (ValueError, OverflowError):
        return None
