"""Which refusals have nothing to do with how much is asked.

A limit refuses nothing below it. So where refusals come one by one, the pace is halved for as many requests as should
bring some of them: if they come all the same, they are the endpoint's noise, and until they become more frequent, or
some minutes have passed, each of them is the business of its own row. Even on a quiet endpoint one among some hundred
says nothing.
"""

import math

QUIET_SHARE = 0.005
"""Share of refusals of which nothing is made on any endpoint, one at a time."""
FEWEST = 32
"""Requests after which the first refusal says nothing."""
MARGIN = 2.0
"""Times the known share from which on refusals mean something, once they are more than a few."""
FEW = 8.0
ENOUGH = 2
"""Refusals below half of the pace that prove that it is not the pace."""
EXPECTED = 7.0
"""Refusals that a trial lasts for, if they come as before."""
LEAST_SHARE, MOST_SHARE = 0.01, 0.4
LONGEST_S = 20.0
AGAIN_S = 180.0
"""Seconds after which what was taken for noise is looked at again."""


class Spurious429:
    """One run's knowledge: `share` of the requests is refused by chance; 0 where that is not so."""

    def __init__(self) -> None:
        self.share = 0.0
        self._until = math.inf
        self._granted = 1.0 - FEWEST * QUIET_SHARE
        self._counted = 0
        self._trial_from = self._met = 0
        self._last_two = (0.0, 0.0)
        self.trial_until: float = 0
        """The count of starts with which a trial ends; 0 while there is none."""

    def allows(self, started: int, in_flight: int, unheard: float, now: float) -> bool:
        """Return True if this 429 is explained by the endpoint's background error rate.

        `started` requests were made so far. `in_flight`: requests that may share one cause. `unheard`: requests whose
        reply is outstanding.
        """
        if self.trial_until:
            return self._try(started - unheard, now)
        if now >= self._until:
            self.share, self._until = 0.0, math.inf
        gap, self._counted = started - self._counted, started
        granted = self._granted + gap * max(QUIET_SHARE, MARGIN * self.share)
        granted = min(granted, FEW + MARGIN * self.share * in_flight if self.share else 1.0)
        if granted < 1.0:
            self._granted = 0.0
            return False
        self._granted = granted - 1.0
        if self.share:
            self.share = min(MOST_SHARE, 1.0 / (1.0 / self.share + (gap - 1.0 / self.share) / EXPECTED**2))
        return True

    def begin_trial(self, started: int, share: float, rate: float) -> None:
        """From now on the pace is `rate` a second, half of what it was when this share was refused."""
        self.share, self._trial_from, self._met, self._last_two = 0.0, started, 0, (0.0, 0.0)
        expected = EXPECTED / min(MOST_SHARE, max(LEAST_SHARE, share))
        self.trial_until = started + min(expected, max(FEWEST, LONGEST_S * rate))

    def end_trial(self) -> None:
        """Hardly a request was refused at half the pace: it is a limit."""
        self.share, self.trial_until = 0.0, 0

    def _try(self, started: float, now: float) -> bool:
        self._met += 1
        tried = max(1.0, started - self._trial_from)
        if self._met > 1.0 + MOST_SHARE * tried:
            self.end_trial()
            return False
        first_of_three, self._last_two = self._last_two[0], (self._last_two[1], tried)
        if self._met >= ENOUGH and (tried - first_of_three) * MOST_SHARE >= ENOUGH - 1:
            self.share, self.trial_until, self._until = self._met / tried, 0, now + AGAIN_S
            self._granted, self._counted = FEW, int(started)
        return True
