"""The values of one row on its way to its outcome."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from batchchat.records import NO_USAGE, Answer, ChatRequest, Completion, FailedRow, Failure, Outcome
from batchchat.send.http.transport import Reply
from batchchat.send.reply.failures import is_transient
from batchchat.send.state.row_cost import RowCost
from batchchat.send.state.turn import Turn


@dataclass(slots=True)
class RateLimitsAlone:
    """Rate limits that met one row while others got through.

    `passed_before` and `turned_away_before` are the run's counts of both when the row was last turned away.
    """

    count: int = 0
    passed_before: int | None = None
    turned_away_before: int = 0

    def note(self, passed: int, turned_away: int) -> bool:
        """Note one more; return whether it seems to be this row's own: a request above all limits."""
        is_alone = self.passed_before is not None and turned_away == self.turned_away_before
        is_alone = is_alone and (passed > (self.passed_before or 0) or self.count > 1)
        self.count = self.count + 1 if is_alone else 0
        self.passed_before, self.turned_away_before = passed, turned_away + 1
        return self.count > 1


@dataclass(slots=True)
class Pending:
    """A row that has no outcome yet.

    `attempts` are those that count against `limits.max_attempts`: the failure policy counts them, and takes them back.
    `has_failed_before`: an earlier run gave the row up. `wants_new_connection`: its last connection had been closed.
    `turn` is what its next request adds to its own body, `turns` how many replies were paid for that were not its last,
    and `last` the newest of these, as read and as received. `cost` is only known under a budget.
    """

    request: ChatRequest
    has_failed_before: bool = False
    attempts: int = 0
    rate_limits_alone: RateLimitsAlone | None = None
    wants_new_connection: bool = False
    turn: Turn = field(default_factory=Turn)
    turns: int = 0
    last: tuple[Completion, Reply] | None = None
    cost: RowCost | None = None

    @property
    def requests(self) -> int:
        """How many requests count for it so far: attempts that failed, and replies that were not its last."""
        return self.attempts + self.turns

    @property
    def told_tokens(self) -> int | None:
        """Tokens of the answer that its next request tells again; None if there is none, or they are not known."""
        return self.last[0].usage.completion_tokens if self.last else None

    def unsent(self, failure: Failure) -> FailedRow:
        """Return the outcome of a row whose request could not be sent; it may be possible another time."""
        return FailedRow(
            failure, is_transient=True, latency_s=None, attempts=self.requests, row_name=self.request.row_name
        )

    def given_up(self, failure: Failure, latency_s: float | None, *, charged: int) -> FailedRow:
        """Return the outcome of a row that failed; what its earlier replies said and cost stays on record."""
        said, reply = (self.last[0], self.last[1].body) if self.last else (Completion(None), b"")
        paid = None if self.turn.usage == NO_USAGE else replace(said, usage=self.turn.usage)
        return FailedRow(
            failure,
            is_transient=is_transient(failure),
            latency_s=latency_s,
            attempts=self.requests + charged,
            completion=paid,
            reply=reply,
            row_name=self.request.row_name,
        )


def outcome_of(row: Pending, judged: Completion | Failure, said: Completion, reply: Reply, attempts: int) -> Outcome:
    """Return a row's outcome by its reply: its answer, or, where that does not fit, a failure that keeps its words."""
    if isinstance(judged, Failure):
        return FailedRow(
            judged,
            is_transient=False,
            latency_s=reply.latency_s,
            attempts=attempts,
            completion=said,
            reply=reply.body,
            row_name=row.request.row_name,
        )
    return Answer(
        judged, reply=reply.body, latency_s=reply.latency_s, attempts=attempts, first_token_s=reply.first_token_s
    )
