"""Complete a chat request: the reply in the shape of Oxen's and OpenAI's chat completions.

The same request gives the same reply, id included.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchchat.serve.answer.text import calls_of, content_of
from batchchat.serve.request.request import ChatRequest
from batchchat.serve.request.tokens import cut_to_tokens, logprobs_of, token_count


@dataclass(frozen=True, slots=True)
class Completed:
    """The reply, and of it what the ledger and the limits need."""

    reply: Mapping[str, Any]
    response_id: str
    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        """What a limit on tokens counts."""
        return self.prompt_tokens + self.completion_tokens


def complete(request: ChatRequest, created: int) -> Completed:
    """Return the reply to a request. Raises RefusedError when no instance of its schema can be made."""
    choices = [_choice(request, index) for index in range(request.choice_count)]
    completion_tokens = sum(map(_tokens_of, choices))
    response_id = f"chatcmpl-{request.digest}"
    reply = {
        "id": response_id,
        "object": "chat.completion",
        "created": created,
        "model": f"{request.model} (batchchat stand-in)",
        "choices": choices,
        "usage": {
            "prompt_tokens": request.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": request.prompt_tokens + completion_tokens,
        },
    }
    return Completed(reply, response_id, request.prompt_tokens, completion_tokens)


def _choice(request: ChatRequest, index: int) -> dict[str, Any]:
    calls = calls_of(request, index)
    if calls:
        message = {"role": "assistant", "content": None, "tool_calls": calls}
        return {"index": index, "message": message, "finish_reason": "tool_calls"}
    whole = content_of(request)
    ends = [whole.find(stop) for stop in request.stops if stop in whole]
    whole = whole[: min(ends, default=len(whole))]
    content = whole if request.max_tokens is None else cut_to_tokens(whole, request.max_tokens)
    message = {"role": "assistant", "content": content}
    choice = {"index": index, "message": message, "finish_reason": "stop" if content == whole else "length"}
    return (
        choice if request.top_logprobs is None else {**choice, "logprobs": logprobs_of(content, request.top_logprobs)}
    )


def _tokens_of(choice: Mapping[str, Any]) -> int:
    message = choice["message"]
    if "tool_calls" not in message:
        return max(1, token_count(message["content"]))
    called = [call["function"] for call in message["tool_calls"]]
    return sum(token_count(function["name"]) + token_count(function["arguments"]) for function in called)
