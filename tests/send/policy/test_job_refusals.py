"""The breaker: whose a refusal is, shown by what started after it."""

from hypothesis import given
from hypothesis import strategies as st

from batchchat.send.policy.job_refusals import MOST_HELD, JobRefusals


class Line:
    """Requests that end in the order of their starts, unless told otherwise; rows are their places."""

    def __init__(self) -> None:
        self.breaker: JobRefusals[int] = JobRefusals()

    def refuse(self, mark: str = "bad") -> list[int]:
        """Start a request and let it be refused."""
        return self.end_refused(self.breaker.start(), mark)

    def end_refused(self, place: int, mark: str = "bad") -> list[int]:
        """Let a request that is under way be refused."""
        self.breaker.end(place)
        return self.breaker.hold(place, mark, place)

    def answer(self, place: int | None = None) -> list[int]:
        """Let a request be answered: a new one, or one that is under way."""
        place = place or self.breaker.start()
        self.breaker.end(place)
        return self.breaker.note_other(place)


def test_first_rows_refused_alike_trip_it() -> None:
    """Nineteen may be chance, twenty with nothing else between them are the job's."""
    line = Line()
    for _ in range(20):
        assert not line.breaker.is_tripped()
        assert line.refuse() == []
    assert line.breaker.is_tripped()
    assert len(line.breaker) == 20


def test_after_another_outcome_more_rows_are_needed() -> None:
    """Once a row has ended otherwise, the job works, and only fifty in a row say that it no longer does."""
    line = Line()
    assert line.answer() == []
    for _ in range(50):
        assert not line.breaker.is_tripped()
        line.refuse()
    assert line.breaker.is_tripped()


def test_job_that_worked_before_needs_more_rows_too() -> None:
    """Answers of an earlier run say as much as answers of this one."""
    line = Line()
    for _ in range(50):
        assert not line.breaker.is_tripped(has_worked=True)
        line.refuse()
    assert line.breaker.is_tripped(has_worked=True)


def test_answer_to_a_later_request_shows_refusals_to_be_the_rows_own() -> None:
    """They are released in order, once, and counting begins again."""
    line = Line()
    for _ in range(10):
        line.refuse()
    assert line.answer() == list(range(1, 11))
    assert line.answer() == []
    assert len(line.breaker) == 0


def test_answer_to_an_older_request_shows_nothing() -> None:
    """Slow answers to requests from before the first refusal still come in while every new one is refused."""
    line = Line()
    older = [line.breaker.start() for _ in range(50)]
    for place in older:
        assert not line.breaker.is_tripped()
        assert line.refuse() == []
        assert line.answer(place) == []
    assert line.breaker.is_tripped()


def test_refusals_among_requests_under_way_are_not_in_a_row() -> None:
    """Where one row in ten is refused at once and the others take their time, nothing is known before these end."""
    line = Line()
    slow = []
    for number in range(1_000):
        if number % 10 == 0:
            line.refuse()
        else:
            slow.append(line.breaker.start())
    assert len(line.breaker) == 100
    assert not line.breaker.is_tripped()
    released = [row for place in slow for row in line.answer(place)]
    assert len(released) == 100


def test_request_that_ended_without_an_outcome_no_longer_divides() -> None:
    """One that is to be tried again says nothing about its neighbours."""
    line = Line()
    for _ in range(10):
        line.refuse()
    waiting = line.breaker.start()
    for _ in range(10):
        line.refuse()
    assert not line.breaker.is_tripped()
    line.breaker.end(waiting)
    assert line.breaker.is_tripped()


def test_refusal_of_another_kind_is_another_outcome() -> None:
    """Rows that are refused for different reasons are refused for their own."""
    line = Line()
    for _ in range(19):
        line.refuse("bad image")
    assert line.refuse("bad url") == list(range(1, 20))
    for _ in range(20):
        line.refuse("bad url")
    assert not line.breaker.is_tripped()


def test_end_releases_what_is_held() -> None:
    """A table that ends before the refusals show whose they are leaves them with the rows."""
    line = Line()
    line.refuse()
    assert line.breaker.release() == [1]
    assert line.breaker.release() == []


@given(st.lists(st.sampled_from(["a", "b", None, "start"]), max_size=200))
def test_every_row_comes_out_once(steps: list[str | None]) -> None:
    """Whatever comes, in whatever order, no row is lost or doubled."""
    line = Line()
    refused: list[int] = []
    released: list[int] = []
    for step in steps:
        if step == "start":
            line.breaker.start()
        elif step is None:
            released += line.answer()
        else:
            place = line.breaker.start()
            refused.append(place)
            released += line.end_refused(place, step)
    released += line.breaker.release()
    assert sorted(released) == refused


def test_no_more_than_a_bound_is_held() -> None:
    """However long nothing is known, the memory is bounded."""
    line = Line()
    for _ in range(3 * MOST_HELD):
        line.breaker.start()
        line.refuse()
        assert len(line.breaker) <= MOST_HELD
