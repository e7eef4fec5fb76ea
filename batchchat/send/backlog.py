"""Rows that have no slot: ready to be asked for the first time, or waiting to be asked again; arithmetic only.

Both are bounded by count and by bytes, so that neither a long table nor large requests fill the memory.
"""

import heapq
import itertools
import math
from collections import deque

from batchchat.send.pacing import Pending

READY_LOW_WATER = 64
WAITING_ROWS_PER_SLOT = 4
"""Rows that may wait to be tried again, for each slot, before no further row is started."""
HELD_BYTES = 32 * 2**20
"""Bytes of requests that may be ready, or wait to be tried again, before no more are fetched, or started."""


class Backlog:
    """The two queues; `len()` counts both."""

    def __init__(self) -> None:
        self._ready: deque[Pending] = deque()
        self._waiting: list[tuple[float, int, Pending]] = []
        self._sequence = itertools.count()
        self._ready_bytes = 0
        self._waiting_bytes = 0

    def __len__(self) -> int:
        return len(self._ready) + len(self._waiting)

    @property
    def has_new(self) -> bool:
        """Whether a row waits to be asked for the first time."""
        return bool(self._ready)

    def add(self, pending: Pending) -> None:
        """Put a new row behind the others that are ready."""
        self._ready.append(pending)
        self._ready_bytes += pending.request.held_bytes

    def try_again(self, pending: Pending, due_at: float) -> None:
        """Let a row wait until `due_at`."""
        heapq.heappush(self._waiting, (due_at, next(self._sequence), pending))
        self._waiting_bytes += pending.request.held_bytes

    def wants_more(self, limit: int) -> bool:
        """Whether more rows should be fetched to keep `limit` slots busy."""
        return len(self._ready) < max(READY_LOW_WATER, limit) and self._ready_bytes < HELD_BYTES

    def next_due(self, now: float, limit: int) -> float:
        """Return when the next row can be taken: now for a ready one, unless too many wait to be tried again."""
        room = WAITING_ROWS_PER_SLOT * max(limit, READY_LOW_WATER) - len(self._waiting)
        if self._ready and room > 0 and self._waiting_bytes < HELD_BYTES:
            return now
        return self._waiting[0][0] if self._waiting else math.inf

    def next(self, now: float) -> Pending:
        """Return the row that `take` would take."""
        is_due = bool(self._waiting) and self._waiting[0][0] <= now
        return self._waiting[0][2] if is_due else self._ready[0]

    def take(self, now: float) -> Pending:
        """Take the next row: one that is due again, or else the first that is ready."""
        if self._waiting and self._waiting[0][0] <= now:
            pending = heapq.heappop(self._waiting)[2]
            self._waiting_bytes -= pending.request.held_bytes
        else:
            pending = self._ready.popleft()
            self._ready_bytes -= pending.request.held_bytes
        return pending
