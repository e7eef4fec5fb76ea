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
from batchchat.send.policy.backoff import FIRST_WAIT_S, LONGEST_WAIT_S, next_wait_s, wait_s
from batchchat.send.reply.retry_after import LONGEST_HINT_S, LONGEST_QUOTA_HINT_S, quota_reset_s, retry_after_s

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


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({"retry_after": 3}, 3.0),
        ({"retry_after": "2.5"}, 2.5),
        ({"retry_after": 0}, 0.0),
        ({"metadata": {"retry_after": 4}}, 4.0),
        ({"metadata": {"retry_after_seconds": 5}}, 5.0),
        ({"availability": {"retry_after": 6}, "retry_after": 3}, 6.0),
        ({"retry_after": -1, "metadata": {"retry_after": 4}}, 4.0),
        ({"details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "41s"}]}, 41.0),
        ({"details": [{"violations": []}, {"retryDelay": "41.372919s"}]}, 41.372919),
        ({"details": [None, 3, {"retryDelay": 41}, {"retryDelay": "soon"}]}, None),
        ({"retry_after": True}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after": "inf"}, None),
        ({"retry_after": "tomorrow"}, None),
        ({"retry_after": 10**400}, None),
        ({"retry_after": {"seconds": 3}}, None),
        ({"retry_after": 86_400}, LONGEST_HINT_S),
        ({"metadata": ["retry_after"], "availability": "retry_after", "details": {"retryDelay": "41s"}}, None),
    ],
)
def test_wish_in_the_body_is_read(fields: dict[str, object], seconds: float | None) -> None:
    """Where the headers say nothing, the fields that providers have for it do."""
    assert retry_after_s({}, NOW, status=429, fields=fields) == seconds


@pytest.mark.parametrize(
    ("sentence", "seconds"),
    [
        ("Rate limit reached for gpt-4o in organization org-x. Please try again in 1.2s. Visit https://x.test", 1.2),
        ("Please try again in 1h26m24s.", 5_184.0),
        ("Please try again in 6m0s", 360.0),
        ("Please try again in 12ms.", 0.012),
        ("Please try again in 2m59.56s.", 179.56),
        ("Please wait 23 seconds before retrying.", 23.0),
        ("Please wait for 1 minute and 5 seconds.", 65.0),
        ("Please retry after 37 seconds.", 37.0),
        ("Rate limit is exceeded. Try again in 6 seconds.", 6.0),
        ("* Quota exceeded for metric: x, limit: 250\nPlease retry in 41.372s.", 41.372),
        ("Please retry in 10h17m5.723541104s.", 37_025.723541104),
        ("Please retry in 3 days", 259_200.0),
        ("Please try again later.", None),
        ("Please try again in 5 sheep", None),
        ("Please try again in 5.", None),
        ("Please wait 23", None),
        ("The limit is 30000 per 60s.", None),
        ("Please try again in -5s", None),
        ("The prompt 'please try again in 50 minutes' exceeds the limit", None),
        ("You said `try again in 50m`. Please try again in 2s", 2.0),
    ],
)
def test_wish_in_a_sentence_is_read(sentence: str, seconds: float | None) -> None:
    """Providers ask for a wait in words, in one of the known forms; what is quoted is not theirs."""
    found = retry_after_s({}, NOW, status=429, sentence=sentence, longest_s=LONGEST_QUOTA_HINT_S)
    assert found == (None if seconds is None else pytest.approx(seconds))


def test_header_wins_over_body_over_sentence() -> None:
    """What a reply says twice counts as its headers have it, then as its fields do."""
    sentence, fields = "Please try again in 3s", {"retry_after": 2}
    assert retry_after_s({"retry-after": "1"}, NOW, status=429, fields=fields, sentence=sentence) == 1.0
    assert retry_after_s({"retry-after": "soon"}, NOW, status=429, fields=fields, sentence=sentence) == 2.0
    assert retry_after_s({}, NOW, status=429, sentence=sentence) == 3.0


@pytest.mark.parametrize(
    ("status", "counts"), [*((s, True) for s in (402, 403, 429, 503, 529)), (400, False), (500, False)]
)
def test_body_is_believed_only_with_a_limits_status(status: int, counts: bool) -> None:
    """The words of a 400 or a 500 may be anybody's; only what is said of the availability counts with any status."""
    assert (retry_after_s({}, NOW, status=status, fields={"retry_after": 2}) == 2.0) is counts
    assert (retry_after_s({}, NOW, status=status, sentence="Please try again in 3s") == 3.0) is counts
    assert retry_after_s({}, NOW, status=status, fields={"availability": {"retry_after": 4}}) == 4.0


@pytest.mark.parametrize(
    ("headers", "fields", "seconds"),
    [
        ({}, {"metadata": {"headers": {"X-RateLimit-Reset": f"{(NOW + 7_200) * 1000:.0f}"}}}, 7_200.0),
        ({"x-ratelimit-reset": f"{NOW + 60:.0f}"}, {}, 60.0),
        ({"x-ratelimit-reset": f"{NOW - 60:.0f}"}, {}, None),
        ({"x-ratelimit-reset": f"{NOW + 8 * 86_400:.0f}"}, {}, None),
        ({"x-ratelimit-reset": "12ms"}, {}, None),
        ({"x-ratelimit-reset": "30"}, {}, None),
        ({}, {"metadata": {"headers": [1]}}, None),
        ({}, {"metadata": {"headers": {"X-RateLimit-Reset": None}}}, None),
        ({}, {}, None),
    ],
)
def test_reset_of_a_quota_is_read(headers: dict[str, str], fields: dict[str, object], seconds: float | None) -> None:
    """A unix time, in seconds or milliseconds, within a week from now, is when a daily quota is back."""
    assert quota_reset_s(headers, fields, NOW) == seconds


@given(st.text(max_size=300), st.dictionaries(st.sampled_from(["retry_after", "details", "metadata"]), st.text()))
def test_any_body_is_no_wish_or_a_sane_one(sentence: str, fields: dict[str, str]) -> None:
    """Whatever a body says, nothing is raised and the wish is between nothing and an hour."""
    seconds = retry_after_s({}, NOW, status=429, fields=fields, sentence=f"Please try again in {sentence}")
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
    failure = Failure("server", "busy")
    assert [next_wait_s(failure, attempt, 3) is None for attempt in (1, 2, 3, 4)] == [False, False, True, True]
    assert next_wait_s(failure, 1, 1) is None
