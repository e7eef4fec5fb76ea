"""A valid request -> the reply that answers it, in the shape of Oxen's and OpenAI's chat completions.

What passes in is a `ChatBody`; what comes out is a `Completed`. The same request gives the same reply, id included. It
does not know HTTP, streams, limits or faults.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from batchchat.serve.body import ChatBody
from batchchat.serve.calls import Call, calls_for
from batchchat.serve.instance import instance_with
from batchchat.serve.logprobs import logprobs_of
from batchchat.serve.refusal import refused
from batchchat.serve.schema import Schema, SchemaError
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
    subject = subject_of(chat.messages)
    choices = [_choice(chat, subject, index) for index in range(chat.parameters.choice_count)]
    completion_tokens = sum(map(_tokens_of, choices))
    response_id = f"chatcmpl-{chat.digest}"
    reply = {
        "id": response_id,
        "object": "chat.completion",
        "created": created,
        "model": f"{chat.model} (batchchat stand-in)",
        "choices": choices,
        "usage": {
            "prompt_tokens": chat.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": chat.prompt_tokens + completion_tokens,
        },
    }
    return Completed(reply, response_id, chat.prompt_tokens, completion_tokens)


def asked_schema(chat: ChatBody, subject: Subject) -> Schema | None:
    """Return the schema that the answer is to fit: that of the response format, else the one in the prompt's text."""
    return chat.schema if chat.response_kind == "json_schema" else subject.schema


def _choice(chat: ChatBody, subject: Subject, index: int) -> dict[str, Any]:
    calls = calls_for(chat.offer, chat.messages, subject, f"{chat.digest}:{index}") if chat.offer.tools else ()
    if calls:
        return _called(calls, index)
    whole = _content(chat, subject, index)
    parameters = chat.parameters
    if parameters.stops:
        whole = _until_stop(whole, parameters.stops)
    content = whole if parameters.max_tokens is None else cut_to_tokens(whole, parameters.max_tokens)
    choice = {
        "index": index,
        "message": {"role": "assistant", "content": content},
        "finish_reason": "stop" if content == whole else "length",
    }
    top = parameters.top_logprobs
    return choice if top is None else {**choice, "logprobs": logprobs_of(content, top)}


def _called(calls: tuple[Call, ...], index: int) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": None, "tool_calls": list(calls)},
        "finish_reason": "tool_calls",
    }


def _tokens_of(choice: Mapping[str, Any]) -> int:
    message = choice["message"]
    if "tool_calls" not in message:
        return max(1, token_count(message["content"]))
    called = [call["function"] for call in message["tool_calls"]]
    return sum(token_count(function[part]) for function in called for part in ("name", "arguments"))


def _until_stop(text: str, stops: tuple[str, ...]) -> str:
    """Return the text up to the first of the sequences that end it."""
    found = [text.find(stop) for stop in stops]
    return text[: min((start for start in found if start >= 0), default=len(text))]


def _content(chat: ChatBody, subject: Subject, variant: int) -> str:
    if chat.response_kind == "text" and subject.schema is None:
        answer = plain_answer(subject)
        # An option stays the option that it is: whoever asks eight times for a label asks how sure the model is.
        return answer if variant == 0 or subject.options else f"{answer} (choice {variant + 1})"
    schema = asked_schema(chat, subject)
    if schema is not None:
        return _instance(schema, subject, variant)
    return orjson.dumps(object_answer(subject)).decode()


def _instance(schema: Schema, subject: Subject, variant: int) -> str:
    try:
        return orjson.dumps(instance_with(schema, subject, subject.facts, variant)).decode()
    except SchemaError as error:
        if variant > 0:
            return _instance(schema, subject, 0)
        raise refused(f"response_format.json_schema.schema: {error}") from error
