"""Rows without a slot, and the row that alone is turned away."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from batchchat.records import ChatRequest, Media
from batchchat.send.scheduler.queue import HELD_BYTES, READY_LOW_WATER, WAITING_ROWS_PER_SLOT, Queue
from batchchat.send.state.row import Pending, RateLimitsAlone


def pending(name: str = "r", size_bytes: int = 1) -> Pending:
    """Return a row that has not been asked."""
    return Pending(ChatRequest(name.encode(), b"x" * size_bytes, name))


def with_queue(scenario: Callable[[Queue], Awaitable[None]]) -> None:
    """Run a scenario in an event loop, and send the rows away that still wait at its end."""

    async def run() -> None:
        queue = Queue(asyncio.Event())
        await scenario(queue)
        queue.close()
        await asyncio.sleep(0)

    asyncio.run(run())


def test_due_rows_come_before_new_ones() -> None:
    """A row that is due again is taken first, the others in their order."""

    async def scenario(queue: Queue) -> None:
        again, first, second = pending("again"), pending("first"), pending("second")
        queue.add(first)
        queue.add(second)
        _ = queue.slot_for(again, 5.0)
        assert [queue.take(now)[0] for now in (4.0, 5.0, 5.0)] == [first, again, second]
        assert len(queue) == 0

    with_queue(scenario)


def test_waiting_rows_go_away_when_the_run_stops() -> None:
    """Neither a row that waits nor one that would wait gets a slot any more."""

    async def scenario(queue: Queue) -> None:
        waiting = queue.slot_for(pending(), 5.0)
        queue.close()
        assert await waiting is None
        assert await queue.slot_for(pending(), 0.0) is None
        assert len(queue) == 0

    with_queue(scenario)


def test_too_many_waiting_rows_hold_back_new_ones() -> None:
    """When the waiting rows are full, the next to start is the first of them, when it is due."""

    async def scenario(queue: Queue) -> None:
        queue.add(pending())
        tasks = []
        for number in range(WAITING_ROWS_PER_SLOT * READY_LOW_WATER):
            assert queue.next_due(1.0, 1) == 1.0
            tasks.append(queue.slot_for(pending(), 100.0 + number))
        assert queue.next_due(1.0, 1) == 100.0

    with_queue(scenario)


def test_large_requests_are_bounded_by_bytes() -> None:
    """Few large rows fill the queue as well as many small ones."""
    queue = Queue(asyncio.Event())
    queue.add(pending(size_bytes=HELD_BYTES))
    assert not queue.wants_more(64)
    queue.take(0.0)
    assert queue.wants_more(64)


def test_row_that_alone_is_turned_away_is_told_from_a_limit_on_all() -> None:
    """Others pass and nobody else is turned away: its own trouble. Another row's rate limit makes it everybody's."""
    row = RateLimitsAlone()
    assert [row.note(passed, 9 * passed) for passed in (1, 2, 3)] == [False, False, False]
    lone = RateLimitsAlone()
    assert [lone.note(10 * turn, turn) for turn in range(4)] == [False, False, True, True]
    assert not lone.note(50, 9)


def test_large_rows_that_wait_hold_up_new_ones() -> None:
    """What waits to be tried again is bounded by bytes too; when it has gone, the next row may start."""

    async def scenario(queue: Queue) -> None:
        queue.add(pending())
        _ = queue.slot_for(pending(size_bytes=HELD_BYTES), 100.0)
        assert queue.next_due(1.0, 64) == 100.0
        queue.take(100.0)
        assert queue.next_due(101.0, 64) == 101.0

    with_queue(scenario)


def test_next_row_is_the_one_that_is_taken() -> None:
    """A row that is due again comes before the first new one; its size counts what its files add."""

    async def scenario(queue: Queue) -> None:
        queue.add(pending(size_bytes=10))
        assert queue.next(1.0).request.sent_bytes == 10
        _ = queue.slot_for(pending(size_bytes=500), 5.0)
        assert [queue.next(now).request.sent_bytes for now in (4.0, 5.0)] == [10, 500]

    with_queue(scenario)


def test_pictures_in_rows_count_as_held() -> None:
    """A binary cell is in memory while its row waits; a file is not before it is sent."""
    cell = Media(("messages", 0), "a", bytes(HELD_BYTES), "image/png", b"", HELD_BYTES)
    file = Media(("messages", 0), "a", Path("a.png"), "image/png", b"", HELD_BYTES)
    for medium, wants_more in ((cell, False), (file, True)):
        queue = Queue(asyncio.Event())
        queue.add(Pending(ChatRequest(b"k", b"{}", "1", (medium,))))
        assert queue.wants_more(64) == wants_more
        assert queue.next(0.0).request.sent_bytes > HELD_BYTES
