"""Messages and parameters -> the exact bytes to send, and their key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from batchchat.errors import BatchchatError
from batchchat.prompt.frame import KEY_BYTES, Frame, framed, marks
from batchchat.prompt.json_text import json_value
from batchchat.prompt.media.folder import MediaError, MediaFolder, Unremembered
from batchchat.prompt.template import RequestTemplate, compile_request
from batchchat.records import ChatRequest, Failure, Media, Row

__all__ = ["KEY_BYTES", "Prompt", "compile_prompt"]

_NOT_IN_THE_KEY = ("stream", "stream_options")
"""They change how an answer travels, not what it is."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """How this job turns a row into a request; `frame` is what all its requests have in common, None if it is unknown.

    The frame saves time, and changes no byte.
    """

    template: RequestTemplate
    endpoint_name: str
    dedupe: bool
    media: MediaFolder
    frame: Frame | None

    def request(self, row: Row) -> ChatRequest | Failure:
        """Return the row's request; a Failure of kind `template` or `media` when its values do not make one."""
        frame = self.frame
        try:
            parts = self.template.parts(row.values)
            if frame is not None and frame.takes(parts):
                content, digest = frame.filled(parts)
                return ChatRequest(self._key(digest, row), content, row.name, (), frame.choice_count)
            made = _dumped(self.template.body(parts), self.media)
            key = self._key(blake2b(made.in_key, digest_size=KEY_BYTES), row)
            return ChatRequest(key, made.content, row.name, made.media, made.choice_count)
        except MediaError as error:
            return Failure("media", str(error))
        except BatchchatError:  # of the memory of media: the run's trouble, not this row's
            raise
        except Exception as error:  # an expression may raise anything; it is this row's problem alone
            return Failure("template", _reason(error))

    def _key(self, digest: blake2b, row: Row) -> bytes:
        digest.update(b"\0" + self.endpoint_name.encode())
        if not self.dedupe:
            digest.update(b"\0" + row.name.encode())
        return digest.digest()


class _Dumped(NamedTuple):
    """A request's JSON as it is sent, and as its key is made of it."""

    content: bytes
    in_key: bytes
    media: tuple[Media, ...]
    choice_count: int


def _dumped(body: dict[str, Any], folder: MediaFolder) -> _Dumped:
    messages, media = folder.place(body["messages"])
    body = _with_usage({**body, "messages": messages} if media else body)
    content = in_key = orjson.dumps(body, default=json_value)
    if not body.keys().isdisjoint(_NOT_IN_THE_KEY):
        kept = {name: value for name, value in body.items() if name not in _NOT_IN_THE_KEY}
        in_key = orjson.dumps(kept, default=json_value)
    return _Dumped(content, in_key, media, _choice_count(body))


def _frame(template: RequestTemplate) -> Frame | None:
    """Return the frame of all requests, cut out of one that is made of marks.

    None where a row decides more than the texts of the messages: parameters, roles, conversations; where there are
    media, which are looked at for each row; and where no request can be made, which is each row's failure.
    """
    if not template.are_texts:
        return None
    texts = marks(template.part_count)
    try:
        made = _dumped(template.body(texts), MediaFolder(None, 0, None, Unremembered()))
    except Exception:  # whatever it is, each row is going to tell
        return None
    return framed(made.content, made.in_key, texts, made.choice_count)


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
    template = compile_request(request, columns)
    return Prompt(template, endpoint_name, dedupe, media, _frame(template))


def _reason(error: BaseException) -> str:
    if isinstance(error, orjson.JSONEncodeError) and error.__cause__ is not None:
        return _reason(error.__cause__)  # orjson's own words hide what its `default` said
    if isinstance(error, RecursionError):
        return "RecursionError: the template calls itself too deep"  # Python's words depend on where the stack ends
    text = str(error) or type(error).__name__
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
