"""Keep-alive connections by libcurl, behind httpx's seam: one request on each at a time.

What passes in are httpx requests; what comes out are responses whose bytes are still to be read, or httpx's exceptions.
It does not know what the bytes mean, follows no redirect, and tries once.

libcurl does the work of each connection: TLS, proxies, HTTP. Plain httpx does it in Python, which costs some twenty
times as much for each request.
"""

import asyncio
import math
import os
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import certifi
import httpx
import pycurl

from batchchat.send.sockets import Sockets

KEEPALIVE_EXPIRY_S = 4
"""Idle seconds after which a connection is not used again: below the 5 s after which common servers close theirs."""
RACE_S = 0.1
"""Seconds within which a used connection that breaks, without a byte, was closed by the server before it was asked; in
them another one is found, or opened."""
BEFORE_WRITE = "before_write"
"""The extension of a request that holds what is called just before its first byte is written; False forbids that."""

_MOST_CONNECTIONS = 65_536
_UPLOAD_BUFFER_BYTES = 16 * 2**10  # a quarter of libcurl's own: each connection keeps one
_E_WEIRD_SERVER_REPLY, _E_TOO_LARGE = 8, 100  # which pycurl has no names for
_SYSTEM_CODES = frozenset({pycurl.E_COULDNT_CONNECT, pycurl.E_SEND_ERROR, pycurl.E_RECV_ERROR})
_PROTOCOL_CODES = frozenset(
    {pycurl.E_UNSUPPORTED_PROTOCOL, _E_WEIRD_SERVER_REPLY, pycurl.E_GOT_NOTHING, pycurl.E_PARTIAL_FILE, _E_TOO_LARGE}
)
"""What libcurl says of a reply that is no HTTP, or not whole, or has headers without end."""


_NO_LIMITS: Mapping[str, float | None] = {}
_BLANK_LINES = (b"\r\n", b"\n")


class HaltedError(Exception):
    """The run has stopped, and the request was not written."""


class ConnectionPool(httpx.AsyncBaseTransport):
    """Connections, as many as are asked for, over an `http` or `https` proxy or none.

    Of a request's extensions it obeys `timeout` (`connect` and `read`) and `before_write`. A request on a connection
    that the server closed while it was idle is sent again on another: it was never seen.

    Raises:
        OSError: the certificates that `SSL_CERT_FILE` or `SSL_CERT_DIR` name cannot be read.
    """

    def __init__(self, proxy: str | None = None) -> None:
        self._proxy = proxy
        self._certificates = _certificates()
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, _MOST_CONNECTIONS)
        self._idle: list[_Channel] = []
        self._busy: dict[pycurl.Curl, _Channel] = {}
        self._sockets = Sockets(self._multi, self._take_ended)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; its connection is free again when its response was read, or closed before its end.

        Raises:
            httpx.TransportError: it failed; a `ConnectError`, `ConnectTimeout` or `ProxyError` before it was written.
            HaltedError: `before_write` said so.
        """
        headers = [header for header in request.headers.raw if header[0].lower() != b"content-length"]
        reply = await self.post(str(request.url), headers, await _body_of(request), request.extensions)
        return httpx.Response(reply.status, headers=reply.headers, stream=reply, request=request)

    async def post(
        self, url: str, headers: Sequence[tuple[bytes, bytes]], body: bytes, extensions: Mapping[str, Any]
    ) -> "ReplyStream":
        """Do the same without httpx's objects, which cost a tenth of the request; of `headers` it adds the length.

        Raises:
            httpx.TransportError, HaltedError: as `handle_async_request`.
        """
        self._sockets.wait_in(asyncio.get_running_loop())
        channel = self._idle.pop() if self._idle else _Channel(self._proxy, self._certificates)
        reply = ReplyStream(channel, self._release, extensions)
        channel.begin(url, headers, body, reply)
        self._busy[channel.curl] = channel
        self._multi.add_handle(channel.curl)
        try:
            while not reply.has_head:
                await reply.more()
        except BaseException:
            await reply.aclose()
            raise
        return reply

    async def aclose(self) -> None:
        """Close every connection."""
        for channel in list(self._busy.values()):
            self._release(channel)
        self._sockets.close()
        self._multi.close()
        for channel in self._idle:
            channel.curl.close()
        self._idle.clear()

    def _take_ended(self) -> None:
        """Take the requests that libcurl is done with."""
        left = 1
        while left:
            left, done, failed = self._multi.info_read()
            for curl in done:
                self._release(self._busy[curl]).end(None)
            for curl, code, message in failed:
                channel = self._busy[curl]
                error = channel.error(code, message)
                self._release(channel).end(error)

    def _release(self, channel: "_Channel") -> "ReplyStream":
        """Let a channel be used again; its connection is closed, unless the whole reply has come."""
        del self._busy[channel.curl]
        self._multi.remove_handle(channel.curl)
        self._idle.append(channel)
        return channel.reply


class _Channel:
    """One libcurl handle, for one request at a time, and what libcurl calls on its way."""

    def __init__(self, proxy: str | None, certificates: dict[int, str]) -> None:
        self.curl = curl = pycurl.Curl()
        self.reply: ReplyStream
        self._url = ""
        self._headers: Sequence[tuple[bytes, bytes]] = ()
        self._connect_s: float | None = None
        self._lines: list[bytes] = []
        curl.setopt(pycurl.POST, 1)
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        curl.setopt(pycurl.MAXAGE_CONN, KEEPALIVE_EXPIRY_S)
        # A reply may take minutes without a byte; routers forget a connection that is silent for that long.
        curl.setopt(pycurl.TCP_KEEPALIVE, 1)
        curl.setopt(pycurl.UPLOAD_BUFFERSIZE, _UPLOAD_BUFFER_BYTES)
        curl.setopt(pycurl.PROXY, proxy or "")  # empty: none, whatever the environment says
        for option, path in certificates.items():
            curl.setopt(option, path)
        curl.setopt(pycurl.PREREQFUNCTION, self._on_ready)
        curl.setopt(pycurl.HEADERFUNCTION, self._on_header)
        curl.setopt(pycurl.WRITEFUNCTION, self._on_body)

    def begin(self, url: str, headers: Sequence[tuple[bytes, bytes]], body: bytes, reply: "ReplyStream") -> None:
        """Prepare for a request; most differ in their body alone."""
        self.reply = reply
        self._lines = []
        curl = self.curl
        connect_s = reply.timeout.get("connect")
        if url != self._url:
            curl.setopt(pycurl.URL, url)
            self._url = url
        if headers != self._headers:
            lines = [b"%s: %s" % header for header in headers]
            curl.setopt(pycurl.HTTPHEADER, [*lines, b"Expect:"])  # no asking whether a large body is welcome
            self._headers = headers
        if connect_s != self._connect_s:
            curl.setopt(pycurl.CONNECTTIMEOUT_MS, math.ceil((connect_s or 0.0) * 1_000))  # 0 is libcurl's own limit
            self._connect_s = connect_s
        curl.setopt(pycurl.POSTFIELDS, body)

    def error(self, code: int, message: str) -> Exception:
        """Return libcurl's error as httpx's."""
        if self.reply.refusal is not None:
            return self.reply.refusal
        # Of other errors it is that of an address tried before, such as ::1 where only 127.0.0.1 listens.
        number = self.curl.getinfo(pycurl.OS_ERRNO) if code in _SYSTEM_CODES else 0
        if not number and code == pycurl.E_COULDNT_CONNECT:
            number = _errno_of_opening()
        error = self._kind_of(code)(message or f"libcurl's error {code}")
        if number:
            error.__cause__ = OSError(number, os.strerror(number))
        return error

    def _kind_of(self, code: int) -> type[httpx.TransportError]:
        if self.reply.written_at is None:
            if code == pycurl.E_OPERATION_TIMEDOUT:
                return httpx.ConnectTimeout
            is_proxys = code == pycurl.E_COULDNT_RESOLVE_PROXY or self.curl.getinfo(pycurl.HTTP_CONNECTCODE) >= 300
            return httpx.ProxyError if is_proxys else httpx.ConnectError
        if code == pycurl.E_SEND_ERROR:
            return httpx.WriteError
        return httpx.RemoteProtocolError if code in _PROTOCOL_CODES else httpx.ReadError

    def _on_ready(self, *_: object) -> int:
        """Take libcurl's word that a connection is there, and decide whether the request may be written on it.

        It comes again when a used connection broke without a byte, for libcurl to send the request on another; one
        that was opened for it and breaks ends the request.
        """
        try:
            is_allowed = self.reply.may_write(time.monotonic())
        except Exception as error:
            self.reply.refusal = error
            is_allowed = False
        return pycurl.PREREQFUNC_OK if is_allowed else pycurl.PREREQFUNC_ABORT

    def _on_header(self, line: bytes) -> None:
        self._lines.append(line)
        if line in _BLANK_LINES:
            lines, self._lines = self._lines, []
            if len(lines) > 1:  # none is where a reply begins with a blank line, which makes it none
                self.reply.take_head(lines)

    def _on_body(self, data: bytes) -> None:
        self.reply.take(data)


class ReplyStream(httpx.AsyncByteStream):
    """One reply as it comes: `status` and `headers` are there; closing it before its end gives it up."""

    def __init__(self, channel: _Channel, release: Callable[[_Channel], object], extensions: Mapping[str, Any]) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.timeout: Mapping[str, float | None] = extensions.get("timeout", _NO_LIMITS)
        self.written_at: float | None = None
        self.refusal: Exception | None = None
        self._release = release
        self._channel: _Channel | None = channel
        self._before_write: Callable[[], bool] | None = extensions.get(BEFORE_WRITE)
        self.has_head = False
        self._parts: deque[bytes] = deque()
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    def may_write(self, now: float) -> bool:
        """Whether the request may be written now: for the first time, or after a race with a server that closed."""
        if self._before_write is not None and not self._before_write():
            raise HaltedError
        if self.written_at is not None and now - self.written_at > RACE_S:
            message = "Server disconnected without sending a response."
            raise httpx.RemoteProtocolError(message)
        self.written_at = now
        return True

    def take_head(self, lines: list[bytes]) -> None:
        """Take the lines of a head, unless it is a proxy's or an interim one (RFC 9110, 15.2), or follows the body."""
        if self.has_head or self.written_at is None:
            return
        status = lines[0].split(None, 2)[1:2]
        self.status = int(status[0]) if status and status[0].isdigit() else 0
        if self.status >= 200:
            parts = [line.split(b":", 1) for line in lines[1:-1]]
            self.headers = [(part[0], part[1].strip()) for part in parts if len(part) == 2]
            self.has_head = True
            self._wake()

    def take(self, data: bytes) -> None:
        """Take a part of the body."""
        self._parts.append(data)
        self._wake()

    def end(self, error: Exception | None) -> None:
        """Note that no more will come."""
        self._channel = None
        if error is None and not self.has_head:
            error = httpx.RemoteProtocolError("the reply has no head")
        self._error = error
        self._wake()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self  # which an asynchronous generator, each of which asyncio keeps account of, takes twice the time for

    async def __anext__(self) -> bytes:
        while not self._parts:
            if self._error is not None:
                raise self._error
            if self._channel is None:
                raise StopAsyncIteration
            await self.more()
        return self._parts.popleft()

    async def aclose(self) -> None:
        """Give up what has not come yet."""
        channel, self._channel = self._channel, None
        if channel is not None:
            self._release(channel)

    async def more(self) -> None:
        """Wait until something more came.

        Raises:
            httpx.TransportError, HaltedError: nothing more will come.
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

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _time_out(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(httpx.ReadTimeout("the read operation timed out"))


async def _body_of(request: httpx.Request) -> bytes:
    stream = request.stream
    if isinstance(stream, httpx.SyncByteStream):  # as httpx's own for bytes is, which need no waiting for
        return b"".join(stream)
    return b"".join([part async for part in stream])


def _errno_of_opening() -> int:
    """Return why no file can be opened, which libcurl does not say; 0 when one can."""
    try:
        os.close(os.dup(0))
    except OSError as error:
        return error.errno or 0
    return 0


def _certificates() -> dict[int, str]:
    """Return the option that says where trusted certificates are: those of the environment, or else Mozilla's."""
    if file := os.environ.get("SSL_CERT_FILE"):
        ssl.create_default_context(cafile=file)
        return {pycurl.CAINFO: file, pycurl.PROXY_CAINFO: file}
    if folder := os.environ.get("SSL_CERT_DIR"):
        with os.scandir(folder):
            pass
        return {pycurl.CAPATH: folder, pycurl.PROXY_CAPATH: folder}
    return {pycurl.CAINFO: certifi.where(), pycurl.PROXY_CAINFO: certifi.where()}
