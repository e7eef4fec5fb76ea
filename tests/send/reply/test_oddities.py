"""Every odd reply that endpoints are known to send, plain and streamed, and what it comes to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from batchchat.records import Completion, Failure, ToolCall, Usage
from batchchat.send.reply.reply import read_reply
from tests.bodies import read

EVENTS = {"content-type": "text/event-stream; charset=utf-8"}
CUT_OFF = "the stream ended before the reply was whole"
STOPPED = "the model stopped with an error"
NOTHING = "the model answered nothing"


@dataclass(frozen=True)
class Failed:
    """What matters of a failure."""

    kind: str
    status: int
    code: str | None
    message: str


@dataclass(frozen=True)
class Case:
    """A reply and what it comes to."""

    name: str
    body: bytes
    expected: Completion | Failed
    status: int = 200
    is_event_stream: bool = False


def plain(name: str, value: object, expected: Completion | Failed, status: int = 200) -> Case:
    """Return a case whose body is JSON of a value, or bytes as they stand."""
    return Case(name, value if isinstance(value, bytes) else json.dumps(value).encode(), expected, status)


def message(name: str, fields: object, expected: Completion | Failed, **choice: object) -> Case:
    """Return a case of one choice with a message."""
    return plain(name, {"choices": [{"index": 0, "message": fields, **choice}]}, expected)


def lines(*chunks: object, end: bytes = b"\n") -> bytes:
    """Return events: of bytes as they stand, of anything else as JSON."""
    return b"".join(
        b"data: " + (one if isinstance(one, bytes) else json.dumps(one).encode()) + end * 2 for one in chunks
    )


def stream(name: str, *chunks: object, expected: Completion | Failed) -> Case:
    """Return a case of a stream that says `[DONE]`."""
    return Case(name, lines(*chunks, b"[DONE]"), expected, is_event_stream=True)


def raw(name: str, body: bytes, expected: Completion | Failed) -> Case:
    """Return a case of a stream as its bytes stand."""
    return Case(name, body, expected, is_event_stream=True)


def delta(fields: object, finish_reason: str | None = None, **more: object) -> dict[str, Any]:
    """Return a chunk with one choice."""
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}], **more}


def call(index: int | None = None, id: str | None = None, **function: object) -> dict[str, Any]:  # noqa: A002 -- the wire's
    """Return a chunk with one fragment of a tool call."""
    fragment: dict[str, object] = {} if index is None else {"index": index}
    if id is not None:
        fragment["id"] = id
    return delta({"tool_calls": [{**fragment, "function": function}]})


def called(*calls: tuple[str | None, str | None, str | None], **more: Any) -> Completion:
    """Return a completion that calls tools."""
    return Completion(None, tuple(ToolCall(*one) for one in calls), finish_reason="tool_calls", **more)


END = delta({}, "stop")
CALLED = delta({}, "tool_calls")
YES = Completion("yes", finish_reason="stop")
FULL = delta({"content": "yes"}, "stop")
OXEN_CREDITS = {
    "error": {"type": "insufficient_credits", "title": "You have run out of credits."},
    "status": "error",
    "status_message": "insufficient_credits",
}
OXEN_PARAMS = {
    "error": {"type": "invalid_params", "title": "Invalid parameters.", "detail": "n is 0"},
    "status": "error",
    "status_message": "invalid_params",
}
OXEN_UPSTREAM = {"error": {"type": "upstream", "title": "The model provider returned an error."}, "status": 502}
OXEN_FILE = {
    "error": {"type": "invalid_file_input", "title": "The file cannot be read."},
    "status": "error",
    "status_description": "audio is larger than 20 MB",
}
OXEN_KEY = {
    "error": {"type": "unauthenticated", "title": "You must be authenticated to perform this action."},
    "status": "error",
    "status_message": "unauthenticated",
}
VLLM_OLD = {
    "object": "error",
    "message": "This model's maximum context length is 8 tokens.",
    "type": "BadRequestError",
    "param": None,
    "code": 400,
}
GROQ_TOOLS = {
    "error": {
        "message": "Failed to call a function.",
        "type": "invalid_request_error",
        "code": "tool_use_failed",
        "failed_generation": "<function=f>",
    }
}

OXEN = [
    plain(
        "oxen-no-model",
        {"error": {"message": "You must specify a model to call"}},
        Failed("not_found", 400, None, "You must specify a model to call"),
        400,
    ),
    plain(
        "oxen-model-not-found",
        {"error": {"message": "Model not found: x-1"}},
        Failed("not_found", 404, None, "Model not found: x-1"),
        404,
    ),
    plain(
        "oxen-no-messages",
        {"error": {"message": "Messages array cannot be empty"}},
        Failed("bad_request", 400, None, "Messages array cannot be empty"),
        400,
    ),
    plain("oxen-params", OXEN_PARAMS, Failed("bad_request", 400, None, "Invalid parameters. n is 0"), 400),
    plain("oxen-file", OXEN_FILE, Failed("media", 400, None, "The file cannot be read."), 400),
    plain("oxen-key", OXEN_KEY, Failed("auth", 401, None, "You must be authenticated to perform this action."), 401),
    plain("oxen-credits", OXEN_CREDITS, Failed("credits", 402, None, "You have run out of credits."), 402),
    plain("oxen-upstream", OXEN_UPSTREAM, Failed("server", 502, None, "The model provider returned an error."), 502),
    plain("oxen-params-in-200", OXEN_PARAMS, Failed("bad_request", 400, None, "Invalid parameters. n is 0")),
    plain(
        "oxen-status-alone-in-200",
        {"status": "error", "status_message": "insufficient_credits"},
        Failed("credits", 402, None, "insufficient_credits"),
    ),
    plain("oxen-key-in-200", OXEN_KEY, Failed("auth", 401, None, "You must be authenticated to perform this action.")),
    plain("oxen-credits-in-200", OXEN_CREDITS, Failed("credits", 402, None, "You have run out of credits.")),
    plain("oxen-upstream-in-200", OXEN_UPSTREAM, Failed("server", 502, None, "The model provider returned an error.")),
    stream(
        "oxen-credits-in-stream", OXEN_CREDITS, expected=Failed("credits", 402, None, "You have run out of credits.")
    ),
    stream(
        "oxen-upstream-in-stream",
        delta({"content": "par"}),
        OXEN_UPSTREAM,
        expected=Failed("server", 502, None, "The model provider returned an error."),
    ),
    plain(
        "oxen-tool-call-with-index",
        {
            "choices": [
                {
                    "finish_reason": "tool_calls",
                    "message": {
                        "content": None,
                        "tool_calls": [
                            {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                        ],
                    },
                }
            ]
        },
        called(("c", "f", "{}")),
    ),
    stream(
        "oxen-chunks-without-role-and-usage",
        {"choices": [{"delta": {"content": "y"}, "index": 0}], "created": 1, "id": "r", "model": "m"},
        {"choices": [{"delta": {"content": "es"}, "finish_reason": "stop", "index": 0}], "created": 1, "id": "r"},
        expected=Completion("yes", finish_reason="stop", model="m", response_id="r"),
    ),
]

CONTENTS = [
    message(
        "null-content-with-tool-calls",
        {"content": None, "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]},
        called(("c", "f", "{}")),
        finish_reason="tool_calls",
    ),
    message(
        "null-content-after-thinking-to-the-limit",
        {"content": None, "reasoning_content": "hm"},
        Completion(None, reasoning="hm", finish_reason="length"),
        finish_reason="length",
    ),
    message(
        "empty-content-after-thinking-to-the-limit",
        {"content": "", "reasoning": "hm"},
        Completion("", reasoning="hm", finish_reason="length"),
        finish_reason="length",
    ),
    message("content-in-parts", {"content": [{"type": "text", "text": "y"}, "es"]}, Completion("yes")),
    message(
        "content-in-parts-with-thinking",
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "h"}, "m"], "closed": True},
                {"type": "text", "text": "yes"},
            ]
        },
        Completion("yes", reasoning="hm"),
    ),
    message(
        "thinking-part-that-is-text",
        {"content": [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "yes"}]},
        Completion("yes", reasoning="hm"),
    ),
    message("content-of-no-parts", {"content": []}, Failed("empty_reply", 200, None, NOTHING)),
    message("content-an-object", {"content": {"a": 1}}, Completion('{"a":1}')),
    message("refusal", {"content": None, "refusal": "I cannot."}, Completion(None, refusal="I cannot.")),
    message(
        "filtered-in-the-middle",
        {"content": "par"},
        Completion("par", finish_reason="content_filter"),
        finish_reason="content_filter",
        content_filter_results={"hate": {"filtered": True, "severity": "high"}},
    ),
    message(
        "filter-that-was-down",
        {"content": "yes"},
        YES,
        finish_reason="stop",
        content_filter_results={"error": {"code": "content_filter_error", "message": "timed out"}},
    ),
]

CHOICES = [
    plain("no-choices", {"id": "r"}, Failed("empty_reply", 200, None, 'the reply has no message: {"id":"r"}')),
    plain(
        "empty-choices", {"choices": []}, Failed("empty_reply", 200, None, 'the reply has no message: {"choices":[]}')
    ),
    plain(
        "null-choices-and-null-error",
        {"error": None, "choices": None},
        Failed("empty_reply", 200, None, 'the reply has no message: {"error":null,"choices":null}'),
    ),
    plain(
        "no-message",
        {"choices": [{"finish_reason": "stop"}], "usage": {"prompt_tokens": 3}},
        Failed(
            "empty_reply",
            200,
            None,
            'the reply has no message: {"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":3}}',
        ),
    ),
    plain(
        "completion-under-provider",
        {"provider": {"choices": []}},
        Failed("empty_reply", 200, None, 'the reply has no message: {"provider":{"choices":[]}}'),
    ),
    plain(
        "several-choices-out-of-order",
        {"choices": [{"index": 1, "message": {"content": "b"}}, {"index": 0, "message": {"content": "a"}}]},
        Completion("a", completions=("a", "b")),
    ),
    plain(
        "several-choices-without-index",
        {"choices": [{"message": {"content": "a"}}, {"message": {"content": None}}]},
        Completion("a", completions=("a", None)),
    ),
    message("no-finish-reason", {"content": "yes"}, Completion("yes"), finish_reason=None),
    *(
        message(f"finish-reason-{word}", {"content": "yes"}, Completion("yes", finish_reason=word), finish_reason=word)
        for word in ("unknown", "function_call", "max_tokens", "eos", "insufficient_system_resource")
    ),
    *(
        message(f"finish-reason-{word}", {"content": "par"}, Failed("server", 502, None, STOPPED), finish_reason=word)
        for word in ("error", "abort")
    ),
    message(
        "logprobs",
        {"content": "a"},
        Completion("a", logprobs='{"content":[{"token":"a","logprob":-0.5}]}'),
        logprobs={"content": [{"token": "a", "logprob": -0.5}]},
    ),
    message("null-logprobs", {"content": "a"}, Completion("a"), logprobs=None),
]

REASONING = [
    message("reasoning-content", {"content": "yes", "reasoning_content": "hm"}, Completion("yes", reasoning="hm")),
    message("reasoning", {"content": "yes", "reasoning": "hm"}, Completion("yes", reasoning="hm")),
    message(
        "reasoning-details",
        {
            "content": "yes",
            "reasoning_details": [
                {"type": "reasoning.text", "text": "h"},
                {"type": "reasoning.encrypted", "data": "x"},
                {"type": "reasoning.text", "text": "m"},
            ],
        },
        Completion("yes", reasoning="hm"),
    ),
    message(
        "reasoning-details-of-summaries",
        {"content": "yes", "reasoning_details": [{"type": "reasoning.summary", "summary": "hm"}]},
        Completion("yes", reasoning="hm"),
    ),
    message(
        "think-tags",
        {"content": "\n<think>\nh\n\nm\n</think>\n\nyes</think>"},
        Completion("\n<think>\nh\n\nm\n</think>\n\nyes</think>", reasoning="h\n\nm"),
    ),
    message("think-tags-around-nothing", {"content": "<think>\n\n</think>yes"}, Completion("<think>\n\n</think>yes")),
    message("think-tags-in-the-middle", {"content": "use <think>x</think>"}, Completion("use <think>x</think>")),
]

TOOL_CALLS = [
    *(
        message(
            f"tool-arguments-{name}",
            {"content": None, "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": arguments}}]},
            Completion(None, (ToolCall("c", "f", text),)),
        )
        for name, arguments, text in [
            ("object", {"a": [1, "é"]}, '{"a":[1,"é"]}'),
            ("huge-integer", {"a": 123456789012345678901234567890}, '{"a":123456789012345678901234567890}'),
            ("invalid", "{a:", "{a:"),
            ("empty", "", ""),
            ("null", None, None),
        ]
    ),
    *(
        message(
            f"tool-id-{name}",
            {"content": None, "tool_calls": [{**fields, "function": {"name": "f", "arguments": "{}"}}] * 2},
            Completion(None, (ToolCall(value, "f", "{}"),) * 2),
        )
        for name, fields, value in [("missing", {}, None), ("empty", {"id": ""}, None), ("twice", {"id": "c"}, "c")]
    ),
    message(
        "legacy-function-call",
        {"content": None, "function_call": {"name": "f", "arguments": '{"a": 1}'}},
        Completion(None, (ToolCall(None, "f", '{"a": 1}'),), finish_reason="function_call"),
        finish_reason="function_call",
    ),
]

USAGES = [
    *(
        plain(
            f"usage-{name}",
            {"choices": [{"message": {"content": "yes"}}], "usage": usage},
            Completion("yes", usage=expected),
        )
        for name, usage, expected in [
            ("null", None, Usage()),
            ("zeros", {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, Usage(0, 0, 0)),
            ("partial", {"prompt_tokens": 3}, Usage(3)),
            ("floats", {"prompt_tokens": 3.0, "completion_tokens": "4", "total_tokens": "7.0"}, Usage(3, 4, 7)),
            ("odd-total", {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 99}, Usage(3, 4, 99)),
            ("huge", {"prompt_tokens": 10**30, "total_tokens": 7}, Usage(total_tokens=7)),
            (
                "details",
                {
                    "prompt_tokens": 3,
                    "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": 0},
                    "completion_tokens_details": {"reasoning_tokens": 1, "accepted_prediction_tokens": None},
                    "cost": 0.1,
                    "is_byok": False,
                },
                Usage(3, cached_tokens=2, reasoning_tokens=1, cost_usd=0.1),
            ),
        ]
    ),
    plain("usage-missing", {"choices": [{"message": {"content": "yes"}}]}, Completion("yes")),
    plain(
        "odd-head",
        {
            "created": None,
            "model": "",
            "service_tier": "odd",
            "system_fingerprint": None,
            "choices": [{"message": {"content": "yes"}}],
        },
        Completion("yes"),
    ),
    plain(
        "served-model",
        {"created": 0, "model": "other-1", "choices": [{"message": {"content": "yes"}}]},
        Completion("yes", model="other-1"),
    ),
]

ERRORS = [
    plain(
        "error-in-200-by-number",
        {"error": {"code": 429, "message": "slow"}},
        Failed("rate_limit", 429, "429", "slow"),
    ),
    plain(
        "error-in-200-by-word",
        {"error": {"code": "rate_limit_exceeded", "message": "slow"}},
        Failed("rate_limit", 429, "rate_limit_exceeded", "slow"),
    ),
    plain(
        "error-in-200-of-the-server",
        {"error": {"code": "server_error", "message": "broke"}},
        Failed("server", 502, "server_error", "broke"),
    ),
    plain(
        "error-in-the-second-choice",
        {
            "choices": [
                {"index": 0, "message": {"content": "a"}},
                {"index": 1, "error": {"code": 503, "message": "busy"}, "finish_reason": "error"},
            ]
        },
        Failed("server", 503, "503", "busy"),
    ),
    plain(
        "error-in-a-choice-with-partial-content",
        {"choices": [{"message": {"content": "par"}, "error": {"code": 429, "message": "slow"}}]},
        Failed("rate_limit", 429, "429", "slow"),
    ),
    plain(
        "old-vllm-in-200",
        VLLM_OLD,
        Failed("context_length", 400, "400", "This model's maximum context length is 8 tokens."),
    ),
    plain(
        "old-vllm-nested-in-200",
        {"error": VLLM_OLD},
        Failed("context_length", 400, "400", "This model's maximum context length is 8 tokens."),
    ),
    plain(
        "anthropic-in-200",
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, "request_id": "r"},
        Failed("server", 529, None, "Overloaded"),
    ),
    plain(
        "gemini-in-200",
        [{"error": {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED"}}],
        Failed("rate_limit", 429, "429", "Quota"),
    ),
    plain(
        "gemini-without-number-in-200",
        [{"error": {"message": "Quota", "status": "RESOURCE_EXHAUSTED"}}],
        Failed("rate_limit", 429, None, "Quota"),
    ),
    plain(
        "groq-tool-use-failed",
        GROQ_TOOLS,
        Failed("server", 400, "tool_use_failed", "Failed to call a function. It was: <function=f>"),
        400,
    ),
    plain(
        "groq-tool-use-failed-in-200",
        GROQ_TOOLS,
        Failed("server", 400, "tool_use_failed", "Failed to call a function. It was: <function=f>"),
    ),
    plain(
        "html",
        b"<html>Log in</html>",
        Failed("protocol", 200, None, "the reply is not a chat completion: <html>Log in</html>"),
    ),
    plain("empty-body", b"", Failed("protocol", 200, None, "the reply is not a chat completion: ")),
    plain(
        "cut-json",
        b'{"choices": [{"mess',
        Failed("protocol", 200, None, 'the reply is not a chat completion: {"choices": [{"mess'),
    ),
]

ENCODINGS = [
    plain(
        "lone-surrogate", b'{"choices":[{"message":{"content":"a\\ud800b\\udfffc"}}]}', Completion("a\ufffdb\ufffdc")
    ),
    plain("surrogate-pair", b'{"choices":[{"message":{"content":"\\ud83c\\udf89"}}]}', Completion("🎉")),
    plain("surrogate-in-a-key", b'{"\\ud800":1,"choices":[{"message":{"content":"yes"}}]}', Completion("yes")),
    plain("nul", b'{"choices":[{"message":{"content":"a\\u0000b"}}]}', Completion("a\0b")),
    plain("invalid-utf-8", b'{"choices":[{"message":{"content":"a\xffb"}}]}', Completion("a\ufffdb")),
    plain("byte-order-mark", b'\xef\xbb\xbf{"choices":[{"message":{"content":"yes"}}]}', Completion("yes")),
    plain(
        "nan-and-infinity",
        b'{"choices":[{"message":{"content":"yes"},"logprobs":{"content":[NaN,-Infinity,1e999]}}]}',
        Completion("yes", logprobs='{"content":[null,null,null]}'),
    ),
    plain("duplicate-keys", b'{"choices":[{"message":{"content":"no","content":"yes"}}]}', Completion("yes")),
    plain(
        "number-of-5000-digits",
        b'{"created":' + b"1" * 5_000 + b',"choices":[{"message":{"content":"yes"}}]}',
        Completion("yes"),
    ),
]

FRAMES = [
    raw(
        "comments",
        b": OPENROUTER PROCESSING\n\n: keep-alive\n" + lines(FULL) + b":\n\n: ping\n" + lines(b"[DONE]"),
        YES,
    ),
    raw("no-space-after-data", lines(FULL, b"[DONE]").replace(b"data: ", b"data:"), YES),
    raw("two-spaces-after-data", lines(FULL, b"[DONE]").replace(b"data: ", b"data:  "), YES),
    raw("other-fields", b"id: 7\nevent: message\nretry: 10\n" + lines(FULL) + b"event: done\n" + lines(b"[DONE]"), YES),
    raw(
        "field-that-nobody-knows",
        b"data: " + json.dumps(FULL).encode() + b"\nfoo: bar\nbaz\n\n" + lines(b"[DONE]"),
        YES,
    ),
    raw(
        "data-in-several-lines",
        b'data: {"choices": [\ndata: {"delta": {"content": "yes"},\ndata:"finish_reason":"stop"}]}\n\n',
        YES,
    ),
    raw(
        "data-in-several-lines-of-cr-lf",
        b'data: {"choices": [\r\ndata: {"delta": {"content": "yes"},\r\ndata:"finish_reason":"stop"}]}\r\n\r\n',
        YES,
    ),
    raw("event-of-no-data", b"event: error\n\n" + lines(FULL, b"[DONE]"), YES),
    raw("cr", lines(delta({"content": "yes"}), END, b"[DONE]", end=b"\r"), YES),
    raw("cr-lf", lines(delta({"content": "yes"}), END, b"[DONE]", end=b"\r\n"), YES),
    raw("mark-before-the-stream", b"\xef\xbb\xbf" + lines(FULL, b"[DONE]"), YES),
    raw("blank-lines-before-the-stream", b"\n\r\n" + lines(FULL, b"[DONE]"), YES),
    raw("ping-that-is-no-json", b"event: ping\ndata: ping\n\n" + lines(b"ping", b"7", FULL, b"[DONE]"), YES),
    raw("ping-that-is-json", b'event: ping\ndata: {"type": "ping"}\n\n' + lines(FULL, b"[DONE]"), YES),
    raw("no-blank-line-between-events", lines(delta({"content": "yes"}), END, b"[DONE]").replace(b"\n\n", b"\n"), YES),
    raw("no-blank-line-at-the-end", lines(delta({"content": "yes"}), END)[:-2], YES),
    raw("no-done", lines(delta({"content": "yes"}), END), YES),
    raw("done-without-finish-reason", lines(delta({"content": "yes"}), b"[DONE]"), Completion("yes")),
    raw("bytes-after-done", lines(FULL, b"[DONE]", delta({"content": "no"}), b"{broken"), YES),
    raw("done-without-blank-line", lines(FULL) + b"data: [DONE]\n", YES),
    raw(
        "utf-8-of-four-bytes",
        lines('{"choices":[{"delta":{"content":"🎉é"},"finish_reason":"stop"}]}'.encode()),
        Completion("🎉é", finish_reason="stop"),
    ),
    stream(
        "surrogate-pair-in-two-chunks",
        b'{"choices":[{"delta":{"content":"a\\ud83c"}}]}',
        b'{"choices":[{"delta":{"content":"\\udf89b\\ud800"}}]}',
        END,
        expected=Completion("a🎉b\ufffd", finish_reason="stop"),
    ),
    raw("cut-before-any-finish-reason", lines(delta({"content": "par"})), Failed("connect", 200, None, CUT_OFF)),
    raw(
        "cut-in-the-middle-of-an-event",
        lines(delta({"content": "par"}), END)[:-20],
        Failed("connect", 200, None, CUT_OFF),
    ),
    raw("cut-before-anything", b"", Failed("connect", 200, None, CUT_OFF)),
    raw("cut-after-comments", b": ping\n\n", Failed("connect", 200, None, CUT_OFF)),
    raw(
        "cut-before-the-second-choice-ended",
        lines(FULL, {"choices": [{"index": 1, "delta": {"content": "par"}}]}),
        Failed("connect", 200, None, CUT_OFF),
    ),
    raw(
        "event-that-is-broken",
        lines(b'{"choices": [', FULL, b"[DONE]"),
        Failed("protocol", 200, None, 'an event of the stream is not JSON: {"choices": ['),
    ),
    Case("stream-that-is-not-called-one", b": ping\n\n" + lines(FULL, b"[DONE]"), YES),
    Case("stream-that-is-not-called-one-data", lines(FULL, b"[DONE]"), YES),
    raw(
        "completion-where-a-stream-was-asked",
        json.dumps({"choices": [{"message": {"content": "yes"}}]}).encode(),
        Completion("yes"),
    ),
    raw(
        "error-where-a-stream-was-asked",
        b'\n{"error": {"message": "slow", "code": 429}}',
        Failed("rate_limit", 429, "429", "slow"),
    ),
    raw(
        "page-where-a-stream-was-asked",
        b"<html>",
        Failed("protocol", 200, None, "the reply is not a chat completion: <html>"),
    ),
    Case(
        "error-status-where-a-stream-was-asked",
        b'{"error": {"message": "slow"}}',
        Failed("rate_limit", 429, None, "slow"),
        429,
        is_event_stream=True,
    ),
]

BROKE = {"error": {"code": "server_error", "message": "broke"}}
STREAM_ERRORS = [
    raw(
        "error-printed-over-several-lines",
        lines(delta({"content": "par"})) + b"data: " + json.dumps(BROKE, indent=2).encode() + b"\n\n",
        Failed("server", 502, "server_error", "broke"),
    ),
    raw(
        "error-printed-without-data",
        lines(delta({"content": "par"})) + json.dumps(BROKE, indent=2).encode() + b"\n",
        Failed("server", 502, "server_error", "broke"),
    ),
    raw(
        "error-event",
        b'event: error\ndata: {"message": "broke", "code": 503}\n\n',
        Failed("server", 503, "503", "broke"),
    ),
    raw(
        "error-event-in-words",
        b"event: error\ndata: upstream timeout\n\n",
        Failed("server", 502, None, "upstream timeout"),
    ),
    raw(
        "error-event-of-nothing",
        b"event: error\ndata: {}\n\n",
        Failed("server", 502, None, "the endpoint reported an error"),
    ),
    stream(
        "error-in-data",
        delta({"content": "par"}),
        {"error": {"code": 429, "message": "slow"}},
        expected=Failed("rate_limit", 429, "429", "slow"),
    ),
    stream(
        "error-beside-choices",
        {**delta({"content": ""}, "error"), "error": {"code": "server_error", "message": "broke"}},
        expected=Failed("server", 502, "server_error", "broke"),
    ),
    stream("error-as-finish-reason", delta({"content": "par"}, "error"), expected=Failed("server", 502, None, STOPPED)),
    stream(
        "error-in-a-choice",
        {"choices": [{"delta": {}, "error": {"code": 503, "message": "busy"}}]},
        expected=Failed("server", 503, "503", "busy"),
    ),
    stream(
        "error-of-vllm",
        {"error": {"message": "bad", "type": "BadRequestError", "param": None, "code": 400}},
        expected=Failed("bad_request", 400, "400", "bad"),
    ),
    stream(
        "error-of-old-vllm",
        {"error": VLLM_OLD},
        expected=Failed("context_length", 400, "400", "This model's maximum context length is 8 tokens."),
    ),
    stream(
        "error-of-old-vllm-at-the-top",
        VLLM_OLD,
        expected=Failed("context_length", 400, "400", "This model's maximum context length is 8 tokens."),
    ),
    stream(
        "error-of-anthropic",
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        expected=Failed("server", 529, None, "Overloaded"),
    ),
    stream(
        "error-of-gemini",
        [{"error": {"code": 429, "message": "Quota"}}],
        expected=Failed("rate_limit", 429, "429", "Quota"),
    ),
]

USED = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
DELTAS = [
    stream(
        "usage-in-the-last-chunk",
        {**delta({"content": "yes"}), "usage": None},
        {**END, "usage": None},
        {"choices": [], "usage": USED},
        expected=Completion("yes", finish_reason="stop", usage=Usage(3, 4, 7)),
    ),
    stream(
        "usage-with-the-finish-reason",
        delta({"content": "yes"}),
        {**END, "usage": USED},
        expected=Completion("yes", finish_reason="stop", usage=Usage(3, 4, 7)),
    ),
    stream(
        "usage-with-every-chunk",
        {**delta({"content": "y"}), "usage": {"prompt_tokens": 3, "completion_tokens": 1}},
        {**delta({"content": "es"}, "stop"), "usage": USED},
        {"choices": [], "usage": None},
        expected=Completion("yes", finish_reason="stop", usage=Usage(3, 4, 7)),
    ),
    raw("usage-that-was-cut-off", lines(FULL) + b'data: {"choices": [], "usage": {"prompt', YES),
    stream("role-first", delta({"role": "assistant", "content": ""}), delta({"content": "yes"}), END, expected=YES),
    stream(
        "role-in-every-chunk",
        delta({"role": "assistant", "content": "y"}),
        delta({"role": "assistant", "content": "es"}, "stop"),
        expected=YES,
    ),
    stream("delta-null", delta(None), delta({"content": "yes"}), delta(None, "stop"), expected=YES),
    stream(
        "azure-first-chunk",
        {"choices": [], "model": "", "id": "", "created": 0, "prompt_filter_results": [{"prompt_index": 0}]},
        {**delta({"content": "yes"}), "model": "m", "id": "r", "created": 5},
        {**END, "model": "later", "id": "later"},
        expected=Completion("yes", finish_reason="stop", model="m", response_id="r"),
    ),
    stream("choices-null", {"choices": None}, {"moderation": {"flagged": False}}, FULL, expected=YES),
    stream("empty-contents-to-keep-alive", *[delta({"content": ""})] * 3, FULL, delta({"content": ""}), expected=YES),
    stream("obfuscation", {**FULL, "obfuscation": "aB3"}, expected=YES),
    stream(
        "finish-reason-empty-until-the-last",
        delta({"content": "y"}, ""),
        delta({"content": "es"}, "stop"),
        expected=YES,
    ),
    stream("no-index", {"choices": [{"delta": {"content": "yes"}, "finish_reason": "stop"}]}, expected=YES),
    stream(
        "several-choices-in-turns",
        {"choices": [{"index": 1, "delta": {"content": "b"}}]},
        {"choices": [{"index": 0, "delta": {"content": "a"}}]},
        {"choices": [{"index": 1, "delta": {"content": "B"}, "finish_reason": "stop"}]},
        {"choices": [{"index": 0, "delta": {"content": "A"}, "finish_reason": "length"}]},
        expected=Completion("aA", finish_reason="length", completions=("aA", "bB")),
    ),
    stream(
        "whole-completion-in-one-event",
        {
            "object": "chat.completion",
            "model": "m",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}],
            "usage": USED,
        },
        expected=Completion("yes", finish_reason="stop", model="m", usage=Usage(3, 4, 7)),
    ),
    raw(
        "whole-completion-in-one-event-and-no-done",
        lines({"object": "chat.completion", "choices": [{"message": {"content": "yes"}, "finish_reason": None}]}),
        Completion("yes"),
    ),
    stream(
        "messages-for-deltas",
        {"choices": [{"message": {"content": "y"}}]},
        {"choices": [{"delta": None, "message": {"content": "es"}, "finish_reason": "stop"}]},
        expected=YES,
    ),
    stream(
        "contents-in-parts",
        delta({"content": [{"type": "text", "text": "y"}]}),
        delta({"content": "es"}, "stop"),
        expected=YES,
    ),
    stream(
        "thinking-in-parts",
        delta({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "h"}]}]}),
        delta({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "m"}]}]}),
        delta({"content": "yes"}, "stop"),
        expected=Completion("yes", reasoning="hm", finish_reason="stop"),
    ),
    *(
        stream(
            f"streamed-{name}",
            delta({name: "h", "content": None}),
            delta({name: "m", "content": ""}),
            delta({"content": "yes"}, "stop"),
            expected=Completion("yes", reasoning="hm", finish_reason="stop"),
        )
        for name in ("reasoning_content", "reasoning")
    ),
    stream(
        "streamed-reasoning-details",
        delta({"reasoning_details": [{"type": "reasoning.text", "text": "h"}]}),
        delta({"reasoning_details": [{"type": "reasoning.text", "text": "m"}], "content": "yes"}, "stop"),
        expected=Completion("yes", reasoning="hm", finish_reason="stop"),
    ),
    stream(
        "streamed-refusal",
        delta({"role": "assistant", "content": "", "refusal": None}),
        delta({"refusal": "I can"}),
        delta({"refusal": "not."}, "stop"),
        expected=Completion(None, refusal="I cannot.", finish_reason="stop"),
    ),
    stream(
        "streamed-logprobs",
        {"choices": [{"delta": {"content": "y"}, "logprobs": {"content": [{"token": "y"}], "refusal": None}}]},
        {"choices": [{"delta": {"content": "es"}, "logprobs": {"content": [{"token": "es"}], "refusal": None}}]},
        END,
        expected=Completion(
            "yes", finish_reason="stop", logprobs='{"content":[{"token":"y"},{"token":"es"}],"refusal":null}'
        ),
    ),
    stream(
        "done-and-nothing",
        expected=Failed(
            "empty_reply", 200, None, 'the reply has no message: {"object":"chat.completion","choices":[]}'
        ),
    ),
    stream("finish-reason-and-nothing", END, expected=Failed("empty_reply", 200, None, NOTHING)),
]

FRAGMENTS = [
    stream(
        "tool-call-in-fragments",
        delta({"role": "assistant", "content": None}),
        call(0, "c", name="f", arguments=""),
        call(0, arguments='{"a"'),
        call(0, arguments=": 1}"),
        CALLED,
        expected=called(("c", "f", '{"a": 1}')),
    ),
    stream(
        "empty-content-beside-a-tool-call",
        delta({"content": ""}),
        call(0, "c", name="f", arguments="{}"),
        CALLED,
        expected=called(("c", "f", "{}")),
    ),
    stream(
        "tool-calls-in-turns",
        call(0, "c", name="f", arguments=""),
        call(1, "d", name="g", arguments=""),
        call(0, arguments="{1"),
        call(1, arguments="{2"),
        call(0, arguments="}"),
        call(1, arguments="}"),
        CALLED,
        expected=called(("c", "f", "{1}"), ("d", "g", "{2}")),
    ),
    stream(
        "tool-index-missing",
        call(None, "c", name="f", arguments="{1"),
        call(arguments="}"),
        call(None, "d", name="g", arguments="{2"),
        call(arguments="}"),
        CALLED,
        expected=called(("c", "f", "{1}"), ("d", "g", "{2}")),
    ),
    stream(
        "every-tool-index-zero",
        call(0, "c", name="f", arguments="{1"),
        call(0, arguments="}"),
        call(0, "d", name="f", arguments="{2"),
        call(0, arguments="}"),
        CALLED,
        expected=called(("c", "f", "{1}"), ("d", "f", "{2}")),
    ),
    stream(
        "tool-index-wrong-on-later-fragments",
        call(0, "c", name="f", arguments="{1"),
        call(1, "d", name="g", arguments="{2"),
        call(1, "c", arguments="}"),
        call(0, "d", arguments="}"),
        CALLED,
        expected=called(("c", "f", "{1}"), ("d", "g", "{2}")),
    ),
    stream(
        "tool-index-unknown-on-later-fragments",
        call(0, "c", name="f", arguments="{1"),
        call(3, arguments="}"),
        CALLED,
        expected=called(("c", "f", "{1}")),
    ),
    stream(
        "head-at-zero-and-tail-at-one",
        call(0, "c", name="f", arguments="{1"),
        call(0, arguments="}"),
        call(0, "d", name="g", arguments="{2"),
        call(1, arguments=":3"),
        call(1, arguments="}"),
        CALLED,
        expected=called(("c", "f", "{1}"), ("d", "g", "{2:3}")),
    ),
    stream(
        "name-after-arguments",
        call(0, "c", arguments='{"a":'),
        call(0, arguments="1}"),
        call(0, name="f"),
        CALLED,
        expected=called(("c", "f", '{"a":1}')),
    ),
    stream(
        "id-and-name-after-arguments",
        call(0, arguments="{}"),
        call(0, "c", name="f"),
        CALLED,
        expected=called(("c", "f", "{}")),
    ),
    stream(
        "name-in-pieces",
        call(0, "c", name="get_"),
        call(0, name="weather"),
        call(0, arguments="{}"),
        CALLED,
        expected=called(("c", "get_weather", "{}")),
    ),
    stream(
        "id-and-name-in-every-fragment",
        call(0, "c", name="f", arguments="{"),
        call(0, "c", name="f", arguments="}"),
        CALLED,
        expected=called(("c", "f", "{}")),
    ),
    stream(
        "whole-calls-in-one-chunk",
        delta(
            {
                "tool_calls": [
                    {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{1}"}},
                    {"index": 1, "id": "d", "function": {"name": "f", "arguments": "{2}"}},
                ]
            },
            "tool_calls",
        ),
        expected=called(("c", "f", "{1}"), ("d", "f", "{2}")),
    ),
    stream(
        "whole-calls-without-id-and-index",
        delta({"tool_calls": [{"function": {"name": "f"}}, {"function": {"name": "f"}}]}),
        delta({"tool_calls": [{"function": {"name": "g", "arguments": "{1}"}}]}),
        delta({"tool_calls": [{"function": {"name": "g", "arguments": "{2}"}}]}, "tool_calls"),
        expected=called((None, "f", None), (None, "f", None), (None, "g", "{1}"), (None, "g", "{2}")),
    ),
    stream(
        "calls-by-index-alone",
        call(0, name="f", arguments=""),
        call(1, name="f", arguments=""),
        call(0, arguments="{1}"),
        call(1, arguments="{2}"),
        CALLED,
        expected=called((None, "f", "{1}"), (None, "f", "{2}")),
    ),
    stream(
        "whole-calls-with-the-same-id",
        call(0, "f", name="f", arguments="{1}"),
        call(0, "f", name="f", arguments="{2}"),
        CALLED,
        expected=called(("f", "f", "{1}"), ("f", "f", "{2}")),
    ),
    stream(
        "another-name-after-whole-arguments",
        call(0, name="f", arguments="{1}"),
        call(0, name="g"),
        call(0, arguments="{2}"),
        CALLED,
        expected=called((None, "f", "{1}"), (None, "g", "{2}")),
    ),
    stream(
        "second-call-without-id",
        call(0, "c", name="f", arguments=""),
        call(1, name="g", arguments=""),
        call(0, arguments="{1}"),
        call(1, arguments="{2}"),
        CALLED,
        expected=called(("c", "f", "{1}"), (None, "g", "{2}")),
    ),
    stream(
        "calls-by-index-alone-with-late-names",
        call(0, arguments="{1}"),
        call(1, arguments="{2}"),
        call(0, name="f"),
        call(1, name="g"),
        CALLED,
        expected=called((None, "f", "{1}"), (None, "g", "{2}")),
    ),
    stream(
        "calls-by-id-with-late-names",
        call(0, "c", arguments="{1}"),
        call(0, "d", arguments="{2}"),
        call(0, "c", name="f"),
        call(0, "d", name="g"),
        CALLED,
        expected=called(("c", "f", "{1}"), ("d", "g", "{2}")),
    ),
    stream(
        "tails-at-one-and-two-in-turns",
        call(0, "c", name="f", arguments="{1}"),
        call(0, "d", name="g", arguments="{2"),
        call(1, arguments=":"),
        call(2, "e", name="h", arguments="{3"),
        call(1, arguments="2}"),
        call(2, arguments="}"),
        CALLED,
        expected=called(("c", "f", "{1}"), ("d", "g", "{2:2}"), ("e", "h", "{3}")),
    ),
    stream(
        "calls-by-first-appearance",
        call(1, "d", name="g", arguments="{}"),
        call(0, "c", name="f", arguments="{}"),
        CALLED,
        expected=called(("d", "g", "{}"), ("c", "f", "{}")),
    ),
    stream(
        "arguments-an-object",
        call(0, "c", name="f", arguments={"a": 1}),
        CALLED,
        expected=called(("c", "f", '{"a":1}')),
    ),
    stream(
        "arguments-null",
        call(0, "c", name="f", arguments=None),
        CALLED,
        expected=called(("c", "f", None)),
    ),
    stream("arguments-empty", call(0, "c", name="f", arguments=""), CALLED, expected=called(("c", "f", ""))),
    stream(
        "null-arguments-among-others",
        call(0, "c", name="f", arguments=None),
        call(0, arguments="{}"),
        call(0, arguments=None),
        CALLED,
        expected=called(("c", "f", "{}")),
    ),
    stream(
        "streamed-legacy-function-call",
        delta({"content": "", "function_call": {"name": "f", "arguments": ""}}),
        delta({"function_call": {"arguments": '{"a"'}}),
        delta({"function_call": {"arguments": ":1}"}}, "function_call"),
        expected=Completion(None, (ToolCall(None, "f", '{"a":1}'),), finish_reason="function_call"),
    ),
]

CASES = [
    *(*OXEN, *CONTENTS, *CHOICES, *REASONING, *TOOL_CALLS, *USAGES, *ERRORS, *ENCODINGS),
    *(*FRAMES, *STREAM_ERRORS, *DELTAS, *FRAGMENTS),
]


def outcome(case: Case, parts: list[bytes]) -> Completion | Failed:
    """Return what a reply comes to that arrives in these parts."""
    content = read(parts, is_event_stream=case.is_event_stream).content
    headers = EVENTS if case.is_event_stream else {"content-type": "application/json"}
    result = content if isinstance(content, Failure) else read_reply(case.status, headers, content, unix_now=0.0)
    if isinstance(result, Completion):
        return result
    assert result.status is not None
    return Failed(result.kind, result.status, result.code, result.message)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_odd_reply_is_understood(case: Case) -> None:
    """An odd reply comes to exactly this, whether it arrives at once or byte by byte."""
    assert outcome(case, [case.body]) == case.expected
    assert outcome(case, [bytes([byte]) for byte in case.body]) == case.expected


def test_every_case_has_its_name() -> None:
    """No case hides another."""
    assert len({case.name for case in CASES}) == len(CASES)
