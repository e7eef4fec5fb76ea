"""Rows that have no slot: new ones, in input order, and those that wait to be asked again.

Both are bounded by count and by bytes, so that neither a long table nor large requests fill the memory.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections import deque

from batchchat.send.state.row import Pending
from batchchat.send.state.slots import Slot

READY_LOW_WATER = 64
WAITING_ROWS_PER_SLOT = 4
"""Rows that may wait to be tried again, for each slot, before no further row is started."""
HELD_BYTES = 32 * 2**20
"""Bytes of requests that may be ready, or wait to be tried again, before no more are fetched, or started."""

Waiter = asyncio.Future[Slot | None]


class Queue:
    """The two queues; `len()` counts both. `is_fed`: no more new rows come."""

    def __init__(self, changed: asyncio.Event) -> None:
        self.is_fed = False
        self._changed = changed
        self._is_closed = False
        self._new: deque[Pending] = deque()
        self._waiting: list[tuple[float, int, Pending, Waiter]] = []
        self._sequence = itertools.count()
        self._new_bytes = 0
        self._waiting_bytes = 0

    def __len__(self) -> int:
        return len(self._new) + len(self._waiting)

    @property
    def has_new(self) -> bool:
        """Whether a row waits to be asked for the first time."""
        return bool(self._new)

    def add(self, row: Pending) -> None:
        """Put a new row behind the others."""
        self._new.append(row)
        self._new_bytes += row.request.held_bytes

    def slot_for(self, row: Pending, at: float) -> Waiter:
        """Return what waits until `at` (monotonic seconds), then for a slot; None comes when the run stops first."""
        waiter: Waiter = asyncio.get_running_loop().create_future()
        if self._is_closed:
            waiter.set_result(None)
            return waiter
        heapq.heappush(self._waiting, (at, next(self._sequence), row, waiter))
        self._waiting_bytes += row.request.held_bytes
        self._changed.set()
        return waiter

    def close(self) -> None:
        """Send the waiting rows away: the run stops."""
        self._is_closed = True
        for _, _, _, waiter in self._waiting:
            waiter.set_result(None)
        self._waiting.clear()
        self._new.clear()

    def wants_more(self, limit: int) -> bool:
        """Return whether more rows should be fetched to keep `limit` slots busy."""
        return len(self._new) < max(READY_LOW_WATER, limit) and self._new_bytes < HELD_BYTES

    def next_due(self, now: float, limit: int) -> float:
        """Return when the next row can be taken: now for a new one, unless too many wait to be tried again."""
        room = WAITING_ROWS_PER_SLOT * max(limit, READY_LOW_WATER) - len(self._waiting)
        if self._new and room > 0 and self._waiting_bytes < HELD_BYTES:
            return now
        return self._waiting[0][0] if self._waiting else math.inf

    def next(self, now: float) -> Pending:
        """Return the row that `take` would take."""
        return self._waiting[0][2] if self._is_due(now) else self._new[0]

    def take(self, now: float) -> tuple[Pending, Waiter | None]:
        """Take the next row: one that is due again, with what it waits for, or else the first new one."""
        if self._is_due(now):
            _, _, row, waiter = heapq.heappop(self._waiting)
            self._waiting_bytes -= row.request.held_bytes
            return row, waiter
        row = self._new.popleft()
        self._new_bytes -= row.request.held_bytes
        return row, None

    def _is_due(self, now: float) -> bool:
        return bool(self._waiting) and self._waiting[0][0] <= now
