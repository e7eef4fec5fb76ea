"""Time in which no request starts, after rate limits or in an outage."""

import math
from dataclasses import dataclass


@dataclass(slots=True)
class Cooldown:
    """Closes for everybody after a burst of the same trouble, for longer after each burst in a row.

    Replies to requests that were on their way when it closed belong to the burst that closed it.
    """

    burst_count: int = 0
    troubled_since: float = math.inf
    opens_at: float = -math.inf
    _closed_at: float = -math.inf
    _reopened_at: float = -math.inf

    def is_new_burst(self, started_at: float) -> bool:
        """Whether trouble of a request that started at `started_at` is news."""
        return started_at >= self._closed_at

    def close(self, now: float, wait_s: float, *, is_new: bool) -> None:
        """Close until `now + wait_s`; a later reply of the same burst can only lengthen the wait."""
        if is_new:
            self.burst_count += 1
            self._closed_at, self._reopened_at = now, self.opens_at
        self.troubled_since = min(self.troubled_since, now)
        self.opens_at = max(self.opens_at, now + wait_s)

    def pass_through(self, started_at: float) -> None:
        """Note a request that got through: one that started after the gate closed ends the trouble.

        One that started since the gate last opened says that this burst is the first of a new trouble.
        """
        if started_at >= self._closed_at:
            self.burst_count = 0
            self.troubled_since = math.inf
        elif started_at >= self._reopened_at:
            self.burst_count = min(self.burst_count, 1)
            self.troubled_since = max(self.troubled_since, self._closed_at)
