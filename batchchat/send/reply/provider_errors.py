"""The words and sentences by which providers say what went wrong: data alone, which `failures.py` makes rules of.

Words are structured ones (codes, types), in lower case. Sentences are how a provider's own message begins; each is
anchored there and names what it must, because behind it, or in quotes, may stand the prompt.
"""

import re

PAGE = "(page)"
RETRYABLE = "(retryable)"
NOT_RETRYABLE = "(not retryable)"
HINTED = "(retry-after)"
NO_QUOTA = "(no quota)"
DAILY_QUOTA = "(daily quota)"
FILTERED = "(filtered)"
"""What a reply says by its structure instead of a word. No word that was read can be one of these: they have spaces or
brackets. In turn: it is no JSON; `availability.retryable` (OpenRouter); it names a time to wait; its quota is nothing
at all, or one for a day (Gemini); a moderation or content filter is named as the cause."""

MONEY_CODES = frozenset(
    {
        "insufficient_quota",
        "insufficient_credits",
        "insufficient_balance",
        "credit_balance_exhausted",
        "credit_balance_too_low",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "enforced_spend_limit_reached",
        "exceeded_current_quota_error",
        "billing_error",
        "billing_hard_limit_reached",
        "billing_not_active",
        "budget_exceeded",
        "payment_required",
        "openrouter_credits",
        "openrouter_key_limit",
        "weight_exceeds_budget",
        "arrearage",
    }
)
"""The account is empty, often with a 429: waiting does not help."""

IN_FLIGHT_CODES = frozenset({"openrouter_in_flight_budget"})
"""Too many paid requests at a time, with a 402: the account is not empty."""

MODEL_CODES = frozenset(
    {
        "model_not_found",
        "model_not_available",
        "model_decommissioned",
        "invalid_model",
        "unknown_model",
        "deploymentnotfound",
    }
)
FILE_CODES = frozenset(
    {
        *("invalid_file_input", "invalid_image", "invalid_image_url", "invalid_image_format", "invalid_base64_image"),
        *("image_too_large", "image_file_too_large", "image_too_small", "image_parse_error", "empty_image_file"),
        *("unsupported_image_media_type", "failed_to_download_image", "image_file_not_found"),
    }
)
"""A file or a link that the row names is at fault."""

CONTENT_CODES = frozenset(
    {
        "content_filter",
        "content_policy_violation",
        "responsibleaipolicyviolation",
        "invalid_prompt",
        "cyber_policy",
        "cyber_policy_violation",
        "moderation_blocked",
        "prompt_blocked",
        "data_inspection_failed",
        "datainspectionfailed",
        FILTERED,
    }
)
CONTEXT_CODES = frozenset(
    {"context_length_exceeded", "context_window_exceeded", "string_above_max_length", "exceed_context_size_error"}
)
SAMPLING_CODES = frozenset({"tool_use_failed", "json_validate_failed"})
"""What the model wrote this time was no call of a tool, or no JSON (Groq, with a 400)."""

DAILY_CODES = frozenset({"quota_exceeded", DAILY_QUOTA})
"""A quota is used up that comes back by itself."""

LOADING_CODES = frozenset({"unavailable_error"})
"""The server is there, and not ready for anybody (llama.cpp)."""

KEY_CODES = frozenset(
    {
        "api_key_invalid",
        "invalid_api_key",
        "authentication_error",
        "unauthenticated",
        "account_deactivated",
        "organization_restricted",
        "unsupported_country_region_territory",
    }
)
"""The key, or whose it is, is refused, with whatever status."""

PERMISSION_CODES = frozenset(
    {
        *KEY_CODES,
        "permission_error",
        "permissions_error",
        "permission_denied",
        "permissiondenied",
        "permissiondeniederror",
        "insufficient_permissions",
        "insufficient_scope",
        "access_denied",
        "accessdenied",
        "accessdeniedexception",
        "accessterminated",
        "access_terminated_error",
        "publicaccessdisabled",
        "authenticationtypedisabled",
        "not_authorized_invalid_key_type",
        "model_permission_blocked_org",
        "model_permission_blocked_project",
        "api_key_service_blocked",
        "api_key_ip_address_blocked",
        "api_key_http_referrer_blocked",
        "service_disabled",
        "consumer_suspended",
        "user_project_denied",
    }
)
"""The key may not do this, with a 403."""

_WRAPPED = (
    r"(?:litellm\.[A-Za-z]{1,60}: (?:(?:litellm\.)?[A-Za-z]{1,60}(?:Error: |Exception - ))*)?"
    r"(?:Provider returned error: )?"
)
"""What gateways (LiteLLM, OpenRouter) put before the sentence of the provider behind them."""
_NAME = r"[\w.:/@+~-]{1,200}"
_QUOTED_NAME = rf"[`'\"]?{_NAME}[`'\"]?"


def _begins(*forms: str) -> re.Pattern[str]:
    return re.compile(_WRAPPED + "(?:" + "|".join(forms) + ")", re.IGNORECASE)


MODEL_SENTENCE = _begins(
    rf"Model not found: {_NAME}$",
    r"You must specify a model to call\.?$",
    rf"The model {_QUOTED_NAME} (?:does not exist|has been (?:decommissioned|deprecated))|"
    rf"{_NAME} is not a valid model ID\.?$",
    rf"Invalid model:? {_QUOTED_NAME}(?:\.|$)",
    rf"model {_QUOTED_NAME} not found(?:,|\.|$)",
    r"Model Not Exist\.?$|"
    r"(?:\{'error': ')?/chat/completions: Invalid model name passed in model=",
)
KEY_SENTENCE = _begins(
    r"API key not valid\. Please pass a valid API key\b",
    r"API key expired\. Please renew the API key\b",
    r"Incorrect API key provided: \S",
    r"User location is not supported for the API use\b",
)
SPENT_SENTENCE = _begins(
    r"Your credit balance is too low to access\b",
    r"You have reached your specified (?:API |workspace )?(?:API )?usage limits?\b",
    r"(?:(?:Your|The) )?(?:organization|workspace|account|API)?(?:'s)? ?(?:monthly )?spend(?:ing)? limit "
    r"(?:has been |was |is )?(?:reached|exceeded)\b",
)
BUDGET_SENTENCE = _begins(
    r"(?:Budget|Key|Credit|Spend(?:ing)?) limit exceeded\b",
    r"Out of (?:call volume|bandwidth) quota\b",
    r"Your newly created teams? do(?:es)?n't have any credits\b",
)
PERMISSION_SENTENCE = _begins(
    r"(?:Access|Permission|RBAC: access) (?:is |was )?denied\b",
    r"(?:This |The |Your )?(?:API )?key (?:lacks|does not have|doesn't have|has no) (?:the )?(?:\w+ )?"
    r"(?:permissions?|access|scopes?)\b",
    r"(?:This |The |Your )?(?:API )?key is not (?:allowed|authorized|permitted)\b|"
    r"(?:You|The caller|The user|User|Principal) (?:do not|don't|does not|doesn't) have "
    r"(?:the )?(?:\w+ )?(?:permissions?|access)\b",
    r"(?:You|The user|User) (?:may not|are not (?:allowed|authorized|permitted) to|is not authorized to) "
    r"(?:use|access|invoke|perform)\b",
    rf"Project {_QUOTED_NAME} does not have access to model\b",
    r"Country, region, or territory not supported\b|"
    r"(?:Your |This )?(?:account|organization|user) (?:has been|is) "
    r"(?:suspended|restricted|deactivated|disabled)\b",
)
FILE_SENTENCE = _begins(r"(?:Failed to|Unable to|Could not|Error while|Timeout while) download")
FILTER_SENTENCE = _begins(
    r"Your request was (?:blocked|rejected|flagged)\b",
    r"Invalid prompt: your prompt was flagged\b",
    r"The response was filtered due to the prompt triggering\b",
)
SIZE_SENTENCE = _begins(r"Request too large for \S")

_THEIR_MODEL = r"(?:This|The|Your) (?:model|endpoint|deployment)'s"
_TOO_LARGE = r"(?:'max_tokens'|'max_completion_tokens'|max_tokens|max_completion_tokens)[^.\"{]{0,80}\d\. "
CONTEXT_SENTENCE = _begins(
    rf"(?:{_TOO_LARGE})?(?:{_THEIR_MODEL} )?maximum (?:context|input|prompt) length is \d|"
    r"(?:the )?request (?:\(\d+ tokens\) )?exceeds the available context size\b",
    r"(?:the )?input tokens exceed the configured limit of \d|"
    r"(?:the )?input token count (?:\(\d+\) )?exceeds the maximum number of tokens allowed\b",
    r"(?:the )?input token count \+ max_tokens\b|"
    r"(?:Input validation error: )?`?inputs`? (?:tokens \+ `max_new_tokens` )?must (?:be <=|have less than) \d",
    r"Prompt contains \d+ tokens\b.{0,60} too large for model with \d+ maximum context length\b|"
    r"prompt is too long: \d+ tokens > \d+ maximum\b",
    r"input length and `max_tokens` exceed context limit: \d|"
    r"The input \(\d+ tokens\) is longer than the model's context length\b",
    r"Requested token count exceeds the model's maximum context length of \d|"
    r"Range of input length should be \[\d",
)
LOADING_SENTENCE = _begins(
    r"Loading model\.?$",
    rf"Model {_QUOTED_NAME} is currently loading\b",
)
DAILY_SENTENCE = _begins(
    rf"Rate limit reached for (?:model )?{_QUOTED_NAME}(?: \([^)]{{1,80}}\))?"
    rf"(?: in (?:organization|project) {_QUOTED_NAME})*(?: service tier {_QUOTED_NAME})?"
    r" on (?:requests|tokens) per day \((?:RPD|TPD)\):",
    r"Rate limit exceeded: free-models-per-day\b",
)

QUOTA_NOTHING = re.compile(r"^\* Quota exceeded for metric: [\w./-]{1,200}, limit: 0(?:,|\s*$)", re.MULTILINE)
QUOTA_DAILY = re.compile(r"^\* Quota exceeded for metric: [\w./-]{0,200}per_day[\w./-]{0,200}, limit: \d", re.MULTILINE)
"""Lines of Gemini's message for a 429, which the words `resource_exhausted` go with."""

QUOTED = re.compile(
    r"""(?:"(?:[^"\\]|\\(?:.|$))*(?:"|$)|`[^`]*(?:`|$)|(?<!\w)'(?:[^']|'(?=\w))*(?:'|$)|\u201c[^\u201d]*(?:\u201d|$))""",
    re.DOTALL,
)
"""A quoted piece of a message, which may be anybody's words; one that is not closed goes to the end."""
