"""An allowance of units a minute, spread evenly."""

import math

MARGIN = 0.99
"""Share of an allowance that is used: the endpoint's clock and the network's delays are not ours."""

CATCH_UP_S = 0.01
"""Seconds of allowance that may be made up for at once after the loop was busy; more than the margin of a second would
break a limit that is judged by the second."""


class LeakyBucket:
    """Spreads an allowance of units a minute evenly (the generic cell rate algorithm), with no burst at the start.

    In any second or longer, units taken one by one never exceed the allowance; larger takes exceed it by one take at
    most.
    """

    __slots__ = ("_catch_up_s", "_free_at", "_margin", "seconds_per_unit", "units_per_minute")

    def __init__(self, units_per_minute: float, *, catch_up_s: float = CATCH_UP_S, margin: float = MARGIN) -> None:
        self._free_at = -math.inf
        self._catch_up_s = catch_up_s
        self._margin = margin
        self.set_rate(units_per_minute)

    def set_rate(self, units_per_minute: float) -> None:
        """Follow an allowance that has changed."""
        self.units_per_minute = units_per_minute
        self.seconds_per_unit = 60.0 / (units_per_minute * self._margin)

    def opens_at(self) -> float:
        """Return the time before which no units may be taken."""
        return self._free_at

    def take(self, now: float, units: float) -> None:
        """Reserve units from `now` on."""
        free_at, earliest = self._free_at, now - self._catch_up_s
        self._free_at = (free_at if free_at > earliest else earliest) + units * self.seconds_per_unit

    def give_back(self, units: float) -> None:
        """Settle a reservation that was too high (or, with negative units, too low)."""
        self._free_at -= units * self.seconds_per_unit

    def wait_until(self, moment: float) -> None:
        """Open no earlier than at a moment."""
        self._free_at = max(self._free_at, moment)
