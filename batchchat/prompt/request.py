"""Messages and parameters -> the exact bytes to send, and their key.

What passes in is a row; what comes out is a `ChatRequest`, or the `Failure` of a row that cannot be asked. It does not
know the endpoint's address, only the name that is part of every key.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from batchchat.errors import BatchchatError
from batchchat.prompt.environment import json_value
from batchchat.prompt.media import MediaError, MediaFolder
from batchchat.prompt.template import RequestTemplate, compile_request
from batchchat.records import ChatRequest, Failure, Row

KEY_BYTES = 20
"""Bytes of a key: at 160 bits, a billion requests share one with a probability below 1e-30."""

_NOT_IN_THE_KEY = ("stream", "stream_options")
"""They change how an answer travels, not what it is."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """How this job turns a row into a request."""

    template: RequestTemplate
    endpoint_name: str
    dedupe: bool
    media: MediaFolder

    def request(self, row: Row) -> ChatRequest | Failure:
        """Return the row's request; a Failure of kind `template` or `media` when its values do not make one."""
        try:
            body = self.template.render(row.values)
            messages, media = self.media.place(body["messages"])
            body = _with_usage({**body, "messages": messages} if media else body)
            content = orjson.dumps(body, default=json_value)
            return ChatRequest(self._key(body, content, row), content, row.name, media, _choice_count(body))
        except MediaError as error:
            return Failure("media", str(error))
        except BatchchatError:  # of the memory of media: the run's trouble, not this row's
            raise
        except Exception as error:  # an expression may raise anything; it is this row's problem alone
            return Failure("template", _reason(error))

    def _key(self, body: Mapping[str, Any], content: bytes, row: Row) -> bytes:
        if not body.keys().isdisjoint(_NOT_IN_THE_KEY):
            kept = {name: value for name, value in body.items() if name not in _NOT_IN_THE_KEY}
            content = orjson.dumps(kept, default=json_value)
        digest = hashlib.blake2b(content, digest_size=KEY_BYTES)
        digest.update(b"\0" + self.endpoint_name.encode())
        if not self.dedupe:
            digest.update(b"\0" + row.name.encode())
        return digest.digest()


def _choice_count(body: Mapping[str, Any]) -> int:
    count = body.get("n")
    return count if isinstance(count, int) and count > 1 else 1


def _with_usage(body: dict[str, Any]) -> dict[str, Any]:
    """Ask for the token usage of a stream, which comes unasked with a plain reply, unless the job says otherwise."""
    options = body.get("stream_options", {})
    if body.get("stream") is not True or not isinstance(options, Mapping) or "include_usage" in options:
        return body
    return {**body, "stream_options": {**options, "include_usage": True}}


def compile_prompt(
    request: Mapping[str, Any], columns: Sequence[str], *, endpoint_name: str, dedupe: bool, media: MediaFolder
) -> Prompt:
    """Compile a job's `request` against the input's columns.

    Raises:
        TemplateError: as `compile_request`.
    """
    return Prompt(compile_request(request, columns), endpoint_name, dedupe, media)


def _reason(error: BaseException) -> str:
    if isinstance(error, orjson.JSONEncodeError) and error.__cause__ is not None:
        return _reason(error.__cause__)  # orjson's own words hide what its `default` said
    text = str(error) or type(error).__name__
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
