"""Requests and tokens a minute: whose limit counts, what a reservation costs, what the endpoint tells and refuses."""

from __future__ import annotations

import math

import pytest

from batchchat.records import Settled, Usage
from batchchat.send.limits.leaky_bucket import CATCH_UP_S, MARGIN
from batchchat.send.limits.rate_limits import TOKENS_CATCH_UP_S, TOKENS_MARGIN, TRUSTED_S, Allowance, RateLimits
from batchchat.send.limits.token_estimate import FIRST_BYTES_PER_TOKEN, FIRST_COMPLETION_TOKENS

TOKEN_S = 60 / (600 * TOKENS_MARGIN)
"""Seconds for each of 600 tokens a minute."""


def test_limits_without_numbers_never_close() -> None:
    """A job with neither allowance is never held back and reserves nothing."""
    limits = RateLimits(None, None)
    for number in range(1_000):
        assert limits.reserve(number / 1_000, 4_000) == 0.0
        limits.settle(0.0, 4_000, Usage(1_000, 1_000))
    assert limits.opens_at() == -math.inf
    assert limits.binding == ""


def test_stricter_allowance_decides() -> None:
    """The later of the two allowances says when the next request may start, and is named."""
    limits = RateLimits(6_000, 600)
    reserved = limits.reserve(0.0, 300, 200)
    assert reserved == 300 / FIRST_BYTES_PER_TOKEN + 200
    assert limits.opens_at() == pytest.approx(-TOKENS_CATCH_UP_S + 300 * TOKEN_S)
    assert limits.binding == "limits.tokens_per_minute: 600"


def test_request_allowance_reserves_no_tokens() -> None:
    """Without an allowance of tokens nothing is reserved, and requests alone are spaced."""
    limits = RateLimits(60, None)
    assert limits.reserve(0.0, 4_000) == 0.0
    assert limits.opens_at() == pytest.approx(-CATCH_UP_S + 1 / MARGIN)
    assert limits.binding == "limits.requests_per_minute: 60"


def test_settling_replaces_the_estimate() -> None:
    """After the reply, the request has cost what its usage says and nothing more."""
    limits = RateLimits(None, 600)
    reserved = limits.reserve(0.0, 400)
    assert reserved == 400 / FIRST_BYTES_PER_TOKEN + FIRST_COMPLETION_TOKENS
    limits.settle(reserved, 400, Usage(prompt_tokens=50, completion_tokens=10))
    assert limits.opens_at() == pytest.approx(-TOKENS_CATCH_UP_S + 60 * TOKEN_S)


def test_turned_away_request_costs_no_tokens() -> None:
    """What was reserved for it is there for the next."""
    limits = RateLimits(None, 600)
    limits.give_back(limits.reserve(0.0, 400))
    assert limits.opens_at() == pytest.approx(-TOKENS_CATCH_UP_S)


@pytest.mark.parametrize("usage", [None, Usage(), Usage(0, 0), Usage(None, 0)])
def test_settling_without_usage_keeps_reservation(usage: Usage | None) -> None:
    """A reply that reports nothing may have cost everything that was reserved."""
    limits = RateLimits(None, 600)
    reserved = limits.reserve(0.0, 400)
    before = limits.opens_at()
    limits.settle(reserved, 400, usage)
    assert limits.opens_at() == before


def test_told_limits_are_kept_to() -> None:
    """What the endpoint tells spaces requests from then on, those that started before included."""
    limits = RateLimits(None, None)
    for number in range(8):
        limits.reserve(0.001 * number, 400)
    limits.note(Allowance(requests_per_minute=600, tokens_per_minute=6_000_000), 0.5)
    assert limits.opens_at() == pytest.approx(8 * 0.1 / MARGIN, abs=0.11)
    limits.reserve(1.0, 400)
    assert limits.opens_at() == pytest.approx(1.0 - CATCH_UP_S + 0.1 / MARGIN)
    assert limits.binding == "the endpoint's 600 requests/min"
    limits.reserve(2.0, 40_000_000)
    assert limits.binding == "the endpoint's 6,000,000 tokens/min"


def test_job_wins_over_the_endpoint() -> None:
    """A limit in the job counts, whether the endpoint tells more or less; what the job leaves open it may tell."""
    limits = RateLimits(60, None)
    limits.note(Allowance(requests_per_minute=6_000, tokens_per_minute=10**9), 0.0)
    limits.reserve(0.0, 400)
    assert limits.opens_at() == pytest.approx(-CATCH_UP_S + 1 / MARGIN)
    assert limits.settled().tokens_per_minute == 10**9
    assert limits.settled().requests_per_minute is None


def test_told_limit_that_changes_is_followed() -> None:
    """Providers raise and lower them as a run goes on."""
    limits = RateLimits(None, None)
    limits.note(Allowance(requests_per_minute=60), 0.0)
    limits.note(Allowance(requests_per_minute=600), 1.0)
    limits.reserve(10.0, 400)
    assert limits.opens_at() == pytest.approx(10.0 - CATCH_UP_S + 0.1 / MARGIN)


def test_nearly_spent_window_is_waited_for() -> None:
    """Ten requests left for a window that ends in 30 s are used up by its end, not before."""
    limits = RateLimits(None, None)
    limits.note(Allowance(requests_per_minute=600, requests_left=10, requests_reset_s=30), 100.0)
    assert limits.opens_at() == pytest.approx(130.0 - 10 * 0.1 / MARGIN)


def test_empty_bucket_that_refills_is_not_waited_for() -> None:
    """A bucket that takes a minute to be whole again refills all the while: the pace alone suffices."""
    limits = RateLimits(None, None)
    limits.note(Allowance(requests_per_minute=600, requests_left=0, requests_reset_s=60), 100.0)
    assert limits.opens_at() <= 100.0


def test_next_run_starts_from_what_was_learned() -> None:
    """The told limits, and what requests cost, are known from the first request on."""
    before = Settled(None, 600.0, 60_000.0, 4.0, 50.0)
    limits = RateLimits(None, None, before)
    assert limits.reserve(0.0, 400, 1_000) == pytest.approx(150)
    assert limits.opens_at() > 0.0
    settled = limits.settled()
    assert (settled.requests_per_minute, settled.tokens_per_minute) == (600.0, 60_000.0)


def test_run_that_learned_nothing_settles_nothing() -> None:
    """Without limits there is nothing to remember."""
    assert RateLimits(None, None).settled() == Settled()


def test_limit_found_by_refusals_is_named_with_round_numbers() -> None:
    """It is not known better than that."""
    limits = RateLimits(None, None, Settled(requests_per_minute=3_021.7))
    assert limits.binding == "the endpoint's limit of about 3,000 requests/min"


@pytest.mark.parametrize("before", [Settled(requests_per_minute=5), Settled(tokens_per_minute=1)])
def test_remembered_limit_that_nothing_confirms_is_let_go(before: Settled) -> None:
    """An endpoint that has no limit any more is slowed for seconds, however low the limit was, and not for ever."""
    limits = RateLimits(None, None, before)
    now = 100.0
    for _ in range(50):
        now = max(now, limits.opens_at())
        limits.settle(limits.reserve(now, 1_000), 1_000, Usage(prompt_tokens=250, completion_tokens=10))
    assert now <= 100.0 + 2 * TRUSTED_S
    assert (limits.settled().requests_per_minute, limits.settled().tokens_per_minute) == (None, None)


def test_remembered_limit_that_is_told_again_stays() -> None:
    """The endpoint's word, or a refusal, confirms what an earlier run learned."""
    limits = RateLimits(None, None, Settled(tokens_per_minute=6_000))
    limits.note(Allowance(tokens_per_minute=6_000), 100.0)
    for second in range(60):
        limits.reserve(100.0 + second, 300)
    assert limits.settled().tokens_per_minute == 6_000
