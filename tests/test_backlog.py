"""Rows without a slot, and the row that alone is turned away."""

from pathlib import Path

from batchchat.records import ChatRequest, Media
from batchchat.send.backlog import HELD_BYTES, READY_LOW_WATER, WAITING_ROWS_PER_SLOT, Backlog
from batchchat.send.pacing import Pending


def pending(name: str = "r", size_bytes: int = 1) -> Pending:
    """Return a row that has not been asked."""
    return Pending(ChatRequest(name.encode(), b"x" * size_bytes, name))


def test_due_rows_come_before_new_ones() -> None:
    """A row that is due again is taken first, the others in their order."""
    backlog, again, first, second = Backlog(), pending("again"), pending("first"), pending("second")
    backlog.add(first)
    backlog.add(second)
    backlog.try_again(again, 5.0)
    assert [backlog.take(now) for now in (4.0, 5.0, 5.0)] == [first, again, second]
    assert len(backlog) == 0


def test_too_many_waiting_rows_hold_back_new_ones() -> None:
    """When the waiting rows are full, the next to start is the first of them, when it is due."""
    backlog = Backlog()
    backlog.add(pending())
    for number in range(WAITING_ROWS_PER_SLOT * READY_LOW_WATER):
        assert backlog.next_due(1.0, 1) == 1.0
        backlog.try_again(pending(), 100.0 + number)
    assert backlog.next_due(1.0, 1) == 100.0


def test_large_requests_are_bounded_by_bytes() -> None:
    """Few large rows fill the backlog as well as many small ones."""
    backlog = Backlog()
    backlog.add(pending(size_bytes=HELD_BYTES))
    assert not backlog.wants_more(64)
    backlog.take(0.0)
    assert backlog.wants_more(64)


def test_row_that_alone_is_turned_away_is_told_from_a_limit_on_all() -> None:
    """Others pass and nobody else is turned away: its own trouble. Another row's rate limit makes it everybody's."""
    row = pending()
    assert [row.is_turned_away_alone(passed, 9 * passed) for passed in (1, 2, 3)] == [False, False, False]
    lone = pending()
    assert [lone.is_turned_away_alone(10 * turn, turn) for turn in range(4)] == [False, False, True, True]
    assert not lone.is_turned_away_alone(50, 9)


def test_large_rows_that_wait_hold_up_new_ones() -> None:
    """What waits to be tried again is bounded by bytes too; when it has gone, the next row may start."""
    backlog = Backlog()
    backlog.add(pending())
    backlog.try_again(pending(size_bytes=HELD_BYTES), 100.0)
    assert backlog.next_due(1.0, 64) == 100.0
    backlog.take(100.0)
    assert backlog.next_due(101.0, 64) == 101.0


def test_next_row_is_the_one_that_is_taken() -> None:
    """A row that is due again comes before the first that is ready; its size counts what its files add."""
    backlog = Backlog()
    backlog.add(pending(size_bytes=10))
    assert backlog.next(1.0).request.sent_bytes == 10
    backlog.try_again(pending(size_bytes=500), 5.0)
    assert [backlog.next(now).request.sent_bytes for now in (4.0, 5.0)] == [10, 500]


def test_pictures_in_rows_count_as_held() -> None:
    """A binary cell is in memory while its row waits; a file is not before it is sent."""
    cell = Media(("messages", 0), "a", bytes(HELD_BYTES), "image/png", b"", HELD_BYTES)
    file = Media(("messages", 0), "a", Path("a.png"), "image/png", b"", HELD_BYTES)
    for medium, wants_more in ((cell, False), (file, True)):
        backlog = Backlog()
        backlog.add(Pending(ChatRequest(b"k", b"{}", "1", (medium,))))
        assert backlog.wants_more(64) == wants_more
        assert backlog.next(0.0).request.sent_bytes > HELD_BYTES
