"""What an endpoint says when it refuses a whole job, as providers send it; and one reply that only sounds like it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import orjson

from tests.torture.wire import http


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reply; how many of it decide, in a row and as the first of a run, and whether it ends the job at all."""

    content: bytes
    deciding_count: int = 1
    deciding_first_count: int = 1
    is_fatal: bool = True


def _error(status: int, *headers: str, **fields: Any) -> Refusal:
    return Refusal(http(status, orjson.dumps({"error": fields}), headers))


def _quota(code: str) -> Refusal:
    return _error(429, message="You exceeded your current quota.", type="insufficient_quota", param=None, code=code)


def _plain(status: int, content: dict[str, Any]) -> Refusal:
    return Refusal(http(status, orjson.dumps(content)))


_MONEY_CODES = (
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
)
_UNSUPPORTED = {
    "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'.",
    "type": "invalid_request_error",
    "param": "max_tokens",
    "code": "unsupported_parameter",
}
_IN_FLIGHT_BUDGET = {
    "code": 402,
    "message": "Too many paid requests in flight",
    "metadata": {"limit_source": "openrouter_in_flight_budget"},
}

REFUSALS: Mapping[str, Refusal] = MappingProxyType(
    {
        "401": _error(401, message="Incorrect API key provided", type="invalid_request_error", code="invalid_api_key"),
        "402-oxen": _plain(
            402,
            {
                "error": {"type": "insufficient_credits", "title": "You have run out of credits."},
                "status": "error",
                "status_message": "insufficient_credits",
            },
        ),
        "402-openrouter": _error(402, message="This request requires more credits, or fewer max_tokens.", code=402),
        **{f"429-{code}": _quota(code) for code in _MONEY_CODES},
        "429-budget": _error(429, message="Budget has been exceeded!", type="budget_exceeded", param=None, code="429"),
        "model-openai": _error(
            404,
            message="The model `stand-in` does not exist or you do not have access to it.",
            type="invalid_request_error",
            code="model_not_found",
        ),
        "model-oxen": _error(400, message="Model not found: stand-in"),
        "model-mistral": _plain(
            400, {"object": "error", "message": "Invalid model: stand-in", "type": "invalid_model", "code": "1500"}
        ),
        "model-ollama": _error(404, message="model 'stand-in' not found", type="not_found_error", code=None),
        "404-route": Refusal(http(404, b"<html><h1>404 Not Found</h1><hr>nginx</html>", kind="text/html")),
        "403": _error(403, message="Your key lacks the permission to call this model.", type="permission_error"),
        "400-everywhere": Refusal(
            http(400, orjson.dumps({"error": _UNSUPPORTED})), deciding_count=50, deciding_first_count=20
        ),
        "402-in-flight": Refusal(
            http(402, orjson.dumps({"error": _IN_FLIGHT_BUDGET}), ["retry-after: 1"]), is_fatal=False
        ),
    }
)
