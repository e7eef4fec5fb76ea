"""Requests and tokens a minute: what is admitted in any minute, what a reservation costs, what usage teaches."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.records import Usage
from batchchat.send.limits import CATCH_UP_S, MARGIN, Pace, RateLimits, TokenEstimate

# How long a caller dawdles after the pace has opened: mostly not at all, at times longer than a minute.
DAWDLES_S = st.lists(st.one_of(st.just(0.0), st.floats(0.0, 0.2), st.floats(0.0, 90.0)), max_size=300)


def busiest_minute(admissions: list[tuple[float, float]]) -> float:
    """Return the most units that any 60 s (both ends counted in) of (moment, units) admitted."""
    return max(
        (sum(units for moment, units in admissions if start <= moment <= start + 60.0) for start, _ in admissions),
        default=0.0,
    )


@given(allowance=st.integers(1, 100_000), dawdles_s=DAWDLES_S)
def test_any_minute_admits_no_more_than_allowed(allowance: int, dawdles_s: list[float]) -> None:
    """Whenever a caller comes, the single requests admitted in any 60 s never exceed the allowance."""
    pace = Pace(allowance)
    now = 1_000.0
    admissions = []
    for dawdle_s in dawdles_s:
        now = max(now, pace.opens_at()) + dawdle_s
        pace.take(now, 1)
        admissions.append((now, 1.0))
    assert busiest_minute(admissions) <= allowance


@pytest.mark.parametrize("allowance", [1, 2, 3, 7, 60, 600])
def test_eager_caller_gets_nearly_the_allowance(allowance: int) -> None:
    """A caller that never dawdles gets, in each minute, at least the allowance less its margin, and not more."""
    pace = Pace(allowance)
    admissions = []
    now = 0.0
    while now < 200.0:
        pace.take(now, 1)
        admissions.append((now, 1.0))
        now = max(now, pace.opens_at())
    third_minute = sum(1 for moment, _ in admissions if 120.0 <= moment < 180.0)
    assert math.floor(MARGIN * allowance) <= third_minute <= allowance
    assert busiest_minute(admissions) <= allowance


@given(
    allowance=st.integers(10, 1_000_000),
    takes=st.lists(st.tuples(st.floats(0.0, 2.0), st.floats(0.0, 1.0)), max_size=200),
)
def test_large_units_exceed_by_one_admission(allowance: int, takes: list[tuple[float, float]]) -> None:
    """With admissions of any size, any 60 s without its last admission are within the allowance."""
    pace = Pace(allowance)
    now = 0.0
    admissions = []
    for dawdle_s, share in takes:
        now = max(now, pace.opens_at()) + dawdle_s
        pace.take(now, share * allowance)
        admissions.append((now, share * allowance))
    for first, (start, _) in enumerate(admissions):
        within = [units for moment, units in admissions[first:] if moment <= start + 60.0]
        assert sum(within[:-1]) <= allowance + 1e-6 * allowance


def test_fresh_pace_is_open() -> None:
    """Nothing was taken yet, so the first request may start at any time."""
    assert Pace(60).opens_at() == -math.inf


def test_take_spaces_requests_evenly() -> None:
    """Sixty a minute, less the margin, are one every 60 / 59.4 s, less what may be caught up for the first."""
    pace = Pace(60)
    pace.take(100.0, 1)
    assert pace.opens_at() == pytest.approx(100.0 - CATCH_UP_S + 1 / MARGIN)
    pace.take(pace.opens_at(), 1)
    assert pace.opens_at() == pytest.approx(100.0 - CATCH_UP_S + 2 / MARGIN)


def test_long_idleness_earns_no_burst() -> None:
    """An hour without requests is worth no more than the catch-up time."""
    pace = Pace(60)
    pace.take(0.0, 1)
    pace.take(3_600.0, 1)
    assert pace.opens_at() == pytest.approx(3_600.0 - CATCH_UP_S + 1 / MARGIN)


def test_units_given_back_open_earlier() -> None:
    """A reservation of 30 that needed 10 delays the next by no more than 10 would have."""
    pace = Pace(60)
    pace.take(0.0, 30)
    pace.give_back(20)
    assert pace.opens_at() == pytest.approx(-CATCH_UP_S + 10 / MARGIN)


def test_units_missing_open_later() -> None:
    """A reservation that was too low is made up for by those that follow."""
    pace = Pace(60)
    pace.take(0.0, 10)
    pace.give_back(-20)
    assert pace.opens_at() == pytest.approx(-CATCH_UP_S + 30 / MARGIN)


def test_limits_without_numbers_never_close() -> None:
    """A job with neither allowance is never held back and reserves nothing."""
    limits = RateLimits(None, None)
    assert limits.reserve(0.0, 4_000) == 0.0
    limits.settle(0.0, 4_000, Usage(1_000, 1_000))
    assert limits.opens_at() == -math.inf


def test_stricter_allowance_decides() -> None:
    """The later of the two allowances says when the next request may start."""
    limits = RateLimits(6_000, 600)
    reserved = limits.reserve(0.0, 4 * 44)
    assert reserved == 44 + 256
    assert limits.opens_at() == pytest.approx(-CATCH_UP_S + 300 / 600 * 60 / MARGIN)


def test_request_allowance_reserves_no_tokens() -> None:
    """Without an allowance of tokens nothing is reserved, and requests alone are spaced."""
    limits = RateLimits(60, None)
    assert limits.reserve(0.0, 4_000) == 0.0
    assert limits.opens_at() == pytest.approx(-CATCH_UP_S + 1 / MARGIN)


def test_settling_replaces_the_estimate() -> None:
    """After the reply, the request has cost what its usage says and nothing more."""
    limits = RateLimits(None, 600)
    reserved = limits.reserve(0.0, 400)
    limits.settle(reserved, 400, Usage(prompt_tokens=50, completion_tokens=10))
    assert limits.opens_at() == pytest.approx(-CATCH_UP_S + 60 / 600 * 60 / MARGIN)


@pytest.mark.parametrize("usage", [None, Usage(), Usage(0, 0), Usage(None, 0)])
def test_settling_without_usage_keeps_reservation(usage: Usage | None) -> None:
    """A reply that reports nothing may have cost everything that was reserved."""
    limits = RateLimits(None, 600)
    reserved = limits.reserve(0.0, 400)
    before = limits.opens_at()
    limits.settle(reserved, 400, usage)
    assert limits.opens_at() == before


def test_estimate_follows_usage() -> None:
    """Each reply moves the estimate a twentieth of the way towards what it reports."""
    estimate = TokenEstimate()
    assert estimate.tokens(400) == 100 + 256
    estimate.learn(400, Usage(prompt_tokens=200, completion_tokens=56))
    assert estimate.bytes_per_token == pytest.approx(3.9)
    assert estimate.completion_tokens == pytest.approx(246.0)


def test_estimate_learns_only_what_is_reported() -> None:
    """Usage without counts, or with a prompt of none, teaches nothing about the prompt."""
    estimate = TokenEstimate()
    estimate.learn(400, Usage())
    assert estimate == TokenEstimate()
    estimate.learn(400, Usage(prompt_tokens=0, completion_tokens=0))
    assert estimate.bytes_per_token == 4.0
    assert estimate.completion_tokens == pytest.approx(243.2)


def test_estimate_converges_to_the_job() -> None:
    """After a few hundred like replies, a request's reservation is what it costs."""
    estimate = TokenEstimate()
    for _ in range(500):
        estimate.learn(3_000, Usage(prompt_tokens=1_000, completion_tokens=7))
    assert estimate.tokens(3_000) == pytest.approx(1_007)
