"""Why and when a run stops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Ending:
    """The end of a run that stops before every row is asked; `changed` is set when it begins.

    `grace_s` is how long requests in flight may still take; `halt` keeps the transport from sending any more.
    """

    def __init__(self, grace_s: float, halt: Callable[[], None], changed: asyncio.Event) -> None:
        self.reason: Exception | None = None
        self.drain_until = 0.0
        self._grace_s = grace_s
        self._halt = halt
        self._changed = changed

    @property
    def has_begun(self) -> bool:
        """Whether the run is stopping: no request may start."""
        return self.reason is not None

    def stop(self, reason: Exception, *, is_urgent: bool = False) -> None:
        """Start no further request; those in flight may end within the grace, unless it `is_urgent`."""
        if self.reason is None:
            self.reason = reason
            self.drain_until = time.monotonic() + self._grace_s
            self._halt()
        if is_urgent:
            self.drain_until = 0.0
        self._changed.set()
