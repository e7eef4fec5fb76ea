"""What a run has counted so far."""

from dataclasses import dataclass, field, fields

from batchchat.records import NO_USAGE, Outcome, Progress, Usage, added


@dataclass(slots=True)
class Counts:
    """The growing side of `Progress`: fields of the same names mean the same.

    `passed` counts the attempts that no limit turned away; `turns_held` the replies that rows without an outcome were
    paid for, which a kill would lose beside what is in flight. `_held` has, by key, what replies to rows without a
    stored outcome report, and how many they are.
    """

    rows_read: int = 0
    rows_answered: int = 0
    rows_reused: int = 0
    rows_failed: int = 0
    rows_failed_before: int = 0
    requests_sent: int = 0
    rate_limited: int = 0
    possibly_billed: int = 0
    in_flight_bound: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: float = 0.0
    requests_unpriced: int = 0
    passed: int = 0
    has_reached: bool = False
    has_completion: bool = False
    turns_held: int = 0
    notes: tuple[str, ...] = ()
    _held: dict[bytes, tuple[Usage, int]] = field(default_factory=dict)

    def reuse(self, row_count: int, *, is_answered: bool) -> None:
        """Count rows that were not asked: their outcome was in the store before, or is that of a row like them."""
        self.conclude(row_count, is_answered=is_answered)
        if is_answered:
            self.rows_reused += row_count
            self.has_completion = True  # of an earlier run or row, from the same endpoint
        else:
            self.rows_failed_before += row_count

    def conclude(self, row_count: int, *, is_answered: bool) -> None:
        """Count rows that have their outcome."""
        if is_answered:
            self.rows_answered += row_count
        else:
            self.rows_failed += row_count

    def hold(self, key: bytes, usage: Usage) -> None:
        """Note what a reply reports, to be counted with its row's outcome: what is counted is what is stored."""
        if usage is not NO_USAGE:
            before, reply_count = self._held.get(key, (NO_USAGE, 0))
            self._held[key] = added(before, usage), reply_count + 1

    def spend(self, key: bytes, outcome: Outcome, sign: int = 1) -> None:
        """Count what the replies to an outcome report, or take it back (`sign` -1) when it was not stored."""
        usage, reply_count = self._held.get(key, (NO_USAGE, 0))
        self._add(outcome.completion.usage if outcome.completion else usage, sign * reply_count, sign)

    def release(self, key: bytes) -> None:
        """Forget what was held for an outcome that is stored."""
        self._held.pop(key, None)

    def spend_held(self) -> None:
        """Count what is still held, as the run ends: replies to rows that it leaves on the way."""
        for usage, reply_count in self._held.values():
            self._add(usage, reply_count, 1)
        self._held.clear()

    def _add(self, usage: Usage, reply_count: int, sign: int) -> None:
        self.prompt_tokens += sign * (usage.prompt_tokens or 0)
        self.completion_tokens += sign * (usage.completion_tokens or 0)
        self.cached_tokens += sign * (usage.cached_tokens or 0)
        if usage.cost_usd is None:
            self.requests_unpriced += reply_count
        else:
            self.cost_usd += sign * usage.cost_usd

    def progress(self, *, in_flight: int, concurrency: int, bound_by: str, bound: str, reached: str) -> Progress:
        """Return the counts as they stand."""
        return Progress(
            **{name: getattr(self, name) for name in _COUNTED},
            in_flight=in_flight,
            concurrency=concurrency,
            bound_by=bound_by,
            bound=bound,
            reached=reached,
        )


_COUNTED = tuple({one.name for one in fields(Progress)} & {one.name for one in fields(Counts)})
