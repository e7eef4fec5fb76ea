"""One keep-alive connection, and the reply that is due on it.

A connection is a protocol of asyncio's that gives what comes to a parser in C, and little more: what is done here is
done for each request. Pools for all that HTTP can do take many times as long, and so do libraries that wait for sockets
themselves.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, cast

import httptools
import httpx

from batchchat.send.http.connect import LARGEST_HEAD_BYTES

RACE_S = 0.1
"""Seconds within which a used connection that breaks, without a byte, may have been closed before it was asked."""
BEFORE_WRITE = "before_write"
"""The extension of a request that holds what is called just before its first byte is written; False forbids that."""
WANTS_NEW = "wants_new"
"""The extension of a request that must have a connection of its own, on which no other was answered."""
CLOSED_AT_ONCE = "the server closed the connection without a reply"
_CLOSED_EARLY = "the server closed the connection in the middle of its reply"

_JOINED_BYTES = 2**16
"""Bytes of a body up to which it is written in one piece with its head; a larger one is not copied."""
_UNREAD_BYTES = 2**20
"""Bytes of a reply that wait to be read, from which on no more are taken from the network."""
_NO_LIMITS: Mapping[str, float | None] = {}

Headers = Sequence[tuple[bytes, bytes]]


class HaltedError(Exception):
    """The run has stopped, and the request was not written."""


class ClosedWhileIdleError(httpx.ReadError):
    """The server closed the connection, likely before it saw the request; nobody can know, and it may be billed."""


class Connections:
    """Those of one origin: all that are `open`, and the `idle` ones, in the order in which they became so."""

    def __init__(self) -> None:
        self.idle: dict[Connection, None] = {}
        self.open: set[Connection] = set()


class Connection(asyncio.Protocol):
    """One connection, for one request at a time; what is in it beside the reply that is due ends it."""

    def __init__(self, connections: Connections) -> None:
        self.idle_since = 0.0
        self._all = connections
        self._transport: asyncio.Transport
        self._reply: ReplyStream | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        self._status = self._headless_bytes = self._unread_bytes = 0
        self._is_silent = self._is_whole = self._may_stay = self._is_paused = self._is_used = False
        self._parser = parser = httptools.HttpResponseParser(self)
        # What others read as well: lines that end without CR, headers in several lines, blanks behind a chunk's size,
        # and a length beside chunks, which win (RFC 9112, 6.3).
        parser.set_dangerous_leniencies(
            lenient_headers=True,
            lenient_chunked_length=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
        )
        self._feed = parser.feed_data

    def write(self, head: bytes, body: bytes, reply: "ReplyStream") -> None:
        """Write a request, unless it may not be written.

        Raises:
            HaltedError: it may not.
        """
        if reply.before_write is not None and not self._is_allowed(reply.before_write):
            raise HaltedError
        self._reply, self._parts = reply, reply.parts
        self._is_silent, self._is_whole = True, False
        self._headless_bytes = self._unread_bytes = 0
        reply.written_at = time.monotonic()
        reply.connection = self
        if len(body) <= _JOINED_BYTES:
            self._transport.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))
        else:
            self._transport.writelines((b"%b%d\r\n\r\n" % (head, len(body)), body))

    def close(self) -> None:
        """Close it at once, whatever is under way; one that was never open, or no longer is, stays as it is."""
        if self in self._all.open:
            self._all.idle.pop(self, None)
            self._all.open.discard(self)
            self._transport.abort()

    def give_up(self) -> None:
        """Close it; nobody waits for its reply any more."""
        self._reply = None
        self.close()

    def read_on(self) -> None:
        """Take more from the network, now that what came has been read."""
        self._unread_bytes = 0
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note that it is open."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not asyncio's by name
        self._all.open.add(self)

    def data_received(self, data: bytes) -> None:
        """Take bytes of the reply; where none is due, they are a reason to close."""
        reply = self._reply
        if reply is None:
            self.close()
            return
        self._is_silent = False
        try:
            self._feed(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._is_whole:
                self._fail(httpx.RemoteProtocolError(f"the reply is no HTTP: {error}"))
                return
            self._may_stay = False
        if not self._is_whole:
            self._hold_back(len(data))
            reply.wake()
            return
        self._reply = None
        reply.end(None)
        if self._may_stay and not self._transport.get_write_buffer_size():
            self._become_idle()
        else:
            self.close()

    def eof_received(self) -> None:
        """Take the server's word that no more will come."""
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the system's word that no more will come."""
        self._end(exc)
        del self._parser, self._feed  # which know it, too

    # What the parser calls

    def on_message_begin(self) -> None:
        """Note what follows a whole reply."""
        if self._is_whole:
            self._may_stay = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; those behind the body are not the reply's."""
        self._headers.append((name, value.rstrip()))

    def on_headers_complete(self) -> None:
        """Take the head, unless it is an interim one (RFC 9110, 15.2)."""
        status = self._status = self._parser.get_status_code()
        headers, self._headers = self._headers, []
        reply = self._reply
        if status >= 200 and reply is not None and not self._is_whole:
            self._may_stay = self._parser.should_keep_alive()
            reply.status, reply.headers, reply.has_head = status, headers, True

    def on_body(self, data: bytes) -> None:
        """Take a part of the body."""
        if not self._is_whole:
            self._headless_bytes = 0
            self._parts.append(data)

    def on_message_complete(self) -> None:
        """Note that the reply is whole, unless it was an interim one."""
        if self._headers:
            self._headers = []
        if self._status >= 200:
            self._is_whole = True

    def _is_allowed(self, before_write: Callable[[], bool]) -> bool:
        is_allowed = False
        try:
            is_allowed = before_write()
        finally:
            if not is_allowed:
                self._become_idle()
        return is_allowed

    def _become_idle(self) -> None:
        self._is_used = True
        self.idle_since = time.monotonic()
        self._all.idle[self] = None

    def _hold_back(self, size_bytes: int) -> None:
        """Bound what is kept of a reply that is not whole yet."""
        self._headless_bytes += size_bytes
        self._unread_bytes += size_bytes
        if self._headless_bytes > LARGEST_HEAD_BYTES:
            self._fail(httpx.RemoteProtocolError(f"the reply has headers of more than {LARGEST_HEAD_BYTES >> 10} KB"))
        elif self._unread_bytes > _UNREAD_BYTES and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def _end(self, cause: Exception | None) -> None:
        reply = self._reply
        if reply is None:
            self.close()
        elif reply.has_head and cause is None and _ends_with_connection(reply.headers):
            self._fail(None)
        elif self._is_silent and self._is_used and time.monotonic() - reply.written_at <= RACE_S:
            self._fail(ClosedWhileIdleError(CLOSED_AT_ONCE))
        elif cause is not None:
            error = httpx.ReadError(str(cause))
            error.__cause__ = cause
            self._fail(error)
        else:
            self._fail(httpx.RemoteProtocolError(CLOSED_AT_ONCE if self._is_silent else _CLOSED_EARLY))

    def _fail(self, error: Exception | None) -> None:
        reply, self._reply = self._reply, None
        self.close()
        if reply is not None:
            reply.end(error)


class ReplyStream(httpx.AsyncByteStream):
    """One reply as it comes: `status` and `headers` are there; closing it before its end gives it up."""

    status = 0
    headers: Headers = ()
    has_head = False
    connection: Connection | None = None
    _error: Exception | None = None
    _waiter: asyncio.Future[None] | None = None

    def __init__(self, extensions: Mapping[str, Any]) -> None:
        self.written_at = 0.0
        self.timeout: Mapping[str, float | None] = extensions.get("timeout", _NO_LIMITS)
        self.before_write: Callable[[], bool] | None = extensions.get(BEFORE_WRITE)
        self.parts: list[bytes] = []

    @property
    def whole(self) -> bytes | None:
        """The body, if all of it is there, in one part; None if not."""
        return self.parts[0] if self.connection is None and self._error is None and len(self.parts) == 1 else None

    def wake(self) -> None:
        """Let who waits look at what came."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def end(self, error: Exception | None) -> None:
        """Note that no more will come."""
        self.connection = None
        self._error = error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self  # which an asynchronous generator, each of which asyncio keeps account of, takes twice the time for

    async def __anext__(self) -> bytes:
        while not self.parts:
            if self._error is not None:
                raise self._error
            if self.connection is None:
                raise StopAsyncIteration
            self.connection.read_on()
            await self.more()
        part = b"".join(self.parts)
        self.parts.clear()
        return part

    async def aclose(self) -> None:
        """Give up what has not come yet."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.give_up()

    async def more(self) -> None:
        """Wait until something more came.

        Raises:
            httpx.TransportError: nothing more will come.
        """
        if self._error is not None:
            raise self._error
        loop = asyncio.get_running_loop()
        self._waiter = waiter = loop.create_future()
        read_s = self.timeout.get("read")
        timer = None if read_s is None else loop.call_later(read_s, self._time_out)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _time_out(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(httpx.ReadTimeout("the read operation timed out"))


def _ends_with_connection(headers: Headers) -> bool:
    """Whether a reply says nothing of its length (RFC 9112, 6.3)."""
    named = {name.lower(): value.lower() for name, value in headers}
    return b"content-length" not in named and b"chunked" not in named.get(b"transfer-encoding", b"")
