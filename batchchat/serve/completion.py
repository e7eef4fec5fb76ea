"""A valid request -> the reply that answers it, in the shape of Oxen's and OpenAI's chat completions.

What passes in is a `ChatBody`; what comes out is a `Completed`. The same request gives the same reply, id included. It
does not know HTTP, limits or faults.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from batchchat.serve.body import ChatBody
from batchchat.serve.instance import instance_of
from batchchat.serve.refusal import RefusedError, invalid_params
from batchchat.serve.schema import SchemaError
from batchchat.serve.subject import Subject, subject_of
from batchchat.serve.tokens import cut_to_tokens, token_count
from batchchat.serve.wording import object_answer, plain_answer


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


def complete(chat: ChatBody, created: int) -> Completed:
    """Return the reply to a request. Raises RefusedError when no instance of its schema can be made."""
    whole = _content(chat, subject_of(chat.messages))
    content = whole if chat.max_tokens is None else cut_to_tokens(whole, chat.max_tokens)
    completion_tokens = max(1, token_count(content))
    response_id = f"chatcmpl-{chat.digest}"
    reply = {
        "id": response_id,
        "object": "chat.completion",
        "created": created,
        "model": f"{chat.model} (batchchat stand-in)",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content},
                "finish_reason": "stop" if content == whole else "length",
            }
        ],
        "usage": {
            "prompt_tokens": chat.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": chat.prompt_tokens + completion_tokens,
        },
    }
    return Completed(reply, response_id, chat.prompt_tokens, completion_tokens)


def _content(chat: ChatBody, subject: Subject) -> str:
    if chat.response_kind == "text":
        return plain_answer(subject)
    if chat.response_kind == "json_object":
        return orjson.dumps(object_answer(subject)).decode()
    try:
        return orjson.dumps(instance_of(chat.schema, subject)).decode()
    except SchemaError as error:
        raise RefusedError(invalid_params(f"response_format.json_schema.schema: {error}")) from error
