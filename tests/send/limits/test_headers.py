"""Rate limits that replies state: each provider's headers, limits that hold for no minute, and whatever else comes."""

from __future__ import annotations

import math
from dataclasses import asdict

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.send.limits.headers import LARGEST_COUNT, LONGEST_RESET_S, allowance
from batchchat.send.limits.rate_limits import Allowance, RateLimits
from batchchat.serve.server import EmbeddedEndpoint
from batchchat.serve.settings import ServeSettings

NOW = 1_700_000_000.0
NOW_MS = f"{(NOW + 45) * 1000:.0f}"


def openai(counts: str, limit: str, left: str, reset: str, end: str = "") -> dict[str, str]:
    """Return the headers of the OpenAI family for one limit."""
    parts = {"limit": limit, "remaining": left, "reset": reset}
    return {f"x-ratelimit-{part}-{counts}{end}": value for part, value in parts.items()}


def anthropic(counts: str, limit: str, left: str, reset: str) -> dict[str, str]:
    """Return Anthropic's headers for one limit."""
    parts = {"limit": limit, "remaining": left, "reset": reset}
    return {f"anthropic-ratelimit-{counts}-{part}": value for part, value in parts.items()}


def told(headers: dict[str, str]) -> dict[str, float]:
    """Return the fields of the allowance that the headers state, without those that they do not."""
    found = allowance(headers, NOW)
    return {} if found is None else {name: value for name, value in asdict(found).items() if value is not None}


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        (
            {**openai("requests", "10000", "9999", "6ms"), **openai("tokens", "200000", "199938", "18ms")},
            {
                "requests_per_minute": 10_000,
                "requests_left": 9_999,
                "requests_reset_s": 0.006,
                "tokens_per_minute": 200_000,
                "tokens_left": 199_938,
                "tokens_reset_s": 0.018,
            },
        ),
        (
            openai("requests", "60", "0", "1m0s"),
            {"requests_per_minute": 60, "requests_left": 0, "requests_reset_s": 60},
        ),
        (
            {**openai("tokens", "2000", "1900", "3s"), **openai("tokens", "1000", "500", "30s", "_usage_based")},
            {"tokens_per_minute": 1_000, "tokens_left": 500, "tokens_reset_s": 30},
        ),
        (
            {
                "x-ratelimit-remaining-requests": "98",
                "x-ratelimit-remaining-tokens": "29000",
                "x-ratelimit-reset-tokens": "12",
                "x-ratelimit-reset-requests": "-1",
            },
            {"requests_left": 98, "tokens_left": 29_000, "tokens_reset_s": 12},
        ),
        (
            {
                **anthropic("requests", "50", "49", "2023-11-14T22:13:21Z"),
                **anthropic("tokens", "48000", "47000", "2023-11-14T22:13:22Z"),
                **anthropic("input-tokens", "40000", "39000", "2023-11-14T23:13:23+01:00"),
                **anthropic("output-tokens", "8000", "8000", "2023-11-14T22:13:20Z"),
            },
            {
                "requests_per_minute": 50,
                "requests_left": 49,
                "requests_reset_s": 1,
                "tokens_per_minute": 40_000,
                "tokens_left": 39_000,
                "tokens_reset_s": 3,
            },
        ),
        (
            {
                "x-ratelimit-limit-tokens-minute": "5000000",
                "x-ratelimit-remaining-tokens-minute": "4999911",
                "x-ratelimit-tokens-query-cost": "52",
                "x-ratelimit-limit-req-minute": "720",
                "x-ratelimit-remaining-req-minute": "717",
            },
            {
                "requests_per_minute": 720,
                "requests_left": 717,
                "tokens_per_minute": 5_000_000,
                "tokens_left": 4_999_911,
            },
        ),
        (
            {"x-ratelimit-limit": "20", "x-ratelimit-remaining": "0", "x-ratelimit-reset": NOW_MS},
            {"requests_per_minute": 20, "requests_left": 0, "requests_reset_s": 45},
        ),
        (
            {
                "x-ratelimit-limit": "10",
                "x-ratelimit-remaining": "9",
                "x-ratelimit-reset": "1",
                "x-tokenlimit-limit": "3000",
                "x-tokenlimit-remaining": "2936",
            },
            {
                "requests_per_minute": 600,
                "requests_left": 9,
                "requests_reset_s": 0,
                "tokens_per_minute": 180_000,
                "tokens_left": 2_936,
            },
        ),
        (
            {"ratelimit-policy": '"burst";q=100;w=60', "ratelimit": '"burst";r=50;t=30'},
            {"requests_per_minute": 100, "requests_left": 50, "requests_reset_s": 30},
        ),
        (
            {"ratelimit-policy": '"burst";q=10;w=1, "day";q=1000;w=86400', "ratelimit": '"burst";r=5;t=1'},
            {"requests_per_minute": 600, "requests_left": 5, "requests_reset_s": 0},
        ),
        (
            {"ratelimit-policy": '"a, b";q=9;qu="tokens";w=10, "c";q=7;qu="content-bytes";w=60'},
            {"tokens_per_minute": 54},
        ),
        (
            {"ratelimit": "limit=100, remaining=50, reset=5", "ratelimit-policy": "100;w=10"},
            {"requests_per_minute": 600, "requests_left": 50, "requests_reset_s": 4},
        ),
        (
            {"ratelimit-limit": "100, 100;w=60, 5000;w=3600", "ratelimit-remaining": "40", "ratelimit-reset": "9"},
            {"requests_per_minute": 100, "requests_left": 40, "requests_reset_s": 9},
        ),
        (
            {"x-ratelimit-limit": "100, 100;window=60", "x-ratelimit-remaining": "98", "x-ratelimit-reset": "3"},
            {"requests_per_minute": 100, "requests_left": 98, "requests_reset_s": 3},
        ),
        (
            {"ratelimit-limit": "60", "ratelimit-remaining": "30", "ratelimit-reset": "30"},
            {"requests_per_minute": 60, "requests_left": 30, "requests_reset_s": 30},
        ),
    ],
)
def test_stated_limits_are_read(headers: dict[str, str], fields: dict[str, float]) -> None:
    """Every family's names and formats give the same fields; of several limits on one thing the tightest counts."""
    assert told(headers) == pytest.approx(fields)


@pytest.mark.parametrize(
    "names",
    [
        ("x-ratelimit-limit-req-second", "x-ratelimit-remaining-req-second", "x-ratelimit-reset-req-second"),
        ("ratelimit-policy", "ratelimit-remaining", "ratelimit-reset"),
    ],
)
def test_reset_in_whole_seconds_slows_no_limit_per_second(names: tuple[str, str, str]) -> None:
    """Twenty a second are delivered, although the reset, rounded up, says at the end of each that one is left."""
    limits = RateLimits(None, None)
    starts: list[float] = []
    while len(starts) < 300:
        starts.append(max(limits.opens_at(), starts[-1] if starts else NOW))
        limits.reserve(starts[-1], 400)
        left = max(0, 19 - sum(start >= math.floor(starts[-1]) for start in starts[-20:-1]))
        limit = "20;w=1" if names[0].endswith("policy") else "20"
        headers = {"ratelimit-limit": "20"} if names[0].endswith("policy") else {}
        stated = allowance({**headers, **dict(zip(names, (limit, str(left), "1"), strict=True))}, starts[-1])
        assert stated is not None
        limits.note(stated, starts[-1])
    assert starts[-1] - starts[0] <= 300 / 20 / 0.95


@pytest.mark.parametrize(
    "headers",
    [
        openai("requests", "10000", "9999", "8.64s"),
        openai("requests", "14400", "14370", "2m59.56s"),
        openai("requests", "200", "199", "7m12s"),
        openai("requests", "1000", "0", "24h0m0s"),
        openai("requests", "1000", "900", "6m0s"),
        openai("requests", "10", "9", "100ms"),
        openai("requests", "60", "60", "0s"),
        openai("requests", "60", "59", ""),
        openai("requests", "50", "49", "1"),
        openai("tokens", "500000", "100", "23h59m"),
        anthropic("requests", "1000", "999", "2023-11-15T22:13:20Z"),
        {"x-ratelimit-limit": "50", "x-ratelimit-remaining": "0", "x-ratelimit-reset": f"{(NOW + 7_200) * 1000:.0f}"},
        {"x-ratelimit-limit": "50", "x-ratelimit-remaining": "0", "x-ratelimit-reset": f"{NOW + 7_200:.0f}"},
        {"x-ratelimit-limit": "50"},
        {"x-tokenlimit-limit": "50000", "x-tokenlimit-remaining": "1", "x-tokenlimit-reset": f"{NOW + 7_200:.0f}"},
        {"ratelimit-limit": "5000", "ratelimit-remaining": "4999", "ratelimit-reset": "3500"},
        {"ratelimit-limit": "5000;w=3600", "ratelimit-remaining": "4999", "ratelimit-reset": "30"},
        {"ratelimit-policy": '"day";q=1000;w=86400', "ratelimit": '"day";r=1;t=60'},
        {"ratelimit-policy": '"jobs";q=10;qu="concurrent-requests"'},
    ],
)
def test_limit_of_another_window_is_left_out(headers: dict[str, str]) -> None:
    """A limit per day, or of a window that nothing shows, is not taken for one per minute, nor its rest."""
    assert told(headers) == {}


@given(
    limit=st.integers(2, 100_000),
    used_share=st.floats(0, 1),
    window_s=st.sampled_from([1.0, 10.0, 60.0, 3_600.0, 86_400.0]),
)
def test_window_is_told_by_the_reset(limit: int, used_share: float, window_s: float) -> None:
    """Of a bucket that fills evenly, only one that takes a minute to fill gives requests a minute."""
    used = max(1, round(used_share * limit))
    reset = f"{used * window_s / limit:.9f}s"
    found = told(openai("requests", str(limit), str(limit - used), reset))
    assert found.get("requests_per_minute") == (limit if window_s == 60 else None)


@pytest.mark.parametrize(
    "limit",
    ["", "0", "-5", "nan", "inf", "1e9", "0x10", "ten", "٣٠", "9" * 400, "1000000000001", "5 0", "\0", "0.5", "--"],
)
def test_nonsense_is_no_limit(limit: str) -> None:
    """What is no plain number of sensible size is passed over, in every family."""
    for headers in (
        openai("tokens", limit, "", ""),
        anthropic("requests", limit, "", ""),
        {"x-ratelimit-limit-req-minute": limit},
        {"ratelimit-limit": f"{limit};w=60"},
        {"ratelimit-policy": f'"a";q={limit};w=60'},
    ):
        assert told(headers) == {}


@pytest.mark.parametrize(
    "reset", ["-1", "nan", "soon", "1.5", "1x", "s", "1h99", "2023-11-14T22:13:19Z", "1e5s", "9" * 400]
)
def test_nonsense_is_no_reset(reset: str) -> None:
    """A reset that is past or cannot be read takes nothing from the limit."""
    found = told(openai("tokens", "1000", "900", reset))
    assert found.pop("tokens_reset_s", 1.5) == 1.5
    assert found == {"tokens_per_minute": 1_000, "tokens_left": 900}


def test_tightest_limit_brings_its_own_rest() -> None:
    """A second limit that is looser, or that says nothing, changes nothing."""
    tight, loose = openai("tokens", "100", "7", "55.8s"), openai("tokens", "900", "3", "59s", "_usage_based")
    assert told({**tight, **loose}) == told(tight)
    assert told({**tight, "x-ratelimit-remaining-tokens-minute": "1"}) == told(tight)


@pytest.mark.parametrize(
    "headers", [{}, {"content-type": "application/json", "retry-after": "7"}, {"x-ratelimit-reset": "5"}]
)
def test_other_headers_state_nothing(headers: dict[str, str]) -> None:
    """Without a limit or a rest by a known name there is no allowance."""
    assert allowance(headers, NOW) is None


def test_replies_of_the_embedded_endpoint_state_nothing() -> None:
    """It keeps its limits to itself, as Oxen does: neither an answer nor a refusal names them."""
    settings = ServeSettings(requests_per_minute=1)
    body = {"model": "stand-in", "messages": [{"role": "user", "content": "hello"}]}
    with EmbeddedEndpoint(settings) as endpoint:
        replies = [httpx.post(f"{endpoint.base_url}/chat/completions", json=body) for _ in range(2)]
    assert [reply.status_code for reply in replies] == [200, 429]
    assert "retry-after" in replies[1].headers
    assert [allowance(dict(reply.headers), NOW) for reply in replies] == [None, None]


NAMES = sorted(
    {
        *(
            name
            for counts in ("requests", "tokens", "req-minute", "tokens-second")
            for name in openai(counts, "", "", "")
        ),
        *(name for counts in ("requests", "tokens", "input-tokens") for name in anthropic(counts, "", "", "")),
        *openai("tokens", "", "", "", "_usage_based"),
        *(f"{stem}-{part}" for stem in ("x-ratelimit", "x-tokenlimit") for part in ("limit", "remaining", "reset")),
        *("ratelimit", "ratelimit-policy", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"),
    }
)
PIECES = [
    "1",
    "60",
    "0",
    "-",
    ".",
    "e",
    "9" * 30,
    "ms",
    "s",
    "m",
    "h",
    "µs",
    " ",
    ",",
    ";",
    "=",
    '"',
    "w",
    "q",
    "r",
    "t",
]
PIECES += [
    "limit=",
    "remaining=",
    ";w=60",
    ";q=5",
    "2023-11-14T22:13:25Z",
    "+25:00",
    "9999-12-31",
    NOW_MS,
    "nan",
    "inf",
    "٣",
]
VALUES = st.one_of(
    st.text(max_size=40),
    st.lists(st.sampled_from(PIECES), max_size=8).map("".join),
    st.floats().map(repr),
    st.integers().map(str),
)


@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=8), st.floats(-1e12, 1e12))
def test_any_headers_give_nothing_or_something_sane(headers: dict[str, str], unix_now: float) -> None:
    """Whatever the headers hold, nothing is raised; limits are above zero, the rest is not below, and all is finite."""
    found = allowance(headers, unix_now)
    if found is None:
        return
    assert isinstance(found, Allowance)
    for limit in (found.requests_per_minute, found.tokens_per_minute):
        assert limit is None or 0 < limit <= 60 * LARGEST_COUNT
    for left in (found.requests_left, found.tokens_left):
        assert left is None or 0 <= left <= LARGEST_COUNT
    for reset_s in (found.requests_reset_s, found.tokens_reset_s):
        assert reset_s is None or (math.isfinite(reset_s) and 0 <= reset_s <= LONGEST_RESET_S)
