"""The endpoint's core and the client's: each its own, so that neither takes time of the other."""

import os
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Cores:
    """Two cores; None where processes are not pinned. `note` says what that means for the figures."""

    endpoint: int | None
    client: int | None
    note: str


def choose_cores() -> Cores:
    """Return the first two cores that this process may use, if there are two."""
    if sys.platform != "linux":
        return Cores(None, None, "this system pins no process: endpoint and client take time of each other")
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) == 1:
        return Cores(allowed[0], allowed[0], "one core only: endpoint and client share it, so all rates are too low")
    return Cores(allowed[0], allowed[1], f"endpoint on core {allowed[0]}, client on core {allowed[1]}")


def pin(pid: int, core: int | None) -> None:
    """Keep a process on a core; it may use all again when `core` is None."""
    if core is not None and sys.platform == "linux":
        os.sched_setaffinity(pid, {core})
