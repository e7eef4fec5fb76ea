"""The limits' arithmetic, on instants that the tests choose."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.serve.faults import MAX_IN_A_ROW, FaultPlan
from batchchat.serve.quota import Quota


@given(
    limit=st.integers(1, 20),
    gaps_s=st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=120),
)
def test_no_window_holds_more_than_the_limit(limit: int, gaps_s: list[float]) -> None:
    """In no window of 60 s are more requests let in than the limit, and their instants never go back."""
    quota, now, let_in = Quota(limit, None), 0.0, list[float]()
    for gap_s in gaps_s:
        now += gap_s
        admission = quota.admit(now, 1)
        if admission.is_admitted:
            let_in.append(admission.at)
    assert all(first <= second for first, second in pairwise(let_in))
    assert all(later - earlier > 60 - 1e-6 for earlier, later in zip(let_in, let_in[limit:], strict=False))


@given(
    limit=st.integers(50, 500),
    asked=st.lists(st.tuples(st.floats(0, 20, allow_nan=False), st.integers(1, 60)), min_size=1, max_size=100),
)
def test_no_window_holds_more_tokens(limit: int, asked: list[tuple[float, int]]) -> None:
    """In no window of 60 s are more tokens let in than the limit."""
    quota, now, let_in = Quota(None, limit), 0.0, list[tuple[float, int]]()
    for gap_s, tokens in asked:
        now += gap_s
        if quota.fits_ever(tokens) and (admission := quota.admit(now, tokens)).is_admitted:
            let_in.append((admission.at, tokens))
    for start, _ in let_in:
        assert sum(tokens for at, tokens in let_in if start <= at < start + 60 - 1e-6) <= limit


@given(limit=st.integers(1, 300), jitters_s=st.lists(st.floats(0, 0.09), min_size=1, max_size=400))
def test_even_pace_is_never_refused(limit: int, jitters_s: list[float]) -> None:
    """A client that paces evenly at exactly the limit is never refused, though its requests jitter by some ms."""
    quota = Quota(limit, None)
    for index, jitter_s in enumerate(jitters_s):
        assert quota.admit(index * 60 / limit + jitter_s, 1).is_admitted


def test_wait_ends_when_the_oldest_leaves() -> None:
    """A refused request is told the instant at which it would be let in, and then it is."""
    quota = Quota(2, None)
    assert [quota.admit(at, 1).is_admitted for at in (0.0, 10.0)] == [True, True]
    refused = quota.admit(20.0, 1)
    assert (refused.is_admitted, refused.at) == (False, 60.0)
    assert quota.admit(60.0, 1).is_admitted


def test_less_than_one_a_minute() -> None:
    """Half a request a minute is one in two minutes."""
    quota = Quota(0.5, None)
    assert quota.admit(0.0, 1).is_admitted
    assert quota.admit(61.0, 1).at == 120.0


@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0])
def test_faults_come_at_their_rate(rate: float) -> None:
    """Among many different requests, faults are about as frequent as asked for."""
    plan = FaultPlan(rate, seed=1)
    faults = [plan.draw(b"%d" % number) for number in range(2_000)]
    assert abs(sum(fault is not None for fault in faults) / 2_000 - rate) < 0.05


def test_faults_do_not_depend_on_order() -> None:
    """What a request suffers depends on the seed, on itself and on how often it was asked, not on other requests."""
    first, second = FaultPlan(0.5, seed=3), FaultPlan(0.5, seed=3)
    digests = [b"%d" % number for number in range(200)]
    forward = [first.draw(digest) for digest in digests]
    backward = [second.draw(digest) for digest in reversed(digests)]
    assert forward == backward[::-1]


@given(seed=st.integers(0, 2**31), digest=st.binary(min_size=16, max_size=16))
def test_faults_in_a_row_are_few(seed: int, digest: bytes) -> None:
    """One request never suffers more than three faults in a row."""
    plan = FaultPlan(0.9, seed)
    in_a_row = 0
    for _ in range(40):
        in_a_row = in_a_row + 1 if plan.draw(digest) else 0
        assert in_a_row <= MAX_IN_A_ROW
