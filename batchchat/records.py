"""The frozen values that travel from room to room; they know nothing of files, HTTP or SQLite."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass

    import polars as pl
else:
    # A frozen dataclass takes 1.4 us to make, one that is not takes 0.3, and each row is some ten of them. So it is
    # mypy alone that keeps values from being changed; at run time only the hash of a value is left of `frozen`.
    def dataclass(*, frozen, slots, eq=True):
        """Return dataclasses' decorator without the guard, with the hash of a value."""
        return dataclasses.dataclass(slots=slots, unsafe_hash=frozen and eq, eq=eq)


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

    `frame` has the source columns with their dtypes, `rows` the same rows as natural Python values, of those columns
    that the reader was asked for. Where the source is text, the cells as they stand in the file go along, so that the
    same format can be written without changing them: `csv_text` (every column as string) for CSV, `json_rows` (the
    objects of the lines) for JSONL; None otherwise. `file` is the place, among the input's files, of that which the
    rows are from.
    """

    frame: pl.DataFrame
    rows: Sequence[Row]
    csv_text: pl.DataFrame | None = None
    json_rows: Sequence[Mapping[str, Any]] | None = None
    file: int = 0


@dataclass(frozen=True, slots=True)
class Media:
    """A local image or video that a request holds as a `data:` URL, once it is built.

    `at` leads to the URL's place in the body (keys and positions). `source` is the file's resolved path, or the bytes
    themselves where a row holds them. `size_bytes` and `mtime_ns` are those of the file whose content has `digest`; a
    file that is another by the time it is sent is a failure. `max_image_side` is the pixels to shrink an image to,
    `shown` what errors call the file: what the row wrote.
    """

    at: tuple[str | int, ...]
    name: str
    source: Path | bytes
    mime_type: str
    digest: bytes
    size_bytes: int
    mtime_ns: int = 0
    max_image_side: int | None = None
    shown: str = ""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One request: `body` is the JSON to send, `key` the identity of its answer, `row_name` whom to name in errors.

    Where there are `media`, `body` names each by its content, and is sent with their data in these places.
    `choice_count` is how many choices it asks for.
    """

    key: bytes
    body: bytes
    row_name: str
    media: tuple[Media, ...] = ()
    choice_count: int = 1

    @property
    def held_bytes(self) -> int:
        """Bytes that it takes in memory before it is built."""
        if not self.media:
            return len(self.body)
        return len(self.body) + sum(len(one.source) for one in self.media if isinstance(one.source, bytes))

    @property
    def sent_bytes(self) -> int:
        """Bytes of the body that is sent, as near as the sizes of its media tell; base64 makes four of every three."""
        if not self.media:
            return len(self.body)
        return len(self.body) + sum(one.size_bytes * 4 // 3 + 4 for one in self.media)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool; `arguments` is the text as received, valid JSON or not."""

    id: str | None
    name: str | None
    arguments: str | None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the endpoint reported them, and the dollars that they cost; None where it is not known."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Price:
    """What tokens cost, in USD per million, and `source`, where the figure is from; `model` is what it is for.

    `longer` has the prices of all tokens of a request whose prompt has more tokens than so many, fewest first. One that
    `is_given` by the job wins over what replies say that they cost.
    """

    input: float
    output: float
    cached_input: float | None = None
    source: str = ""
    model: str = ""
    longer: tuple[tuple[int, Price], ...] = ()
    is_given: bool = False


NO_USAGE = Usage()
"""That of a reply which reports none."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model answered, as the reply's first choice has it.

    `parsed` is the JSON in it that fits the job's schema, as text; `completions` has the content of every choice when
    there are several; `logprobs` is JSON text.
    """

    content: str | None
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    refusal: str | None = None
    finish_reason: str | None = None
    usage: Usage = NO_USAGE
    model: str | None = None
    response_id: str | None = None
    parsed: str | None = None
    completions: tuple[str | None, ...] = ()
    logprobs: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt, or a row, has no answer.

    `kind` is one word: `template` (the row cannot be turned into a request), `media` (nor can a file that it names),
    `schema` (what came back does not fit the job's schema), `connect`, `timeout`, `rate_limit`, `server`, `unavailable`
    (not ready for anybody: loading, or a quota that comes back), `auth`, `credits`, `not_found`, `context_length`,
    `content_filter`, `bad_request`, `too_large` (the request, or its reply), `protocol` (not a chat-completions reply),
    `empty_reply`. `message` has at most 2 KB, and no key. `status` is the HTTP status, None when there was no reply.
    `code` is the provider's own machine-readable word, `param` the parameter that it blames. `retry_after_s` is the
    server's wish, in seconds from the reply. `is_outcome_unknown` says that the request may have been worked on, and
    billed, all the same; `is_by_words` that only the sentence of the message says what it is, which may be an echo of
    the row's own; `usage` is what a reply that is no answer says it cost.
    """

    kind: str
    message: str
    status: int | None = None
    code: str | None = None
    param: str | None = None
    retry_after_s: float | None = None
    request_id: str | None = None
    is_outcome_unknown: bool = False
    is_by_words: bool = False
    usage: Usage = NO_USAGE


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion that was received, and the reply as it came, a stream as assembled.

    `latency_s` is what its last attempt took, `first_token_s` the time to the first piece of a stream; `attempts` were
    made in all. `completion.usage` sums what all of the row's replies report.
    """

    completion: Completion
    reply: bytes
    latency_s: float
    attempts: int
    first_token_s: float | None = None


@dataclass(frozen=True, slots=True)
class FailedRow:
    """A row that was given up: its last failure, whether a later run may well succeed, and what was tried.

    `completion` and `reply` are there when a model did answer, and its text was not good enough. `row_name` names a row
    that asked for it.
    """

    failure: Failure
    is_transient: bool
    latency_s: float | None
    attempts: int
    completion: Completion | None = None
    reply: bytes = b""
    row_name: str | None = None


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
    `rows_failed_before` of the failed rows were not asked, as the failure stands that an earlier run, or a row with the
    same request, has found.
    `cost_usd` is what the run's replies cost; `requests_unpriced` of them have no known price. `held_usd` and
    `held_tokens` are the most that was spent beside that: on requests without a known outcome, and on those that may be
    under way until the next commit; they are counted only under a budget.
    `reached` is the base URL that answered last, of this or an earlier run; empty when none ever did. `bound_by` is
    what kept the run from going faster: `endpoint`, `rate limit`, `input` or `cpu`, empty where nothing is known, and
    `bound` the same in words, such as `the endpoint's 600 requests/min`. `notes` are sentences for the user on what the
    run found out and goes on with.
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
    cached_tokens: int = 0
    cost_usd: float = 0.0
    requests_unpriced: int = 0
    held_usd: float = 0.0
    held_tokens: int = 0
    rows_failed_before: int = 0
    reached: str = ""
    bound_by: str = ""
    bound: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Segment:
    """The rows of an output file that are from one input, which its digest names.

    `first_row` counts from 0, and is -1 where the file was changed since by another program.
    """

    input: bytes
    first_row: int
    row_count: int


@dataclass(frozen=True, slots=True)
class Settled:
    """What a run has learned of an endpoint and model, for the next one to start near it; None where it is not known.

    `concurrency` is how many requests in flight served it best. The two allowances are the endpoint's own, per minute.
    `bytes_per_token` is of the requests' bodies, `completion_tokens` what a request's completion takes.
    """

    concurrency: int | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    bytes_per_token: float | None = None
    completion_tokens: float | None = None


_COUNTS = tuple(one.name for one in dataclasses.fields(Usage) if one.name != "cost_usd")


def added(first: Usage, second: Usage) -> Usage:
    """Return the sum of two usages: of tokens what is known, None where neither reports any; of cost all or None."""
    if first is NO_USAGE:
        return second
    if second is NO_USAGE:  # of an attempt that was not billed
        return first
    sums: dict[str, int | None] = {}
    for name in _COUNTS:
        counts = [count for count in (getattr(first, name), getattr(second, name)) if count is not None]
        sums[name] = sum(counts) if counts else None
    cost = None if first.cost_usd is None or second.cost_usd is None else first.cost_usd + second.cost_usd
    return Usage(**sums, cost_usd=cost)
