"""What a run has counted so far; the schedule is the only one that writes it."""

from dataclasses import dataclass

from batchchat.records import Progress, Usage


@dataclass(slots=True)
class Tally:
    """The growing side of `Progress`: fields of the same names mean the same.

    `passed` counts the attempts that no limit turned away; `turns_held` the replies that rows without an outcome were
    paid for, which a kill would lose beside what is in flight.
    """

    rows_read: int = 0
    rows_answered: int = 0
    rows_reused: int = 0
    rows_failed: int = 0
    requests_sent: int = 0
    rate_limited: int = 0
    possibly_billed: int = 0
    in_flight_bound: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    passed: int = 0
    has_reached: bool = False
    has_completion: bool = False
    turns_held: int = 0
    notes: tuple[str, ...] = ()

    def reuse(self, row_count: int, *, is_answered: bool) -> None:
        """Count rows whose outcome was in the store before."""
        self.conclude(row_count, is_answered=is_answered)
        if is_answered:
            self.rows_reused += row_count
            self.has_completion = True  # of an earlier run, from the same endpoint

    def conclude(self, row_count: int, *, is_answered: bool) -> None:
        """Count rows that have their outcome."""
        if is_answered:
            self.rows_answered += row_count
        else:
            self.rows_failed += row_count

    def add_usage(self, usage: Usage) -> None:
        """Count the tokens that a reply reports."""
        self.prompt_tokens += usage.prompt_tokens or 0
        self.completion_tokens += usage.completion_tokens or 0

    def progress(self, *, in_flight: int, concurrency: int, bound_by: str, bound: str, reached: str) -> Progress:
        """Return the counts as they stand."""
        return Progress(
            rows_read=self.rows_read,
            rows_answered=self.rows_answered,
            rows_reused=self.rows_reused,
            rows_failed=self.rows_failed,
            requests_sent=self.requests_sent,
            rate_limited=self.rate_limited,
            possibly_billed=self.possibly_billed,
            in_flight=in_flight,
            in_flight_bound=self.in_flight_bound,
            concurrency=concurrency,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            bound_by=bound_by,
            bound=bound,
            reached=reached,
            notes=self.notes,
        )
