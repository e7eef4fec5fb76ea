"""Word what the endpoint says instead of an answer, as Oxen does.

Oxen has three shapes of error: a bare `error.message`; `error.type` and
`error.title` with `status_message` beside them; and `upstream`, whose `status` is a number.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error reply: the HTTP status, the JSON body, and headers beside the content type."""

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


class RefusedError(Exception):
    """Carries a refusal from where it was decided to where it is sent; it ends a request, never the server."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        super().__init__(f"{refusal.status}: {refusal.body}")


def bare(status: int, message: str) -> Refusal:
    """Return Oxen's first shape."""
    return Refusal(status, {"error": {"message": message}})


def titled(status: int, kind: str, title: str, detail: str | None = None) -> Refusal:
    """Return Oxen's second shape; `kind` stands in it twice, as Oxen has it."""
    error = {"type": kind, "title": title}
    if detail is not None:
        error["detail"] = detail
    return Refusal(status, {"error": error, "status": "error", "status_message": kind})


def upstream(status: int) -> Refusal:
    """Return Oxen's third shape: the provider behind it failed."""
    error = {"type": "upstream", "title": "The model provider returned an error."}
    return Refusal(status, {"error": error, "status": status})


def invalid_params(detail: str) -> Refusal:
    """Return the refusal of a malformed body; `detail` names the field and what is wrong with it."""
    return titled(400, "invalid_params", "The request has invalid parameters.", detail)


def invalid_file(description: str) -> Refusal:
    """Return the refusal of an image or video that cannot be used."""
    refusal = titled(400, "invalid_file_input", "The file input is invalid.", description)
    return replace(refusal, body={**refusal.body, "status_description": description})


def refused(detail: str) -> RefusedError:
    """Return the error to raise for parameters that are malformed; `detail` as for `invalid_params`."""
    return RefusedError(invalid_params(detail))


def model_not_found(name: str) -> Refusal:
    """Return the refusal of a model that nobody serves."""
    return bare(404, f"Model not found: {name}")


def rate_limited(wait_s: float) -> Refusal:
    """Return the refusal of a request that may come again in `wait_s` seconds, rounded up to the millisecond."""
    body = {"error": {"message": "Rate limit exceeded", "type": "rate_limit_exceeded"}}
    return Refusal(429, body, {"retry-after": f"{math.ceil(wait_s * 1000) / 1000:g}"})


MODEL_MISSING = bare(400, "You must specify a model to call")
MESSAGES_EMPTY = bare(400, "Messages array cannot be empty")
UNAUTHENTICATED = titled(401, "unauthenticated", "You must be authenticated to perform this action.")
NO_CREDITS = titled(402, "insufficient_credits", "You have run out of credits.")
NO_ROUTE = titled(404, "resource_not_found", "Resource not found")
INTERNAL = titled(500, "unknown_error", "The embedded endpoint failed; this is a bug in batchchat.")
