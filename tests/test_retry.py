"""Whether and when to try again: backoff with full jitter, Retry-After as a floor, no hint ever believed too far."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.records import Failure
from batchchat.send.retry import FIRST_WAIT_S, LONGEST_HINT_S, LONGEST_WAIT_S, is_last, retry_after_s, wait_s

NOW = 1_700_000_000.0


@pytest.fixture
def new_york() -> Iterator[None]:
    """A machine whose local time is hours behind UTC."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "EST5"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": " 3 "}, 3.0),
        ({"retry-after": formatdate(NOW + 90, usegmt=True)}, 90.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after-ms": "-1", "retry-after": "9"}, 9.0),
        ({"retry-after-ms": "nan", "retry-after": "9"}, 9.0),
        ({"retry-after": "86400"}, LONGEST_HINT_S),
        ({"retry-after": "1e300"}, LONGEST_HINT_S),
        ({"retry-after": formatdate(NOW + 10**6, usegmt=True)}, LONGEST_HINT_S),
        ({"retry-after": formatdate(NOW - 1, usegmt=True)}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "-inf"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "tomorrow"}, None),
        ({"retry-after": "Mon, 99 Foo 2026 99:99:99 GMT"}, None),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:20 +99999999999999999"}, None),
        ({"retry-after": "\x00"}, None),
    ],
)
def test_wish_of_the_server_is_read(headers: dict[str, str], seconds: float | None) -> None:
    """Milliseconds win over seconds and dates; what is negative, past or no number is no wish."""
    assert retry_after_s(headers, NOW) == seconds


@pytest.mark.usefixtures("new_york")
@pytest.mark.parametrize(
    "date", ["Tue Nov 14 22:14:50 2023", "Tue, 14 Nov 2023 22:14:50", "Tue, 14 Nov 2023 22:14:50 -0000"]
)
def test_date_without_zone_is_utc(date: str) -> None:
    """RFC 9110 has asctime dates, without a zone, and all HTTP dates are UTC, wherever the reader is."""
    assert retry_after_s({"retry-after": date}, NOW) == 90.0


@given(
    st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms"]), st.text(max_size=60)),
    st.floats(-1e12, 1e12),
)
def test_any_text_is_no_wish_or_a_sane_one(headers: dict[str, str], unix_now: float) -> None:
    """Whatever the headers hold, nothing is raised and the wish is between nothing and an hour."""
    seconds = retry_after_s(headers, unix_now)
    assert seconds is None or 0 <= seconds <= LONGEST_HINT_S


DATE_PARTS = st.lists(
    st.one_of(
        st.sampled_from(["Mon,", "1", "31", "32", "Jan", "Feb", "70", "1970", "9999", "0", "(x)", "-", ",", "am"]),
        st.sampled_from(["00:00:00", "23:59:60", "24:00", "::", ":"]),
        st.sampled_from(["GMT", "EST", "+0000", "-0000", "+2400", "-9999", "+99999999"]),
    ),
    max_size=8,
)


@given(DATE_PARTS, st.sampled_from([" ", "-", "  "]))
def test_any_date_is_no_wish_or_a_sane_one(parts: list[str], joint: str) -> None:
    """Dates that are nearly right, and all that can be wrong with them, raise nothing either."""
    seconds = retry_after_s({"retry-after": joint.join(parts)}, NOW)
    assert seconds is None or 0 <= seconds <= LONGEST_HINT_S


@given(st.floats(allow_nan=True, allow_infinity=True), st.sampled_from(["retry-after", "retry-after-ms"]))
def test_any_number_is_no_wish_or_a_sane_one(number: float, name: str) -> None:
    """Every float in either header gives nothing, or between nothing and an hour."""
    seconds = retry_after_s({name: repr(number)}, NOW)
    assert seconds is None or 0 <= seconds <= LONGEST_HINT_S


@pytest.mark.parametrize("attempt", [1, 2, 3, 6, 50, 5_000])
def test_wait_is_jittered_below_its_ceiling(attempt: int) -> None:
    """The wait is anything from nothing to a ceiling that doubles, up to the longest; it is not always the same."""
    ceiling_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempt - 1, 20))
    waits_s = {wait_s(Failure("server", "busy"), attempt) for _ in range(200)}
    assert len(waits_s) > 100
    assert min(waits_s) >= 0
    assert ceiling_s / 2 < max(waits_s) <= ceiling_s


@given(st.floats(0.0, LONGEST_HINT_S), st.integers(1, 100))
def test_hint_is_a_floor_with_little_jitter(hint_s: float, attempt: int) -> None:
    """A server that names a time is never asked before it, and the first time not much later."""
    waited_s = wait_s(Failure("rate_limit", "slow down", 429, retry_after_s=hint_s), attempt)
    longest_s = 1.1 * hint_s + 0.05 + 1e-9
    assert hint_s <= waited_s <= (longest_s if attempt == 1 else max(longest_s, LONGEST_WAIT_S))


def test_hint_of_nothing_backs_off_all_the_same() -> None:
    """A server that says `Retry-After: 0` again and again is not asked hundreds of times a second."""
    waits_s = [wait_s(Failure("rate_limit", "", 429, retry_after_s=0.0), 5) for _ in range(200)]
    assert sum(waits_s) / len(waits_s) > 1.0


def test_last_attempt_is_the_one_that_reaches_the_limit() -> None:
    """Of three attempts the third is the last; past the limit every one is."""
    assert [is_last(attempt, 3) for attempt in (1, 2, 3, 4)] == [False, False, True, True]
    assert is_last(1, 1)
