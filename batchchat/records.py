"""The frozen values that travel from room to room; they know nothing of files, HTTP or SQLite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, slots=True)
class Row:
    """One input row.

    `number` counts the rows of the input from 1, before `where` and `limit`. `values` has the source columns that the
    reader was asked for, as natural Python values. `name` is what errors and reports call the row: the value of
    `input.id`, or the row's number.
    """

    number: int
    values: Mapping[str, Any]
    name: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive input rows, in input order.

    `frame` has the source columns with their dtypes, `rows` the same rows as natural Python values. Where the source is
    text, the cells as they stand in the file go along, so that the same format can be written without changing them:
    `csv_text` (every column as string) for CSV, `json_rows` (the objects of the lines) for JSONL; None otherwise.
    """

    frame: pl.DataFrame
    rows: Sequence[Row]
    csv_text: pl.DataFrame | None = None
    json_rows: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One request: `body` is the JSON to send, `key` the identity of its answer, `row_name` whom to name in errors."""

    key: bytes
    body: bytes
    row_name: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool; `arguments` is the text as received, valid JSON or not."""

    id: str | None
    name: str | None
    arguments: str | None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the endpoint reported them; None where it did not."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model answered, as the reply's first choice has it."""

    content: str | None
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    refusal: str | None = None
    finish_reason: str | None = None
    usage: Usage = field(default_factory=Usage)
    model: str | None = None
    response_id: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt, or a row, has no answer.

    `kind` is one word: `template` (the row cannot be turned into a request), `connect`, `timeout`, `rate_limit`,
    `server`, `auth`, `credits`, `not_found`, `context_length`, `content_filter`, `bad_request`, `too_large`,
    `protocol` (not a chat-completions reply), `empty_reply`. `status` is the HTTP status, None when there was no reply.
    `code` is the provider's own machine-readable word. `retry_after_s` is the server's wish, in seconds from the reply.
    `is_outcome_unknown` says that the request may have been worked on, and billed, all the same.
    """

    kind: str
    message: str
    status: int | None = None
    code: str | None = None
    retry_after_s: float | None = None
    request_id: str | None = None
    is_outcome_unknown: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion that was received, the reply as it came, the seconds its attempt took, and attempts made."""

    completion: Completion
    reply: bytes
    latency_s: float
    attempts: int


@dataclass(frozen=True, slots=True)
class FailedRow:
    """A row that was given up: its last failure, whether a later run may well succeed, and what was tried."""

    failure: Failure
    is_transient: bool
    latency_s: float | None
    attempts: int


Outcome = Answer | FailedRow


@dataclass(frozen=True, slots=True)
class Chunk:
    """What the feed hands over at a time: requests in input order, and how many rows beside them made no request."""

    requests: Sequence[ChatRequest]
    failed_row_count: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Rows: `rows_read` of the input so far, of which `rows_answered` have their answer (`rows_reused` of them without a
    request of this run) and `rows_failed` were given up. Requests of this run: `requests_sent` in all, of which
    `rate_limited` were turned away and `possibly_billed` ended without a known outcome. `in_flight_bound` is how many
    may be under way until the next commit, `concurrency` the limit on them. Tokens are those of this run's replies.
    """

    rows_read: int = 0
    rows_answered: int = 0
    rows_reused: int = 0
    rows_failed: int = 0
    requests_sent: int = 0
    rate_limited: int = 0
    possibly_billed: int = 0
    in_flight: int = 0
    in_flight_bound: int = 0
    concurrency: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run as the checkpoint knows it; times are unix seconds, `ended_at` None for one that runs or was killed."""

    run: int
    started_at: float
    updated_at: float
    ended_at: float | None
    end_reason: str | None
    pid: int
    host: str
    rows_total: int
    progress: Progress

    @property
    def lost_in_flight(self) -> int:
        """How many of its requests may have been billed without an answer, if it was killed."""
        return self.progress.in_flight_bound if self.ended_at is None else 0


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """How many stored failures have the same kind and message."""

    kind: str
    message: str
    count: int


@dataclass(frozen=True, slots=True)
class JobStatus:
    """The newest run of a job (None: there was none), and what its checkpoint holds.

    `state` is `running`, `finished`, `stopped` (it said why) or `killed` (it could not).
    """

    job: str
    checkpoint: str
    state: str
    run: RunRecord | None
    answers_stored: int
    failures: tuple[FailureGroup, ...]


@dataclass(frozen=True, slots=True)
class RunSummary:
    """How a run ended: `outcome` is `finished`, `refused`, `interrupted` or `failed`; `reason` says why.

    `lost_in_flight` is how many requests of the run before, which was killed, may have been billed without an answer.
    """

    job: str
    outcome: str
    reason: str | None
    progress: Progress
    rows_total: int
    duration_s: float
    output: str | None
    checkpoint: str
    lost_in_flight: int = 0
    first_rows: Sequence[Mapping[str, Any]] = ()
