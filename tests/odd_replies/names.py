"""Name every odd reply, of the kinds that real endpoints send now and then, and say what it is.

An odd reply answers the request as any other reply does, with the same id, and is odd in the one way that its name
says; what the oddity has nothing to bear on stays as it is. With `stream: true` the oddities of a reply are streamed:
put together, the stream has what the plain reply has. Those of a stream do nothing to a plain reply. Oddities of tool
calls need some: where the reply has none, there are two, of the first tool offered.
"""

from collections.abc import Mapping

_OF_A_REPLY = {
    "null-content": "content is null, and nothing is beside it",
    "empty-content": 'content is ""',
    "list-content": "content is a list of two text parts",
    "empty-choices": "choices is []",
    "null-choices": "choices is null",
    "no-choices": "there are no choices",
    "no-message": "the choice has no message; streamed, no delta",
    "null-message": "the message, or every delta, is null",
    "usage-null": "usage is null",
    "usage-missing": "there is no usage, nor a chunk for it",
    "usage-partial": "usage has prompt_tokens alone",
    "usage-zero": "usage is all zeros",
    "usage-text": "the numbers of usage are text and floats",
    "usage-total": "total_tokens is more than the sum of the others",
    "usage-details": "usage has the details of cached and reasoning tokens, and a cost",
    "finish-unknown": 'finish_reason is "eos"',
    "finish-null": "finish_reason is null, also at the end of a stream",
    "finish-error": 'finish_reason is "error", beside half of the content',
    "finish-abort": 'finish_reason is "abort", beside half of the content',
    "reasoning-content": "the reasoning is in reasoning_content (DeepSeek, Moonshot)",
    "reasoning": "the reasoning is in reasoning (Ollama, vLLM)",
    "reasoning-details": "the reasoning is in the list reasoning_details (OpenRouter)",
    "think-tags": "content begins with the reasoning between <think> tags",
    "thinking-parts": "content is a list of a thinking part and a text part (Mistral)",
    "thought-only": "content is null and finish_reason length: all tokens went into reasoning_content",
    "refusal": "content is null, and refusal says why",
    "content-filter": "finish_reason is content_filter, beside half of the content",
    "error-in-200": "the body is an error with the code 502, at status 200; streamed, an event",
    "error-in-choice": "the choice has an error with the code 502, beside half of the content (OpenRouter)",
    "error-null": "error and choices are null",
    "nested-reply": "the reply stands under the key provider, beside an empty list of choices",
    "blank-names": 'id and model are "", created is null',
    "extra-fields": "there are fields that nobody knows at every level",
}
_OF_JSON = {
    "lone-surrogate": "the content has half of a surrogate pair, escaped",
    "nul": "the content has a NUL character, escaped",
    "invalid-utf8": "the content has bytes that are not UTF-8",
    "nan": "usage and a field of its own are NaN",
    "huge-integer": "created and total_tokens have thirty digits",
    "duplicate-keys": "content stands twice; the last one is right",
}
_OF_TOOL_CALLS = {
    "arguments-object": "the arguments are an object instead of text",
    "arguments-null": "the arguments are null",
    "arguments-empty": 'the arguments are ""',
    "arguments-invalid": "the arguments are not JSON: their end is missing",
    "tool-id-missing": "the calls have no ids",
    "tool-id-empty": 'the id of every call is ""',
    "tool-id-duplicate": "the calls have all the same id",
    "function-call": "the first call is in the older form, function_call",
}
_OF_JSON_ANSWERS = {
    "fenced-json": "the content stands in a fence of Markdown, with a sentence before it",
    "prose-json": "a sentence stands before and after the content",
    "truncated-json": "the closing brackets at the end of the content are missing",
    "wrong-json": "the content is JSON that does not fit the schema, until the conversation has an assistant's message",
    "always-wrong-json": "the content is JSON that does not fit the schema",
    "no-json-schema": "400 for a response_format of the type json_schema",
    "no-response-format": "400 for any response_format",
    "length-once": "half of the content, and finish_reason length, when max_tokens is less than 500",
}
_OF_A_STREAM = {
    "no-done": "[DONE] is missing",
    "done-without-finish": "no chunk has a finish_reason, but [DONE] comes",
    "cut-stream": "the stream ends before a finish_reason",
    "no-blank-line": "the last chunk is not followed by a blank line, nor by [DONE]",
    "after-done": "bytes that are no event follow [DONE]",
    "error-event": "an event: error comes half-way, and ends the stream",
    "error-data": "data with an error comes half-way, and [DONE] after it",
    "pretty-error": "an error comes half-way, over several lines of which the first alone begins with data:",
    "plain-json": "the plain reply comes, as application/json",
    "plain-error": "an error comes as application/json, at status 200",
    "one-chunk": "one chunk has the whole message instead of deltas",
    "comments": "comments stand between the events",
    "keepalive-comments": "a hundred comments and blank lines come first",
    "event-fields": "each event has the fields event, id and retry too",
    "crlf": "lines end with CR LF",
    "cr": "lines end with CR",
    "no-space": "there is no space after data:",
    "bom": "the stream begins with a byte order mark",
    "multi-line-data": "the data of an event takes several lines",
    "split-utf8": "a text gets characters of several bytes, and the stream is sent in pieces that cut them",
    "role-missing": "no chunk has the role",
    "empty-deltas": "chunks with empty content stand between the others",
    "null-delta": "a chunk with the delta null comes first",
    "filter-chunk": 'a chunk with no choices and the model "" comes first (Azure)',
    "no-choice-index": "the choices have no index",
    "no-index": "tool calls have no index",
    "same-index": "all tool calls have the index 0",
    "wrong-index": "what follows the start of a tool call has the index of the next one",
    "name-after-arguments": "the name of each tool call follows its arguments",
    "whole-call": "each tool call comes whole in one chunk",
    "usage-in-finish-chunk": "the usage stands in the chunk that has the finish_reason",
    "usage-in-every-chunk": "every chunk has the usage so far (vLLM)",
}
_OF_A_BODY = {
    "html-200": "a page of HTML, at status 200",
    "empty-body": "nothing, at status 200",
    "not-json": "text that is neither JSON nor an event, at status 200",
    "blank-lines": "blank lines stand before the body (DeepSeek)",
    "cut-connection": "the connection ends half-way",
    "closed-connection": "the connection ends without a reply",
}
_OF_AN_ERROR = {
    "context-length": "400: the prompt is longer than the model's context",
    "prompt-filter": "400: a content filter stopped the prompt (Azure)",
    "unsupported-parameter": "400: max_tokens is not supported (OpenAI)",
    "tool-use-failed": "400: the model's tool call was invalid (Groq)",
    "credits-in-flight": "402 with Retry-After: too many paid requests at once (OpenRouter)",
    "model-not-found": "404: the model does not exist (OpenAI)",
    "error-detail": "422 with a list as detail (FastAPI)",
    "error-top-level": "422 with the error's fields at the top, and an object as message (Mistral)",
    "no-quota": "429 with the code insufficient_quota (OpenAI)",
    "budget-exceeded": "429 with the type budget_exceeded (LiteLLM)",
    "error-array": "429 with an array of errors (Gemini)",
    "error-string": "500 whose error is a string",
    "error-anthropic": "529 with the type overloaded_error (Anthropic)",
    "html-403": "403 with a page of HTML",
    "html-502": "502 with a page of HTML",
    "loading-model": "503: the model is being loaded (llama.cpp)",
}
STATUSES = (400, 401, 402, 403, 404, 408, 413, 422, 429, 500, 502, 503, 529)
_OF_A_STATUS = {f"status-{status}": f"an error with the status {status}" for status in STATUSES}

ODDITIES: Mapping[str, str] = {
    **_OF_A_REPLY,
    **_OF_JSON,
    **_OF_TOOL_CALLS,
    **_OF_JSON_ANSWERS,
    **_OF_A_STREAM,
    **_OF_A_BODY,
    **_OF_AN_ERROR,
    **_OF_A_STATUS,
}
"""Every oddity by its name, and what it does."""
