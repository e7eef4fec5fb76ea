"""Every failure that endpoints are known to send, with the body as they send it, and what follows: one table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.records import Failure
from batchchat.send.reply import provider_errors as errorwords
from batchchat.send.reply.failures import Verdict, verdict
from batchchat.send.reply.reply import MAX_MESSAGE_BYTES, read_reply

NOW = 1_700_000_000.0
DAY_S = 86_400.0
RETRY, ROW, FATAL, CUT, HOLD = Verdict.RETRY, Verdict.ROW, Verdict.FATAL, Verdict.CUT, Verdict.HOLD


@dataclass(frozen=True)
class Case:
    """A reply, and what it comes to; `says` begins the message, `hint_s` is the wait that it asks for."""

    name: str
    status: int
    body: Any
    kind: str
    expected: Verdict
    says: str = ""
    hint_s: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    request_id: str | None = None


def read(status: int, body: Any, headers: Mapping[str, str] | None = None) -> Failure:
    """Read a reply that is no answer; its body is JSON of a value, or bytes as they stand."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = read_reply(status, headers or {}, content, unix_now=NOW)
    assert isinstance(found, Failure)
    return found


def openai(message: str, type: str | None = "invalid_request_error", code: Any = None, **more: Any) -> dict[str, Any]:  # noqa: A002 -- the wire's
    """Return OpenAI's shape, which most others take over."""
    return {"error": {"message": message, "type": type, "param": None, "code": code, **more}}


def oxen(type: str, title: str, detail: str | None = None) -> dict[str, Any]:  # noqa: A002 -- the wire's
    """Return Oxen's shape."""
    error = {"type": type, "title": title} if detail is None else {"type": type, "title": title, "detail": detail}
    return {"error": error, "status": "error", "status_message": type}


def anthropic(type: str, message: str) -> dict[str, Any]:  # noqa: A002 -- the wire's
    """Return Anthropic's shape."""
    return {"type": "error", "error": {"type": type, "message": message}, "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy"}


def router(code: int, message: str, **metadata: Any) -> dict[str, Any]:
    """Return OpenRouter's shape."""
    error: dict[str, Any] = {"message": message, "code": code}
    return {"error": {**error, "metadata": metadata} if metadata else error, "user_id": "user_2abc"}


def available(status: int, message: str, **availability: Any) -> dict[str, Any]:
    """Return OpenRouter's newer shape."""
    return {
        "error": {
            "message": message,
            "error_type": "provider_unavailable",
            "http_status": status,
            "availability": {"code": "no_available_provider", **availability},
        }
    }


def gemini(code: int, status: str, message: str, *details: Any) -> list[Any]:
    """Return the array that Gemini's OpenAI-compatible endpoint sends."""
    error = {"code": code, "message": message, "status": status}
    return [{"error": {**error, "details": list(details)} if details else error}]


def violations(*quotas: tuple[str, str]) -> dict[str, Any]:
    """Return Gemini's list of the quotas that are used up: metric and id."""
    return {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [
            {
                "quotaMetric": f"generativelanguage.googleapis.com/{metric}",
                "quotaId": quota_id,
                "quotaDimensions": {"location": "global", "model": "gemini-2.5-flash"},
            }
            for metric, quota_id in quotas
        ],
    }


def retry_info(delay: str) -> dict[str, Any]:
    """Return Google's hint."""
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


GEMINI_HEAD = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this error, "
    "head to: https://ai.google.dev/gemini-api/docs/rate-limits. To monitor your current usage, head to: "
    "https://ai.dev/usage?tab=rate-limit. \n"
)
GEMINI_METRIC = "* Quota exceeded for metric: generativelanguage.googleapis.com/"
HELP = {
    "@type": "type.googleapis.com/google.rpc.Help",
    "links": [{"description": "Learn more", "url": "https://x.test"}],
}
GEMINI_MINUTE = gemini(
    429,
    "RESOURCE_EXHAUSTED",
    f"{GEMINI_HEAD}{GEMINI_METRIC}generate_content_free_tier_requests, limit: 10, model: gemini-2.5-flash\n"
    "Please retry in 41.372919s.",
    HELP,
    violations(("generate_content_free_tier_requests", "GenerateRequestsPerMinutePerProjectPerModel-FreeTier")),
    retry_info("41s"),
)
GEMINI_DAY = gemini(
    429,
    "RESOURCE_EXHAUSTED",
    f"{GEMINI_HEAD}{GEMINI_METRIC}generate_content_free_tier_requests, limit: 250, model: gemini-2.5-flash\n"
    "Please retry in 10h17m5.723541104s.",
    violations(("generate_content_free_tier_requests", "GenerateRequestsPerDayPerProjectPerModel-FreeTier")),
    HELP,
)
GEMINI_DAY_IN_WORDS = gemini(
    429,
    "RESOURCE_EXHAUSTED",
    f"{GEMINI_HEAD}{GEMINI_METRIC}generate_requests_per_model_per_day, limit: 250\nPlease retry in 10h17m5.723541104s.",
)
GEMINI_NOTHING = gemini(
    429,
    "RESOURCE_EXHAUSTED",
    f"{GEMINI_HEAD}{GEMINI_METRIC}generate_content_free_tier_requests, limit: 0, model: gemini-2.5-pro\n"
    f"{GEMINI_METRIC}generate_content_free_tier_input_token_count, limit: 0, model: gemini-2.5-pro\n"
    "Please retry in 28.5s.",
    violations(("generate_content_free_tier_requests", "GenerateRequestsPerDayPerProjectPerModel-FreeTier")),
    retry_info("28s"),
)
GEMINI_NOTHING_OLDER = gemini(
    429,
    "RESOURCE_EXHAUSTED",
    "Quota exceeded for quota metric 'Generate Content API requests per minute' and limit 'GenerateContent request "
    "limit per minute for a region' of service 'generativelanguage.googleapis.com' for consumer 'project_number:1'.",
    {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "RATE_LIMIT_EXCEEDED",
        "domain": "googleapis.com",
        "metadata": {"quota_limit_value": "0", "quota_limit": "GenerateContentRequestsPerMinutePerProjectPerRegion"},
    },
)
GEMINI_KEY = gemini(
    400,
    "INVALID_ARGUMENT",
    "API key not valid. Please pass a valid API key.",
    {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"},
)
GEMINI_BLOCKED_KEY = gemini(
    403,
    "PERMISSION_DENIED",
    "Requests to this API generativelanguage.googleapis.com method Chat are blocked.",
    {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_SERVICE_BLOCKED"},
)
AZURE_FILTERED = {
    "error": {
        "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_result": {
                "hate": {"filtered": False, "severity": "safe"},
                "violence": {"filtered": True, "severity": "high"},
            },
        },
    }
}


def azure_filtered(name: str, *, is_filtered: bool, at_top: bool = False) -> dict[str, Any]:
    """Return Azure's refusal with nothing but the result of its filter to tell."""
    result = {name: {"jailbreak": {"filtered": is_filtered, "detected": True}}}
    return openai("The request was stopped.", None, "400", **(result if at_top else {"innererror": result}))


PAGE = b"<!DOCTYPE html><html><head><title>Attention Required! | Cloudflare</title></head><body>Blocked</body></html>"
NGINX_413 = (
    b"<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n<body>\r\n<center><h1>413 Request Entity "
    b"Too Large</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)
ENVOY = b"upstream connect error or disconnect/reset before headers. reset reason: connection timeout"
GROQ_DAY = (
    "Rate limit reached for model `llama-3.3-70b-versatile` in organization `org_01jabc` service tier `on_demand` on "
    "requests per day (RPD): Limit 1000, Used 1000, Requested 1. Please try again in 1m26.4s. Need more tokens? "
    "Upgrade to Dev Tier today at https://console.groq.com/settings/billing"
)
GROQ_MINUTE = GROQ_DAY.replace("requests per day (RPD)", "tokens per minute (TPM)")
OPENAI_DAY = (
    "Rate limit reached for gpt-4o-mini in organization org-abc on requests per day (RPD): Limit 10000, Used 10000, "
    "Requested 1. Please try again in 8.64s. Visit https://platform.openai.com/account/rate-limits to learn more."
)
OPENAI_MINUTE = (
    "Rate limit reached for gpt-4o in organization org-abc on tokens per min (TPM): Limit 30000, Used 29500, Requested "
    "1100. Please try again in 1.2s. Visit https://platform.openai.com/account/rate-limits to learn more."
)
FREE_MODELS = router(
    429,
    "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day",
    headers={
        "X-RateLimit-Limit": "50",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": f"{(NOW + 5 * 3_600) * 1000:.0f}",
    },
    provider_name=None,
)

# fmt: off
CONTEXT = [
    Case("openai", 400,
         openai("This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
         code="context_length_exceeded"), "context_length", ROW, "This model's maximum"),
    Case("openai-code-alone", 400, openai("Your input exceeds the window of this model.",
         code="context_length_exceeded"), "context_length", ROW),
    Case("vllm-old", 400, {"object": "error", "message":
         "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.", "type":
         "BadRequestError", "param": None, "code": 400}, "context_length", ROW),
    Case("vllm-new", 400, {"error": {"message": "'max_tokens' or 'max_completion_tokens' is too large: 9000. This "
         "model's maximum context length is 4096 tokens and your request has 12 input tokens.", "type":
         "BadRequestError", "param": None, "code": 400}}, "context_length", ROW),
    Case("llama.cpp", 400, {"error": {"code": 400, "message": "the request exceeds the available context size. try "
         "increasing the context size or enable context shift", "type": "invalid_request_error"}}, "context_length",
         ROW),
    Case("llama.cpp-newer", 400, {"error": {"code": 400, "message":
         "request (9000 tokens) exceeds the available context size (4096 tokens), try increasing it", "type":
         "exceed_context_size_error", "n_prompt_tokens": 9000, "n_ctx": 4096}}, "context_length", ROW),
    Case("openai-configured-limit", 400,
         openai("Input tokens exceed the configured limit of 272000 tokens. Your messages "
         "resulted in 300000 tokens. Please reduce the length of the messages."), "context_length", ROW),
    Case("gemini", 400, gemini(400, "INVALID_ARGUMENT",
         "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."), "context_length",
         ROW),
    Case("maximum-input", 422, {"error": "maximum input length is 4096 tokens", "error_type": "validation"},
         "context_length", ROW),
    Case("together", 403,
         openai("This model's maximum context length is 4096 tokens. However, you requested 4200 tokens "
         "(200 in the messages, 4000 in the completion).", code=None), "context_length", ROW),
    Case("together-tgi", 403,
         openai("Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8193. Given: "
         "7900 `inputs` tokens and 512 `max_new_tokens`", param="max_tokens"), "context_length", ROW),
    Case("behind-openrouter", 400, router(400, "Provider returned error",
         raw=json.dumps(openai("Your input is too long.", code="context_length_exceeded")), provider_name="OpenAI"),
         "context_length", ROW, "Provider returned error: Your input is too long."),
    Case("behind-openrouter-in-words", 400, router(400, "Provider returned error",
         raw=json.dumps(openai("This model's maximum context length is 8192 tokens.")), provider_name="Azure"),
         "context_length", ROW),
    Case("openrouter-error-type", 400, router(400, "The provider refused", error_type="context_length_exceeded"),
         "context_length", ROW),
    Case("qwen", 400, openai("Range of input length should be [1, 30720]"), "context_length", ROW),
    Case("openrouter-provider-code", 400, router(400, "The provider refused", error_type="invalid_request",
         provider_code="context_length_exceeded"), "context_length", ROW),
    Case("behind-litellm", 400, openai("litellm.ContextWindowExceededError: litellm.BadRequestError: "
         "ContextWindowExceededError: OpenAIException - This model's maximum context length is 8192 tokens.", None,
         "400"), "context_length", ROW),
]
CONTENT = [
    Case("azure", 400, AZURE_FILTERED, "content_filter", ROW, "The response was filtered"),
    Case("azure-result", 400, azure_filtered("content_filter_result", is_filtered=True), "content_filter", ROW),
    Case("azure-results", 400, azure_filtered("content_filter_results", is_filtered=True), "content_filter", ROW),
    Case("azure-results-at-top", 400, azure_filtered("content_filter_results", is_filtered=True, at_top=True),
         "content_filter", ROW),
    Case("azure-nothing-filtered", 400, azure_filtered("content_filter_result", is_filtered=False), "bad_request",
         ROW),
    Case("azure-innererror-alone", 400, openai("No.", None, None, innererror={"code":
         "ResponsibleAIPolicyViolation"}), "content_filter", ROW),
    *(Case(f"openai-{code}", 400, openai("Invalid prompt: we've limited access to this content.", code=code),
         "content_filter", ROW) for code in ("invalid_prompt", "content_policy_violation", "cyber_policy")),
    Case("azure-in-words", 400, openai("The response was filtered due to the prompt triggering a policy.", None, None),
         "content_filter", ROW),
    Case("azure-detail", 400, openai("No.", None, "400", details=[{"code": "content_filter", "message": "No."}]),
         "content_filter", ROW),
    Case("openai-blocked", 400, openai("Your request was blocked by our safety system."), "content_filter", ROW),
    *(Case(f"openrouter-{name}", 403, router(403, "Input was flagged", **{name: value}), "content_filter", ROW) for
         name, value in (("reasons", ["violence"]), ("patterns", ["p1"]), ("flagged_input", "bad words"))),
]
REQUEST = [
    Case("openai-parameter", 400, openai("Unsupported parameter: 'max_tokens' is not supported with this model. Use "
         "'max_completion_tokens' instead.", code="unsupported_parameter", param="max_tokens"), "bad_request", ROW),
    Case("openai-value", 400,
         openai("Unsupported value: 'temperature' does not support 0.2 with this model. Only the "
         "default (1) value is supported.", code="unsupported_value"), "bad_request", ROW),
    Case("oxen-file", 400, {"error": {"type": "invalid_file_input", "title": "The file input is invalid.", "detail":
         "the image could not be downloaded"}, "status": "error", "status_message": "invalid_file_input",
         "status_description": "the image could not be downloaded"}, "media", ROW,
         "The file input is invalid. the image could not be downloaded"),
    Case("openrouter-image", 400, router(400, "Received 404 status code when fetching image from URL"), "bad_request",
         ROW),
    Case("oxen-no-messages", 400, {"error": {"message": "Messages array cannot be empty"}}, "bad_request", ROW),
    Case("oxen-params", 400, oxen("invalid_params", "Invalid parameters.", "temperature is 9, at most 2"),
         "bad_request", ROW, "Invalid parameters. temperature is 9, at most 2"),
    Case("nginx", 400, b"<html><head><title>400 Request Header Or Cookie Too Large</title></head></html>",
         "bad_request", ROW),
    Case("fastapi", 422, {"detail": [{"type": "missing", "loc": ["body", "messages", 0, "role"], "msg":
         "Field required", "input": {"content": "the row's own words"}}]}, "bad_request", ROW,
         "body.messages.0.role: Field required"),
    Case("fastapi-sentence", 422, {"detail": "Unprocessable"}, "bad_request", ROW, "Unprocessable"),
    Case("mistral", 422, {"object": "error", "message": {"detail": [{"type": "extra_forbidden", "loc": ["body",
         "seed"], "msg": "Extra inputs are not permitted", "input": 1}]}, "type": "invalid_request_error", "param":
         None, "code": None}, "bad_request", ROW, "body.seed: Extra inputs are not permitted"),
    Case("groq-hallucination", 422, openai("The request was well-formed but has semantic errors."), "bad_request",
         ROW),
    Case("groq-tool-use", 400,
         {**openai("Failed to call a function. Please adjust your prompt. See 'failed_generation' for more details.",
         code="tool_use_failed"), "error": {**openai("Failed to call a function.", code="tool_use_failed")["error"],
         "failed_generation": '<function=f>{"a": </function>'}}, "server", RETRY,
         'Failed to call a function. It was: <function=f>{"a": </function>'),
    Case("anthropic-too-large", 413, anthropic("request_too_large", "Request exceeds the maximum size"), "too_large",
         ROW, request_id="req_011CSHoEeqs5C35K2UUqR7Fy"),
    Case("cloudflare-413", 413, b"<html>\r\n<head><title>413 Payload Too Large</title></head></html>", "too_large",
         ROW),
    Case("nginx-413", 413, NGINX_413, "too_large", ROW),
    Case("groq-413", 413,
         openai("Request too large for model `m` in organization `org_1` on tokens per minute (TPM): "
         "Limit 6000, Requested 9000", "tokens", "rate_limit_exceeded"), "too_large", ROW),
    Case("openai-429-too-large", 429,
         openai("Request too large for gpt-4o in organization org-a on tokens per min (TPM): Limit 30000, Requested 4.",
         "tokens", "rate_limit_exceeded"), "too_large", ROW),
]
MODEL = [
    Case("oxen-none", 400, {"error": {"message": "You must specify a model to call"}}, "not_found", FATAL),
    Case("oxen-400", 400, {"error": {"message": "Model not found: gpt-99"}}, "not_found", FATAL),
    Case("oxen-404", 404, {"error": {"message": "Model not found: gpt-99"}}, "not_found", FATAL),
    Case("openai", 404, openai("The model `gpt-99` does not exist or you do not have access to it.",
         code="model_not_found"), "not_found", FATAL),
    Case("openai-403", 403, openai("Project `proj_a` does not have access to model `gpt-99`", code="model_not_found"),
         "not_found", FATAL),
    Case("openrouter", 400, router(400, "gpt-99 is not a valid model ID"), "not_found", FATAL),
    Case("mistral", 400, {"object": "error", "message": "Invalid model: gpt-99", "type": "invalid_model", "param":
         None, "code": "1500"}, "not_found", FATAL),
    Case("ollama", 404, openai("model 'gpt-99' not found", "not_found_error"), "not_found", FATAL),
    Case("vllm", 404, {"object": "error", "message": "The model `gpt-99` does not exist.", "type": "NotFoundError",
         "param": None, "code": 404}, "not_found", FATAL),
    Case("azure", 404, {"error": {"code": "DeploymentNotFound", "message":
         "The API deployment for this resource does not exist."}}, "not_found", FATAL),
    Case("groq", 400, openai("The model `old` has been decommissioned and is no longer supported.",
         code="model_decommissioned"), "not_found", FATAL),
    Case("deepseek", 400, openai("Model Not Exist"), "not_found", FATAL),
    Case("route", 404, b"<html>\r\n<head><title>404 Not Found</title></head></html>", "not_found", FATAL),
    Case("text", 400, b"Model not found: gpt-99", "bad_request", ROW),
    Case("route-text", 404, b"404 page not found", "not_found", FATAL),
    Case("route-fastapi", 404, {"detail": "Not Found"}, "not_found", FATAL, "Not Found"),
    Case("openrouter-retryable", 404, available(404, "No provider is available now", retryable=True, retry_after=12),
         "server", RETRY, hint_s=12.0),
    Case("openrouter-not-retryable", 404, available(404, "No endpoints found that support image input",
         retryable=False, retry_after=12), "not_found", FATAL, hint_s=12.0),
    *(Case(f"wrong-way-{status}", status, {"detail": "Method Not Allowed"}, "not_found", FATAL) for status in (405,
         406, 415, 426)),
    *(Case(f"redirect-{status}", status, b"", "not_found", FATAL, "the base URL redirects to https://b.test/v1;",
         headers={"location": "https://b.test/v1"}) for status in (301, 302, 303, 307, 308)),
]
KEY = [
    Case("oxen", 401, oxen("unauthenticated", "You must be authenticated to perform this action."), "auth", FATAL),
    Case("openai", 401, openai("Incorrect API key provided: sk-a***z.", code="invalid_api_key"), "auth", FATAL),
    Case("anthropic", 401, anthropic("authentication_error", "invalid x-api-key"), "auth", FATAL,
         request_id="req_011CSHoEeqs5C35K2UUqR7Fy"),
    Case("nothing", 401, b"", "auth", FATAL, "no message"),
    Case("page", 401, PAGE, "auth", FATAL),
    Case("wait-hint", 401, {"error": {"message": "no"}}, "auth", FATAL, hint_s=1.0, headers={"retry-after": "1"}),
    Case("gemini", 400, GEMINI_KEY, "auth", FATAL, "API key not valid."),
    Case("gemini-words-alone", 400, gemini(400, "INVALID_ARGUMENT",
         "API key not valid. Please pass a valid API key."), "auth", FATAL),
    Case("gemini-reason-alone", 400, gemini(400, "INVALID_ARGUMENT", "No.", {"reason": "API_KEY_INVALID"}), "auth",
         FATAL),
    Case("gemini-location", 400, gemini(400, "FAILED_PRECONDITION",
         "User location is not supported for the API use."), "auth", FATAL),
    Case("xai", 400, {"code": "Client specified an invalid argument", "error":
         "Incorrect API key provided: xa***. You can obtain an API key from https://console.x.ai."}, "auth", FATAL),
    Case("anthropic-403", 403, anthropic("permission_error",
         "Your API key does not have permission to use the specified resource."), "auth", FATAL,
         request_id="req_011CSHoEeqs5C35K2UUqR7Fy"),
    Case("openai-region", 403, openai("Country, region, or territory not supported", "request_forbidden",
         "unsupported_country_region_territory"), "auth", FATAL),
    Case("gemini-403", 403, gemini(403, "PERMISSION_DENIED", "You don't have permission to access this."), "auth",
         FATAL),
    Case("gemini-403-blocked", 403, GEMINI_BLOCKED_KEY, "auth", FATAL),
    Case("azure-principal", 403, {"error": {"code": "PermissionDenied", "message":
         "Principal does not have access to API/Operation."}}, "auth", FATAL),
    Case("azure-network", 403, {"error": {"code": "403", "message":
         "Access denied due to Virtual Network/Firewall rules."}}, "auth", FATAL),
    Case("openrouter-key", 403, router(403, "Your key lacks the permission to call this model"), "auth", FATAL),
    Case("groq-model", 403, openai("The model `m` is blocked at the organization level.", "permissions_error",
         "model_permission_blocked_org"), "auth", FATAL),
    Case("xai-403", 403, {"code": "Some word", "error": "The caller does not have permission to do this."}, "auth",
         FATAL),
    Case("region-in-words", 403, {"detail": "Country, region, or territory not supported"}, "auth", FATAL),
    Case("key-in-words", 403, {"detail": "This API key is not allowed to use chat."}, "auth", FATAL),
    Case("model-in-words", 403, oxen("forbidden", "You may not use this model."), "auth", FATAL),
    Case("content-in-words", 403, oxen("forbidden", "You may not ask for this."), "bad_request", ROW),
    Case("word-that-is-none", 403, openai("No.", code="(page)"), "bad_request", ROW),
    Case("json-403-unknown", 403, {"error": {"message": "Something about row 3 is not right."}}, "bad_request", ROW),
    Case("json-403-forbidden", 403, {"detail": "Forbidden"}, "bad_request", ROW, "Forbidden"),
    Case("json-403-empty", 403, {}, "bad_request", ROW, "{}"),
    Case("cloudflare-403", 403, PAGE, "server", RETRY, "<!DOCTYPE html>"),
    Case("cloudflare-403-text", 403, b"error code: 1020", "server", RETRY),
    Case("string-403", 403, "Forbidden", "server", RETRY),
    Case("empty-403", 403, b"", "server", RETRY),
    Case("openrouter-403-retryable", 403, available(403, "Guardrail is not ready", retryable=True), "server", RETRY),
]
MONEY = [
    Case("oxen", 402, oxen("insufficient_credits", "You have run out of credits."), "credits", FATAL),
    Case("oxen-behind-proxy", 402, oxen("insufficient_credits", "You have run out of credits."), "credits", FATAL,
         hint_s=5.0, headers={"retry-after": "5"}),
    Case("together", 402, openai("Credit limit exceeded, please navigate to billing.", "credit_limit"), "credits",
         FATAL),
    Case("mistral", 402, {"detail": "Payment required: the monthly spend limit is reached."}, "credits", FATAL),
    Case("deepseek", 402, openai("Insufficient Balance", "unknown_error", "invalid_request_error"), "credits", FATAL),
    Case("fireworks", 412, {"error": {"message":
         "Account a is suspended, possibly due to reaching the monthly spending limit.", "object": "error", "type":
         "invalid_request_error", "code": "PRECONDITION_FAILED"}}, "credits", FATAL),
    Case("anthropic", 402, anthropic("billing_error", "There is a problem with your billing."), "credits", FATAL,
         request_id="req_011CSHoEeqs5C35K2UUqR7Fy"),
    Case("anthropic-low", 400, anthropic("invalid_request_error", "Your credit balance is too low to access the "
         "Anthropic API. Please go to Plans & Billing to upgrade or purchase credits."), "credits", FATAL,
         request_id="req_011CSHoEeqs5C35K2UUqR7Fy"),
    Case("anthropic-limits", 400, anthropic("invalid_request_error",
         "You have reached your specified API usage limits. You will regain access on 2026-11-01 at 00:00 UTC."),
         "credits", FATAL, request_id="req_011CSHoEeqs5C35K2UUqR7Fy"),
    *(Case(f"anthropic-spend-{number}", 400, anthropic("invalid_request_error", sentence), "credits", FATAL,
         request_id="req_011CSHoEeqs5C35K2UUqR7Fy") for number, sentence in enumerate(("spend limit reached",
         "Your organization's monthly spend limit has been reached.", "Workspace spend limit exceeded"))),
    Case("anthropic-enforced", 429, {"type": "error", "error": {"type": "rate_limit_error", "message": "Spend limit.",
         "code": "enforced_spend_limit_reached"}}, "credits", FATAL, hint_s=30.0, headers={"retry-after": "30"}),
    *(Case(f"openai-{code}", 429,
         openai("You exceeded your current quota, please check your plan and billing details.", "insufficient_quota",
         code), "credits", FATAL) for code in ("insufficient_quota", "credit_balance_exhausted",
         "organization_spend_limit_exceeded", "project_spend_limit_exceeded", "organization_usage_limit_exceeded")),
    Case("openai-by-code-alone", 429, openai("No more.", "requests", "project_spend_limit_exceeded"), "credits",
         FATAL),
    Case("openai-by-type-alone", 429, openai("No more.", "insufficient_quota", None), "credits", FATAL),
    Case("openrouter-availability", 429, {"error": {"message": "No.", "availability": {"code": "insufficient_quota"}}},
         "credits", FATAL),
    Case("spend-limit-settings", 400, openai("Spend limit settings are not a number"), "bad_request", ROW),
    Case("litellm-budget", 429, openai("Budget has been exceeded! Current cost: 12.1, Max budget: 10.0",
         "budget_exceeded", "429"), "credits", FATAL, "Budget has been exceeded!"),
    Case("moonshot", 429, openai("Your account is suspended, please check your plan and billing details",
         "exceeded_current_quota_error"), "credits", FATAL),
    Case("openrouter-credits", 402, router(402,
         "This request requires more credits, or fewer max_tokens. You requested "
         "up to 64000 tokens, but can only afford 30104.", limit_source="openrouter_credits"), "credits", FATAL),
    Case("openrouter-afford", 402, router(402,
         "This request requires more credits, or fewer max_tokens. You requested up "
         "to 64000 tokens, but can only afford 30104."), "credits", FATAL),
    Case("openrouter-weight", 402, router(402, "No.", limit_source="openrouter_credits",
         error_type="weight_exceeds_budget"), "credits", FATAL),
    Case("openrouter-key-limit", 402, router(402, "Key limit exceeded", limit_source="openrouter_key_limit"),
         "credits", FATAL),
    Case("openrouter-in-flight", 402, router(402, "Too many paid requests",
         limit_source="openrouter_in_flight_budget"), "rate_limit", CUT, hint_s=2.0, headers={"retry-after": "2"}),
    Case("openrouter-in-flight-no-header", 402, router(402, "Too many paid requests",
         limit_source="openrouter_in_flight_budget"), "rate_limit", CUT),
    Case("402-with-header", 402, {"error": {"message": "Wait."}}, "rate_limit", CUT, hint_s=2.0,
         headers={"retry-after": "2"}),
    Case("402-with-availability", 402, available(402, "Wait.", retry_after=3), "rate_limit", CUT, hint_s=3.0),
    Case("402-not-retryable", 402, available(402, "No.", retryable=False, retry_after=3), "credits", FATAL,
         hint_s=3.0),
    Case("openrouter-403-budget", 403, {"error": {"code": 403, "message": "Budget limit exceeded (monthly).",
         "metadata": {"resets_at": "2026-11-01T00:00:00Z"}}}, "credits", FATAL),
    Case("openrouter-403-key", 403, router(403,
         "Key limit exceeded (total limit). Manage it using https://o.test/keys"), "credits", FATAL),
    Case("azure-apim-403", 403, {"statusCode": 403, "message":
         "Out of call volume quota. Quota will be replenished in 02:12:34."}, "credits", FATAL),
    Case("gemini-no-quota", 429, GEMINI_NOTHING, "credits", FATAL, "You exceeded your current quota", hint_s=28.0),
    Case("gemini-no-quota-older", 429, GEMINI_NOTHING_OLDER, "credits", FATAL),
    Case("gemini-402", 402, gemini(402, "FAILED_PRECONDITION", "Billing is not enabled."), "credits", FATAL),
]
LIMITS = [
    Case("openai", 429, openai(OPENAI_MINUTE, "tokens", "rate_limit_exceeded"), "rate_limit", CUT, hint_s=1.2),
    Case("openai-slow-down", 429, openai("Slow down.", "requests", "slow_down"), "rate_limit", CUT),
    Case("openai-ms", 429, openai("Rate limit reached. Please try again in 12ms.", "requests", "rate_limit_exceeded"),
         "rate_limit", CUT, hint_s=0.012),
    Case("openai-header-first", 429, openai(OPENAI_MINUTE, "tokens", "rate_limit_exceeded"), "rate_limit", CUT,
         hint_s=0.25, headers={"retry-after-ms": "250", "retry-after": "1"}, request_id=None),
    Case("oxen", 429, {"error": {"message": "Rate limit exceeded", "type": "rate_limit_exceeded"}}, "rate_limit",
         CUT),
    Case("azure", 429, {"error": {"code": "RateLimitReached", "message":
         "Rate limit of 300000 per 60s exceeded for tokens. Please wait 23 seconds before retrying."}}, "rate_limit",
         CUT, hint_s=23.0),
    Case("azure-top-level", 429, {"code": "RateLimitReached", "message":
         "Too many requests. Please retry after 37 seconds."}, "rate_limit", CUT, "Too many requests.", hint_s=37.0),
    Case("azure-apim", 429, {"statusCode": 429, "message": "Rate limit is exceeded. Try again in 6 seconds."},
         "rate_limit", CUT, hint_s=6.0),
    Case("anthropic", 429, anthropic("rate_limit_error", "This request would exceed your organization's rate limit."),
         "rate_limit", CUT, hint_s=17.0, headers={"retry-after": "17", "request-id": "r2"}, request_id="r2"),
    Case("groq-minute", 429, openai(GROQ_MINUTE, "tokens", "rate_limit_exceeded"), "rate_limit", CUT, hint_s=86.4),
    Case("groq-498", 498, openai("Flex tier capacity exceeded", "capacity_exceeded", "capacity_exceeded"),
         "rate_limit", CUT),
    Case("openrouter", 429, router(429, "Rate limited", error_type="rate_limit_exceeded", provider_code="429",
         retry_after=4), "rate_limit", CUT, hint_s=4.0, headers={"x-generation-id": "gen-1"}, request_id="gen-1"),
    Case("openrouter-newer", 429, available(429, "Rate limited", retryable=True, retry_after=9), "rate_limit", CUT,
         hint_s=9.0),
    Case("openrouter-not-retryable", 429, available(429, "No.", retryable=False, retry_after=9), "bad_request", ROW,
         hint_s=9.0),
    Case("gemini-minute", 429, GEMINI_MINUTE, "rate_limit", CUT, hint_s=41.0),
    Case("mistral", 429, {"object": "error", "message": "Rate limit exceeded", "type": "rate_limited", "param": None,
         "code": "1300", "raw_status_code": 429}, "rate_limit", CUT),
    Case("mistral-capacity", 429, {"object": "error", "message": "Service tier capacity exceeded for this model.",
         "type": "service_tier_capacity_exceeded", "param": None, "code": "3505"}, "rate_limit", CUT),
    Case("deepseek", 429, b"", "rate_limit", CUT),
    Case("nginx", 429, b"<html><head><title>429 Too Many Requests</title></head></html>", "rate_limit", CUT),
    Case("date", 429, b"", "rate_limit", CUT, hint_s=90.0, headers={"retry-after": formatdate(NOW + 90,
         usegmt=True)}),
    Case("days", 429, b"", "rate_limit", CUT, hint_s=3_600.0, headers={"retry-after": "86400"}),
    Case("too-early", 425, b"", "rate_limit", CUT),
]
WAITS = [
    Case("llama.cpp", 503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}},
         "unavailable", HOLD, "Loading model"),
    Case("llama.cpp-hint", 503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}},
         "unavailable", HOLD, hint_s=5.0, headers={"retry-after": "5"}),
    Case("llama.cpp-older", 503, {"error": "Loading model"}, "unavailable", HOLD),
    Case("hugging-face", 503, {"error": "Model a/b is currently loading", "estimated_time": 20.0}, "unavailable",
         HOLD),
    Case("gemini-day", 429, GEMINI_DAY, "unavailable", HOLD, hint_s=37_025.723541104),
    Case("gemini-day-in-words", 429, GEMINI_DAY_IN_WORDS, "unavailable", HOLD, hint_s=37_025.723541104),
    Case("gemini-quota-exceeded", 429, openai("The daily quota is used up.", None, "quota_exceeded"), "unavailable",
         HOLD),
    Case("groq-day", 429, openai(GROQ_DAY, "requests", "rate_limit_exceeded"), "unavailable", HOLD, hint_s=86.4),
    Case("groq-day-tokens", 429, openai(GROQ_DAY.replace("requests per day (RPD)", "tokens per day (TPD)"), "tokens",
         "rate_limit_exceeded"), "unavailable", HOLD, hint_s=8_640.0, headers={"retry-after": "8640"}),
    Case("openai-day", 429, openai(OPENAI_DAY, "requests", "rate_limit_exceeded"), "unavailable", HOLD, hint_s=8.64),
    Case("openrouter-day", 429, FREE_MODELS, "unavailable", HOLD, hint_s=5 * 3_600.0),
    Case("days", 429, openai(OPENAI_DAY, "requests"), "unavailable", HOLD, hint_s=2 * DAY_S, headers={"retry-after":
         f"{2 * DAY_S:g}"}),
    Case("a-month", 429, openai(OPENAI_DAY, "requests"), "unavailable", HOLD, hint_s=7 * DAY_S,
         headers={"retry-after": f"{30 * DAY_S:g}"}),
]
SERVERS = [
    *(Case(f"json-{status}", status, openai("The server had an error.", "server_error"), "server", RETRY) for status
         in (500, 502, 503, 504, 520, 521, 522, 523, 524, 529)),
    *(Case(f"html-{status}", status, b"<html><head><title>Bad gateway</title></head></html>", "server", RETRY) for
         status in (500, 502, 503, 504, 520, 524)),
    *(Case(f"envoy-{status}", status, ENVOY, "server", RETRY, "upstream connect error") for status in (502, 503)),
    *(Case(f"empty-{status}", status, b"", "server", RETRY, "no message") for status in (500, 502, 503, 504)),
    *(Case(f"hint-{status}", status, b"", "server", CUT, hint_s=3.0, headers={"retry-after": "3"}) for status in (503,
         529)),
    *(Case(f"hint-{status}", status, b"", "server", RETRY, hint_s=3.0, headers={"retry-after": "3"}) for status in
         (500, 502, 504)),
    Case("oxen", 502, {"error": {"type": "upstream", "title": "The model provider returned an error."}, "status":
         502}, "server", RETRY, "The model provider returned an error."),
    Case("together-503", 503, openai("The service is overloaded.", "service_unavailable"), "server", RETRY),
    Case("gemini-503", 503, gemini(503, "UNAVAILABLE", "The model is overloaded. Please try again later."), "server",
         RETRY),
    Case("anthropic", 529, anthropic("overloaded_error", "Overloaded"), "server", RETRY,
         request_id="req_011CSHoEeqs5C35K2UUqR7Fy"),
    Case("openrouter-503", 503, available(503, "No provider", retryable=True, retry_after=2), "server", CUT,
         hint_s=2.0),
    Case("openrouter-503-not-retryable", 503, available(503, "No provider fits", retryable=False), "bad_request",
         ROW),
    Case("timeout", 408, router(408, "The request timed out"), "timeout", RETRY),
    Case("timeout-empty", 408, b"", "timeout", RETRY),
    Case("conflict", 409, openai("Lock timeout", "conflict"), "server", RETRY),
    Case("dependency", 424, {"error": "Request failed during generation", "error_type": "generation"}, "server",
         RETRY),
    Case("client-closed", 499, b"", "server", RETRY),
]
INSIDE_200 = [
    Case("openrouter", 200, router(429, "Rate limited"), "rate_limit", CUT),
    Case("openrouter-word", 200, {"error": {"code": "server_error", "message": "x"}}, "server", RETRY),
    Case("openrouter-http-status", 200, available(402, "No credits"), "credits", FATAL),
    Case("null", 200, {"error": None, "choices": None}, "empty_reply", RETRY),
    Case("no-choices", 200, {"id": "r"}, "empty_reply", RETRY),
    Case("choice", 200, {"choices": [{"message": {"content": "par"}, "finish_reason": "error", "error": {"code": 502,
         "message": "Provider disconnected"}}]}, "server", RETRY, "Provider disconnected"),
    Case("nested", 200, {"provider": {"choices": [{"message": {"content": "x"}}]}}, "empty_reply", RETRY),
    Case("vertex", 200, {"choices": [{"finish_reason": "stop", "index": 0}], "usage": {"prompt_tokens": 3}},
         "empty_reply", RETRY),
    Case("html", 200, b"<html>Welcome to the hotel</html>", "protocol", RETRY),
    Case("empty", 200, b"", "protocol", RETRY),
    Case("truncated", 200, b'{"choices":[{"message":{"content":"par', "protocol", RETRY),
    Case("oxen-credits", 200, oxen("insufficient_credits", "You have run out of credits."), "credits", FATAL),
    Case("gemini-day", 200, GEMINI_DAY, "unavailable", HOLD, hint_s=37_025.723541104),
    Case("llama.cpp", 200, {"error": {"message": "Loading model", "type": "unavailable_error"}}, "unavailable", HOLD),
    Case("permission", 200, anthropic("permission_error", "no"), "auth", FATAL,
         request_id="req_011CSHoEeqs5C35K2UUqR7Fy"),
]
SHAPES_OF_A_BODY = [
    Case("code-int", 400, openai("m", code=7), "bad_request", ROW, "m"),
    Case("code-null", 400, openai("m", None, None), "bad_request", ROW, "m"),
    Case("message-list", 400, {"error": {"message": ["one", "two"]}}, "bad_request", ROW, "one two"),
    Case("string", 400, {"error": "m"}, "bad_request", ROW, "m"),
    Case("oxen", 400, oxen("invalid_params", "t", "d"), "bad_request", ROW, "t d"),
    Case("oxen-file", 400, {"status": "error", "status_message": "invalid_file_input"}, "media", ROW,
         "invalid_file_input"),
    Case("top-level", 400, {"object": "error", "message": "m", "type": "BadRequestError", "param": None, "code": 400},
         "bad_request", ROW, "m"),
    Case("vllm-new", 400, {"error": {"message": "m", "type": "BadRequestError", "param": None, "code": 400}},
         "bad_request", ROW, "m"),
    Case("detail", 400, {"detail": "m"}, "bad_request", ROW, "m"),
    Case("detail-object", 400, {"detail": {"message": "m"}}, "bad_request", ROW, "m"),
    Case("detail-list", 422, {"detail": [{"loc": ["a"], "msg": "m"}, {"loc": ["b", 1], "msg": "n"}]}, "bad_request",
         ROW, "a: m; b.1: n"),
    Case("message", 400, {"message": "m"}, "bad_request", ROW, "m"),
    Case("code-message", 400, {"code": "x", "message": "m"}, "bad_request", ROW, "m"),
    Case("array", 400, gemini(400, "INVALID_ARGUMENT", "m"), "bad_request", ROW, "m"),
    Case("errors", 400, {"errors": [{"message": "m"}]}, "bad_request", ROW, "m"),
    Case("description", 400, {"error": {"description": "m"}}, "bad_request", ROW, "m"),
    Case("anthropic", 400, anthropic("invalid_request_error", "m"), "bad_request", ROW, "m",
         request_id="req_011CSHoEeqs5C35K2UUqR7Fy"),
    Case("html", 400, b"<html> m</html>", "bad_request", ROW, "<html> m</html>"),
    Case("text", 400, b"m", "bad_request", ROW, "m"),
    Case("empty", 400, b"", "bad_request", ROW, "no message"),
    Case("invalid-bytes", 400, b"\xff\xfe{", "bad_request", ROW),
    Case("detail-list-message", 422, {"detail": [{"message": "m"}]}, "bad_request", ROW, '[{"message":"m"}]'),
    Case("detail-error", 429, {"detail": {"error": {"message": "m", "code": "x"}}}, "rate_limit", CUT, "m"),
    Case("error-list", 400, {"error": [{"message": "m", "code": "x"}]}, "bad_request", ROW, "m"),
    Case("errors-success", 400, {"success": False, "errors": [{"code": 5, "message": "m"}]}, "bad_request", ROW, "m"),
    Case("not-an-object", 500, b"[3]", "server", RETRY, "[3]"),
    Case("nul", 500, b"\xff\x00", "server", RETRY, "\ufffd\0"),
    Case("empty-object", 409, b"{}", "server", RETRY, "{}"),
]
# fmt: on
SENTENCES_ABOUT_MODELS = [
    Case(name, status, openai(message), "not_found", FATAL, message)
    for status in (400, 404)
    for name, message in {
        "mistral": "Invalid model 'gpt-99'. Permitted models can be found in the documentation.",
        "litellm": "litellm.NotFoundError: OpenAIException - The model `gpt-99` does not exist",
        "litellm-dict": "{'error': '/chat/completions: Invalid model name passed in model=gpt-99. Call `/v1/models`'}",
        "ollama": "model 'gpt-99' not found, try pulling it first",
        "ollama-old": 'model "gpt-99" not found',
        "openai": "The model `gpt-99` does not exist or you do not have access to it.",
        "openrouter": "gpt-99 is not a valid model ID",
        "oxen": "You must specify a model to call",
    }.items()
]
SENTENCES_ABOUT_CONTEXT = [
    Case(name, status, openai(message), "context_length", ROW, message)
    for status in (400, 403, 422)
    for name, message in {
        "vllm-quoted": "'max_tokens' is too large: 9000. This model's maximum context length is 8192 tokens and your",
        "vllm": "max_tokens is too large: 9000. This model's maximum context length is 8192 tokens",
        "openrouter": "This endpoint's maximum context length is 131072 tokens. However, you requested about 140000",
        "sglang": "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
        "sglang-requested": "Requested token count exceeds the model's maximum context length of 8192 tokens.",
        "mistral": "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context"
        " length",
        "anthropic": "prompt is too long: 210000 tokens > 200000 maximum",
        "anthropic-output": "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease",
        "litellm": "litellm.ContextWindowExceededError: BadRequestError: This model's maximum context length is 8192",
        "gemini": "The input token count (40000) exceeds the maximum number of tokens allowed (32768).",
        "tgi": "`inputs` tokens + `max_new_tokens` must be <= 4097",
    }.items()
]
WORDS_INSIDE_200 = [
    Case("-".join(str(value) for value in error.values()), 200, {"error": {"message": "no", **error}}, kind, expected)
    for error, kind, expected in (
        ({"code": "429"}, "rate_limit", CUT),
        ({"code": 99}, "server", RETRY),
        ({"code": None}, "server", RETRY),
        ({"type": "insufficient_credits"}, "credits", FATAL),
        ({"type": "rate_limit_error", "code": "enforced_spend_limit_reached"}, "credits", FATAL),
        ({"type": "invalid_request_error", "code": "invalid_api_key"}, "auth", FATAL),
        ({"type": "authentication_error"}, "auth", FATAL),
        ({"type": "resource_not_found"}, "not_found", FATAL),
        ({"type": "invalid_request_error", "code": "model_not_found"}, "not_found", FATAL),
        ({"type": "invalid_request_error", "code": "context_length_exceeded"}, "context_length", ROW),
        ({"type": "invalid_request_error", "code": "content_filter"}, "content_filter", ROW),
        ({"type": "BadRequestError"}, "bad_request", ROW),
        ({"type": "rate_limit_error"}, "rate_limit", CUT),
        ({"status": "RESOURCE_EXHAUSTED"}, "rate_limit", CUT),
        ({"type": "overloaded_error"}, "server", RETRY),
        ({"type": "api_error"}, "server", RETRY),
        ({"status": 503}, "server", RETRY),
        ({"metadata": {"reasons": ["violence"]}}, "content_filter", ROW),
    )
]
TABLE = {
    f"{name}/{case.status}-{case.name}": case
    for name, cases in {
        "context": CONTEXT,
        "content": CONTENT,
        "request": REQUEST,
        "model": MODEL,
        "key": KEY,
        "money": MONEY,
        "limits": LIMITS,
        "waits": WAITS,
        "servers": SERVERS,
        "inside-200": INSIDE_200,
        "shapes": SHAPES_OF_A_BODY,
        "sentences-about-models": SENTENCES_ABOUT_MODELS,
        "sentences-about-context": SENTENCES_ABOUT_CONTEXT,
        "words-inside-200": WORDS_INSIDE_200,
    }.items()
    for case in cases
}


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE)
def test_failure_is_what_the_table_says(case: Case) -> None:
    """Each reply gives its kind and verdict, the provider's words, the wait that it asks for, and its request id."""
    failure = read(case.status, case.body, case.headers)
    assert (failure.kind, verdict(failure)) == (case.kind, case.expected)
    assert failure.message.startswith(case.says)
    assert failure.retry_after_s == (None if case.hint_s is None else pytest.approx(case.hint_s))
    assert failure.request_id == case.request_id


# The echo


SENTENCES = (
    "429 Too Many Requests",
    "rate limit exceeded, please try again in 20s",
    "insufficient_quota",
    "You exceeded your current quota, please check your plan and billing details.",
    "model not found",
    "Model not found: gpt-99",
    "You must specify a model to call",
    "The model `x` does not exist",
    "gpt-99 is not a valid model ID",
    "Invalid model: gpt-99",
    "model 'x' not found",
    "invalid api key",
    "API key not valid. Please pass a valid API key.",
    "Incorrect API key provided: sk-1",
    "maximum context length is 8192 tokens",
    "This model's maximum context length is 8192 tokens.",
    "the request exceeds the available context size",
    "prompt is too long: 9 tokens > 8 maximum",
    "Your credit balance is too low to access the API",
    "spend limit reached",
    "Budget limit exceeded",
    "Access denied",
    "content_filter",
    "Your request was blocked",
    "tool_use_failed",
    "Loading model",
    "Request too large for gpt-4o",
    '{"error": {"code": "insufficient_quota", "type": "insufficient_quota", "message": "Model not found: x"}}',
    '{"type": "error", "error": {"type": "authentication_error"}, "availability": {"retryable": true}}',
)
"""What a prompt may hold: the very words that mean something when a provider says them."""

QUOTINGS: tuple[Callable[[str], str], ...] = (
    "Invalid value: '{}'.".format,
    'Could not parse "{}"'.format,
    "'{}' is not one of ['user', 'assistant']".format,
    '"{}" is too long'.format,
    "`{}` is not valid".format,
    "\u201c{}\u201d cannot be used".format,
    "Invalid input: {}".format,
    "ValidationError: {}".format,
    "1 validation error for Chat\nmessages.0.content\n  Input should be valid [input_value='{}']".format,
    lambda prompt: f"Failed to parse the body: {json.dumps({'role': 'user', 'content': prompt})}",
    lambda prompt: json.dumps({"messages": [{"role": "user", "content": prompt}]}),
    lambda prompt: f"[{{'role': 'user', 'content': {prompt!r}}}] is not valid",
)
"""How providers repeat a prompt."""

BODIES: Mapping[str, Callable[[str], Any]] = {
    "openai": openai,
    "bare": lambda message: {"error": {"message": message}},
    "list": lambda message: {"error": {"message": [message, message]}},
    "string": lambda message: {"error": message},
    "oxen": lambda message: oxen("invalid_params", "Invalid parameters.", message),
    "oxen-title": lambda message: oxen("invalid_params", message),
    "top-level": lambda message: {"object": "error", "message": message, "type": "BadRequestError", "code": 400},
    "message-object": lambda message: {"object": "error", "message": {"detail": [{"loc": ["body"], "msg": message}]}},
    "detail": lambda message: {"detail": message},
    "detail-list": lambda message: {"detail": [{"loc": ["body"], "msg": "bad", "input": message}]},
    "detail-raw": lambda message: {"detail": [{"input": message, "ctx": {"error": message}}]},
    "message": lambda message: {"code": 400, "message": message},
    "gemini": lambda message: gemini(400, "INVALID_ARGUMENT", message),
    "anthropic": lambda message: anthropic("invalid_request_error", message),
    "openrouter": lambda message: router(400, "Provider returned error", raw=message, provider_name="x"),
    "openrouter-json": lambda message: router(400, "Provider returned error", raw=json.dumps(openai(message))),
    "param": lambda message: openai("Invalid value", param=message),
    "beside": lambda message: {"error": {"message": "Invalid value"}, "body": {"prompt": message}},
    "text": lambda message: message.encode(),
    "html": lambda message: f"<html><body>{message}</body></html>".encode(),
}


@pytest.mark.parametrize("shape", BODIES)
@pytest.mark.parametrize("status", [400, 422])
def test_echoed_prompt_changes_nothing(shape: str, status: int) -> None:
    """However a provider repeats a prompt in its refusal, and whatever the prompt says, it is the row's refusal."""
    for sentence in SENTENCES:
        for quoted in QUOTINGS:
            failure = read(status, BODIES[shape](quoted(sentence)))
            assert (failure.kind, verdict(failure), failure.retry_after_s) == ("bad_request", ROW, None), (
                failure.message
            )


@pytest.mark.parametrize("shape", BODIES)
def test_echoed_prompt_in_a_rate_limit_changes_nothing(shape: str) -> None:
    """A 429 whose message repeats a prompt about money, models and days is still a matter of pace."""
    for sentence in (*SENTENCES, GEMINI_METRIC + "x, limit: 0, model: y", GROQ_DAY):
        for quoted in QUOTINGS:
            failure = read(429, BODIES[shape](quoted(sentence)))
            assert (failure.kind, verdict(failure)) == ("rate_limit", CUT), failure.message


@pytest.mark.parametrize("shape", [name for name in BODIES if name not in ("text", "html")])
def test_echoed_prompt_in_an_unknown_403_changes_nothing(shape: str) -> None:
    """What an unknown 403 repeats stops no job."""
    for sentence in SENTENCES:
        for quoted in QUOTINGS:
            failure = read(403, BODIES[shape](quoted(sentence)))
            assert (failure.kind, verdict(failure)) == ("bad_request", ROW), failure.message


def test_echoed_lines_of_a_quota_change_nothing() -> None:
    """Lines like those of Gemini mean what they say only beside its own word for an error of a quota."""
    lines = f"Too fast. You said:\n{GEMINI_METRIC}x, limit: 0\n{GEMINI_METRIC}x_per_day, limit: 5"
    assert read(429, openai(lines)).kind == "rate_limit"
    assert read(429, gemini(429, "RESOURCE_EXHAUSTED", lines)).kind == "credits"


def test_code_beside_an_echo_still_decides() -> None:
    """The structured word of the same reply counts, whatever its message repeats."""
    for sentence in SENTENCES:
        message = f"Invalid value: '{sentence}'"
        assert read(400, openai(message, code="model_not_found")).kind == "not_found"
        assert read(400, openai(message, code="context_length_exceeded")).kind == "context_length"
        assert read(429, openai(message, code="insufficient_quota")).kind == "credits"


ALL_WORDS = sorted(
    word
    for words in (
        errorwords.MONEY_CODES,
        errorwords.IN_FLIGHT_CODES,
        errorwords.MODEL_CODES,
        errorwords.CONTENT_CODES,
        errorwords.CONTEXT_CODES,
        errorwords.SAMPLING_CODES,
        errorwords.DAILY_CODES,
        errorwords.LOADING_CODES,
        errorwords.PERMISSION_CODES,
    )
    for word in words
)
STATUSES = st.sampled_from([400, 401, 402, 403, 404, 408, 409, 412, 413, 422, 425, 429, 498, 500, 502, 503, 529, 200])


@given(
    STATUSES, st.sampled_from(ALL_WORDS), st.sampled_from(sorted(BODIES)), st.text(max_size=40), st.text(max_size=40)
)
def test_word_in_a_message_never_changes_the_verdict(
    status: int, word: str, shape: str, before: str, after: str
) -> None:
    """A code counts where a code stands; in the middle of a sentence it is a word like any other."""
    found = read(status, BODIES[shape](f"said: {before}{word}{after}"))
    plain = read(status, BODIES[shape]("said: nothing"))
    assert (found.kind, verdict(found)) == (plain.kind, verdict(plain))


@given(
    st.sampled_from([400, 403, 404, 422, 429, 503]),
    st.sampled_from(SENTENCES),
    st.sampled_from(sorted(BODIES)),
    st.text(st.characters(codec="utf-8", exclude_characters="'\"`\u201c\u201d\\[{"), max_size=20),
    st.sampled_from(["''", '""', "``", "\u201c\u201d"]),
)
def test_quoted_sentence_never_changes_the_verdict(
    status: int, sentence: str, shape: str, before: str, quotes: str
) -> None:
    """What a message quotes is somebody else's, at whatever place it stands."""
    found = read(status, BODIES[shape](f"{before} {quotes[0]}{sentence}{quotes[1]}"))
    plain = read(status, BODIES[shape](f"{before} {quotes[0]}nothing{quotes[1]}"))
    assert (found.kind, verdict(found), found.retry_after_s) == (plain.kind, verdict(plain), plain.retry_after_s)


@given(st.integers(400, 599), st.sampled_from(sorted(BODIES)), st.text(max_size=3_000))
def test_message_of_any_refusal_is_bounded(status: int, shape: str, message: str) -> None:
    """Whatever is said in whatever shape, something readable of at most two kilobytes is kept."""
    failure = read(status, BODIES[shape](message))
    assert 0 < len(failure.message.encode()) <= MAX_MESSAGE_BYTES
