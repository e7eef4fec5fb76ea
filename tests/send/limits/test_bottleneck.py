"""What a run is bound by: whatever held requests back for most of the time."""

from __future__ import annotations

from typing import Literal

import pytest

from batchchat.send.limits.admission import Admission
from batchchat.send.limits.bottleneck import Bottleneck, Hold
from batchchat.send.limits.bottleneck import BoundBy as Bounds
from batchchat.send.limits.concurrency import Concurrency
from batchchat.send.limits.rate_limits import Allowance, RateLimits


def bound_of(
    setting: Literal["auto"] | int = "auto", rates: RateLimits | None = None, *, largest: int = 4_096
) -> Bottleneck:
    """Return an account that has begun."""
    bound = Bottleneck(Concurrency(setting, 0.0, largest=largest), rates or RateLimits(None, None))
    bound.beat(0.0, 0.0)
    return bound


def play(bound: Bottleneck, hold: Hold, since_s: int, until_s: int, cpu_share: float = 0.1) -> None:
    """Let one thing hold requests back for some seconds."""
    bound.hold(hold, float(since_s))
    for second in range(since_s + 1, until_s + 1):
        bound.beat(float(second), cpu_share * second)


def test_nothing_is_known_at_first() -> None:
    """Neither of the last seconds nor of the run."""
    assert bound_of().lately == Bounds()
    assert bound_of().whole == Bounds()


@pytest.mark.parametrize(
    ("setting", "largest", "words"),
    [
        ("auto", 4_096, "the endpoint (about 8 requests in flight)"),
        (64, 4_096, "limits.concurrency: 64"),
        ("auto", 8, "limits.max_concurrency: 8"),
    ],
)
def test_full_slots_are_named_by_who_limits_them(setting: Literal["auto"] | int, largest: int, words: str) -> None:
    """The endpoint, as far as it was found; the job's number; or the most that the job allows."""
    bound = bound_of(setting, largest=largest)
    play(bound, Hold.SLOTS, 0, 3)
    assert bound.lately == bound.whole == Bounds("endpoint", words)


def test_rate_limit_is_named() -> None:
    """With the number, and whose it is."""
    rates = RateLimits(None, None)
    rates.note(Allowance(requests_per_minute=600), 0.0)
    bound = bound_of(rates=rates)
    play(bound, Hold.RATE, 0, 3)
    assert bound.whole == Bounds("rate limit", "the endpoint's 600 requests/min")


def test_last_seconds_differ_from_the_whole() -> None:
    """The bar says what holds now, the summary what held for most of the time."""
    bound = bound_of()
    play(bound, Hold.SLOTS, 0, 60)
    play(bound, Hold.INPUT, 60, 70)
    assert bound.lately == Bounds("input", "reading and rendering the input")
    assert bound.whole.kind == "endpoint"


def test_busy_processor_is_what_everything_waits_for() -> None:
    """Where the process uses a whole core, full slots say nothing of the endpoint."""
    bound = bound_of()
    play(bound, Hold.SLOTS, 0, 5, cpu_share=0.97)
    assert bound.whole == Bounds("cpu", "this machine's processor")


def test_clock_that_stands_still_is_no_fault() -> None:
    """Two beats at one moment, and holds between them, divide nothing by zero."""
    bound = bound_of()
    bound.hold(Hold.SLOTS, 0.0)
    bound.beat(0.0, 1.0)
    assert bound.whole == Bounds()


class Cooldowns:
    """Gates as the test sets them."""

    opens_at = 0.0
    is_holding = False


def admission_of(gates: Cooldowns, rates: RateLimits, setting: Literal["auto"] | int) -> tuple[Admission, Bottleneck]:
    """Return an admission rule and its account."""
    concurrency = Concurrency(setting, 0.0)
    bound = Bottleneck(concurrency, rates)
    bound.beat(0.0, 0.0)
    return Admission(gates, rates, concurrency, bound), bound


def test_request_may_start_when_nothing_holds_it() -> None:
    """A row that is due, an open gate, no rate, a free slot."""
    admission, _ = admission_of(Cooldowns(), RateLimits(None, None), 4)
    assert admission.opens_at(1.0, 1.0, 3, 4) <= 1.0
    assert admission.opens_at(1.0, 2.0, 3, 4) == 2.0


def test_full_slots_are_waited_for() -> None:
    """No time says when; the account names the limit."""
    admission, bound = admission_of(Cooldowns(), RateLimits(None, None), 4)
    assert admission.opens_at(1.0, 1.0, 4, 4) == float("inf")
    bound.beat(3.0, 0.0)
    assert bound.whole == Bounds("endpoint", "limits.concurrency: 4")


def test_rate_is_waited_for() -> None:
    """The next request starts when the pace says; the account names it."""
    rates = RateLimits(60, None)
    admission, bound = admission_of(Cooldowns(), rates, 4)
    rates.reserve(1.0, 100)
    assert 1.5 < admission.opens_at(1.0, 1.0, 1, 4) < 2.1
    bound.beat(3.0, 0.0)
    assert bound.whole == Bounds("rate limit", "limits.requests_per_minute: 60")


def test_endpoint_that_is_down_gets_one_probe() -> None:
    """While one is under way no other starts, and full slots prove nothing."""
    gates = Cooldowns()
    gates.is_holding, gates.opens_at = True, 5.0
    admission, _ = admission_of(gates, RateLimits(None, None), 4)
    assert admission.opens_at(1.0, 1.0, 0, 4) == 5.0
    assert admission.opens_at(5.0, 1.0, 0, 4) <= 5.0
    assert admission.opens_at(5.0, 1.0, 1, 4, probes=1) == float("inf")


def test_dry_input_is_what_holds() -> None:
    """Rows that are not there, or that do not fit into memory, are not the endpoint's fault."""
    admission, bound = admission_of(Cooldowns(), RateLimits(None, None), 4)
    admission.on_dry(0.0)
    bound.beat(3.0, 0.0)
    assert bound.whole.kind == "input"
    admission.on_crowded(3.0)
    bound.beat(30.0, 0.0)
    assert bound.whole.words == "limits.in_flight_bytes"
