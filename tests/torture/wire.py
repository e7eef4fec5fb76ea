"""Replies as bytes, and what becomes of the connection after them."""

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from tests.torture.answers import plain_reply, stream_events

REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 429: "Too Many Requests"}


class Ending(Enum):
    """What becomes of a connection after a reply."""

    KEEP = "it is kept for the next request"
    CLOSE = "it is closed"
    RESET = "it is reset"
    HANG = "nothing: the rest never comes"


@dataclass(frozen=True, slots=True)
class Wire:
    """The bytes of a reply, maybe none, and how it ends."""

    content: bytes
    ending: Ending = Ending.KEEP


def http(status: int, content: bytes, headers: Iterable[str] = (), *, kind: str = "application/json") -> bytes:
    """Return a whole HTTP reply."""
    lines = [
        f"HTTP/1.1 {status} {REASONS.get(status, 'Whatever')}",
        f"content-type: {kind}",
        f"content-length: {len(content)}",
        *headers,
    ]
    return "\r\n".join([*lines, "\r\n"]).encode() + content


def answer(digest: str, response_id: str, padding_bytes: int, *, is_streamed: bool) -> Wire:
    """Return a whole answer; a plain one so many bytes longer, under a name of its own."""
    if is_streamed:
        return Wire(chunked(stream_events(digest, response_id)))
    body = plain_reply(digest, response_id)
    if padding_bytes:
        padding = base64.b64encode(hashlib.shake_256(digest.encode()).digest(padding_bytes * 3 // 4))
        body = body[:-1] + b',"padding":"' + padding + b'"}'
    return Wire(http(200, body))


def chunked(events: Iterable[bytes], *, is_whole: bool = True) -> bytes:
    """Return events as a chunked reply; one that is not whole lacks its last chunk."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    parts = [b"%x\r\n%s\r\n" % (len(event), event) for event in events]
    return b"".join([head, *parts, b"0\r\n\r\n" if is_whole else b""])
