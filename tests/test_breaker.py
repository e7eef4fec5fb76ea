"""The breaker: whose a refusal is, shown by what comes after it."""

from hypothesis import given
from hypothesis import strategies as st

from batchchat.send.breaker import FIRST_ROWS, ROWS_IN_A_ROW, Breaker


def test_first_rows_refused_alike_trip_it() -> None:
    """Nineteen may be chance, twenty with nothing else between them are the job's."""
    breaker: Breaker[int] = Breaker()
    for row in range(FIRST_ROWS):
        assert not breaker.is_tripped()
        assert breaker.hold(row, "unknown parameter", 1.0) == []
    assert breaker.is_tripped()
    assert len(breaker) == FIRST_ROWS


def test_after_another_outcome_more_rows_are_needed() -> None:
    """Once a row has ended otherwise, the job works, and only fifty in a row say that it no longer does."""
    breaker: Breaker[int] = Breaker()
    assert breaker.note_other(2.0) == []
    for row in range(ROWS_IN_A_ROW):
        assert not breaker.is_tripped()
        breaker.hold(row, "bad", 1.0)
    assert breaker.is_tripped()


def test_job_that_worked_before_needs_more_rows_too() -> None:
    """Answers of an earlier run say as much as answers of this one."""
    breaker: Breaker[int] = Breaker()
    for row in range(ROWS_IN_A_ROW):
        assert not breaker.is_tripped(has_worked=True)
        breaker.hold(row, "bad", 1.0)
    assert breaker.is_tripped(has_worked=True)


def test_another_outcome_shows_the_refusals_to_be_the_rows_own() -> None:
    """They are released in order, once, and counting begins again."""
    breaker: Breaker[int] = Breaker()
    for row in range(10):
        breaker.hold(row, "bad", 1.0)
    assert breaker.note_other(2.0) == list(range(10))
    assert breaker.note_other(2.0) == []
    assert len(breaker) == 0


def test_outcome_of_an_older_request_shows_nothing() -> None:
    """Slow answers to requests from before the first refusal still come in while every new one is refused."""
    breaker: Breaker[int] = Breaker()
    for row in range(ROWS_IN_A_ROW):
        assert not breaker.is_tripped()
        assert breaker.hold(row, "bad", 10.0 + row) == []
        assert breaker.note_other(9.9) == []
    assert breaker.is_tripped()
    assert breaker.note_other(10.0) == list(range(ROWS_IN_A_ROW))


def test_refusal_of_another_kind_is_another_outcome() -> None:
    """Rows that are refused for different reasons are refused for their own."""
    breaker: Breaker[int] = Breaker()
    for row in range(FIRST_ROWS - 1):
        breaker.hold(row, "bad image", 1.0)
    assert breaker.hold(99, "bad url", 1.0) == list(range(FIRST_ROWS - 1))
    for row in range(FIRST_ROWS):
        breaker.hold(row, "bad url", 1.0)
    assert not breaker.is_tripped()


def test_end_releases_what_is_held() -> None:
    """A table that ends before the refusals show whose they are leaves them with the rows."""
    breaker: Breaker[int] = Breaker()
    breaker.hold(1, "bad", 1.0)
    assert breaker.release() == [1]
    assert breaker.release() == []


@given(st.lists(st.sampled_from(["a", "b", None]), max_size=200))
def test_every_row_comes_out_once_and_in_order(marks: list[str | None]) -> None:
    """Whatever comes, no row is lost or doubled, and no more than the bound is held."""
    breaker: Breaker[int] = Breaker()
    released: list[int] = []
    for row, mark in enumerate(marks):
        released += breaker.note_other(2.0) if mark is None else breaker.hold(row, mark, 1.0)
        assert len(breaker) <= ROWS_IN_A_ROW or breaker.is_tripped()
    released += breaker.release()
    assert released == [row for row, mark in enumerate(marks) if mark is not None]
