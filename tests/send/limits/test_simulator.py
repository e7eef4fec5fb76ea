"""Whole runs in virtual time against model endpoints: what `auto` delivers, how fast, with how many refusals."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from typing import Literal

import pytest

from batchchat.send.limits.rate_limits import Allowance, RateLimits
from tests.simulator import (
    Batching,
    Bucket,
    Calendar,
    Endpoint,
    Limited,
    Limiter,
    Log,
    Moody,
    Slots,
    always,
    lognormal,
    play,
)

RPM = 3_000
TPM = 200_000


@pytest.fixture(autouse=True)
def _same_jitter_each_time() -> None:
    random.seed(7)


def test_queueing_endpoint_is_kept_busy_without_a_queue() -> None:
    """64 slots of 0.5 s: nearly as fast as the best number, ramp included, and requests hardly wait at the endpoint."""
    best = play(Slots(lambda now: 64, always(0.5)), 4_000, 65)
    found = play(Slots(lambda now: 64, always(0.5)), 4_000)
    assert best.took_s / found.took_s >= 0.95
    assert found.median_latency_s <= 1.1 * 0.5
    assert 64 <= (found.concurrency.settled or 0) <= 90
    assert found.bound.whole.kind == "endpoint"


@pytest.mark.slow
@pytest.mark.parametrize(("has_queue", "retry_after_s"), [(True, None), (False, None), (False, 1.0)])
def test_large_endpoint_is_filled(has_queue: bool, retry_after_s: float | None) -> None:
    """500 slots of 1 s: 30,000 rows take little more than a minute, whether more are queued or refused."""
    found = play(Slots(lambda now: 500, always(1.0), has_queue, retry_after_s=retry_after_s), 30_000)
    assert found.took_s <= 65.6
    assert found.median_latency_s <= 1.1
    assert found.refused_share <= 0.005


def test_remembered_limit_saves_the_ramp() -> None:
    """A run that starts near what the last one found loses hardly anything."""
    found = play(Slots(lambda now: 500, always(1.0)), 5_000, remembered=520)
    assert found.took_s <= 12.5


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.5, 0.8])
def test_lognormal_latencies_are_no_knee(sigma: float) -> None:
    """The chance of long and short replies is not taken for an endpoint that has had enough."""
    shares = []
    for seed in range(3):
        best = play(Slots(lambda now: 64, lognormal(0.5, sigma, seed)), 3_000, 70)
        found = play(Slots(lambda now: 64, lognormal(0.5, sigma, seed)), 3_000)
        shares.append(best.took_s / found.took_s)
    assert statistics.median(shares) >= 0.9
    assert min(shares) >= 0.8


@pytest.mark.slow
def test_boundless_endpoint_is_driven_to_the_largest_limit() -> None:
    """With lognormal latencies, and nothing that gives way, the limit goes up to the last."""
    found = play(Slots(lambda now: 10**9, lognormal(1.0, 0.8)), 40_000)
    assert found.concurrency.limit == 4_096


@pytest.mark.slow
def test_batching_endpoint_gets_large_batches() -> None:
    """Each request slows all others down, and still the throughput grows: four fifths of the most are reached."""
    found = play(Batching(1.0, 0.01), 7_000)
    assert found.rate(25, 60) >= 0.8 * 100


def test_batching_endpoint_with_a_largest_batch_is_not_flooded() -> None:
    """Beyond the 256 that it takes together requests only wait; the limit stays near them."""
    found = play(Batching(1.0, 0.004, 256), 6_000)
    assert found.rate(25, 45) >= 0.9 * 256 / (1 + 0.004 * 256)
    assert 200 <= (found.concurrency.settled or 0) <= 400


@pytest.mark.slow
def test_capacity_that_falls_and_returns_is_followed() -> None:
    """Ten times fewer slots: the queue is shortened; when they are back, so is the throughput, within 30 s."""
    found = play(Slots(lambda now: 50 if 60 <= now < 160 else 500, always(1.0)), 10**6, until_s=240)
    assert found.rate(30, 60) >= 0.95 * 500
    assert found.rate(80, 160) >= 0.9 * 50
    assert min(limit for at, limit in found.limits if at < 175) < 300
    assert found.rate(190, 240) >= 0.95 * 500


@pytest.mark.slow
def test_wall_that_falls_and_returns_is_followed() -> None:
    """The same where more than the slots are refused, without a word of how many there are."""
    slots = Slots(lambda now: 50 if 60 <= now < 160 else 500, always(1.0), has_queue=False)
    found = play(slots, 10**6, until_s=340)
    assert found.rate(30, 60) >= 0.9 * 500
    assert found.rate(100, 160) >= 0.5 * 50
    assert found.rate(200, 340) >= 0.9 * 500
    assert found.refused_share <= 0.01


def test_slow_cold_start_is_no_knee() -> None:
    """A model that takes 20 s to load, and then half a second: the limit is found as if it had been there at once."""
    found = play(Slots(lambda now: 64, lambda now: 20.0 if now < 20 else 0.5), 4_000)
    assert found.rate(25, 45) >= 0.95 * 128


def test_rows_that_come_slowly_are_no_knee() -> None:
    """While the input brings 20 rows a second nothing is learned; when it brings all, the endpoint is filled."""
    found = play(Slots(lambda now: 64, always(0.5)), 5_000, input_at=lambda row: row / 20 if row < 600 else 30.0)
    assert found.rate(35, 55) >= 0.95 * 128


LIMITERS: dict[str, Callable[[float], Limiter]] = {
    "bucket of a second": lambda per_minute: Bucket(per_minute, per_minute / 60),
    "bucket of a minute": lambda per_minute: Bucket(per_minute, per_minute),
    "log of a minute": Log,
    "calendar minutes": Calendar,
    "seconds": lambda per_minute: Calendar(per_minute, 1.0, 0.0),
    "tens of seconds": lambda per_minute: Calendar(per_minute, 10.0, 3.0),
}


def limiter(name: str, per_minute: float) -> Limiter:
    """Return a fresh limiter."""
    return LIMITERS[name](per_minute)


def endpoint(latency_s: float = 1.0) -> Endpoint:
    """Return one that takes any number, behind whose limits nothing else holds."""
    return Slots(lambda now: 10**9, lognormal(latency_s, 0.5))


@pytest.mark.parametrize("name", LIMITERS)
@pytest.mark.parametrize("is_given", [True, False])
def test_told_request_limit_is_used_and_never_exceeded(name: str, is_given: bool) -> None:
    """By the job or by headers: no refusal, whatever counts, and nearly all of the allowance."""
    told = None if is_given else Allowance(requests_per_minute=RPM)
    rates = RateLimits(RPM, None) if is_given else RateLimits(None, None)
    limited = Limited(endpoint(), requests=limiter(name, RPM), allowance=told)
    found = play(limited, 10**6, rates=rates, until_s=100)
    assert not found.refused_at
    assert found.rate(30, 100) >= 0.97 * RPM / 60
    assert found.bound.whole.kind == "rate limit"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "has_hints", "since_s", "share"),
    [
        ("bucket of a second", False, 30, 0.97),
        ("bucket of a second", True, 30, 0.95),
        ("bucket of a minute", False, 30, 0.97),
        ("bucket of a minute", True, 30, 0.97),
        ("log of a minute", False, 90, 0.95),
        ("log of a minute", True, 90, 0.95),
        ("tens of seconds", False, 30, 0.85),
        ("seconds", False, 60, 0.85),
        ("calendar minutes", True, 60, 0.9),
    ],
)
def test_request_limit_is_found_by_its_refusals(name: str, has_hints: bool, since_s: float, share: float) -> None:
    """Nothing is told but 429s. A window of a minute that the ramp filled must end before any pace can be right."""
    limited = Limited(endpoint(), requests=limiter(name, RPM), hints=has_hints)
    found = play(limited, 10**6, until_s=300)
    assert found.rate(since_s, 300) >= share * RPM / 60
    assert found.refused_share <= 0.015


@pytest.mark.parametrize("name", ["bucket of a minute", "log of a minute", "calendar minutes"])
@pytest.mark.parametrize("is_given", [True, False])
def test_told_token_limit_is_used_and_never_exceeded(name: str, is_given: bool) -> None:
    """Reservations cover what completions turn out to take, and give back what they do not."""
    rng = random.Random(3)
    told = None if is_given else Allowance(tokens_per_minute=TPM)
    rates = RateLimits(None, TPM) if is_given else RateLimits(None, None)
    limited = Limited(endpoint(2.0), tokens=limiter(name, TPM), allowance=told)
    found = play(limited, 10**6, rates=rates, until_s=200, tokens=lambda: int(rng.lognormvariate(6.3, 0.4)))
    assert len(found.refused_at) <= (0 if is_given else 1)
    assert found.token_rate(30, 190) >= 0.94 * TPM


@pytest.mark.parametrize(
    ("name", "since_s"), [("bucket of a minute", 30), ("log of a minute", 90), ("bucket of a second", 30)]
)
def test_token_limit_is_found_by_its_refusals(name: str, since_s: float) -> None:
    """Requests that cost alike are paced as if they were what is counted."""
    limit = Bucket(TPM, TPM / 10) if name == "bucket of a second" else limiter(name, TPM)
    found = play(Limited(endpoint(2.0), tokens=limit), 10**6, until_s=640, tokens=lambda: 600)
    assert found.token_rate(since_s, 630) >= 0.92 * TPM
    assert found.refused_share <= 0.02


def test_both_limits_are_kept() -> None:
    """Whichever is stricter for the rows that come decides."""
    sizes = iter([100] * 4_000 + [2_000] * 10**5)
    both = Limited(
        endpoint(),
        requests=Log(RPM),
        tokens=Log(TPM * 3),
        allowance=Allowance(requests_per_minute=RPM, tokens_per_minute=TPM * 3),
    )
    found = play(both, 10**6, until_s=240, tokens=lambda: next(sizes))
    assert found.rate(30, 75) >= 0.95 * RPM / 60
    assert found.token_rate(150, 230) >= 0.9 * TPM * 3
    assert found.refused_share <= 0.001


@pytest.mark.slow
def test_fixed_number_finds_the_rate_as_well() -> None:
    """A number in flight that the user gave is not cut; the pace alone keeps to the limit."""
    found = play(Limited(endpoint(), requests=Bucket(RPM, RPM / 60)), 10**6, 200, until_s=240)
    assert found.concurrency.limit == 200
    assert found.rate(30, 240) >= 0.95 * RPM / 60
    assert found.refused_share <= 0.02


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["auto", 64])
def test_refusal_now_and_then_is_no_limit(setting: Literal["auto", 64]) -> None:
    """One in a thousand is turned away whatever the rate: that costs a pause each time, and no more."""
    found = play(Moody(Slots(lambda now: 64, always(0.5)), 0.001), 10**6, setting, until_s=100)
    assert found.rate(20, 100) >= 0.93 * 128


@pytest.mark.slow
@pytest.mark.parametrize("retry_after_s", [None, 0.0, 1.0])
@pytest.mark.parametrize(("share", "least"), [(0.01, 0.8), (0.05, 0.6), (0.2, 0.3)])
def test_refusals_by_chance_are_no_limit(share: float, least: float, retry_after_s: float | None) -> None:
    """A gateway that turns one of a hundred, of twenty, of five requests away: the run goes on at nearly full speed."""
    delivered = []
    for seed in range(3):
        random.seed(seed)
        slots = Slots(lambda now: 64, always(0.5))
        found = play(Moody(slots, share, retry_after_s, seed=seed), 10**6, until_s=100)
        delivered.append(found.rate(0, 100) / 128)
    assert statistics.median(delivered) >= least


@pytest.mark.slow
def test_fast_endpoint_with_refusals_by_chance_is_used() -> None:
    """Replies after 5 ms, one of twenty refused: thousands a second are delivered all the same."""
    found = play(Moody(Slots(lambda now: 64, always(0.005)), 0.05, trip_s=0.005), 10**6, until_s=6)
    assert found.rate(0, 6) >= 0.6 * 64 / 0.005
