"""What a reply says, whatever its shape: every known error and oddity, and bytes that are nothing at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.records import Completion, Failure, ToolCall, Usage
from batchchat.send.reply.failures import Verdict, verdict
from batchchat.send.reply.reply import MAX_MESSAGE_BYTES, read_reply

NOW = 1_700_000_000.0


def read(status: int, body: object, headers: Mapping[str, str] | None = None) -> Completion | Failure:
    """Read a reply whose body is JSON of a value, or bytes as they stand."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_reply(status, headers or {}, content, unix_now=NOW)


def completion_of(message: object, **choice: object) -> Completion | Failure:
    """Read a 200 with one choice."""
    return read(200, {"choices": [{"message": message, **choice}]})


# Completions


def test_whole_completion_is_read() -> None:
    """Every field of an ordinary reply arrives in its place."""
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "served-model",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "yes", "refusal": None}, "finish_reason": "stop"}
        ],
        "usage": {
            "prompt_tokens": 12,
            "completion_tokens": 34,
            "total_tokens": 50,
            "prompt_tokens_details": {"cached_tokens": 5},
            "completion_tokens_details": {"reasoning_tokens": 7},
        },
        "service_tier": "any",
    }
    assert read(200, body) == Completion(
        content="yes",
        finish_reason="stop",
        usage=Usage(12, 34, 50, 5, 7),
        model="served-model",
        response_id="chatcmpl-1",
    )


@pytest.mark.parametrize(
    ("message", "choice", "expected"),
    [
        (
            {"content": None, "tool_calls": [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": "{}"}}]},
            {"finish_reason": "tool_calls"},
            Completion(None, (ToolCall("c1", "f", "{}"),), finish_reason="tool_calls"),
        ),
        ({"content": None}, {"finish_reason": "length"}, Completion(None, finish_reason="length")),
        ({"content": ""}, {"finish_reason": "length"}, Completion("", finish_reason="length")),
        ({"content": None}, {"finish_reason": "max_tokens"}, Completion(None, finish_reason="max_tokens")),
        ({"content": None}, {"finish_reason": "model_length"}, Completion(None, finish_reason="model_length")),
        (
            {"content": None, "reasoning_content": "hm"},
            {"finish_reason": "length"},
            Completion(None, reasoning="hm", finish_reason="length"),
        ),
        ({"content": ""}, {}, Completion("")),
        ({"content": "yes"}, {"finish_reason": None}, Completion("yes")),
        ({"content": "yes"}, {"finish_reason": ""}, Completion("yes")),
        ({"content": "yes"}, {"finish_reason": "eos"}, Completion("yes", finish_reason="eos")),
        ({"content": "par"}, {"finish_reason": "content_filter"}, Completion("par", finish_reason="content_filter")),
        ({"content": None}, {"finish_reason": "content_filter"}, Completion(None, finish_reason="content_filter")),
        ({"content": None, "refusal": "I cannot."}, {}, Completion(None, refusal="I cannot.")),
        ({"content": "yes", "refusal": ""}, {}, Completion("yes")),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, {}, Completion("ab")),
        ({"content": ["a", {"type": "thinking", "thinking": []}, {"text": None}, 3, "b"]}, {}, Completion("ab")),
        ({"content": {"answer": 1}}, {}, Completion('{"answer":1}')),
        ({"content": 7}, {}, Completion("7")),
        ({"content": "yes", "reasoning": "r"}, {}, Completion("yes", reasoning="r")),
        ({"content": "yes", "reasoning_content": "", "reasoning": "r"}, {}, Completion("yes", reasoning="r")),
        ({"content": "yes", "reasoning_content": "c", "reasoning": "r"}, {}, Completion("yes", reasoning="c")),
        (
            {"content": "yes", "reasoning_details": [{"text": "a"}, {"summary": "x"}, "y", {"text": "b"}]},
            {},
            Completion("yes", reasoning="ab"),
        ),
        ({"content": "<think>hm</think>yes"}, {}, Completion("<think>hm</think>yes", reasoning="hm")),
        ({"content": "<think>hm</think>yes", "reasoning": "r"}, {}, Completion("<think>hm</think>yes", reasoning="r")),
        (
            {"content": "<think>hm, cut"},
            {"finish_reason": "length"},
            Completion("<think>hm, cut", finish_reason="length"),
        ),
        ({"content": [{"type": "thinking", "thinking": "hm"}]}, {}, Completion(None, reasoning="hm")),
        (
            {"content": None, "function_call": {"name": "f", "arguments": {"a": 1}}},
            {},
            Completion(None, (ToolCall(None, "f", '{"a":1}'),)),
        ),
        (
            {"content": None, "function_call": {"name": "no"}, "tool_calls": [{"function": {"name": "f"}}]},
            {},
            Completion(None, (ToolCall(None, "f", None),)),
        ),
    ],
)
def test_oddity_of_a_message_is_an_answer(message: object, choice: dict[str, object], expected: Completion) -> None:
    """Null, empty and listed contents, refusals and reasoning are what the model said, kept as they are."""
    assert completion_of(message, **choice) == expected


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ({"id": "c", "function": {"name": "f", "arguments": {"x": "é"}}}, ToolCall("c", "f", '{"x":"é"}')),
        ({"id": "c", "function": {"name": "f", "arguments": "{not json"}}, ToolCall("c", "f", "{not json")),
        ({"id": "c", "function": {"name": "f", "arguments": ""}}, ToolCall("c", "f", "")),
        ({"id": "c", "function": {"name": "f", "arguments": None}}, ToolCall("c", "f", None)),
        ({"id": "", "function": {"name": "f", "arguments": "{}"}}, ToolCall(None, "f", "{}")),
        ({"function": {"name": "f"}}, ToolCall(None, "f", None)),
        ({"id": "c", "function": None}, ToolCall("c", None, None)),
    ],
)
def test_tool_call_is_kept_verbatim(call: object, expected: ToolCall) -> None:
    """Arguments that are invalid, empty, missing or an object never fail the row, and a missing id stays missing."""
    assert completion_of({"content": None, "tool_calls": [call, "no call", None]}) == Completion(None, (expected,))


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, Usage()),
        ("many", Usage()),
        ([], Usage()),
        ({}, Usage()),
        ({"prompt_tokens": 3}, Usage(prompt_tokens=3)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, Usage(0, 0, 0)),
        ({"prompt_tokens": 3.0, "completion_tokens": "4", "total_tokens": "7.0"}, Usage(3, 4, 7)),
        ({"prompt_tokens": -1, "completion_tokens": True, "total_tokens": "x"}, Usage()),
        ({"prompt_tokens": 2**63, "completion_tokens": 1e300, "total_tokens": "1e999"}, Usage()),
        ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 99}, Usage(3, 4, 99)),
        ({"prompt_tokens_details": None, "completion_tokens_details": [1]}, Usage()),
    ],
)
def test_usage_is_what_was_reported(usage: object, expected: Usage) -> None:
    """Missing, partial, textual and absurd counts give numbers where there are numbers, and null elsewhere."""
    body = {"choices": [{"message": {"content": "yes"}}], "usage": usage}
    assert read(200, body) == Completion("yes", usage=expected)


def test_empty_model_and_id_are_null() -> None:
    """A model or an id of no characters is none."""
    body = {"id": "", "model": "", "choices": [{"message": {"content": "yes"}}]}
    assert read(200, body) == Completion("yes")


@pytest.mark.parametrize(
    ("body", "content"),
    [
        (b'\n\n  \r\n{"choices":[{"message":{"content":"yes"}}]}\n', "yes"),
        (b'{"choices":[{"message":{"content":"yes"},"logprobs":NaN}],"x":[Infinity,-Infinity]}', "yes"),
        (b'{"choices":[{"message":{"content":"a\\ud800b"}}]}', "a\ufffdb"),
        (b'{"choices":[{"message":{"content":"a\xffb"}}]}', "a\ufffdb"),
        (b'{"choices":[{"message":{"content":"a\\u0000b"}}]}', "a\0b"),
        (b'{"choices":[{"message":{"content":"no","content":"yes"}}],"created":123456789012345678901234567890}', "yes"),
        ('{"choices":[{"message":{"content":"🎉 \\ud83c\\udf89"}}]}'.encode(), "🎉 🎉"),
    ],
)
def test_json_that_is_not_quite_json_is_read(body: bytes, content: str) -> None:
    """An answer that was paid for is not thrown away for NaN, a lone surrogate, stray bytes or blank lines."""
    assert read(200, body) == Completion(content)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'\xef\xbb\xbf{"choices":[{"message":{"content":"yes"}}]}', id="byte-order-mark"),
        pytest.param(b'{"choices":[{"message":{"content":"yes"}}],"score":1e999}', id="number-beyond-floats"),
    ],
)
def test_mark_or_huge_number_is_read(body: bytes) -> None:
    """A byte-order mark, or a number beyond floats in a field that nobody reads, does not cost the answer."""
    assert read(200, body) == Completion("yes")


# Several choices


def choices(*contents: object, indexes: tuple[object, ...] = ()) -> Completion | Failure:
    """Read a 200 with a choice for each content."""
    made: list[dict[str, object]] = [{"message": {"content": content}} for content in contents]
    for choice, index in zip(made, indexes, strict=False):
        choice["index"] = index
    return read(200, {"choices": made})


@pytest.mark.parametrize(
    ("contents", "indexes", "expected"),
    [
        (("a",), (0,), Completion("a")),
        (("a",), (3,), Completion("a")),
        (("a", "b"), (), Completion("a", completions=("a", "b"))),
        (("b", "c", "a"), (1, 2, 0), Completion("a", completions=("a", "b", "c"))),
        (("a", "b", "c"), ("0", None, 2), Completion("a", completions=("a", "b", "c"))),
        (("a", "b"), (0, 0), Completion("a", completions=("a", "b"))),
        ((None, "b"), (0, 1), Completion(None, completions=(None, "b"))),
        (("a", [{"text": "b"}]), (0, 1), Completion("a", completions=("a", "b"))),
    ],
)
def test_choices_are_in_order(contents: tuple[object, ...], indexes: tuple[object, ...], expected: Completion) -> None:
    """Where several answers were asked for, all are kept in order of their index, and the first is the answer."""
    assert choices(*contents, indexes=indexes) == expected


def test_choices_that_all_say_nothing_are_empty() -> None:
    """Several times nothing is nothing."""
    failure = choices(None, None)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.message) == ("empty_reply", "the model answered nothing")


def test_logprobs_are_those_of_the_first_choice() -> None:
    """The log probabilities of the answer are kept as JSON."""
    body = {
        "choices": [
            {"index": 1, "message": {"content": "b"}, "logprobs": {"content": [2]}},
            {"index": 0, "message": {"content": "a"}, "logprobs": {"content": [{"token": "é", "logprob": -0.25}]}},
        ]
    }
    outcome = read(200, body)
    assert isinstance(outcome, Completion)
    assert outcome.logprobs == '{"content":[{"token":"é","logprob":-0.25}]}'


# A 200 that is no answer


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"choices": []},
        {"choices": None},
        {"choices": {}},
        {"choices": [None]},
        {"choices": [{"finish_reason": "stop"}]},
        {"choices": [{"message": None}]},
        {"error": None, "choices": None},
        {"provider": {"choices": [{"message": {"content": "yes"}}]}},
    ],
)
def test_reply_without_message_is_empty(body: object) -> None:
    """A reply without choices or a message says nothing; it is asked again, and may have been billed."""
    compact = json.dumps(body, separators=(",", ":"))
    failure = read(200, body, {"x-request-id": "r1"})
    assert failure == Failure(
        "empty_reply", f"the reply has no message: {compact}", 200, request_id="r1", is_outcome_unknown=True
    )
    assert verdict(failure) is Verdict.RETRY


@pytest.mark.parametrize("finish_reason", ["stop", None, "tool_calls"])
def test_answer_of_nothing_is_empty(finish_reason: str | None) -> None:
    """A null content without tool calls, reasoning, refusal or a cut-off is no answer."""
    assert completion_of({"content": None, "tool_calls": []}, finish_reason=finish_reason) == Failure(
        "empty_reply", "the model answered nothing", 200, is_outcome_unknown=True
    )


@pytest.mark.parametrize(
    ("body", "snippet"),
    [
        (b"", ""),
        (b"<html>\n <body>Log in</body></html>", "<html> <body>Log in</body></html>"),
        (b'{"choices": [{"mess', '{"choices": [{"mess'),
        (b"null", "null"),
        (b"[1]", "[1]"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"x" * 500, "x" * 197 + "..."),
    ],
)
def test_no_json_object_is_a_protocol_failure(body: bytes, snippet: str) -> None:
    """What is no JSON object is quoted briefly; it is asked again, and may have been billed."""
    failure = read(200, body)
    assert failure == Failure(
        "protocol", f"the reply is not a chat completion: {snippet}", 200, is_outcome_unknown=True
    )
    assert verdict(failure) is Verdict.RETRY


def test_model_that_stopped_with_an_error_failed() -> None:
    """A partial content with finish_reason `error` and no error object is no answer."""
    failure = completion_of({"content": "par"}, finish_reason="error")
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.status, failure.is_outcome_unknown) == ("server", 502, True)


def test_model_that_stopped_with_an_error_says_so() -> None:
    """The sentence that stands for the missing error object is the failure's message."""
    failure = completion_of({"content": "par"}, finish_reason="error")
    assert isinstance(failure, Failure)
    assert failure.message == "the model stopped with an error"


def test_failed_generation_is_kept() -> None:
    """What the model wrote instead of a tool call is in the message, and it is asked again."""
    error = {"message": "Failed to call a function.", "code": "tool_use_failed", "failed_generation": "<f>" * 1_000}
    failure = read(400, {"error": error})
    assert isinstance(failure, Failure)
    assert failure.message == ("Failed to call a function. It was: " + "<f>" * 1_000)[:MAX_MESSAGE_BYTES]
    assert verdict(failure) is Verdict.RETRY


def test_request_id_of_an_error_inside_a_200_is_kept() -> None:
    """The request id stands beside the error, not in it."""
    failure = read(200, ANTHROPIC_OVERLOAD)
    assert isinstance(failure, Failure)
    assert failure.request_id == "r9"


# Error replies


OXEN_CREDITS = {"error": {"type": "insufficient_credits", "title": "You have run out of credits."}}
OPENAI_QUOTA = {"error": {"message": "no quota", "type": "insufficient_quota", "code": "insufficient_quota"}}
GEMINI_429 = [{"error": {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED"}}]
AZURE_TOP = {"code": "RateLimitReached", "message": "Rate limit of 300000 per 60s exceeded"}
ANTHROPIC_OVERLOAD = {
    "type": "error",
    "error": {"type": "overloaded_error", "message": "Overloaded"},
    "request_id": "r9",
}


@pytest.mark.parametrize(
    ("status", "body", "code", "message"),
    [
        (402, OXEN_CREDITS, None, "You have run out of credits."),
        (429, OPENAI_QUOTA, "insufficient_quota", "no quota"),
        (429, GEMINI_429, "429", "Quota"),
        (429, AZURE_TOP, "RateLimitReached", "Rate limit of 300000 per 60s exceeded"),
        (422, {"detail": {"message": "bad", "code": "x"}}, "x", "bad"),
        (502, b"", None, "no message"),
    ],
)
def test_error_keeps_status_code_and_sentence(status: int, body: Any, code: str | None, message: str) -> None:
    """A failure has the reply's status, the provider's code and its sentence; `test_taxonomy.py` has all shapes."""
    failure = read(status, body)
    assert isinstance(failure, Failure)
    assert (failure.status, failure.code, failure.message) == (status, code, message)


def test_error_inside_a_200_has_the_status_of_its_code() -> None:
    """An error that comes with a 200 is judged as if its own code were the status; without one, as a 502."""
    found = [read(200, {"error": {"code": code, "message": "odd"}}) for code in (429, "402", "server_error", None)]
    assert [one.status for one in found if isinstance(one, Failure)] == [429, 402, 502, 502]


@pytest.mark.parametrize(
    ("status", "is_unknown"),
    [
        *((status, False) for status in (400, 401, 429, 500, 503, 529)),
        *((status, True) for status in (408, 499, 502, 504, 520, 522, 524)),
    ],
)
def test_status_says_whether_it_may_be_billed(status: int, is_unknown: bool) -> None:
    """A gateway that gave up waiting does not know what the model did meanwhile."""
    failure = read(status, b"")
    assert isinstance(failure, Failure)
    assert failure.is_outcome_unknown is is_unknown


def test_redirect_says_where_to() -> None:
    """A redirect is a wrong base URL, and names the right one."""
    failure = read(308, b"moved", {"location": "https://elsewhere.test/v1"})
    assert isinstance(failure, Failure)
    assert failure.kind == "not_found"
    assert failure.message == "the base URL redirects to https://elsewhere.test/v1; redirects are not followed"
    assert verdict(failure) is Verdict.FATAL


def test_wish_to_wait_is_read() -> None:
    """Retry-After makes OpenRouter's 402 for too many paid requests at a time a matter of pace."""
    failure = read(402, {"error": {"code": 402, "message": "in flight"}}, {"retry-after": "3"})
    assert isinstance(failure, Failure)
    assert failure.retry_after_s == 3.0
    assert verdict(failure) is Verdict.CUT


@pytest.mark.parametrize(
    ("headers", "body", "request_id"),
    [
        ({"x-request-id": "a", "request-id": "b"}, {}, "a"),
        ({"x-request-id": "", "request-id": "b"}, {}, "b"),
        ({}, {"error": {"message": "no", "request_id": "d"}, "request_id": "e"}, "d"),
        ({}, {"error": {"message": "no", "metadata": {"request_id": "d"}}}, "d"),
        ({}, {"detail": {"request_id": "d"}}, "d"),
        ({}, {"request_id": 17}, "17"),
        ({}, {"request_id": "x" * 1_000}, "x" * 100),
        ({"request-id": "b", "x-generation-id": "c"}, {}, "b"),
        ({"x-generation-id": "c"}, {"request_id": "d"}, "c"),
        ({}, ANTHROPIC_OVERLOAD, "r9"),
    ],
)
def test_request_id_is_kept(headers: dict[str, str], body: object, request_id: str) -> None:
    """The provider's name for the request is found in the headers, or in the body."""
    failure = read(500, body, headers)
    assert isinstance(failure, Failure)
    assert failure.request_id == request_id


def test_request_id_that_is_not_given_is_null() -> None:
    """An error reply without a request id has None, as every other reply does."""
    failure = read(500, b"")
    assert isinstance(failure, Failure)
    assert failure.request_id is None


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("x" * 10**6, "x" * MAX_MESSAGE_BYTES),
        ("é" * 10**5, "é" * (MAX_MESSAGE_BYTES // 2)),
        ("x" + "é" * 10**5, "x" + "é" * (MAX_MESSAGE_BYTES // 2 - 1)),
        ("€" * 10**5, "€" * (MAX_MESSAGE_BYTES // 3)),
    ],
    ids=["ascii", "two-bytes", "two-bytes-cut-inside", "three-bytes"],
)
def test_long_message_is_cut(message: str, kept: str) -> None:
    """An echoed prompt of a megabyte does not fill the checkpoint: two kilobytes are kept, in whole characters."""
    failure = read(400, {"error": {"message": message, "param": message}})
    assert isinstance(failure, Failure)
    assert (failure.message, failure.param) == (kept, kept)


def test_long_code_is_cut() -> None:
    """What is no word, but stands where one should, is kept in part."""
    failure = read(400, {"error": {"message": "no", "code": "insufficient_quota " * 50}})
    assert isinstance(failure, Failure)
    assert (failure.kind, len(failure.code or "")) == ("bad_request", 100)


def test_cause_that_a_gateway_passes_on_is_told() -> None:
    """Where the gateway's own sentence says nothing, that of the provider behind it stands after it."""
    raw = json.dumps({"error": {"message": "`top_k` is not taken", "type": "invalid_request_error"}})
    for passed_on in (raw, "`top_k` is not taken", json.loads(raw)):
        error = {"message": "Provider returned error", "code": 400, "metadata": {"raw": passed_on}}
        failure = read(400, {"error": error})
        assert isinstance(failure, Failure)
        assert failure.message == "Provider returned error: `top_k` is not taken"


@pytest.mark.parametrize("depth", [2, 150])
def test_gateways_behind_gateways_end(depth: int) -> None:
    """A cause within a cause without end is read as far as the first."""
    body: dict[str, Any] = {"message": "cause"}
    for number in range(depth, 0, -1):
        body = {"error": {"message": f"gateway {number}", "metadata": {"raw": body}}}
    failure = read(400, body)
    assert isinstance(failure, Failure)
    assert failure.message == "gateway 1: gateway 2"


# Nothing raises


WORDS = [
    "choices",
    "message",
    "content",
    "error",
    "code",
    "type",
    "title",
    "detail",
    "tool_calls",
    "function",
    "arguments",
    "usage",
    "refusal",
    "finish_reason",
    "reasoning_details",
    "text",
    "prompt_tokens",
    "prompt_tokens_details",
    "cached_tokens",
    "id",
    "model",
    "index",
    "logprobs",
    "function_call",
    "thinking",
    "status",
    "object",
    "request_id",
    "failed_generation",
    "metadata",
    "raw",
    "availability",
    "retryable",
    "retry_after",
    "details",
    "violations",
    "quotaId",
    "retryDelay",
    "innererror",
    "content_filter_results",
    "filtered",
    "errors",
    "loc",
    "msg",
    "headers",
    "x-ratelimit-reset",
    "http_status",
]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(WORDS),
            inner,
            max_size=6,
        )
    ),
    max_leaves=30,
)
STATUSES = st.sampled_from([200, 201, 204, 206, 301, 400, 401, 402, 403, 404, 408, 422, 429, 500, 502, 503, 529])
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "retry-after-ms", "x-request-id", "location"]), st.text(max_size=20)
)


@given(STATUSES | st.integers(100, 999), HEADERS, st.binary(max_size=300))
def test_any_bytes_are_an_outcome(status: int, headers: dict[str, str], body: bytes) -> None:
    """Whatever bytes come with whatever status, the outcome is a value."""
    outcome = read(status, body, headers)
    assert isinstance(outcome, Failure) or 200 <= status < 300


@pytest.mark.slow
@given(STATUSES, HEADERS, JSON_VALUES)
def test_any_json_is_an_outcome(status: int, headers: dict[str, str], value: object) -> None:
    """Whatever JSON comes, with the wire's words in the wrong places, the outcome is a value that can be stored."""
    outcome = read(status, json.dumps(value).encode("utf-8", "surrogatepass"), headers)
    assert isinstance(outcome, Failure) or 200 <= status < 300
    text = outcome.message if isinstance(outcome, Failure) else (outcome.content or "")
    assert text.encode() is not None


@pytest.mark.slow
@given(STATUSES, st.lists(JSON_VALUES, min_size=1, max_size=2), JSON_VALUES, JSON_VALUES)
def test_any_completion_is_an_outcome(status: int, choices: list[object], error: object, usage: object) -> None:
    """Bodies that look like a reply at the top and are anything below give a value too."""
    outcome = read(status, {"choices": [{"message": choice} for choice in choices], "error": error, "usage": usage})
    assert isinstance(outcome, (Completion, Failure))


DEEP = b"[" * 300 + b"]" * 300


@pytest.mark.parametrize("depth", [200, 1_000, 5_000, 100_000])
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b"[NaN,"])
def test_nesting_that_ends_nowhere_is_no_json(depth: int, opening: bytes) -> None:
    """A body that only opens brackets is no completion, however many."""
    failure = read(200, opening * depth)
    assert isinstance(failure, Failure)
    assert failure.kind == "protocol"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b'{"a":' + DEEP + b"}"),
        (200, b'{"choices":[{"message":{"tool_calls":[{"function":{"arguments":' + DEEP + b"}}]}}]}"),
        (200, b'{"choices":[{"message":{"content":{"x":' + DEEP + b"}}}]}"),
        (200, b'{"choices":[{"message":{"content":"x"},"finish_reason":' + DEEP + b"}]}"),
        (200, b'{"choices":[{"message":{"content":"\\ud800"},"logprobs":' + DEEP + b"}]}"),
        (200, b'{"choices":[{"message":{"content":"x"},"logprobs":[' + b"1" * 20 + b"," + DEEP + b"]}]}"),
        (400, b'{"error":{"message":' + DEEP + b"}}"),
        (200, '{"error":{"code":"⁴⁰⁴"}}'.encode()),
    ],
)
def test_deep_values_and_odd_digits_are_outcomes(status: int, body: bytes) -> None:
    """Values nested deeper than orjson writes, and digits that are no decimals, are an outcome like any other."""
    assert isinstance(read(status, body), (Completion, Failure))


def test_count_beyond_sense_is_none() -> None:
    """The counts of a run are summed in 64 bits; one reply must not fill them."""
    usage = {"prompt_tokens": 2**40, "completion_tokens": 2**40 - 1}
    body = {"choices": [{"message": {"content": "a"}}], "usage": usage}
    found = read_reply(200, {}, json.dumps(body).encode(), unix_now=0.0)
    assert isinstance(found, Completion)
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (None, 2**40 - 1)
