"""Keep-alive connections, one request on each at a time.

What passes in are httpx requests, each with the `Course` that notes how far it came; what comes out are responses whose
bytes are still to be read. It does not know what they mean, and has no time limit of its own.
"""

import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx

KEEPALIVE_EXPIRY_S = 4.0
"""Idle seconds after which a connection is not used again: below the 5 s after which common servers close theirs."""
RACE_S = 0.05
"""Seconds within which a used connection that breaks, without a byte, was closed by the server before it was asked."""

_NO_BYTE = "Server disconnected without sending"
"""How httpcore says that a connection was closed before a reply began; anything else is a reply that is none."""


class HaltedError(Exception):
    """The run has stopped, and the request was not written."""


class Course:
    """How far one request came; `on_written` is called when its first byte is about to be sent.

    `is_fresh` says that a connection was opened for it.
    """

    def __init__(self, is_halted: Callable[[], bool], on_written: Callable[[], None]) -> None:
        self._is_halted = is_halted
        self._on_written = on_written
        self.is_fresh = False
        self.written_at: float | None = None

    async def __call__(self, event: str, _: dict[str, Any]) -> None:
        """Take httpcore's word of an event."""
        if event == "connection.connect_tcp.started":
            self.is_fresh = True
        elif event == "http11.send_request_headers.started":
            if self._is_halted():
                raise HaltedError
            self.written_at = time.monotonic()
            self._on_written()


class ConnectionPool(httpx.AsyncBaseTransport):
    """Connections, the last used first, as many as are asked for.

    Each is an httpx transport of its own: httpx's one pool walks all of its connections for every request, which at 500
    in flight costs more than the requests themselves.
    """

    def __init__(self, proxy: str | None, tls: ssl.SSLContext | bool) -> None:
        self._proxy = proxy
        self._tls = tls
        self._idle: list[httpx.AsyncHTTPTransport] = []
        self._all: list[httpx.AsyncHTTPTransport] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; its connection is free again when the response is closed.

        A connection that the server closed while it was idle may look open until it is used: then the request is sent
        once more, on a new one.
        """
        transport = self._idle.pop() if self._idle else self._new_transport()
        try:
            try:
                response = await transport.handle_async_request(request)
            except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as error:
                if not _was_closed_before(request.extensions.get("trace"), error):
                    raise
                response = await transport.handle_async_request(request)
        except BaseException:
            self._idle.append(transport)
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        stream = _ReturningStream(response.stream, lambda: self._idle.append(transport))
        return httpx.Response(
            response.status_code, headers=response.headers, stream=stream, extensions=response.extensions
        )

    async def aclose(self) -> None:
        """Close every connection."""
        for transport in self._all:
            await transport.aclose()

    def _new_transport(self) -> httpx.AsyncHTTPTransport:
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEPALIVE_EXPIRY_S)
        transport = httpx.AsyncHTTPTransport(
            verify=self._tls,
            limits=limits,
            proxy=self._proxy,
            # A reply may take minutes without a byte; routers forget a connection that is silent for that long.
            socket_options=[(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)],
        )
        self._all.append(transport)
        return transport


def _was_closed_before(course: Course | None, error: httpx.TransportError) -> bool:
    if course is None or course.is_fresh or course.written_at is None:
        return False
    if isinstance(error, httpx.RemoteProtocolError) and not str(error).startswith(_NO_BYTE):
        return False
    return time.monotonic() - course.written_at < RACE_S


class _ReturningStream(httpx.AsyncByteStream):
    """A response's bytes; closing it, once, gives the connection back."""

    def __init__(self, stream: httpx.AsyncByteStream, give_back: Callable[[], None]) -> None:
        self._stream = stream
        self._give_back: Callable[[], None] | None = give_back

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk

    async def aclose(self) -> None:
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            try:
                await self._stream.aclose()
            finally:
                give_back()
