"""Which failure is the row's, which is worth another try, which ends the job."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.records import Failure
from batchchat.send.failures import (
    CONTENT_CODES,
    CONTEXT_CODES,
    MODEL_CODES,
    MONEY_CODES,
    SAMPLING_CODES,
    Verdict,
    is_transient,
    kind_of,
    status_of,
    verdict,
)

NO_CODES: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, "not_found"),
        (308, "not_found"),
        (400, "bad_request"),
        (401, "auth"),
        (402, "credits"),
        (403, "auth"),
        (404, "not_found"),
        (405, "not_found"),
        (406, "not_found"),
        (408, "timeout"),
        (409, "server"),
        (412, "credits"),
        (413, "too_large"),
        (415, "not_found"),
        (418, "bad_request"),
        (422, "bad_request"),
        (425, "server"),
        (426, "not_found"),
        (429, "rate_limit"),
        (498, "rate_limit"),
        (499, "bad_request"),
        (500, "server"),
        (502, "server"),
        (503, "server"),
        (504, "server"),
        (524, "server"),
        (529, "server"),
    ],
)
def test_status_alone_gives_the_kind(status: int, kind: str) -> None:
    """Without structured words the status decides."""
    assert kind_of(status, NO_CODES, "no message") == kind


@pytest.mark.parametrize("status", [400, 402, 403, 429])
@pytest.mark.parametrize("code", sorted(MONEY_CODES))
def test_money_code_is_credits(status: int, code: str) -> None:
    """A code that says that the account is empty says so with any status that providers send it with."""
    assert kind_of(status, frozenset({code, "some_type"}), "rate limit") == "credits"


@pytest.mark.parametrize("status", [401, 404, 408, 500, 503])
@pytest.mark.parametrize("code", sorted(MONEY_CODES))
def test_money_code_needs_its_status(status: int, code: str) -> None:
    """With a status that says something else, the status decides."""
    assert kind_of(status, frozenset({code}), "") == kind_of(status, NO_CODES, "")


@pytest.mark.parametrize("status", [400, 403, 404, 422])
@pytest.mark.parametrize(
    ("codes", "kind"),
    [(MODEL_CODES, "not_found"), (CONTENT_CODES, "content_filter"), (CONTEXT_CODES, "context_length")],
)
def test_code_of_a_refusal_gives_the_kind(status: int, codes: frozenset[str], kind: str) -> None:
    """Each known code of a refused request means the same with each of the statuses of a refusal."""
    assert {kind_of(status, frozenset({code}), "no message") for code in codes} == {kind}


@pytest.mark.parametrize("code", ["tool_use_failed", "json_validate_failed"])
def test_what_the_model_wrote_wrongly_is_asked_again(code: str) -> None:
    """Groq's 400 for a call or JSON that the model got wrong is chance, not the row's fault; with a 422 it is not."""
    assert code in SAMPLING_CODES
    assert kind_of(400, frozenset({code, "invalid_request_error"}), "maximum context length is") == "server"
    assert kind_of(422, frozenset({code}), "") == "bad_request"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (NO_CODES, 502),
        (frozenset({"server_error", ""}), 502),
        (frozenset({"rate_limit_error"}), 429),
        (frozenset({"rate_limit_error", "insufficient_quota"}), 402),
        (frozenset({"invalid_request_error", "model_not_found"}), 404),
        (frozenset({"invalid_request_error", "invalid_api_key"}), 401),
        (frozenset({"rate_limit_error", "content_filter"}), 400),
    ],
)
def test_words_without_a_status_mean_one(words: frozenset[str], status: int) -> None:
    """The most particular of an error's words says which status it would have had."""
    assert status_of(words) == status


@pytest.mark.parametrize(
    ("codes", "kind"),
    [
        (MONEY_CODES, "credits"),
        (MODEL_CODES, "not_found"),
        (CONTENT_CODES, "content_filter"),
        (CONTEXT_CODES, "context_length"),
        (SAMPLING_CODES, "server"),
    ],
)
def test_code_means_the_same_without_a_status(codes: frozenset[str], kind: str) -> None:
    """A code that comes inside a 200 means what it means with the status it usually has."""
    assert {kind_of(status_of(frozenset({code})), frozenset({code}), "") for code in codes} == {kind}


@pytest.mark.parametrize("status", [400, 404])
@pytest.mark.parametrize(
    "message",
    [
        "Model not found: gpt-99",
        "You must specify a model to call",
        "The model `gpt-99` does not exist or you do not have access to it.",
        "gpt-99 is not a valid model ID",
        "Invalid model: gpt-99",
        "model 'gpt-99' not found, try pulling it first",
        'model "gpt-99" not found',
    ],
)
def test_sentence_about_the_model_is_not_found(status: int, message: str) -> None:
    """Sentences that providers send without a code, with a status that agrees, name a model that is not there."""
    assert kind_of(status, NO_CODES, message) == "not_found"


@pytest.mark.parametrize("status", [400, 403, 422])
@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens.",
        "the request exceeds the available context size. try increasing the context size",
        "input tokens exceed the configured limit of 100 tokens",
        "The input token count (40000) exceeds the maximum number of tokens allowed (32768).",
        "maximum input length is 4096 tokens",
        "`inputs` tokens + `max_new_tokens` must be <= 4097",
    ],
)
def test_sentence_about_the_context_is_the_rows(status: int, message: str) -> None:
    """A prompt that is too long is this row's trouble, also with the 403 that Together sends."""
    kind = kind_of(status, NO_CODES, message)
    assert kind == "context_length"
    assert verdict(Failure(kind, message, status)) is Verdict.ROW


PROMPT = "429 rate limit insufficient_quota model not found Model not found: x maximum context length is credits"


@pytest.mark.parametrize(
    "sentence",
    [
        f"Invalid value for 'messages[0].content': {PROMPT}",
        f"Could not parse: '{PROMPT}'. Please check your input.",
        f"{'The following content was refused by the validator of this endpoint. ' * 5}{PROMPT}",
    ],
)
@pytest.mark.parametrize("status", [400, 422])
def test_echoed_prompt_is_still_the_rows(status: int, sentence: str) -> None:
    """Providers echo the prompt in their refusals; its words neither stop the job nor cause another try."""
    failure = Failure(kind_of(status, NO_CODES, sentence), sentence, status)
    assert verdict(failure) is Verdict.ROW
    assert not is_transient(failure)


@pytest.mark.parametrize(
    "sentence",
    [
        "The model cannot read the image: the file https://example.test/a.png does not exist",
        "The model rejected your input: 'my page does not exist'",
    ],
)
def test_sentence_that_only_starts_like_a_models_is_the_rows(sentence: str) -> None:
    """A refusal of one row's content must not stop the job because it mentions something that does not exist."""
    assert kind_of(400, NO_CODES, sentence) == "bad_request"


def test_words_beyond_the_first_decide_nothing() -> None:
    """Only the beginning of a message is the provider's own; a prompt that stands behind it is not read."""
    assert kind_of(400, NO_CODES, "x" * 300 + " maximum context length is") == "bad_request"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("template", Verdict.ROW),
        ("media", Verdict.ROW),
        ("schema", Verdict.ROW),
        ("bad_request", Verdict.ROW),
        ("context_length", Verdict.ROW),
        ("content_filter", Verdict.ROW),
        ("too_large", Verdict.ROW),
        ("auth", Verdict.FATAL),
        ("credits", Verdict.FATAL),
        ("not_found", Verdict.FATAL),
        ("rate_limit", Verdict.CUT),
        ("connect", Verdict.HOLD),
        ("timeout", Verdict.RETRY),
        ("server", Verdict.RETRY),
        ("protocol", Verdict.RETRY),
        ("empty_reply", Verdict.RETRY),
    ],
)
def test_kind_gives_the_verdict(kind: str, expected: Verdict) -> None:
    """What follows is a rule of the kind."""
    assert verdict(Failure(kind, "no message")) is expected


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (Failure("connect", "reset", is_outcome_unknown=True), Verdict.RETRY),
        (Failure("credits", "too many paid requests in flight", 402, retry_after_s=1.0), Verdict.CUT),
        (Failure("credits", "no balance", 402), Verdict.FATAL),
        (Failure("credits", "quota", 429, retry_after_s=1.0), Verdict.FATAL),
        (Failure("credits", "suspended", 412, retry_after_s=1.0), Verdict.FATAL),
        (Failure("auth", "no", 401, retry_after_s=1.0), Verdict.FATAL),
    ],
)
def test_exceptions_that_the_reply_states(failure: Failure, expected: Verdict) -> None:
    """A broken connection is no outage; a 402 that names a time to wait is no empty account, anything else is."""
    assert verdict(failure) is expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("server", True), ("rate_limit", True), ("connect", True), ("auth", False), ("template", False)],
)
def test_transient_is_what_is_tried_again(kind: str, expected: bool) -> None:
    """A later run asks again what failed for a passing reason."""
    assert is_transient(Failure(kind, "no message")) is expected


@given(st.integers(100, 999), st.frozensets(st.text(max_size=30), max_size=3), st.text(max_size=2_000))
def test_any_reply_has_a_kind_and_a_verdict(status: int, codes: frozenset[str], message: str) -> None:
    """Whatever an endpoint says, exactly one rule applies."""
    assert isinstance(verdict(Failure(kind_of(status, codes, message), message, status)), Verdict)
