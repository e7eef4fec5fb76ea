"""Keep-alive connections behind httpx's seam: one request on each at a time."""

import asyncio
import os
import re
import time
from collections.abc import Mapping
from typing import Any

import httpx

from batchchat.send.http.connect import Opener, OpeningError, Origin, Proxy, Trust
from batchchat.send.http.connection import WANTS_NEW, Connection, Connections, Headers, ReplyStream

KEEPALIVE_EXPIRY_S = 4
"""Idle seconds after which a connection is not used again: below the 5 s after which common servers close theirs."""
_MOST_ROUTES = 1_000
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NO_VALUE = re.compile(rb"[\0\r\n]")
_TARGET = re.compile(rb"[!-~]+")


class ConnectionPool(httpx.AsyncBaseTransport):
    """Connections, as many as are asked for, over an `http` or `https` proxy or none.

    Of a request's extensions it obeys `timeout` (`connect` and `read`), `before_write` and `wants_new`.

    Where it `speaks_tls`, certificates are read at once, and not when requests are on their way.

    Raises:
        OSError: those that `SSL_CERT_FILE` or `SSL_CERT_DIR` name cannot be read.
    """

    def __init__(self, proxy: str | None = None, *, speaks_tls: bool = True) -> None:
        self._proxy = Proxy.of(proxy) if proxy else None
        self._trust = Trust()
        if speaks_tls:
            self._trust.load()
        self._places: dict[Origin, _Place] = {}
        self._routes: dict[str, _Route] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; its connection is free again when its response was read, or closed before its end.

        Raises:
            httpx.TransportError: it failed; a `ConnectError`, `ConnectTimeout` or `ProxyError` before it was written.
            ClosedWhileIdleError: it failed on a connection that was used before, as if that had been closed meanwhile.
            httpx.LocalProtocolError: it is no POST, which is all that chat completions take.
            HaltedError: `before_write` said so.
        """
        if request.method != "POST":
            raise httpx.LocalProtocolError(f"only POST requests are sent, and this is a {request.method}")
        headers = [header for header in request.headers.raw if header[0].lower() not in _FRAMING]
        reply = await self.post(str(request.url), headers, body=await _body_of(request), extensions=request.extensions)
        return httpx.Response(reply.status, headers=reply.headers, stream=reply, request=request)

    async def post(self, url: str, headers: Headers, body: bytes, extensions: Mapping[str, Any]) -> ReplyStream:
        """Do the same without httpx's objects, which cost as much as the request; of `headers` it adds the length.

        Raises:
            httpx.TransportError, HaltedError: as `handle_async_request`.
        """
        route = self._routes.get(url) or self._new_route(url)
        head = route.head(headers)
        reply = ReplyStream(extensions)
        connection = None if extensions.get(WANTS_NEW) else route.place.idle_connection()
        if connection is None:
            connection = await self._opened(route.place, reply)
        connection.write(head, body, reply)
        try:
            while not reply.has_head:
                await reply.more()
        except BaseException:
            await reply.aclose()
            raise
        return reply

    async def aclose(self) -> None:
        """Close every connection."""
        for place in self._places.values():
            for connection in list(place.open):
                connection.close()
        await asyncio.sleep(0)  # in which the loop lets go of them

    def _new_route(self, url: str) -> "_Route":
        if len(self._routes) >= _MOST_ROUTES:
            self._routes.clear()
        parts = httpx.URL(url)
        is_tls, host = parts.scheme == "https", parts.raw_host.decode("ascii")
        origin = Origin(is_tls, host, parts.port or (443 if is_tls else 80))
        if origin not in self._places:
            self._places[origin] = _Place(Opener(origin, self._proxy, self._trust))
        target, authorization = parts.raw_path, b""
        if self._proxy is not None and not is_tls:
            target = b"http://%b%b" % (parts.netloc, target)
            authorization = self._proxy.authorization
        if not _TARGET.fullmatch(target):
            raise httpx.LocalProtocolError("the request's URL has characters that no URL may have")
        route = self._routes[url] = _Route(
            self._places[origin], target=target, authority=parts.netloc, proxy_authorization=authorization
        )
        return route

    async def _opened(self, place: "_Place", reply: ReplyStream) -> Connection:
        limit_s = reply.timeout.get("connect")
        try:
            async with asyncio.timeout(limit_s):
                return await place.new_connection()
        except TimeoutError:
            failure: httpx.TransportError = httpx.ConnectTimeout(f"no connection within {limit_s or 0.0:g} s")
        except OpeningError as error:
            kind = httpx.ProxyError if error.is_proxys else httpx.ConnectError
            failure = kind(str(error))
            if error.number:
                failure.__cause__ = OSError(error.number, os.strerror(error.number))
        raise failure


_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


class _Place(Connections):
    """An origin's connections, and the way to a new one."""

    def __init__(self, opener: Opener) -> None:
        super().__init__()
        self._opener = opener

    def idle_connection(self) -> Connection | None:
        """Take the one that was used last, if any was of late."""
        if not self.idle:
            return None
        connection = self.idle.popitem()[0]
        if time.monotonic() - connection.idle_since <= KEEPALIVE_EXPIRY_S:
            return connection
        for stale in (connection, *self.idle):  # even older
            stale.close()
        return None

    async def new_connection(self) -> Connection:
        """Open one.

        Raises:
            OpeningError: it cannot be opened.
        """
        return (await self._opener.open(lambda: Connection(self)))[1]


class _Route:
    """What all requests to one URL have in common."""

    def __init__(self, place: _Place, target: bytes, authority: bytes, proxy_authorization: bytes) -> None:
        self.place = place
        self._target = target
        self._authority = authority
        self._proxy_authorization = proxy_authorization
        self._headers: Headers | None = None
        self._head = b""

    def head(self, headers: Headers) -> bytes:
        """Return a request's head, up to its length; hardly any differs from the one before.

        Raises:
            httpx.LocalProtocolError: a header would end before its end.
        """
        if headers is not self._headers:
            for name, value in headers:
                if not _NAME.fullmatch(name) or _NO_VALUE.search(value):
                    message = f"the request's header {name[:40]!r} has characters that no header may have"
                    raise httpx.LocalProtocolError(message)
            lines = [b"POST %b HTTP/1.1" % self._target, *(b"%b: %b" % header for header in headers)]
            if all(name.lower() != b"host" for name, _ in headers):
                lines.insert(1, b"host: %b" % self._authority)
            if self._proxy_authorization:
                lines.append(b"proxy-authorization: %b" % self._proxy_authorization)
            self._head = b"\r\n".join([*lines, b"content-length: "])
            self._headers = headers
        return self._head


async def _body_of(request: httpx.Request) -> bytes:
    stream = request.stream
    if isinstance(stream, httpx.SyncByteStream):  # as httpx's own for bytes is, which need no waiting for
        return b"".join(stream)
    return b"".join([part async for part in stream])
