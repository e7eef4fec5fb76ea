"""Rows whose last attempt failed as it would if the endpoint were down."""

from batchchat.records import ChatRequest, Failure
from batchchat.send.pacing import Pending
from batchchat.send.parking import Parking

GONE = Failure("server", "upstream is gone", 503)


def row(attempts: int) -> Pending:
    """Return a row with so many attempts."""
    return Pending(ChatRequest(b"k", b"{}", "1"), attempts=attempts)


def test_row_stays_while_nothing_is_known() -> None:
    """It is neither asked nor given up."""
    parking = Parking()
    parking.park(row(1), GONE, 0.1)
    assert parking.leave(lambda _: True) == ([], [])
    assert len(parking) == 1


def test_outage_lets_the_row_be_asked_again() -> None:
    """Its attempt was taken back."""
    parking, pending = Parking(), row(1)
    parking.park(pending, GONE, 0.1)
    pending.attempts = 0
    assert parking.leave(lambda _: True) == ([pending], [])
    assert len(parking) == 0


def test_anything_that_gets_through_leaves_the_failure_with_the_row() -> None:
    """It is given up with the failure that it had."""
    parking, pending = Parking(), row(2)
    parking.park(pending, GONE, 0.1)
    again, over = parking.leave(lambda _: False)
    assert again == []
    assert [(one.pending, one.failure, one.latency_s) for one in over] == [(pending, GONE, 0.1)]
    assert len(parking) == 0
