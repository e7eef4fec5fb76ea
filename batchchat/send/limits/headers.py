"""A reply's headers -> the rate limits that its endpoint states, as an `Allowance`; never raises on bad text.

Most providers do not say for how long a limit holds. Where their documents do (Anthropic, Mistral, the tokens of the
OpenAI family: a minute; Together: a second), that window counts, unless the reset contradicts it: no window takes
longer than itself to be free again. Requests of the OpenAI family hold for a minute at OpenAI, but for a day in its
first tier and always at Groq, and a bare `x-ratelimit-limit` may be anything. There the reset has to show it: it says
when the whole limit is free again, so a limit of which `used` were taken has a window of about `reset * limit / used`.
10,000 with one used and a reset of `8.64s` is a limit per day, with a reset of `6ms` one per minute. Only what comes
out as a minute counts. A field that is None says only that this reply did not tell.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from batchchat.send.limits.rate_limits import Allowance

LONGEST_WINDOW_S = 600.0
"""A limit over a longer time is a quota to be spent, not a pace to be kept: it is left out."""
LARGEST_COUNT = 1e12
"""Numbers above are no limits of anybody's."""
LONGEST_RESET_S = 7 * 86_400.0
LONGEST_TEXT = 400
"""Characters of a header that are looked at."""

_MINUTE_S = 60.0
_SLACK = 1.1
_LIKE_A_MINUTE = (30.0, 120.0)
"""What a window of a minute may come out as, as resets and counts are rounded; the next others are far away."""
_FIRST_UNIX_S, _FIRST_UNIX_MS = 1e9, 1e11
_UNITS_S = {"h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{0,12})?")
_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)(ms|us|µs|ns|h|m|s)")
_ITEM = re.compile(r'\s*(?:"([^"]{0,100})"|([^"=,;\s]{1,100}))((?:\s*;\s*[a-z]{1,10}\s*=\s*[^,;]{1,100})*)\s*(?:,|$)')
_PARAMETER = re.compile(r";\s*([a-z]{1,10})\s*=\s*\"?([^\",;]{1,100})")
_OLD_FIELD = re.compile(r"\b(limit|remaining|reset)=([0-9]{1,15})")


@dataclass(frozen=True, slots=True)
class _Family:
    """The names under which a limit is stated, what it counts, and for how long it holds; None has to be shown."""

    counts: str
    limit: str
    left: str
    reset: str
    window_s: float | None


@dataclass(frozen=True, slots=True)
class _Bucket:
    """One stated limit: units a minute, units that are left now, and seconds until the whole is free again."""

    counts: str
    per_minute: float | None
    left: float | None
    reset_s: float | None


def _like_openai(what: str, window_s: float | None, end: str = "") -> _Family:
    limit, left, reset = (f"x-ratelimit-{part}-{what}{end}" for part in ("limit", "remaining", "reset"))
    return _Family("tokens" if what == "tokens" else "requests", limit, left, reset, window_s)


def _like_anthropic(what: str) -> _Family:
    limit, left, reset = (f"anthropic-ratelimit-{what}-{part}" for part in ("limit", "remaining", "reset"))
    return _Family("requests" if what == "requests" else "tokens", limit, left, reset, _MINUTE_S)


def _like_together(counts: str, stem: str) -> _Family:
    return _Family(counts, f"{stem}-limit", f"{stem}-remaining", f"{stem}-reset", 1.0)


_FAMILIES = (
    _like_openai("requests", None),
    _like_openai("tokens", _MINUTE_S),
    _like_openai("requests", None, "_usage_based"),
    _like_openai("tokens", _MINUTE_S, "_usage_based"),
    _like_openai("req", _MINUTE_S, "-minute"),  # Mistral
    _like_openai("tokens", _MINUTE_S, "-minute"),
    _like_openai("req", 1.0, "-second"),
    _like_openai("tokens", 1.0, "-second"),
    # Output tokens have a limit of their own, which says nothing about the whole that is counted here.
    *(_like_anthropic(what) for what in ("requests", "tokens", "input-tokens")),
)
_TOGETHER = (_like_together("requests", "x-ratelimit"), _like_together("tokens", "x-tokenlimit"))
_STEMS = ("ratelimit", "x-ratelimit")
_OF_TOGETHER = ("x-tokenlimit-limit", "x-tokenlimit-remaining")
_BARE = frozenset({"ratelimit", *(f"{stem}-{part}" for stem in _STEMS for part in ("limit", "policy"))})
_NAMED = frozenset(name for family in _FAMILIES for name in (family.limit, family.left))
_ANCHORS = _BARE | _NAMED | frozenset(_OF_TOGETHER)
_NOTHING = _Bucket("", None, None, None)


def allowance(headers: Mapping[str, str], unix_now: float) -> Allowance | None:
    """Return what an endpoint states of its rate limits, per minute; None when that is nothing.

    `headers` are by lower-case name; `unix_now` is the wall clock in seconds, to read dates against. Of several limits
    on the same the tightest counts. A limit is above zero, what is left is not below; nothing is infinite.
    """
    if _ANCHORS.isdisjoint(headers):
        return None
    requests, tokens = None, None
    for bucket in _buckets(headers, unix_now):
        if bucket.counts == "requests":
            requests = _tighter(requests, bucket)
        else:
            tokens = _tighter(tokens, bucket)
    if requests is None and tokens is None:
        return None
    requests, tokens = requests or _NOTHING, tokens or _NOTHING
    return Allowance(
        requests_per_minute=requests.per_minute,
        tokens_per_minute=tokens.per_minute,
        requests_left=requests.left,
        tokens_left=tokens.left,
        requests_reset_s=requests.reset_s,
        tokens_reset_s=tokens.reset_s,
    )


def _tighter(one: _Bucket | None, other: _Bucket) -> _Bucket:
    if one is None or one.per_minute is None:
        return other if one is None or other.per_minute is not None else one
    return one if other.per_minute is None or one.per_minute <= other.per_minute else other


def _buckets(headers: Mapping[str, str], unix_now: float) -> Iterator[_Bucket]:
    is_together = not headers.keys().isdisjoint(_OF_TOGETHER)
    for family in (*_FAMILIES, *_TOGETHER) if is_together else _FAMILIES:
        if family.limit in headers or family.left in headers:
            bucket = _bucket(family, headers, unix_now)
            if bucket is not None:
                yield bucket
    if not is_together and not _BARE.isdisjoint(headers):
        for stem in _STEMS:
            yield from _bare(stem, headers, unix_now)


def _bucket(family: _Family, headers: Mapping[str, str], unix_now: float) -> _Bucket | None:
    """Return a family's limit; without a limit in it, as Azure has it, only what is left."""
    left, written = _count(_text(headers, family.left)), _text(headers, family.reset)
    reset_s = _reset_s(written, unix_now)
    if family.limit not in headers:
        return None if left is None else _Bucket(family.counts, None, left, reset_s)
    limit = _count(_text(headers, family.limit))
    if limit is None or limit < 1:
        return None
    window_s = family.window_s
    if window_s is None:
        window_s = _MINUTE_S if _is_of_a_minute(limit, left, reset_s, _coarseness_s(written)) else None
    elif reset_s is not None and reset_s > _SLACK * window_s + _coarseness_s(written):
        window_s = None
    if window_s is None:
        return None
    return _Bucket(family.counts, limit * _MINUTE_S / window_s, left, _certain_s(reset_s, written, window_s))


def _certain_s(reset_s: float | None, written: str, window_s: float) -> float | None:
    """Return the part of a reset that is certain: one in whole seconds is rounded up, in short windows by much."""
    if reset_s is None or window_s >= _MINUTE_S:
        return reset_s
    return max(0.0, reset_s - _coarseness_s(written))


def _is_of_a_minute(limit: float, left: float | None, reset_s: float | None, coarseness_s: float) -> bool:
    """Whether the reset shows a limit to be one a minute, however it was rounded."""
    if left is None or reset_s is None or not left < limit:
        return False
    scale = limit / (limit - left)
    shortest, longest = _LIKE_A_MINUTE
    return scale * (reset_s - coarseness_s) >= shortest and scale * (reset_s + coarseness_s) <= longest


def _coarseness_s(written: str) -> float:
    """Return by how much a reset may be off: one in whole seconds has been rounded."""
    is_whole = written.strip().isdecimal() and float(written) < _FIRST_UNIX_MS
    return 1.0 if is_whole or "T" in written else 0.0


def _text(headers: Mapping[str, str], name: str) -> str:
    """Return a header's text, without what nobody needs to look at, or remember."""
    return headers.get(name, "")[:LONGEST_TEXT]


# Limits that are stated by themselves, with or without their windows


def _bare(stem: str, headers: Mapping[str, str], unix_now: float) -> Iterator[_Bucket]:
    """Yield the limits of `RateLimit` and `RateLimit-Policy`, in any draft of them, or of `X-RateLimit-*`."""
    text = _text(headers, stem)
    fields = dict(_OLD_FIELD.findall(text))
    now = {} if fields else _now(text)
    fields = fields or {part: _text(headers, f"{stem}-{part}") for part in ("limit", "remaining", "reset")}
    left, reset = fields.get("remaining", ""), fields.get("reset", "")
    stated = _policies(fields.get("limit", "")) + _policies(_text(headers, f"{stem}-policy"))
    windows = [(policy, policy.window_s) for policy in stated if policy.window_s is not None]
    if stated and not windows:
        family = _Family(stated[0].counts, "limit", "left", "reset", None)
        bucket = _bucket(family, {"limit": f"{stated[0].quota:.0f}", "left": left, "reset": reset}, unix_now)
        yield from () if bucket is None else (bucket,)
    if stated:  # where no policy is named, the current state is that of the first
        now.setdefault(stated[0].name, (left, reset))
    for policy, window_s in windows:
        if window_s <= LONGEST_WINDOW_S:
            left, reset = now.get(policy.name, ("", ""))
            per_minute = policy.quota * _MINUTE_S / window_s
            reset_s = _certain_s(_reset_s(reset, unix_now), reset, window_s)
            yield _Bucket(policy.counts, per_minute, _count(left), reset_s)


@dataclass(frozen=True, slots=True)
class _Policy:
    """One limit as a policy states it; `name` is what the current state calls it by."""

    name: str
    counts: str
    quota: float
    window_s: float | None


@lru_cache(maxsize=64)
def _policies(text: str) -> tuple[_Policy, ...]:
    """Return the limits of `"burst";q=100;w=60`, of `100;w=60, 5000;w=3600`, of `limit=100` or of `100`."""
    found = []
    for quoted, bare, written in _ITEM.findall(text):
        parameters = dict(_PARAMETER.findall(written))
        quota = _count(parameters.get("q", bare))
        window_s = _count(parameters.get("w") or parameters.get("window") or "")
        counts = parameters.get("qu", "requests")
        if quota is not None and quota >= 1 and window_s != 0 and counts in ("requests", "tokens"):
            found.append(_Policy(quoted or bare, counts, quota, window_s))
    return tuple(found)


def _now(text: str) -> dict[str, tuple[str, str]]:
    """Return what is left, and when all is free again, as `"burst";r=50;t=30` says it for each policy by its name."""
    found = ((quoted or bare, dict(_PARAMETER.findall(written))) for quoted, bare, written in _ITEM.findall(text))
    return {name: (parameters.get("r", ""), parameters.get("t", "")) for name, parameters in found}


# Numbers and times


@lru_cache(maxsize=1024)
def _count(text: str) -> float | None:
    if not _NUMBER.fullmatch(text.strip()):
        return None
    number = float(text)
    return number if number <= LARGEST_COUNT else None


def _reset_s(text: str, unix_now: float) -> float | None:
    """Return the seconds until a reset: a number of them, a unix time (in s or ms), a date, or a duration `6m0s`."""
    if not text:
        return None
    seconds = _duration_s(text)
    if seconds is None:
        moment_s = _moment_s(text)
        seconds = None if moment_s is None else moment_s - unix_now
    return seconds if seconds is not None and 0 <= seconds <= LONGEST_RESET_S else None


@lru_cache(maxsize=1024)
def _duration_s(text: str) -> float | None:
    count = _count(text)
    if count is not None:
        return count if count < _FIRST_UNIX_S else None
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


@lru_cache(maxsize=256)
def _moment_s(text: str) -> float | None:
    number = _NUMBER.fullmatch(text.strip())
    if number:
        unix = float(number[0])
        return unix / 1000 if unix >= _FIRST_UNIX_MS else unix
    try:
        date = datetime.fromisoformat(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
