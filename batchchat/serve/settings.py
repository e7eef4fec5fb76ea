"""Hold the values of `batchchat serve`'s options, each within its range."""

import math
from dataclasses import dataclass
from pathlib import Path

from batchchat.errors import UsageError


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Everything that can be set on an embedded endpoint; as it stands, it answers all at once and for ever."""

    api_key: str | None = None
    """Asked for as `Authorization: Bearer <key>`; None lets everybody in."""
    latency_s: float = 0.0
    """How long each answer takes."""
    requests_per_minute: float | None = None
    """Answers let in during any 60 s; None is no limit."""
    tokens_per_minute: float | None = None
    """Prompt and completion tokens let in during any 60 s; None is no limit."""
    fault_rate: float = 0.0
    """The chance, from 0 to 1, that a request suffers a fault; at most three in a row for one request."""
    credits: int | None = None
    """How many answers are paid for; None is no end."""
    log_path: Path | None = None
    """The ledger; None keeps none."""
    seed: int = 0
    """Which requests suffer which faults."""

    def __post_init__(self) -> None:
        """Raise UsageError for a value out of its range."""
        _check("latency_s", self.latency_s, "0 or more", is_right=self.latency_s >= 0)
        _check("fault_rate", self.fault_rate, "from 0 to 1", is_right=0 <= self.fault_rate <= 1)
        for name in ("requests_per_minute", "tokens_per_minute"):
            limit = getattr(self, name)
            _check(name, limit, "above 0", is_right=limit is None or limit > 0)
        _check("credits", self.credits, "0 or more", is_right=self.credits is None or self.credits >= 0)

    def __repr__(self) -> str:
        """Show everything but the key."""
        shown = [f"{name}={getattr(self, name)!r}" for name in self.__dataclass_fields__ if name != "api_key"]
        return f"ServeSettings(api_key={'***' if self.api_key else None}, {', '.join(shown)})"


def _check(name: str, value: float | None, allowed: str, *, is_right: bool) -> None:
    if not is_right or (value is not None and not math.isfinite(value)):
        message = f"{name} is {value}; it must be {allowed}"
        raise UsageError(message)
