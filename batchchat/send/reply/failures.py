"""Which failures are retryable, which fail their row, which end the job.

It decides by status and words; by the message only where the status agrees, because providers echo the prompt in their
400s.
"""

import re
from collections.abc import Callable, Container
from enum import Enum
from typing import NamedTuple

from batchchat.records import Completion, Failure
from batchchat.send.reply import provider_errors as errorwords

CLOSED_WHILE_IDLE = "closed_while_idle"
"""Our own word for a request on a used connection that broke at once, without a byte."""


class Verdict(Enum):
    """What follows from a failure."""

    RETRY = "try again after a while; counts as one of the row's attempts"
    ROW = "final for this row"
    FATAL = "ends the job"
    CUT = "the endpoint is asked too fast: pause everybody, lower the concurrency, try again at no charge"
    HOLD = "nobody is served: pause everybody, ask with one request at a time, try again at no charge"


_VERDICTS = {
    **dict.fromkeys(("template", "media", "schema", "bad_request", "too_large"), Verdict.ROW),
    **dict.fromkeys(("context_length", "content_filter"), Verdict.ROW),
    **dict.fromkeys(("auth", "credits", "not_found"), Verdict.FATAL),
    **dict.fromkeys(("server", "timeout", "protocol", "empty_reply"), Verdict.RETRY),
    "rate_limit": Verdict.CUT,
    "unavailable": Verdict.HOLD,
}
"""What follows from each kind; `connect`, and servers that are too busy, are told apart in `verdict`."""

KINDS = tuple(sorted({*_VERDICTS, "connect"}))
"""Every kind of failure that a row can have."""


class Rule(NamedTuple):
    """One of `words`, or how a `sentence` begins, makes an error with one of `statuses` a failure of `kind`."""

    kind: str
    statuses: Container[int]
    words: frozenset[str]
    sentence: re.Pattern[str] | None = None


_REFUSALS = (400, 403, 404, 422)
_PASSING = (408, 409, 424, 425, 498, 499, *range(500, 600))

RULES = (
    Rule("server", (403, 404), frozenset({errorwords.RETRYABLE})),
    Rule("rate_limit", (402, 429), frozenset({errorwords.RETRYABLE})),
    Rule("bad_request", _PASSING, frozenset({errorwords.NOT_RETRYABLE})),
    Rule("server", (403,), frozenset({errorwords.PAGE})),  # from something in front of the API: a block that may pass
    Rule("rate_limit", (402,), errorwords.IN_FLIGHT_CODES),
    Rule("credits", (400, 402, 403, 429), errorwords.MONEY_CODES),
    Rule("credits", (400,), frozenset(), errorwords.SPENT_SENTENCE),
    Rule("credits", (403,), frozenset(), errorwords.BUDGET_SENTENCE),
    Rule("credits", (402,), frozenset({errorwords.NOT_RETRYABLE})),
    Rule("rate_limit", (402,), frozenset({errorwords.HINTED})),
    Rule("credits", (429,), frozenset({errorwords.NO_QUOTA})),
    Rule("bad_request", (429,), frozenset({errorwords.NOT_RETRYABLE})),
    Rule("unavailable", (429,), errorwords.DAILY_CODES, errorwords.DAILY_SENTENCE),
    Rule("unavailable", (503,), errorwords.LOADING_CODES, errorwords.LOADING_SENTENCE),
    Rule(
        "too_large", (429,), frozenset(), errorwords.SIZE_SENTENCE
    ),  # above the whole limit: no wait makes room for it
    Rule("server", (400,), errorwords.SAMPLING_CODES),
    Rule("not_found", _REFUSALS, errorwords.MODEL_CODES, errorwords.MODEL_SENTENCE),
    Rule("auth", (400,), errorwords.KEY_CODES, errorwords.KEY_SENTENCE),
    Rule("media", (400, 422), errorwords.FILE_CODES, errorwords.FILE_SENTENCE),
    Rule("content_filter", _REFUSALS, errorwords.CONTENT_CODES, errorwords.FILTER_SENTENCE),
    Rule("context_length", _REFUSALS, errorwords.CONTEXT_CODES, errorwords.CONTEXT_SENTENCE),
    Rule("auth", (403,), errorwords.PERMISSION_CODES, errorwords.PERMISSION_SENTENCE),
)
"""What decides before the status alone does; the first that applies."""

PROXY_REFUSAL = 407
"""The status of a proxy that wants to be told who asks (RFC 9110, 15.5.8)."""
_KIND_BY_STATUS = {
    **dict.fromkeys(range(300, 400), "not_found"),
    401: "auth",
    402: "credits",
    404: "not_found",
    405: "not_found",
    406: "not_found",
    PROXY_REFUSAL: "auth",
    408: "timeout",
    409: "server",
    412: "credits",
    413: "too_large",
    415: "not_found",
    424: "server",
    425: "rate_limit",
    426: "not_found",
    429: "rate_limit",
    498: "rate_limit",
    499: "server",
    **dict.fromkeys(range(500, 1000), "server"),
}
"""What a status means by itself. A 403 means nothing by itself, and is a `bad_request` like all that is not here."""

_STATUS_BY_WORD: dict[str, int] = {
    **dict.fromkeys(("invalid_request_error", "invalid_params", "invalid_file_input", "badrequesterror"), 400),
    **dict.fromkeys(("invalid_argument", "bad_request"), 400),
    **dict.fromkeys(
        ("not_found_error", "resource_not_found", "not_found", "notfounderror", *errorwords.MODEL_CODES), 404
    ),
    **dict.fromkeys(("rate_limit_error", "rate_limit_exceeded", "rate_limited", "resource_exhausted"), 429),
    **dict.fromkeys(("ratelimitreached", "too_many_requests", *errorwords.DAILY_CODES), 429),
    **dict.fromkeys(("overloaded_error", "overloaded"), 529),
    **dict.fromkeys(errorwords.LOADING_CODES, 503),
    **dict.fromkeys(("forbidden", *errorwords.PERMISSION_CODES), 403),
    **dict.fromkeys((*errorwords.CONTENT_CODES, *errorwords.CONTEXT_CODES, *errorwords.SAMPLING_CODES), 400),
    **dict.fromkeys(("unauthenticated", "authentication_error", "invalid_api_key", "api_key_invalid"), 401),
    **dict.fromkeys((*errorwords.MONEY_CODES, *errorwords.IN_FLIGHT_CODES), 402),
}
"""What the words mean of an error that has no status of its own; where several apply, the last one here does."""


def kind_of(status: int, words: frozenset[str], message: str) -> str:
    """Return the `Failure.kind` of an error reply: `words` are its structured ones in lower case, `message` its own."""
    sentence = message.lstrip()
    for rule in RULES:
        if status in rule.statuses and (words & rule.words or (rule.sentence and rule.sentence.match(sentence))):
            return rule.kind
    return _KIND_BY_STATUS.get(status, "bad_request")


def status_of(words: frozenset[str]) -> int:
    """Return the status that an error would have had, which came inside a 200 without a number: by default a 502."""
    return next((status for word, status in reversed(_STATUS_BY_WORD.items()) if word in words), 502)


PROXY_ADVICE = "check the user and the password of the proxy that the environment names"

ADVICE = {
    "auth": "check the key, and the variable that endpoint.api_key_env names",
    "credits": "add credits to the account, or raise its limit",
    "not_found": "check request.model and endpoint.base_url",
    "connect": "check endpoint.base_url, and that its server runs",
    "protocol": "check endpoint.base_url: what answers there does not speak chat completions",
    "rate_limit": "the limit did not lift for an hour; try later",
    "unavailable": "run the job again when the endpoint is ready, or its quota is back",
    "server": "run the job again when the endpoint works; its status page may say when",
    "timeout": "run the job again when the endpoint answers, or give it more time by limits.timeout_s",
    "bad_request": "correct the request: the endpoint refuses every row for the same reason",
}
"""What to do about a failure that ended the job."""

EXHAUSTED_CODES = frozenset({"EMFILE", "ENFILE", "EADDRNOTAVAIL"})
"""The `Failure.code` of a connection that this machine had no file descriptor, or no port, left for."""
_BUSY_STATUSES = frozenset({503, 529})
_OUTAGE_STATUSES = frozenset({403, 404, 502, 503, 504, *range(520, 531)})
"""Statuses of dying servers, and of what stands in front of dead ones. A 403 or 404 is of the kind `server` only when
it is a page, or the provider says that it passes."""


def verdict(failure: Failure) -> Verdict:
    """Return what follows from a failure; a rule of its kind, with the exceptions that the reply itself states."""
    if failure.kind == "connect":
        if failure.is_outcome_unknown:
            return Verdict.RETRY
        return Verdict.CUT if failure.code in EXHAUSTED_CODES else Verdict.HOLD
    if _is_busy(failure) and failure.retry_after_s is not None:
        return Verdict.CUT  # the server says when there is room again
    return _VERDICTS.get(failure.kind, Verdict.RETRY)


def is_transient(failure: Failure) -> bool:
    """Whether asking the same again later may well succeed."""
    return verdict(failure) in (Verdict.RETRY, Verdict.CUT, Verdict.HOLD)


def is_race(failure: Failure) -> bool:
    """Whether a request met a connection that the server closed, as it seems, just before; its outcome is not known."""
    return failure.code == CLOSED_WHILE_IDLE and failure.status is None


def is_overload(failure: Failure) -> bool:
    """Whether a server is too busy and does not say for how long: a try that counts, and fewer at a time."""
    return _is_busy(failure) and failure.retry_after_s is None


def may_be_outage(failure: Failure, *, has_worked: bool) -> bool:
    """Whether a failure of one row is also what a dead or dying endpoint looks like.

    `has_worked` says that it answered something before: only then is a 500 or a 408 more than a fault of the request.
    """
    if verdict(failure) is not Verdict.RETRY:
        return False
    if failure.kind == "connect" or (failure.kind == "timeout" and failure.status is None):
        return True
    if failure.status in (408, 500) or failure.kind == "protocol":  # a portal's page, or a server on its way down
        return has_worked
    return failure.kind == "server" and failure.status in _OUTAGE_STATUSES


def may_be_billed(read: Completion | Failure, reply_status: int | None) -> bool:
    """Return whether a model may have worked for a failure: also where an error stands inside of a good reply.

    `reply_status` is None where no reply came.
    """
    is_unknown = isinstance(read, Failure) and read.is_outcome_unknown
    return is_unknown or (reply_status is not None and 200 <= reply_status < 300)


def _is_busy(failure: Failure) -> bool:
    return failure.kind == "server" and failure.status in _BUSY_STATUSES


SIGNATURE_LENGTH = 200
_DIGIT = re.compile(r"\d")
_CHANGING: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"\bhttps?://\S+"), "<url>"),
    (errorwords.QUOTED, "<quoted>"),
    (re.compile(r"[\w-]{12,}"), lambda found: "<id>" if _DIGIT.search(found[0]) else found[0]),
    (re.compile(r"\b[0-9a-f]{8,}\b", re.IGNORECASE), "<id>"),
    (re.compile(r"\d+(?:[.,]\d+)*"), "<n>"),
    (re.compile(r"\s+"), " "),
)


def signature(failure: Failure) -> tuple[int | None, str | None, str, str] | None:
    """Return by what a refusal of one row equals that of another, or None where it is the row's own matter for certain.

    Status, code, parameter and the beginning of the message, in which what changes from row to row is left out.
    """
    if failure.kind != "bad_request":
        return None
    message = _unchanging(failure.message)[:SIGNATURE_LENGTH]
    return failure.status, failure.code, _unchanging(failure.param or ""), message


def _unchanging(text: str) -> str:
    for changing, mark in _CHANGING:
        text = changing.sub(mark, text)
    return text.strip()
