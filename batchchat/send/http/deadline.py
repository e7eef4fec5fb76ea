"""How long an attempt may take, in all and from one thing to the next.

A limit between bytes alone is not enough: an endpoint that sends a byte a second for ever would meet it for ever.
"""

import asyncio
import math
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Seconds for one attempt: to connect, from there to the reply's head, between two pieces of it, and in all."""

    connect_s: float
    first_byte_s: float
    idle_s: float
    total_s: float


_WHOLE, _FIRST_BYTE, _PIECE = "whole", "first byte", "piece"


class Alarm:
    """One timer for the whole limits of all attempts: these end in the order in which they began.

    It is set anew when it rings, and not for each attempt, of which hardly any is still under way then.
    """

    def __init__(self) -> None:
        self._set: dict[Deadline, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def set(self, deadline: "Deadline", rings_at: float) -> None:
        """Schedule `deadline`; deadlines must be added in non-decreasing order."""
        self._set[deadline] = rings_at
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(rings_at, self._ring)

    def unset(self, deadline: "Deadline") -> None:
        """Cancel `deadline`."""
        self._set.pop(deadline, None)

    def _ring(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        while self._set:
            deadline, rings_at = next(iter(self._set.items()))
            if rings_at > loop.time():
                self._timer = loop.call_at(rings_at, self._ring)
                return
            del self._set[deadline]
            deadline.end()


class Deadline:
    """The nearest of the time limits that hold for one attempt.

    As a context manager it ends its block with a TimeoutError when that moment is past. For the whole limit `alarm`
    rings, which is that of all attempts with the same limits. For nearer ones it keeps one timer, which looks again
    when it rings, since most limits move on long before: `asyncio.timeout` sets another each time.
    """

    def __init__(self, limits: TimeLimits, alarm: Alarm) -> None:
        self._limits = limits
        self._alarm = alarm
        self._loop = asyncio.get_running_loop()
        self._ends_at = self._loop.time() + limits.total_s
        self._has_steps = min(limits.first_byte_s, limits.idle_s) < limits.total_s
        self._step = _WHOLE
        self._step_ends_at = self._lingers_until = math.inf
        self._rings_at = self._ends_at
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        self._alarm.set(self, self._ends_at)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._alarm.unset(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._is_over and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def on_written(self) -> None:
        """Note that the request is on its way."""
        if self._has_steps:
            self._step_to(_FIRST_BYTE, self._limits.first_byte_s)

    def on_piece(self) -> None:
        """Note that more of the reply has come."""
        if self._has_steps:
            self._step_to(_PIECE, self._limits.idle_s)

    def linger(self, seconds: float) -> None:
        """Wait only so much longer: all that an answer needs is there."""
        self._lingers_until = min(self._lingers_until, self._loop.time() + seconds)
        self._look()

    def go_on(self) -> None:
        """Take the lingering back: there is more to come."""
        self._lingers_until = math.inf

    def _step_to(self, step: str, seconds: float) -> None:
        self._step_ends_at = self._loop.time() + seconds
        self._step = step if self._step_ends_at < self._ends_at else _WHOLE
        self._look()

    def _look(self) -> None:
        """Let the timer ring earlier, if it must; one that rings too early is set again then."""
        nearest = min(self._ends_at, self._step_ends_at, self._lingers_until)
        if nearest < self._rings_at and not self._is_over:
            if self._timer is not None:
                self._timer.cancel()
            self._rings_at = nearest
            self._timer = self._loop.call_at(nearest, self._ring)

    def _ring(self) -> None:
        self._timer = None
        nearest = min(self._ends_at, self._step_ends_at, self._lingers_until)
        if nearest <= self._rings_at:
            self.end()
            return
        self._rings_at = nearest
        if nearest < self._ends_at:
            self._timer = self._loop.call_at(nearest, self._ring)

    def end(self) -> None:
        """End the block."""
        if not self._is_over:
            self._is_over = True
            self._task.cancel()

    def take_back(self) -> bool:
        """Take back that it ended the block; return False where it had not, or something else ends it too."""
        if not self._is_over:
            return False
        self._is_over = False
        return self._task.uncancel() <= self._cancelling

    def __str__(self) -> str:
        """Say what did not come in time."""
        limits = self._limits
        if self._step == _FIRST_BYTE:
            return f"no reply began within {limits.first_byte_s:g} s"
        if self._step == _PIECE:
            return f"nothing more of the reply came for {limits.idle_s:g} s"
        return f"no whole reply within {limits.total_s:g} s"
