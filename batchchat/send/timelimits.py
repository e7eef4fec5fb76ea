"""How long an attempt may take, in all and from one thing to the next.

A limit between bytes alone is not enough: an endpoint that sends a byte a second for ever would meet it for ever.
"""

import asyncio
import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Seconds for one attempt: to connect, from there to the reply's head, between two pieces of it, and in all."""

    connect_s: float
    first_byte_s: float
    idle_s: float
    total_s: float


_WHOLE, _FIRST_BYTE, _PIECE = "whole", "first byte", "piece"


class Deadline:
    """The moment by which the next thing must have come: of all limits that hold, the nearest."""

    def __init__(self, limits: TimeLimits) -> None:
        self._limits = limits
        self._now = asyncio.get_running_loop().time
        self._ends_at = self._now() + limits.total_s
        self._has_steps = min(limits.first_byte_s, limits.idle_s) < limits.total_s
        self._step = _WHOLE
        self._step_ends_at = self._lingers_until = math.inf
        self.timeout = asyncio.timeout_at(self._ends_at)

    def on_written(self) -> None:
        """Note that the request is on its way."""
        if self._has_steps:
            self._step_to(_FIRST_BYTE, self._limits.first_byte_s)

    def on_piece(self) -> None:
        """Note that more of the reply has come."""
        if self._has_steps:
            self._step_to(_PIECE, self._limits.idle_s)

    def _step_to(self, step: str, seconds: float) -> None:
        self._step_ends_at = self._now() + seconds
        self._step = step if self._step_ends_at < self._ends_at else _WHOLE
        self._reschedule()

    def linger(self, seconds: float) -> None:
        """Wait only so much longer: all that an answer needs is there."""
        self._lingers_until = min(self._lingers_until, self._now() + seconds)
        self._reschedule()

    def go_on(self) -> None:
        """Take the lingering back: there is more to come."""
        self._lingers_until = math.inf
        self._reschedule()

    def _reschedule(self) -> None:
        ends_at = min(self._ends_at, self._step_ends_at, self._lingers_until)
        if ends_at != self.timeout.when():
            self.timeout.reschedule(ends_at)

    def __str__(self) -> str:
        """Say what did not come in time."""
        limits = self._limits
        if self._step == _FIRST_BYTE:
            return f"no reply began within {limits.first_byte_s:g} s"
        if self._step == _PIECE:
            return f"nothing more of the reply came for {limits.idle_s:g} s"
        return f"no whole reply within {limits.total_s:g} s"
