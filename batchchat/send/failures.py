"""Which failure is the row's, which is worth another try, which ends the job: one table.

What passes in is a status and the structured words of an error; what comes out is a kind, and a verdict. It decides by
status and code; by the message only where the status agrees, because providers echo the prompt in their 400s.
"""

import re
from enum import Enum

from batchchat.records import Failure


class Verdict(Enum):
    """What follows from a failure."""

    RETRY = "try again after a while; counts as one of the row's attempts"
    ROW = "final for this row"
    FATAL = "ends the job"
    CUT = "the endpoint is asked too fast: pause everybody, lower the concurrency, try again at no charge"
    HOLD = "nothing can be reached: pause everybody, try again at no charge"


MONEY_CODES = frozenset(
    {
        "insufficient_quota",
        "insufficient_credits",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "enforced_spend_limit_reached",
        "billing_error",
        "billing_hard_limit_reached",
        "budget_exceeded",
    }
)
"""Words by which providers say, often with a 429, that the account is empty: waiting does not help."""

MODEL_CODES = frozenset({"model_not_found", "invalid_model", "DeploymentNotFound"})
CONTENT_CODES = frozenset(
    {"content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation", "invalid_prompt"}
)
CONTEXT_CODES = frozenset({"context_length_exceeded", "string_above_max_length"})
SAMPLING_CODES = frozenset({"tool_use_failed", "json_validate_failed"})
"""Words by which Groq says, with a 400, that what the model wrote this time was no call of a tool, or no JSON."""

_MODEL_WORDS = re.compile(
    r"Model not found: \S{1,200}$|You must specify a model to call$|The model \S{1,200} does not exist"
    r"|\S{1,200} is not a valid model ID$|Invalid model: |model ['\"]\S{1,200}['\"] not found"
)
_KEY_WORDS = re.compile(r"API key not valid\b")
_SIZE_WORDS = re.compile(r"Request too large for \S")
_CONTEXT_WORDS = re.compile(
    r"maximum context length is|exceeds the available context size|input tokens exceed the configured limit"
    r"|exceeds the maximum number of tokens allowed|maximum input length is|max_new_tokens. must be"
)
_WORDS_READ = 300
"""Characters of a message that may decide: the provider's own sentence stands first, an echoed prompt behind it."""

_KIND_BY_STATUS = {
    401: "auth",
    402: "credits",
    403: "auth",
    404: "not_found",
    405: "not_found",
    406: "not_found",
    408: "timeout",
    412: "credits",
    413: "too_large",
    415: "not_found",
    426: "not_found",
    429: "rate_limit",
    498: "rate_limit",
}

_STATUS_BY_WORD: dict[str, int] = {
    **dict.fromkeys(("invalid_request_error", "invalid_params", "invalid_file_input", "BadRequestError"), 400),
    **dict.fromkeys(("permission_error", "permission_denied", "PERMISSION_DENIED", "PermissionDeniedError"), 403),
    **dict.fromkeys(("not_found_error", "resource_not_found", "NOT_FOUND", "NotFoundError", *MODEL_CODES), 404),
    **dict.fromkeys(("rate_limit_error", "rate_limit_exceeded", "rate_limited", "RESOURCE_EXHAUSTED"), 429),
    **dict.fromkeys(("overloaded_error", "overloaded"), 529),
    **dict.fromkeys((*CONTENT_CODES, *CONTEXT_CODES, *SAMPLING_CODES), 400),
    **dict.fromkeys(("unauthenticated", "authentication_error", "invalid_api_key", "UNAUTHENTICATED"), 401),
    **dict.fromkeys(MONEY_CODES, 402),
}
"""What the words mean of an error that has no status of its own; where several apply, the last one here does."""

_FINAL_KINDS = frozenset(
    {"template", "media", "schema", "bad_request", "context_length", "content_filter", "too_large"}
)
_JOB_KINDS = frozenset({"auth", "credits", "not_found"})


def kind_of(status: int, codes: frozenset[str], message: str) -> str:
    """Return the `Failure.kind` of an error reply: `codes` are its `code` and `type` words, `message` its sentence."""
    if status in (400, 402, 403, 429) and codes & MONEY_CODES:
        return "credits"
    if status == 400 and codes & SAMPLING_CODES:
        return "server"
    if status in (400, 403, 404, 422):
        return _refusal_kind(status, codes, message[:_WORDS_READ])
    if 300 <= status < 400:
        return "not_found"
    if status == 429 and _SIZE_WORDS.match(message):
        return "too_large"  # above the whole limit: no wait makes room for it
    if status in _KIND_BY_STATUS:
        return _KIND_BY_STATUS[status]
    return "server" if status >= 500 or status in (409, 425) else "bad_request"


def status_of(words: frozenset[str]) -> int:
    """Return the status that an error would have had, which came inside a 200 without a number: by default a 502."""
    return next((status for word, status in reversed(_STATUS_BY_WORD.items()) if word in words), 502)


def _refusal_kind(status: int, codes: frozenset[str], sentence: str) -> str:
    if codes & MODEL_CODES or _MODEL_WORDS.match(sentence):
        return "not_found"
    if status == 400 and _KEY_WORDS.match(sentence):
        return "auth"
    if codes & CONTENT_CODES:
        return "content_filter"
    if codes & CONTEXT_CODES or _CONTEXT_WORDS.search(sentence):
        return "context_length"
    return _KIND_BY_STATUS.get(status, "bad_request")


ADVICE = {
    "auth": "check the key, and the variable that endpoint.api_key_env names",
    "credits": "add credits to the account, or raise its limit",
    "not_found": "check request.model and endpoint.base_url",
    "connect": "check endpoint.base_url, and that its server runs",
    "protocol": "check endpoint.base_url: what answers there does not speak chat completions",
    "rate_limit": "the limit did not lift for an hour; try later",
}
"""What to do about a failure that ended the job."""


def verdict(failure: Failure) -> Verdict:
    """Return what follows from a failure; a rule of its kind, with the exceptions that the reply itself states."""
    if failure.kind in _FINAL_KINDS:
        return Verdict.ROW
    if failure.kind == "credits" and failure.status == 402 and failure.retry_after_s is not None:
        return Verdict.CUT  # OpenRouter's "too many paid requests in flight": the account is not empty
    if failure.kind in _JOB_KINDS:
        return Verdict.FATAL
    if failure.kind == "rate_limit":
        return Verdict.CUT
    if failure.kind == "connect" and not failure.is_outcome_unknown:
        return Verdict.HOLD
    return Verdict.RETRY


def is_transient(failure: Failure) -> bool:
    """Whether asking the same again later may well succeed."""
    return verdict(failure) in (Verdict.RETRY, Verdict.CUT, Verdict.HOLD)
