"""The limit on requests in flight: doubles to the knee, holds there, probes gently, is cut by rate limits."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.send.concurrency import CUT, FIRST_LIMIT, LARGEST_LIMIT, ROUNDS_BETWEEN_PROBES, Concurrency


def play_round(concurrency: Concurrency, now: float, replies_per_s: float, *, is_full: bool = True) -> float:
    """Bring one round of replies at a steady pace, and return the time at its end."""
    for _ in range(max(concurrency.limit, FIRST_LIMIT)):
        if is_full:
            concurrency.on_full()
        now += 1 / replies_per_s
        concurrency.on_reply(now)
    return now


def endpoint_rate(limit: int, *, knee: int, latency_s: float = 0.1) -> float:
    """Replies a second of an endpoint that works on `knee` requests at a time."""
    return min(limit, knee) / latency_s


def test_automatic_limit_starts_low() -> None:
    """Nothing is known of the endpoint yet."""
    assert Concurrency("auto", 0.0).limit == FIRST_LIMIT


@pytest.mark.parametrize("number", [1, 7, 5_000])
def test_number_never_changes(number: int) -> None:
    """The user's number stands, whatever replies and rate limits come, and however large it is."""
    concurrency = Concurrency(number, 0.0)
    now = 0.0
    for _ in range(3):
        now = play_round(concurrency, now, 1_000.0)
        concurrency.on_rate_limit(now)
    assert concurrency.limit == number


def test_limit_doubles_while_replies_keep_up() -> None:
    """An endpoint without a knee is driven to the largest limit, by doubling, and no further."""
    concurrency = Concurrency("auto", 0.0)
    limits = []
    now = 0.0
    for _ in range(12):
        now = play_round(concurrency, now, endpoint_rate(concurrency.limit, knee=10**6))
        limits.append(concurrency.limit)
    assert limits == [16, 32, 64, 128, 256, 512, 1_024, 1_024, 1_024, 1_024, 1_024, 1_024]
    assert limits[-1] == LARGEST_LIMIT


def test_doubling_without_gain_goes_back() -> None:
    """An endpoint that works on 32 at a time is held at 32, after 64 brought nothing."""
    concurrency = Concurrency("auto", 0.0)
    limits = []
    now = 0.0
    for _ in range(5):
        now = play_round(concurrency, now, endpoint_rate(concurrency.limit, knee=32))
        limits.append(concurrency.limit)
    assert limits == [16, 32, 64, 32, 32]


def test_knee_is_probed_gently() -> None:
    """After some rounds at the knee a tenth more is tried, and given up when it brings nothing."""
    concurrency = Concurrency("auto", 0.0)
    limits = []
    now = 0.0
    for _ in range(4 + ROUNDS_BETWEEN_PROBES + 1):
        now = play_round(concurrency, now, endpoint_rate(concurrency.limit, knee=32))
        limits.append(concurrency.limit)
    assert limits[3:] == [32] * ROUNDS_BETWEEN_PROBES + [35, 32]


def test_probe_with_gain_is_kept() -> None:
    """An endpoint that has grown since is followed, a tenth at a time."""
    concurrency = Concurrency("auto", 0.0)
    now = 0.0
    for _ in range(4):
        now = play_round(concurrency, now, endpoint_rate(concurrency.limit, knee=32))
    seen = {concurrency.limit}
    for _ in range(4 * (ROUNDS_BETWEEN_PROBES + 1)):
        now = play_round(concurrency, now, endpoint_rate(concurrency.limit, knee=200))
        seen.add(concurrency.limit)
    assert seen == {32, 35, 38, 41, 45}


def test_limit_that_holds_nobody_back_does_not_grow() -> None:
    """When requests never wait for a slot (a slow feed, a rate limit of ours), more slots would change nothing."""
    concurrency = Concurrency("auto", 0.0)
    now = 0.0
    for _ in range(5):
        now = play_round(concurrency, now, 1_000.0, is_full=False)
    assert concurrency.limit == FIRST_LIMIT


def test_rate_limit_cuts_by_a_fifth() -> None:
    """A burst of rate limits cuts the limit at once."""
    concurrency = Concurrency("auto", 0.0)
    play_round(concurrency, play_round(concurrency, 0.0, 1_000.0), 10_000.0)
    assert concurrency.limit == 32
    concurrency.on_rate_limit(1.0)
    assert concurrency.limit == int(32 * CUT)


def test_cut_limit_recovers_to_just_below() -> None:
    """After a burst at 256 the limit comes back by a quarter each round, to 95 % of 256, and holds there."""
    concurrency = Concurrency("auto", 0.0)
    now = 0.0
    for _ in range(5):
        now = play_round(concurrency, now, endpoint_rate(concurrency.limit, knee=10**6))
    assert concurrency.limit == 256
    concurrency.on_rate_limit(now)
    limits = [concurrency.limit]
    for _ in range(4):
        now = play_round(concurrency, now, endpoint_rate(concurrency.limit, knee=10**6))
        limits.append(concurrency.limit)
    assert limits == [204, 243, 243, 243, 243]


def test_rate_limits_never_cut_to_nothing() -> None:
    """However many bursts come, one request at a time is still asked."""
    concurrency = Concurrency("auto", 0.0)
    for burst in range(50):
        concurrency.on_rate_limit(float(burst))
    assert concurrency.limit == 1


def test_limit_grows_again_after_a_cut() -> None:
    """From the lowest limit, probes lead back to where the endpoint keeps up."""
    concurrency = Concurrency("auto", 0.0)
    for burst in range(50):
        concurrency.on_rate_limit(float(burst))
    now = 100.0
    for _ in range(20 * (ROUNDS_BETWEEN_PROBES + 1)):
        now = play_round(concurrency, now, endpoint_rate(concurrency.limit, knee=200))
    assert concurrency.limit > 10


def test_replies_at_one_moment_do_not_divide_by_zero() -> None:
    """A clock that does not advance within a round is no fault."""
    concurrency = Concurrency("auto", 5.0)
    for _ in range(FIRST_LIMIT):
        concurrency.on_full()
        concurrency.on_reply(5.0)
    assert concurrency.limit == 2 * FIRST_LIMIT


@given(
    st.lists(st.tuples(st.sampled_from(["full", "reply", "replies", "rate limit"]), st.floats(0.0, 5.0)), max_size=300)
)
def test_limit_stays_in_bounds(events: list[tuple[Literal["full", "reply", "replies", "rate limit"], float]]) -> None:
    """Whatever happens in whatever order, the limit is a whole number between one and the largest."""
    concurrency = Concurrency("auto", 0.0)
    now = 0.0
    for event, step_s in events:
        now += step_s
        if event == "full":
            concurrency.on_full()
        elif event == "rate limit":
            concurrency.on_rate_limit(now)
        else:
            for _ in range(1 if event == "reply" else concurrency.limit):
                concurrency.on_reply(now)
        assert isinstance(concurrency.limit, int)
        assert 1 <= concurrency.limit <= LARGEST_LIMIT


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
    limit = Concurrency("auto", 0.0)
    now = 0.0
    for _ in range(20):
        for _ in range(2):
            limit.on_overload(now, now)
        before = limit.limit
        for _ in range(limit.limit):
            now += 0.1
            limit.on_reply(now)
        assert limit.limit >= before


def test_limit_never_grows_beyond_what_the_system_allows() -> None:
    """Neither at the start, nor by doubling, nor after a cut."""
    for largest in (3, 20):
        limit = Concurrency("auto", 0.0, largest=largest)
        now = 0.0
        for number in range(3_000):
            assert limit.limit <= largest
            limit.on_full()
            now += 0.1 / limit.limit
            limit.on_reply(now)
            if number % 500 == 499:
                limit.on_rate_limit(now)
