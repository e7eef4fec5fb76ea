"""The body of a reply, read to its end: a plain one as it stands, a stream as the plain reply it amounts to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Self

import httpx

from batchchat.records import Failure
from batchchat.send.decoding import Decoder, DecodingError
from batchchat.send.exchange import ReplyStream
from batchchat.send.stream import Events, begins_stream, without_blanks
from batchchat.send.timelimits import Deadline

LARGEST_REPLY_BYTES = 64 * 2**20
LARGEST_STREAM_BYTES = 4 * LARGEST_REPLY_BYTES
"""Bytes of a stream, which wraps every word of a reply in some 200 of its own."""
LINGER_S = 3.0
"""Seconds in which a stream whose reply is whole may still send its usage and `[DONE]`; some never do."""
LAST_LINGER_S = 0.25
"""Seconds after `[DONE]` in which the connection may come to its end, and so be used again."""


class TooLargeError(Exception):
    """The reply exceeds LARGEST_REPLY_BYTES, or LARGEST_STREAM_BYTES."""


@dataclass(frozen=True, slots=True)
class Body:
    """A body as a plain reply would have it, or what was wrong with the stream.

    `whole_at` is when the last byte that counts came, `first_token_at` when a stream first said something; both in
    seconds of the monotonic clock.
    """

    content: bytes | Failure
    whole_at: float
    first_token_at: float | None = None


async def read_body(
    stream: httpx.AsyncByteStream, headers: Mapping[str, str], deadline: Deadline, *, may_linger: bool
) -> Body:
    """Read a reply's body, whichever kind it is: its first bytes count for more than its content type.

    With `may_linger`, a stream that has said why it ended, and says nothing more, is soon taken to be whole.

    Raises:
        TooLargeError, DecodingError, httpx.TransportError: it cannot be read.
    """
    if isinstance(stream, ReplyStream) and (whole := stream.whole) and _is_plain(whole, headers):
        return Body(whole, time.monotonic())
    is_said_stream = "event-stream" in headers.get("content-type", "")
    deadline.on_piece()
    pieces = Pieces(stream, headers.get("content-encoding"), deadline, is_stream=is_said_stream)
    received, start = bytearray(), b""
    is_stream = None
    while is_stream is None:
        piece = await anext(pieces, None)
        if piece is None:
            is_stream = is_said_stream
        else:
            received += piece
            start = without_blanks(start + piece)
            is_stream = begins_stream(start, is_said_stream=is_said_stream)
    pieces.put_back(start if is_stream else bytes(received))
    return await (read_stream(pieces, deadline, may_linger=may_linger) if is_stream else read_plain(pieces))


def _is_plain(body: bytes, headers: Mapping[str, str]) -> bool:
    """Whether a body, all of which came at once, is sure to need nothing done to it, as is that of nearly all."""
    return body[:1] == b"{" and "content-encoding" not in headers and len(body) <= LARGEST_REPLY_BYTES


async def read_plain(pieces: Pieces) -> Body:
    """Read a body that is taken as it stands."""
    content = bytearray()
    async for piece in pieces:
        content += piece
    return Body(bytes(content), time.monotonic())


async def read_stream(pieces: Pieces, deadline: Deadline, *, may_linger: bool) -> Body:
    """Read a stream of events to its end; a connection that breaks after its last word loses nothing."""
    events, whole_at = Events(), None
    try:
        async for piece in pieces:
            now, last_token_at = time.monotonic(), events.last_token_at
            if not events.feed(piece, now):
                whole_at = whole_at or now
                deadline.linger(LAST_LINGER_S)
            elif whole_at is not None and events.last_token_at != last_token_at:
                # It went on after a finish_reason: some put one on every chunk, others send their choices in turn.
                may_linger = False
                whole_at = now if events.is_complete else None
                deadline.go_on()
            elif events.is_complete and whole_at is None:
                whole_at = now
                if may_linger:
                    deadline.linger(LINGER_S)
    except (httpx.TransportError, httpx.DecodingError, OSError, DecodingError, TooLargeError):
        if not events.is_complete:
            raise
    except asyncio.CancelledError:
        if not (events.is_complete and deadline.take_back()):
            raise
    return Body(events.whole(), whole_at or time.monotonic(), events.first_token_at)


class Pieces:
    """A body as it comes, decoded, in pieces of bounded size.

    Raises:
        TooLargeError, DecodingError, httpx.TransportError: no more can be read.
    """

    def __init__(
        self, stream: httpx.AsyncByteStream, content_encoding: str | None, deadline: Deadline, *, is_stream: bool
    ) -> None:
        self._stream = aiter(stream)
        self._decoder = Decoder(content_encoding) if content_encoding else None
        self._deadline = deadline
        self._left_bytes = LARGEST_STREAM_BYTES if is_stream else LARGEST_REPLY_BYTES
        self._largest_mb = self._left_bytes >> 20
        self._decoded: Iterator[bytes] = iter(())

    def put_back(self, piece: bytes) -> None:
        """Let a piece come again."""
        self._left_bytes += len(piece)
        self._decoded = chain((piece,), self._decoded)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while (piece := next(self._decoded, None)) is None:
            raw = await anext(self._stream)
            self._deadline.on_piece()
            self._decoded = self._decoder.feed(raw) if self._decoder else iter((raw,))
        self._left_bytes -= len(piece)
        if self._left_bytes < 0:
            raise TooLargeError(f"the reply is larger than {self._largest_mb} MB")
        return piece
