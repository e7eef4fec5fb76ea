"""Slots: the requests that may be in flight, or whose answers are not durable yet."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, eq=False)
class Slot:
    """One request's slot: granted by the dispatcher, in flight until its reply, then perhaps held until a commit.

    `started_at` is when it started, among `among` others in flight, as number `place` of all; `reserved` are the tokens
    reserved for it. `is_probe`: it asks an endpoint that is down. `task` sends it.
    """

    slots: Slots
    sent_bytes: int
    among: int
    is_probe: bool
    reserved: float = 0.0
    started_at: float = 0.0
    place: int = 0
    task: asyncio.Task[Any] | None = None

    def land(self) -> None:
        """Take the request off the wire and hold the slot until a commit frees it."""
        self.slots.remove(self)
        self.slots.at_commit += 1

    def free(self) -> None:
        """Free a slot that is in flight; another one stays as it is."""
        if self in self.slots.in_flight:
            self.slots.remove(self)


class Slots:
    """All slots that are taken; sets `changed` whenever one is free again.

    `durable_limit` is the concurrency that the last commit recorded: no more may be taken, so that after a kill the
    recorded bound on requests in flight is true.
    """

    def __init__(self, changed: asyncio.Event) -> None:
        self.in_flight: set[Slot] = set()
        self.bytes_in_flight = 0
        self.probes = 0
        self.at_commit = 0
        self.durable_limit = 0
        self._changed = changed

    @property
    def taken(self) -> int:
        """How many slots are taken."""
        return len(self.in_flight) + self.at_commit

    def grant(self, sent_bytes: int, *, is_probe: bool) -> Slot:
        """Return a new slot for a request of so many bytes; only the dispatcher grants slots."""
        slot = Slot(self, sent_bytes=sent_bytes, among=len(self.in_flight), is_probe=is_probe)
        self.in_flight.add(slot)
        self.bytes_in_flight += sent_bytes
        self.probes += is_probe
        return slot

    def remove(self, slot: Slot) -> None:
        """Take a slot's request off the wire."""
        self.in_flight.discard(slot)
        self.bytes_in_flight -= slot.sent_bytes
        self.probes -= slot.is_probe
        self._changed.set()

    def free_committed(self, count: int) -> None:
        """Free so many slots whose outcomes are durable now."""
        self.at_commit -= count
        self._changed.set()
