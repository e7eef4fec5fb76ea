"""An allowance spread evenly: what is admitted in any second or minute, and what is caught up for."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.send.limits.leaky_bucket import CATCH_UP_S, MARGIN, LeakyBucket

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
    pace = LeakyBucket(allowance)
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
    pace = LeakyBucket(allowance)
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
    pace = LeakyBucket(allowance)
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
    assert LeakyBucket(60).opens_at() == -math.inf


def test_take_spaces_requests_evenly() -> None:
    """Sixty a minute, less the margin, are one every 60 / 59.4 s, less what may be caught up for the first."""
    pace = LeakyBucket(60)
    pace.take(100.0, 1)
    assert pace.opens_at() == pytest.approx(100.0 - CATCH_UP_S + 1 / MARGIN)
    pace.take(pace.opens_at(), 1)
    assert pace.opens_at() == pytest.approx(100.0 - CATCH_UP_S + 2 / MARGIN)


def test_long_idleness_earns_no_burst() -> None:
    """An hour without requests is worth no more than the catch-up time."""
    pace = LeakyBucket(60)
    pace.take(0.0, 1)
    pace.take(3_600.0, 1)
    assert pace.opens_at() == pytest.approx(3_600.0 - CATCH_UP_S + 1 / MARGIN)


def test_units_given_back_open_earlier() -> None:
    """A reservation of 30 that needed 10 delays the next by no more than 10 would have."""
    pace = LeakyBucket(60)
    pace.take(0.0, 30)
    pace.give_back(20)
    assert pace.opens_at() == pytest.approx(-CATCH_UP_S + 10 / MARGIN)


def test_units_missing_open_later() -> None:
    """A reservation that was too low is made up for by those that follow."""
    pace = LeakyBucket(60)
    pace.take(0.0, 10)
    pace.give_back(-20)
    assert pace.opens_at() == pytest.approx(-CATCH_UP_S + 30 / MARGIN)


@given(per_second=st.integers(1, 1_000), dawdles_s=st.lists(st.floats(0.0, 0.05), min_size=1, max_size=300))
def test_any_second_admits_no_more_than_its_share(per_second: int, dawdles_s: list[float]) -> None:
    """A limit that is judged by the second is kept too, however the loop dawdles."""
    pace = LeakyBucket(60 * per_second)
    now = 1_000.0
    moments = []
    for dawdle_s in dawdles_s:
        now = max(now, pace.opens_at()) + dawdle_s
        pace.take(now, 1)
        moments.append(now)
    for first, start in enumerate(moments):
        assert sum(1 for moment in moments[first:] if moment < start + 1.0 - 1e-6) <= per_second


def test_changed_allowance_is_followed() -> None:
    """What is taken from then on takes as long as the new allowance says."""
    pace = LeakyBucket(60)
    pace.set_rate(600)
    pace.take(100.0, 1)
    assert pace.opens_at() == pytest.approx(100.0 - CATCH_UP_S + 0.1 / MARGIN)
    pace.wait_until(500.0)
    assert pace.opens_at() == 500.0
