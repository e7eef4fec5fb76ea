"""The pool's gate: one burst of trouble closes it once, for longer after each burst in a row."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.send.limits.cooldown import Cooldown


def test_new_gate_is_open() -> None:
    """Before any trouble the gate is open, and the first trouble is news."""
    cooldown = Cooldown()
    assert cooldown.opens_at == -math.inf
    assert cooldown.burst_count == 0
    assert cooldown.troubled_since == math.inf
    assert cooldown.is_new_burst(-1e9)


def test_new_burst_closes_the_gate() -> None:
    """News counts as a burst and closes for the wait."""
    cooldown = Cooldown()
    cooldown.close(10.0, 2.0, is_new=True)
    assert (cooldown.burst_count, cooldown.opens_at, cooldown.troubled_since) == (1, 12.0, 10.0)


def test_request_already_under_way_is_no_news() -> None:
    """A request that started before the gate closed belongs to the burst that closed it; a later one does not."""
    cooldown = Cooldown()
    cooldown.close(10.0, 2.0, is_new=True)
    assert not cooldown.is_new_burst(9.999)
    assert cooldown.is_new_burst(10.0)
    assert cooldown.is_new_burst(12.5)


def test_same_burst_lengthens_the_wait() -> None:
    """A later reply of the same burst that asks for more gets it, without counting as another burst."""
    cooldown = Cooldown()
    cooldown.close(10.0, 2.0, is_new=True)
    cooldown.close(10.5, 9.0, is_new=False)
    assert (cooldown.burst_count, cooldown.opens_at) == (1, 19.5)
    assert not cooldown.is_new_burst(9.0)


def test_same_burst_never_shortens_the_wait() -> None:
    """A later reply of the same burst that asks for less changes nothing."""
    cooldown = Cooldown()
    cooldown.close(10.0, 5.0, is_new=True)
    cooldown.close(10.1, 0.1, is_new=False)
    assert cooldown.opens_at == 15.0


def test_bursts_in_a_row_are_counted_from_the_first() -> None:
    """Each burst after reopening counts; the trouble dates from the first of them."""
    cooldown = Cooldown()
    for now in (10.0, 20.0, 30.0):
        assert cooldown.is_new_burst(now - 1)
        cooldown.close(now, 2.0, is_new=True)
    assert (cooldown.burst_count, cooldown.troubled_since, cooldown.opens_at) == (3, 10.0, 32.0)


def test_success_after_closing_ends_the_trouble() -> None:
    """A request that started after the gate closed and got through makes the next trouble the first again."""
    cooldown = Cooldown()
    cooldown.close(10.0, 2.0, is_new=True)
    cooldown.pass_through(12.0)
    assert (cooldown.burst_count, cooldown.troubled_since) == (0, math.inf)


def test_success_from_before_closing_proves_nothing() -> None:
    """A request that was under way when the gate closed says nothing of the time after."""
    cooldown = Cooldown()
    cooldown.close(10.0, 2.0, is_new=True)
    cooldown.pass_through(9.9)
    assert (cooldown.burst_count, cooldown.troubled_since, cooldown.opens_at) == (1, 10.0, 12.0)


def test_success_does_not_open_early() -> None:
    """A wait that the endpoint asked for is waited out, whatever else gets through."""
    cooldown = Cooldown()
    cooldown.close(10.0, 60.0, is_new=True)
    cooldown.pass_through(11.0)
    assert cooldown.opens_at == 70.0


@pytest.mark.slow
@given(st.lists(st.tuples(st.floats(0.0, 10.0), st.floats(0.0, 10.0), st.floats(0.0, 100.0)), max_size=50))
def test_gate_never_opens_earlier_than_asked(troubles: list[tuple[float, float, float]]) -> None:
    """Whatever comes, the gate opens no earlier than any reply so far asked for, and bursts are at most replies."""
    cooldown = Cooldown()
    now = 100.0
    for step_s, latency_s, wait_s in troubles:
        now += step_s
        cooldown.close(now, wait_s, is_new=cooldown.is_new_burst(now - latency_s))
        assert cooldown.opens_at >= now + wait_s
    assert cooldown.burst_count <= len(troubles)
    assert cooldown.troubled_since == (100.0 + troubles[0][0] if troubles else math.inf)
