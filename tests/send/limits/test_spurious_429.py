"""Which refusals mean nothing: one now and then, and, after a trial, what comes at any pace."""

from __future__ import annotations

from batchchat.send.limits.spurious_429 import AGAIN_S, FEWEST, Spurious429


def test_first_refusal_of_few_requests_means_something() -> None:
    """Nothing is known of the endpoint yet."""
    assert not Spurious429().allows(5, 5, 0.0, 0.0)


def test_one_refusal_among_many_requests_means_nothing() -> None:
    """The next one soon after it does."""
    chance = Spurious429()
    assert chance.allows(FEWEST + 10, 5, 0.0, 1.0)
    assert not chance.allows(FEWEST + 40, 5, 0.0, 2.0)
    assert chance.allows(FEWEST + 500, 5, 0.0, 3.0)


def test_refusals_in_a_trial_are_chance_from_then_on() -> None:
    """Until they become more frequent, or some minutes have passed."""
    chance = Spurious429()
    chance.begin_trial(1_000, 0.05, 50.0)
    assert chance.allows(1_020, 5, 0.0, 10.0)
    assert chance.allows(1_040, 5, 0.0, 10.5)
    assert 0.02 < chance.share < 0.1
    assert not chance.trial_until
    assert all(chance.allows(1_040 + 20 * number, 5, 0.0, 11.0) for number in range(1, 50))
    assert not all(chance.allows(2_040 + number, 5, 0.0, 12.0) for number in range(1, 30))
    assert not chance.allows(2_080, 5, 0.0, 11.0 + AGAIN_S) or chance.share == 0.0


def test_nothing_but_refusals_in_a_trial_is_a_limit() -> None:
    """It ends the trial at once."""
    chance = Spurious429()
    chance.begin_trial(1_000, 0.05, 50.0)
    assert chance.allows(1_001, 5, 0.0, 10.0)
    assert not chance.allows(1_002, 5, 0.0, 10.0)
    assert not chance.trial_until
    assert chance.share == 0.0
