"""Which failure is the row's, which is worth another try, which ends the job."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.records import Failure
from batchchat.send.reply.failures import (
    ADVICE,
    EXHAUSTED_CODES,
    SIGNATURE_LENGTH,
    Verdict,
    is_overload,
    is_transient,
    kind_of,
    may_be_outage,
    signature,
    status_of,
    verdict,
)
from batchchat.send.reply.provider_errors import (
    CONTENT_CODES,
    CONTEXT_CODES,
    DAILY_CODES,
    HINTED,
    IN_FLIGHT_CODES,
    LOADING_CODES,
    MODEL_CODES,
    MONEY_CODES,
    NO_QUOTA,
    NOT_RETRYABLE,
    PAGE,
    PERMISSION_CODES,
    RETRYABLE,
    SAMPLING_CODES,
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
        (403, "bad_request"),
        (404, "not_found"),
        (405, "not_found"),
        (406, "not_found"),
        (407, "auth"),
        (408, "timeout"),
        (409, "server"),
        (412, "credits"),
        (413, "too_large"),
        (415, "not_found"),
        (418, "bad_request"),
        (422, "bad_request"),
        (424, "server"),
        (425, "rate_limit"),
        (426, "not_found"),
        (429, "rate_limit"),
        (498, "rate_limit"),
        (499, "server"),
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


def test_money_code_needs_its_status() -> None:
    """A code that says that the account is empty counts with the statuses that providers send it with, and no other."""
    for code in sorted(MONEY_CODES):
        for status in (400, 402, 403, 429):
            assert kind_of(status, frozenset({code, "some_type"}), "rate limit") == "credits", (status, code)
        for status in (401, 404, 408, 500, 503):
            assert kind_of(status, frozenset({code}), "") == kind_of(status, NO_CODES, ""), (status, code)


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
        (frozenset({"permission_denied"}), 403),
        (frozenset({"unavailable_error"}), 503),
        (frozenset({"overloaded"}), 529),
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
        (PERMISSION_CODES, "auth"),
        (LOADING_CODES, "unavailable"),
        (DAILY_CODES, "unavailable"),
        (IN_FLIGHT_CODES, "rate_limit"),
    ],
)
def test_code_means_the_same_without_a_status(codes: frozenset[str], kind: str) -> None:
    """A code that comes inside a 200 means what it means with the status it usually has."""
    assert {kind_of(status_of(frozenset({code})), frozenset({code}), "") for code in codes} == {kind}


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
        ("unavailable", Verdict.HOLD),
        ("anything else", Verdict.RETRY),
    ],
)
def test_kind_gives_the_verdict(kind: str, expected: Verdict) -> None:
    """What follows is a rule of the kind."""
    assert verdict(Failure(kind, "no message")) is expected


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (Failure("connect", "reset", is_outcome_unknown=True), Verdict.RETRY),
        (Failure("connect", "refused", code="ECONNREFUSED"), Verdict.HOLD),
        *((Failure("connect", "no room", code=code), Verdict.CUT) for code in EXHAUSTED_CODES),
        *((Failure("connect", "reset", code=code, is_outcome_unknown=True), Verdict.RETRY) for code in EXHAUSTED_CODES),
        (Failure("server", "busy", 503, retry_after_s=0.0), Verdict.CUT),
        (Failure("server", "busy", 529, retry_after_s=2.0), Verdict.CUT),
        (Failure("server", "broken", 500, retry_after_s=2.0), Verdict.RETRY),
        (Failure("unavailable", "Loading model", 503, retry_after_s=2.0), Verdict.HOLD),
        (Failure("bad_request", "not to be tried again", 503, retry_after_s=2.0), Verdict.ROW),
        (Failure("rate_limit", "too many paid requests in flight", 402, retry_after_s=1.0), Verdict.CUT),
        (Failure("credits", "no balance", 402), Verdict.FATAL),
        (Failure("credits", "no balance", 402, retry_after_s=1.0), Verdict.FATAL),
        (Failure("credits", "quota", 429, retry_after_s=1.0), Verdict.FATAL),
        (Failure("credits", "suspended", 412, retry_after_s=1.0), Verdict.FATAL),
        (Failure("auth", "no", 401, retry_after_s=1.0), Verdict.FATAL),
    ],
)
def test_exceptions_that_the_reply_states(failure: Failure, expected: Verdict) -> None:
    """A broken connection is no outage; one that had no descriptor, and a server that names a time, are pace."""
    assert verdict(failure) is expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("server", True), ("rate_limit", True), ("connect", True), ("auth", False), ("template", False)],
)
def test_transient_is_what_is_tried_again(kind: str, expected: bool) -> None:
    """A later run asks again what failed for a passing reason."""
    assert is_transient(Failure(kind, "no message")) is expected


TOLD = (PAGE, RETRYABLE, NOT_RETRYABLE, HINTED, NO_QUOTA)


@pytest.mark.parametrize(
    ("status", "words", "kind"),
    [
        (404, {RETRYABLE}, "server"),
        (404, {RETRYABLE, "model_not_found"}, "server"),
        (404, {NOT_RETRYABLE}, "not_found"),
        (403, {RETRYABLE}, "server"),
        (403, {PAGE}, "server"),
        (404, {PAGE}, "not_found"),
        (429, {PAGE}, "rate_limit"),
        (402, {RETRYABLE}, "rate_limit"),
        (402, {HINTED}, "rate_limit"),
        (402, {HINTED, NOT_RETRYABLE}, "credits"),
        (402, {HINTED, "insufficient_credits"}, "credits"),
        (402, {"openrouter_in_flight_budget"}, "rate_limit"),
        (402, {"openrouter_credits"}, "credits"),
        (412, {HINTED}, "credits"),
        (401, {RETRYABLE, HINTED}, "auth"),
        (429, {NOT_RETRYABLE}, "bad_request"),
        (429, {NOT_RETRYABLE, "insufficient_quota"}, "credits"),
        (429, {NO_QUOTA, "quota_exceeded"}, "credits"),
        (503, {NOT_RETRYABLE}, "bad_request"),
        (503, {NOT_RETRYABLE, "unavailable_error"}, "bad_request"),
        (403, {"permission_error", "content_filter"}, "content_filter"),
        (403, {"permission_error", "insufficient_quota"}, "credits"),
        (400, {"permission_error"}, "bad_request"),
        (400, {"invalid_api_key"}, "auth"),
        (503, {"quota_exceeded"}, "server"),
        (429, {"unavailable_error"}, "rate_limit"),
    ],
)
def test_words_and_status_together_give_the_kind(status: int, words: set[str], kind: str) -> None:
    """What a reply says by its structure counts with the statuses that agree, and what is certain comes first."""
    assert kind_of(status, frozenset(words), "no message") == kind


@pytest.mark.parametrize("status", [408, 409, 424, 425, 429, 498, 499, 500, 502, 503, 504, 520, 524, 529])
def test_what_is_not_to_be_tried_again_is_not(status: int) -> None:
    """`availability.retryable: false` turns into no other attempt, whatever the status."""
    kind = kind_of(status, frozenset({NOT_RETRYABLE}), "no message")
    assert verdict(Failure(kind, "no message", status)) is Verdict.ROW


@pytest.mark.parametrize(
    ("failure", "before_work", "after_work"),
    [
        *((Failure("server", "", status), True, True) for status in (502, 503, 504, 520, 521, 522, 523, 524, 529, 530)),
        (Failure("server", "<html>Attention Required! | Cloudflare</html>", 403), True, True),
        (Failure("server", "no provider is available", 404), True, True),
        (Failure("connect", "reset", is_outcome_unknown=True), True, True),
        (Failure("connect", "cut", 200, is_outcome_unknown=True), True, True),
        (Failure("timeout", "no whole reply within 60 s", is_outcome_unknown=True), True, True),
        (Failure("timeout", "", 408), False, True),
        (Failure("server", "", 500), False, True),
        (Failure("server", "", 501), False, False),
        (Failure("server", "tool_use_failed", 400), False, False),
        (Failure("server", "lock timeout", 409), False, False),
        (Failure("protocol", "not a chat completion", 200), False, True),
        (Failure("empty_reply", "", 200), False, False),
        (Failure("server", "", 503, retry_after_s=1.0), False, False),
        (Failure("connect", "refused"), False, False),
        (Failure("unavailable", "Loading model", 503), False, False),
        (Failure("rate_limit", "", 429), False, False),
        (Failure("bad_request", "", 400), False, False),
        (Failure("auth", "", 401), False, False),
    ],
)
def test_what_a_dying_endpoint_looks_like(failure: Failure, before_work: bool, after_work: bool) -> None:
    """Some failures of a row are an outage where many rows meet them; a 500 only of what did work."""
    assert may_be_outage(failure, has_worked=False) is before_work
    assert may_be_outage(failure, has_worked=True) is after_work


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (Failure("server", "", 503), True),
        (Failure("server", "", 529), True),
        (Failure("server", "", 503, retry_after_s=0.0), False),
        (Failure("server", "", 500), False),
        (Failure("server", "", 502), False),
        (Failure("unavailable", "", 503), False),
        (Failure("rate_limit", "", 429), False),
    ],
)
def test_overload_is_a_busy_server_that_names_no_time(failure: Failure, expected: bool) -> None:
    """Only a 503 or 529 that says nothing more counts as a try and slows the rest down a little."""
    assert is_overload(failure) is expected


# Which refusals are the same


def refused(message: str, status: int = 400, code: str | None = None, param: str | None = None) -> Failure:
    """Return a refusal that may be the whole job's."""
    return Failure("bad_request", message, status, code=code, param=param)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Unsupported value: 'temperature' does not support 0.2", "Unsupported value: 'top_p' does not support 0.95"),
        ("Invalid 'messages[3].content': 'a'", "Invalid 'messages[17].content': 'it is \"quoted\" and long'"),
        ('Could not parse "one \\" two": bad', 'Could not parse "three": bad'),
        ("Field `x` is bad", "Field `yy\nzz` is bad"),
        ("No file at https://a.test/1.png.", "No file at http://other.test/x?y=z"),
        ("Request req_011CSabcDEF99 failed", "Request req_999zzzAAA0011 failed"),
        ("In 550e8400-e29b-41d4-a716-446655440000", "In 00000000-0000-4000-8000-00000000000f"),
        ("Hash deadbeefcafe is bad", "Hash 0badc0de is bad"),
        ("Got 9,000 of 8192.5", "Got 1 of 2"),
        ("a  b\n\tc", "a b c"),
        ("Bad: 'cut off in the mid", "Bad: 'of another"),
        (f"{'the same words ' * 20} {'x' * 100}", f"{'the same words ' * 20} {'y' * 100}"),
        (f"Bad: '{'x' * 500}' is no role", "Bad: 'y' is no role"),
    ],
)
def test_same_refusal_of_other_rows_has_the_same_signature(one: str, other: str) -> None:
    """Numbers, names, quoted pieces, addresses and what stands far behind change from row to row, and do not count."""
    assert signature(refused(one)) == signature(refused(other)) is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (refused("temperature is bad"), refused("top_p is bad")),
        (refused("bad"), refused("bad", status=422)),
        (refused("bad"), refused("bad", code="invalid_value")),
        (refused("bad", param="tools"), refused("bad", param="messages")),
        (refused("the model's 'a' is bad"), refused("the model's 'a' is worse")),
    ],
)
def test_other_refusal_has_another_signature(one: Failure, other: Failure) -> None:
    """Another sentence, status, code or parameter is another reason."""
    assert signature(one) != signature(other)


def test_place_in_a_list_is_no_other_parameter() -> None:
    """The third message of one row and the ninth of another are refused for the same reason."""
    assert signature(refused("bad", param="messages[3].role")) == signature(refused("bad", param="messages[9].role"))


@pytest.mark.parametrize(
    "kind", ["context_length", "content_filter", "too_large", "template", "media", "schema", "server", "auth"]
)
def test_refusal_that_is_certainly_the_rows_has_no_signature(kind: str) -> None:
    """Rows that are too long, or filtered, say nothing about the next, however many there are."""
    assert signature(Failure(kind, "the same for all", 400)) is None


@given(st.text(max_size=2_048), st.text(max_size=50) | st.none())
def test_any_refusal_has_a_short_signature(message: str, param: str | None) -> None:
    """Whatever a provider says, its identity is found, and is small."""
    found = signature(refused(message, param=param))
    assert found is not None
    assert len(found[3]) <= SIGNATURE_LENGTH


def test_every_end_of_a_job_says_what_to_do() -> None:
    """Each kind of failure that can end a job has its advice."""
    kinds = {"auth", "credits", "not_found", "rate_limit", "connect", "unavailable", "bad_request", "protocol"}
    assert kinds <= ADVICE.keys()


@given(
    st.integers(100, 999),
    st.frozensets(st.text(max_size=30) | st.sampled_from(TOLD), max_size=3),
    st.text(max_size=2_000),
)
def test_any_reply_has_a_kind_and_a_verdict(status: int, codes: frozenset[str], message: str) -> None:
    """Whatever an endpoint says, exactly one rule applies."""
    assert isinstance(verdict(Failure(kind_of(status, codes, message), message, status)), Verdict)
