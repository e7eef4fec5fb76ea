"""The limit on requests in flight: where it starts, when it grows, what cuts it; whole runs are in test_simulator."""

from __future__ import annotations

import itertools
import statistics
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.send.limits.concurrency import CUT, FIRST_LIMIT, MOST_AT_ONCE, REMEMBERED_SHARE, Concurrency

LARGEST = 4_096


def play_round(
    concurrency: Concurrency, now: float, *, knee: int, latency_s: float = 1.0, is_full: bool = True
) -> float:
    """Let an endpoint that works on `knee` at a time answer as many as are in flight; return the time at the end."""
    in_flight = concurrency.limit
    took_s = latency_s * max(1.0, in_flight / knee)
    if is_full:
        concurrency.on_full()
    else:
        concurrency.on_free()
    for number in range(in_flight):
        concurrency.on_reply(now + took_s * (number + 1) / in_flight, took_s, 100)
    return now + took_s


def limits_of(concurrency: Concurrency, rounds: int, *, knee: int, now: float = 0.0) -> list[int]:
    """Return the limit after each of some rounds."""
    limits = []
    for _ in range(rounds):
        now = play_round(concurrency, now, knee=knee)
        limits.append(concurrency.limit)
    return limits


def test_automatic_limit_starts_low() -> None:
    """Nothing is known of the endpoint yet."""
    assert Concurrency("auto", 0.0).limit == FIRST_LIMIT
    assert Concurrency("auto", 0.0, largest=3).limit == 3


@pytest.mark.parametrize("number", [1, 7, 5_000])
def test_number_never_changes(number: int) -> None:
    """The user's number stands, whatever replies and rate limits come, and however large it is."""
    concurrency = Concurrency(number, 0.0)
    now = 0.0
    for _ in range(3):
        now = play_round(concurrency, now, knee=10**6)
        concurrency.on_rate_limit(now)
    assert concurrency.limit == number
    assert concurrency.settled is None


def test_limit_doubles_while_replies_keep_up() -> None:
    """An endpoint without a knee is driven to the largest limit, by doubling, and no further."""
    limits = limits_of(Concurrency("auto", 0.0, largest=1_000), 12, knee=10**6)
    assert all(limit >= 1.9 * before for before, limit in itertools.pairwise([FIRST_LIMIT, *limits[:6]]))
    assert all(limit <= 2 * before for before, limit in itertools.pairwise([FIRST_LIMIT, *limits[:6]]))
    assert limits[7:] == [1_000] * 5


def test_limit_stops_at_the_knee() -> None:
    """An endpoint that works on 100 at a time is soon held at little more, where the next run will start."""
    concurrency = Concurrency("auto", 0.0, largest=LARGEST)
    limits = limits_of(concurrency, 30, knee=100)
    assert min(limits[8:]) >= 100
    assert statistics.median(limits) <= 150
    assert concurrency.settled is not None
    assert 100 <= concurrency.settled <= 130


def test_endpoint_that_grows_is_followed() -> None:
    """A knee that has moved up tenfold is found by probing, and then by doubling."""
    concurrency = Concurrency("auto", 0.0, largest=LARGEST)
    limits_of(concurrency, 10, knee=50)
    assert concurrency.limit < 100
    now = 1_000.0
    limits = limits_of(concurrency, 60, knee=500, now=now)
    assert max(limits[40:]) >= 480


def test_limit_that_holds_nobody_back_does_not_grow() -> None:
    """When requests never wait for a slot (a slow feed, a rate limit of ours), more slots would change nothing."""
    concurrency = Concurrency("auto", 0.0)
    now = 0.0
    for _ in range(10):
        now = play_round(concurrency, now, knee=10**6, is_full=False)
    assert concurrency.limit == FIRST_LIMIT
    assert concurrency.settled is None


def test_dry_input_is_no_knee() -> None:
    """Rounds that wait for rows are slow and prove nothing: once rows come again, the limit goes on doubling."""
    concurrency = Concurrency("auto", 0.0)
    limits_of(concurrency, 3, knee=10**6)
    now = 100.0
    for _ in range(5):
        now = play_round(concurrency, now, knee=4, is_full=False)
    before = concurrency.limit
    assert max(limits_of(concurrency, 4, knee=10**6, now=now)) >= 8 * before


def test_rate_limit_cuts_by_a_fifth_and_recovers() -> None:
    """A burst cuts the limit at once; a round later it is back at the number in flight that was refused."""
    concurrency = Concurrency("auto", 0.0, largest=LARGEST)
    limits_of(concurrency, 6, knee=10**6)
    level = concurrency.limit
    concurrency.on_rate_limit(6.5, level)
    assert concurrency.limit == int(CUT * level)
    assert limits_of(concurrency, 3, knee=10**6, now=6.5) == [level] * 3


def test_cut_keeps_what_works() -> None:
    """A probe that is refused leads back to what was held before it, and not below."""
    concurrency = Concurrency("auto", 0.0, largest=LARGEST)
    held = limits_of(concurrency, 10, knee=100)[-1]
    now = 100.0
    while concurrency.limit == held:
        now = play_round(concurrency, now, knee=100)
    assert concurrency.limit > held
    concurrency.on_rate_limit(now, concurrency.limit)
    assert concurrency.limit == held


def test_refusal_with_few_in_flight_is_not_about_their_number() -> None:
    """A limit of a hundred is not too high for an endpoint that refuses one of ten requests."""
    concurrency = Concurrency("auto", 0.0, largest=LARGEST)
    limits_of(concurrency, 4, knee=10**6)
    before = concurrency.limit
    assert not concurrency.may_be_too_many(10)
    concurrency.on_rate_limit(5.0, 10)
    assert concurrency.limit == before


def test_rate_limits_never_cut_to_nothing() -> None:
    """However many bursts come, one request at a time is still asked, and the limit grows again afterwards."""
    concurrency = Concurrency("auto", 0.0)
    for burst in range(50):
        concurrency.on_rate_limit(float(burst))
    assert concurrency.limit == 1
    now = 100.0
    for _ in range(200):
        now = play_round(concurrency, now, knee=200)
    assert concurrency.limit > 10


def test_remembered_limit_is_checked_from_below() -> None:
    """A run starts near where the last one was, but not at once with thousands; it comes back within some rounds."""
    concurrency = Concurrency("auto", 0.0, largest=LARGEST, remembered=200)
    assert concurrency.limit == int(REMEMBERED_SHARE * 200)
    assert limits_of(concurrency, 4, knee=200)[-1] >= 200
    many = Concurrency("auto", 0.0, largest=LARGEST, remembered=4_000)
    assert many.limit == MOST_AT_ONCE
    assert max(limits_of(many, 5, knee=10**6)) >= 4_000


def test_remembered_limit_of_a_smaller_endpoint_is_given_up() -> None:
    """What served 400 requests at a time serves 50 now: the limit comes down, though nothing is refused."""
    concurrency = Concurrency("auto", 0.0, largest=LARGEST, remembered=400)
    assert limits_of(concurrency, 60, knee=50)[-1] < 200


def test_replies_at_one_moment_do_not_divide_by_zero() -> None:
    """A clock that does not advance within a round is no fault."""
    concurrency = Concurrency("auto", 5.0)
    concurrency.on_full()
    for _ in range(10 * FIRST_LIMIT):
        concurrency.on_reply(5.0, 0.0, 0)
    assert FIRST_LIMIT <= concurrency.limit <= 2 * FIRST_LIMIT


Event = Literal["full", "free", "reply", "replies", "rate limit", "overload"]


@given(
    st.lists(
        st.tuples(st.sampled_from(["full", "free", "reply", "replies", "rate limit", "overload"]), st.floats(0.0, 5.0)),
        max_size=300,
    ),
    st.sampled_from([None, 1, 30, 10_000]),
    st.sampled_from([1, 3, 50, LARGEST]),
)
def test_limit_stays_in_bounds(events: list[tuple[Event, float]], remembered: int | None, largest: int) -> None:
    """Whatever happens in whatever order, the limit is a whole number between one and the largest."""
    concurrency = Concurrency("auto", 0.0, largest=largest, remembered=remembered)
    now = 0.0
    for event, step_s in events:
        now += step_s
        if event == "full":
            concurrency.on_full()
        elif event == "free":
            concurrency.on_free()
        elif event == "rate limit":
            concurrency.on_rate_limit(now, int(concurrency.limit * step_s / 5))
        elif event == "overload":
            concurrency.on_overload(now, now)
        else:
            for _ in range(1 if event == "reply" else min(concurrency.limit, 100)):
                concurrency.on_reply(now, step_s, 10)
        assert isinstance(concurrency.limit, int)
        assert 1 <= concurrency.limit <= largest


def test_overloaded_endpoint_gets_less() -> None:
    """A fifth of a round that says that there is too much to do cuts the limit once; fewer may be chance."""
    limit = Concurrency("auto", 0.0)
    limit.limit = 100
    for _ in range(19):
        limit.on_overload(1.0, 2.0)
    assert limit.limit == 100
    limit.on_overload(1.0, 2.0)
    assert limit.limit == 80
    for _ in range(100):
        limit.on_overload(1.9, 2.5)  # they started under the higher limit
    assert limit.limit == 80


def test_overloads_of_different_rounds_are_chance() -> None:
    """Two in every round never come to anything."""
    limit = Concurrency("auto", 0.0, largest=64)
    now = 0.0
    for _ in range(20):
        now = play_round(limit, now, knee=10**6)
        for _ in range(2):
            limit.on_overload(now, now)
    assert limit.limit == 64


def test_limit_never_grows_beyond_what_the_system_allows() -> None:
    """Neither at the start, nor by doubling, nor after a cut."""
    for largest in (3, 20):
        limit = Concurrency("auto", 0.0, largest=largest)
        now = 0.0
        for number in range(100):
            assert limit.limit <= largest
            now = play_round(limit, now, knee=10**6)
            if number % 20 == 19:
                limit.on_rate_limit(now)
