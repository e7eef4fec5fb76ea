"""The rate inferred from refusals: what a burst means, what follows; whole runs are in test_simulator."""

from __future__ import annotations

import math

import pytest

from batchchat.send.limits.inferred_rate import BEYOND, InferredRate


def start_evenly(inferred: InferredRate, since_s: float, until_s: float, per_s: float) -> None:
    """Start requests at a steady rate."""
    for number in range(int((until_s - since_s) * per_s)):
        inferred.on_start(since_s + number / per_s)


def test_nothing_is_held_back_before_a_refusal() -> None:
    """Any number of requests may start."""
    inferred = InferredRate()
    start_evenly(inferred, 0.0, 3.0, 1_000)
    assert inferred.opens_at() == -math.inf
    assert inferred.pace is None


def test_first_refusal_may_be_about_the_number_in_flight() -> None:
    """It says nothing about a rate: what starts next only waits until the rest of the burst has been heard."""
    inferred = InferredRate()
    start_evenly(inferred, 0.0, 3.0, 100)
    assert not inferred.on_refusal(2.99, 3.0, 50, is_new=True)
    assert inferred.opens_at() == pytest.approx(3.01)
    inferred.on_start(inferred.opens_at())
    assert inferred.pace is None
    assert inferred.requests_per_minute is None


def test_refusal_with_fewer_in_flight_is_for_a_rate() -> None:
    """Between two refusals 500 were let in within 10 s: the pace is a little below 50 a second."""
    inferred = InferredRate()
    start_evenly(inferred, 0.0, 3.0, 100)
    inferred.on_refusal(2.99, 3.0, 50, is_new=True)
    inferred.on_refusal(2.995, 3.005, 20, is_new=True)
    start_evenly(inferred, 3.0, 13.0, 50)
    assert inferred.on_refusal(12.99, 13.0, 20, is_new=True)
    inferred.on_start(inferred.opens_at())
    assert inferred.requests_per_minute == pytest.approx(3_000, rel=0.05)
    assert inferred.pace is not None
    assert 45 <= 1 / inferred.pace.seconds_per_unit <= 50.5


def test_after_a_burst_one_request_asks_first() -> None:
    """The next start waits for the replies that still come; those after it follow at a growing pace."""
    inferred = InferredRate()
    start_evenly(inferred, 0.0, 3.0, 100)
    inferred.on_refusal(2.9, 3.0, 0, is_new=True)
    first_at = inferred.opens_at()
    assert first_at == pytest.approx(3.2)
    gaps_s = []
    for _ in range(5):
        before = inferred.opens_at()
        inferred.on_start(before)
        gaps_s.append(inferred.opens_at() - before)
    assert gaps_s[0] == pytest.approx(0.2)
    assert gaps_s == sorted(gaps_s, reverse=True)


def test_well_known_rate_is_tested_gently_and_forgotten_when_gone() -> None:
    """The pace reaches its rate only after many requests; far beyond it, and long after, there is no limit any more."""
    inferred = InferredRate(3_000)
    now, starts, rate = 0.0, 0, 0.0
    while rate < 50:
        now, starts = max(now, inferred.opens_at()), starts + 1
        inferred.on_start(now)
        rate = 1 / inferred.pace.seconds_per_unit if inferred.pace else math.inf
    assert starts > 200
    assert rate < 50 * BEYOND
    while inferred.opens_at() > -math.inf and now < 600:
        now = max(now, inferred.opens_at())
        inferred.on_start(now)
    assert 60 < now < 600
    assert inferred.requests_per_minute is None


def test_full_window_tells_the_allowance() -> None:
    """Of 60 s the first ten let in 600 and the others none: that is ten a second."""
    inferred = InferredRate()
    start_evenly(inferred, 0.0, 10.0, 60)
    inferred.on_refusal(9.99, 10.0, 0, is_new=True)
    for at in (12.0, 20.0, 40.0):
        inferred.on_start(max(at, inferred.opens_at()))
        inferred.on_refusal(at + 0.5, at + 0.51, 0, is_new=True)
    inferred.on_start(60.0)
    inferred.on_start(max(60.0, inferred.opens_at()))
    assert inferred.requests_per_minute == pytest.approx(600, rel=0.1)
