"""How far a run is, as `Progress`."""

from __future__ import annotations

from batchchat.records import Progress
from batchchat.send.limits.bottleneck import Bottleneck, BoundBy
from batchchat.send.policy.rules import RunEndpoint, RunLimits
from batchchat.send.scheduler.decide import Decisions
from batchchat.send.state.counts import Counts
from batchchat.send.state.slots import Slots


class Report:
    """Puts together what a run's parts know."""

    def __init__(
        self, endpoint: RunEndpoint, limits: RunLimits, decisions: Decisions, slots: Slots, bound: Bottleneck
    ) -> None:
        self.limits = limits
        self.counts: Counts = decisions.counts
        self.slots = slots
        self._endpoint = endpoint
        self._decisions = decisions
        self._bottleneck = bound

    @property
    def undecided(self) -> int:
        """How many rows wait for others to show what follows from their replies."""
        return self._decisions.undecided

    def progress(self, bound: BoundBy | None = None) -> Progress:
        """Return the counts as they stand; `bound` is what held requests back, by default during the last seconds."""
        verdict = bound or self._bottleneck.lately
        endpoint = self._endpoint
        self.counts.notes = (*self._decisions.notes, *endpoint.costs.notes)
        progress = self.counts.progress(
            in_flight=len(self.slots.in_flight),
            concurrency=min(self.limits.concurrency.limit, self.slots.durable_limit),
            bound_by=verdict.kind,
            bound=verdict.words,
            reached=endpoint.base_url if self.counts.has_reached else endpoint.reached,
        )
        return self.limits.account.noted(progress)
