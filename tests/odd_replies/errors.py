"""Make the odd replies that are errors, each in some provider's own shape."""

from collections.abc import Mapping
from typing import Any

import orjson

from batchchat.serve.delivery import Delivery
from batchchat.serve.request.errors import (
    NO_CREDITS,
    UNAUTHENTICATED,
    Refusal,
    bare,
    invalid_params,
    model_not_found,
    rate_limited,
    titled,
    upstream,
)
from batchchat.serve.request.request import ChatRequest

RETRY_AFTER_S = 0.05
_RETRY_AFTER = {"retry-after": f"{RETRY_AFTER_S:g}"}
_PAGE = "<html>\r\n<head><title>{0}</title></head>\r\n<body><h1>{0}</h1></body>\r\n</html>\r\n"


def odd_error(name: str, chat: ChatRequest) -> Delivery | None:
    """Return the reply that an oddity has instead of an answer."""
    if name in ("no-json-schema", "no-response-format"):
        return _without_format(name, chat)
    if name in _PAGES:
        return _page(*_PAGES[name])
    if name in _BODIES:
        status, body = _BODIES[name]
        is_worth_waiting = name == "credits-in-flight"
        return Delivery(status, orjson.dumps(body), _RETRY_AFTER if is_worth_waiting else {})
    kind, _, number = name.partition("-")
    return _of_status(int(number), chat) if kind == "status" else None


def _page(status: int, title: str) -> Delivery:
    return Delivery(status, _PAGE.format(title).encode(), media_type="text/html")


def _without_format(name: str, chat: ChatRequest) -> Delivery | None:
    if chat.response_kind == "text" or (name == "no-json-schema" and chat.response_kind == "json_object"):
        return None
    detail = {
        "no-json-schema": "response_format.type json_schema is not supported; use json_object",
        "no-response-format": "Unknown parameter: 'response_format'",
    }
    return _said(invalid_params(detail[name]))


def _of_status(status: int, chat: ChatRequest) -> Delivery:
    refusals = {
        400: invalid_params("this is the error that was asked for"),
        401: UNAUTHENTICATED,
        402: NO_CREDITS,
        403: titled(403, "forbidden", "You may not use this model."),
        404: model_not_found(chat.model),
        408: titled(408, "timeout", "The model did not answer in time."),
        413: titled(413, "invalid_params", "Request body too large"),
        422: titled(422, "invalid_params", "The request cannot be processed."),
        429: rate_limited(RETRY_AFTER_S),
        500: titled(500, "unknown_error", "Something went wrong."),
        502: upstream(502),
        503: Refusal(503, titled(503, "unavailable", "The model is overloaded.").body, _RETRY_AFTER),
        529: Refusal(529, bare(529, "Overloaded").body, _RETRY_AFTER),
    }
    return _said(refusals[status])


def _said(refusal: Refusal) -> Delivery:
    return Delivery(refusal.status, orjson.dumps(refusal.body), refusal.headers)


def _openai(message: str, kind: str, code: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code, **more}}


_PAGES = {
    "html-200": (200, "Welcome"),
    "html-403": (403, "403 Forbidden"),
    "html-502": (502, "502 Bad Gateway"),
}
_BODIES: Mapping[str, tuple[int, Any]] = {
    "context-length": (
        400,
        _openai(
            "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
            "invalid_request_error",
            "context_length_exceeded",
        ),
    ),
    "prompt-filter": (
        400,
        _openai(
            "The response was filtered due to the prompt triggering the content management policy.",
            "invalid_request_error",
            "content_filter",
            innererror={"code": "ResponsibleAIPolicyViolation"},
        ),
    ),
    "unsupported-parameter": (
        400,
        _openai(
            "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
            "invalid_request_error",
            "unsupported_parameter",
        ),
    ),
    "tool-use-failed": (
        400,
        _openai(
            "Failed to call a function. Please adjust your prompt.",
            "invalid_request_error",
            "tool_use_failed",
            failed_generation='<function=odd_tool>{"text": </function>',
        ),
    ),
    "credits-in-flight": (
        402,
        {
            "error": {
                "code": 402,
                "message": "Too many paid requests are in flight.",
                "metadata": {"limit_source": "openrouter_in_flight_budget"},
            }
        },
    ),
    "model-not-found": (
        404,
        _openai(
            "The model `odd` does not exist or you do not have access to it.",
            "invalid_request_error",
            "model_not_found",
        ),
    ),
    "error-detail": (422, {"detail": [{"loc": ["body", "messages"], "msg": "field required", "type": "value_error"}]}),
    "error-top-level": (
        422,
        {
            "object": "error",
            "message": {"detail": [{"loc": ["body"], "msg": "Input should be valid", "type": "value_error"}]},
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        },
    ),
    "no-quota": (
        429,
        _openai("You exceeded your current quota.", "insufficient_quota", "insufficient_quota"),
    ),
    "budget-exceeded": (
        429,
        _openai("Budget has been exceeded! Current cost: 2, max budget: 1", "budget_exceeded", "429"),
    ),
    "error-array": (
        429,
        [{"error": {"code": 429, "message": "Quota exceeded. Please retry in 1s.", "status": "RESOURCE_EXHAUSTED"}}],
    ),
    "error-string": (500, {"error": "Something went wrong."}),
    "error-anthropic": (
        529,
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, "request_id": "req_0"},
    ),
    "loading-model": (503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}),
}
