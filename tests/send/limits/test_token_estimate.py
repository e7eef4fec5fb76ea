"""What a request will cost: conservative at first, then as this job's own usage says."""

from __future__ import annotations

import random

import pytest

from batchchat.records import Settled, Usage
from batchchat.send.limits.token_estimate import FIRST_BYTES_PER_TOKEN, FIRST_COMPLETION_TOKENS, TokenEstimate


def learned(*replies: tuple[int, int, int]) -> TokenEstimate:
    """Return an estimate after replies of (bytes, prompt tokens, completion tokens)."""
    estimate = TokenEstimate()
    for body_bytes, prompt, completion in replies:
        estimate.learn(body_bytes, Usage(prompt, completion))
    return estimate


def test_first_estimate_is_conservative() -> None:
    """Before any usage, a request costs what it allows its completion, or else much."""
    assert TokenEstimate().tokens(300) == 300 / FIRST_BYTES_PER_TOKEN + FIRST_COMPLETION_TOKENS
    assert TokenEstimate().tokens(300, 50) == 300 / FIRST_BYTES_PER_TOKEN + 50
    assert TokenEstimate().tokens(300, 5_000) == 300 / FIRST_BYTES_PER_TOKEN + 5_000


def test_one_reply_is_better_than_a_guess() -> None:
    """The first usage replaces what was assumed."""
    estimate = learned((400, 200, 7))
    assert estimate.tokens(400) == pytest.approx(200 + 7, rel=0.02)


def test_nine_of_ten_completions_are_covered() -> None:
    """The completion's reservation is a quantile, within the width of a step, and not more than the request allows."""
    rng = random.Random(4)
    estimate = learned(*((400, 100, rng.randint(1, 100)) for _ in range(2_000)))
    assert 88 <= estimate.tokens(400) - 100 <= 112
    assert estimate.tokens(400, 20) == pytest.approx(120)


def test_completions_that_change_are_followed() -> None:
    """Short answers after long ones lower the reservation within some hundred rows."""
    estimate = learned(*[(400, 100, 2_000)] * 3_000, *[(400, 100, 10)] * 3_000)
    assert estimate.tokens(400) < 100 + 15


def test_images_do_not_distort_text() -> None:
    """A photo has hundreds of bytes to a token and text has four; their sizes keep them apart."""
    estimate = learned(*[(2_000, 500, 10), (400_000, 800, 10)] * 200)
    completion = estimate.completion_tokens
    assert completion is not None
    assert estimate.tokens(2_000) == pytest.approx(500 + completion, rel=0.02)
    assert estimate.tokens(400_000) == pytest.approx(800 + completion, rel=0.02)
    assert estimate.tokens(300_000) < 1_000


def test_size_never_seen_takes_the_nearest_ratio() -> None:
    """Longer texts cost as much for each byte as those that are known."""
    estimate = learned((1_000, 250, 10))
    assert estimate.tokens(100_000, 0) == pytest.approx(25_000)


def test_estimate_learns_only_what_is_reported() -> None:
    """Usage without counts, or with a prompt of none, teaches nothing about the prompt."""
    estimate = TokenEstimate()
    estimate.learn(400, Usage())
    assert (estimate.bytes_per_token, estimate.completion_tokens) == (None, None)
    estimate.learn(400, Usage(prompt_tokens=0, completion_tokens=0))
    assert estimate.bytes_per_token is None
    assert estimate.completion_tokens is not None


def test_what_was_learned_starts_the_next_run() -> None:
    """The ratio and the completion of an earlier run hold until the first reply."""
    estimate = TokenEstimate(Settled(bytes_per_token=5.0, completion_tokens=20.0))
    assert estimate.tokens(500) == 120
    estimate.learn(500, Usage(50, 3))
    assert estimate.tokens(500) < 60


@pytest.mark.parametrize("tokens", [0, 1, 2**40])
def test_any_count_is_taken(tokens: int) -> None:
    """Counts that no model would report are no fault."""
    assert learned((400, 100, tokens)).tokens(400) >= 100
