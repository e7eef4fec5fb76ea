"""Bytes out, bytes in: the only module that knows an HTTP library.

What passes in is a request's body; what comes out is a `Reply` with any status, or the `Failure` of an attempt that
brought none. It does not know what the bytes mean, and it tries once.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from urllib.request import getproxies, proxy_bypass

import httpx

from batchchat.errors import UsageError
from batchchat.records import Failure
from batchchat.send.stream import ReplyBody

CONNECT_TIMEOUT_S = 20.0
KEEPALIVE_EXPIRY_S = 4.0
"""Idle seconds after which a connection is not used again: below the 5 s after which common servers close theirs."""

LARGEST_REPLY_BYTES = 64 * 2**20
LARGEST_STREAM_BYTES = 4 * LARGEST_REPLY_BYTES
"""Bytes of a stream, which wraps every word of a reply in some 200 of its own."""
LINGER_S = 3.0
"""Seconds in which a stream whose reply is whole may still send its usage and `[DONE]`; some never do."""
LAST_LINGER_S = 0.25
"""Seconds after `[DONE]` in which the connection may come to its end, and so be used again."""
SLICE_BYTES = 256 * 2**10
"""Bytes of a large body that are handed to the socket at a time, so that no layer copies all of it."""
SHORTEST_SECRET = 8
"""Characters below which a key is a placeholder such as `x`, and taking it out would only spoil replies."""

_REDACTED = b"[redacted]"


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP reply, read whole: `headers` by lower-case name, `body` decoded, `latency_s` from start to last byte.

    The body of a stream is the one that a plain reply would have; `first_token_s` is the time to its first piece.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    latency_s: float
    first_token_s: float | None = None


class ConnectionPool(httpx.AsyncBaseTransport):
    """Keep-alive connections, the last used first, one request on each at a time, as many as are asked for.

    Each connection is an httpx transport of its own: httpx's one pool walks all of its connections for every request,
    which at 500 in flight costs more than the requests themselves.
    """

    def __init__(self, proxy: str | None, tls: ssl.SSLContext | bool) -> None:
        self._proxy = proxy
        self._tls = tls
        self._idle: list[httpx.AsyncHTTPTransport] = []
        self._all: list[httpx.AsyncHTTPTransport] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; its connection is free again when the response is closed."""
        transport = self._idle.pop() if self._idle else self._new_transport()
        try:
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


class Transport:
    """The way to one endpoint's `/chat/completions`, with its key, over any `httpx.AsyncBaseTransport`."""

    def __init__(
        self, base_url: str, *, api_key: str | None, timeout_s: float, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        try:
            self.url = httpx.URL(f"{base_url}/chat/completions")
        except httpx.InvalidURL as error:
            message = f"endpoint.base_url {base_url!r} is not a URL: {error}"
            raise UsageError(message) from error
        self._transport = transport or _new_pool(self.url)
        self._secret = _pattern_of(api_key) if api_key and len(api_key) >= SHORTEST_SECRET else None
        self._timeout_s = timeout_s
        headers = {"accept": "application/json", "content-type": "application/json", "user-agent": "batchchat"}
        if api_key is not None:
            headers["authorization"] = f"Bearer {api_key}"
        self._headers = httpx.Headers({"host": _host(self.url), "accept-encoding": "gzip", **headers})
        connect_s = min(CONNECT_TIMEOUT_S, timeout_s / 2)  # below the whole: what never connected was never billed
        self._extensions = {"timeout": {"connect": connect_s, "read": timeout_s, "write": timeout_s, "pool": timeout_s}}

    async def send(self, body: bytes, *, choice_count: int = 1) -> Reply | Failure:
        """Send one request and read the whole reply within `timeout_s`; a fault of the way comes back as a Failure.

        `choice_count` is how many choices it asks for: a stream may bring one after the other.
        """
        started = time.monotonic()
        received = _Received(may_linger=choice_count == 1)
        try:
            async with asyncio.timeout(self._timeout_s) as deadline:
                await self._exchange(body, received, deadline)
        except TimeoutError:
            if not received.is_complete:
                return Failure("timeout", f"no whole reply within {self._timeout_s:g} s", is_outcome_unknown=True)
        except (httpx.TransportError, httpx.DecodingError, OSError) as error:  # httpx lets some of ssl's errors through
            if not received.is_complete:
                return self._failure(error)
        content = received.body.whole()
        if isinstance(content, Failure):
            if received.status < 300:
                return replace(content, message=self._redacted(content.message.encode()).decode())
            content = b""  # an error that came as a broken stream: its status still says what it is
        shown = {name: self._redacted(value.encode()).decode() for name, value in received.headers.items()}
        first_token_at = received.body.first_token_at
        return Reply(
            received.status,
            shown,
            self._redacted(content),
            (received.whole_at or time.monotonic()) - started,
            None if first_token_at is None else first_token_at - started,
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.aclose()

    async def _exchange(self, body: bytes, received: "_Received", deadline: asyncio.Timeout) -> None:
        response = await self._transport.handle_async_request(self._request(body))
        try:
            await received.read(response, deadline)
        finally:
            await response.aclose()

    def _request(self, body: bytes) -> httpx.Request:
        if len(body) <= SLICE_BYTES:
            return httpx.Request("POST", self.url, headers=self._headers, content=body, extensions=self._extensions)
        headers = httpx.Headers({**self._headers, "content-length": str(len(body))})
        return httpx.Request("POST", self.url, headers=headers, stream=_Sliced(body), extensions=self._extensions)

    def _failure(self, error: httpx.TransportError | httpx.DecodingError | OSError) -> Failure:
        text = self._redacted(_reason(error).encode()).decode()
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)):
            return Failure("connect", f"cannot connect to {self.url.host}:{_port(self.url)}: {text}")
        if isinstance(error, httpx.TimeoutException):
            return Failure("timeout", f"no reply in time ({text})", is_outcome_unknown=True)
        if isinstance(error, httpx.DecodingError):
            return Failure("protocol", f"the reply cannot be read: {text}", is_outcome_unknown=True)
        return Failure("connect", f"the connection broke before the reply was whole: {text}", is_outcome_unknown=True)

    def _redacted(self, content: bytes) -> bytes:
        """Take the key out of what the endpoint sent: some echo it in their errors, and replies are stored."""
        return content if self._secret is None else self._secret.sub(_REDACTED, content)


def _pattern_of(secret: str) -> re.Pattern[bytes]:
    """Return what matches a secret in JSON or plain text: as it stands, or with any of its characters escaped."""
    spelled = (rb"(?:%s|\\u00%02x%s)" % (re.escape(c.encode()), ord(c), rb"|\\/" if c == "/" else b"") for c in secret)
    return re.compile(b"".join(spelled), re.IGNORECASE)


def _new_pool(url: httpx.URL) -> ConnectionPool:
    """Return the pool for a URL, with what the environment says about proxies and certificates.

    Raises:
        UsageError: it names a proxy that cannot be used, or certificates that are not there.
    """
    proxy = proxy_for(url)
    if proxy is not None and httpx.URL(proxy).scheme not in ("http", "https"):
        parts = httpx.URL(proxy)
        message = f"the environment names the proxy {parts.host!r} by {parts.scheme}; only http and https proxies work"
        raise UsageError(message)
    if url.scheme != "https" and proxy is None:
        return ConnectionPool(None, tls=False)
    try:
        return ConnectionPool(proxy, httpx.create_ssl_context())
    except OSError as error:
        message = f"the certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read: {error.strerror}"
        raise UsageError(message) from error


def proxy_for(url: httpx.URL) -> str | None:
    """Return the proxy that the environment (`HTTPS_PROXY`, `NO_PROXY`) names for a URL; never one for loopback."""
    if _is_loopback(url.host) or proxy_bypass(url.host):
        return None
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class _Sliced(httpx.AsyncByteStream):
    """A large body, a slice at a time."""

    def __init__(self, body: bytes) -> None:
        self._body = memoryview(body)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._body), SLICE_BYTES):
            yield bytes(self._body[start : start + SLICE_BYTES])


class _Received:
    """What has come of a reply so far, so that a connection that breaks after the last word loses nothing.

    With `may_linger`, a stream that has said why it ended, and says nothing more, is soon taken to be whole.
    """

    def __init__(self, *, may_linger: bool) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.body = ReplyBody(is_event_stream=False)
        self.whole_at: float | None = None
        self._may_linger = may_linger

    @property
    def is_complete(self) -> bool:
        """Whether a stream has said all that an answer needs."""
        return self.body.is_complete

    async def read(self, response: httpx.Response, deadline: asyncio.Timeout) -> None:
        """Read the decoded body, but not one beyond all sense; of a stream that does not end, until it has said all."""
        self.status, self.headers = response.status_code, response.headers
        is_event_stream = "event-stream" in response.headers.get("content-type", "")
        self.body = ReplyBody(is_event_stream=is_event_stream)
        size_bytes, largest = 0, LARGEST_STREAM_BYTES if is_event_stream else LARGEST_REPLY_BYTES
        latest = deadline.when()
        async for part in response.aiter_bytes():
            size_bytes += len(part)
            if size_bytes > largest:
                message = f"the reply is larger than {largest >> 20} MB"
                raise httpx.DecodingError(message)
            self._take(part, deadline, latest)

    def _take(self, part: bytes, deadline: asyncio.Timeout, latest: float | None) -> None:
        now, last_token_at = time.monotonic(), self.body.last_token_at
        if not self.body.feed(part, now):
            self.whole_at = now
            _hasten(deadline, LAST_LINGER_S)
        elif self.whole_at is not None and self.body.last_token_at != last_token_at:
            # It went on after a finish_reason: some put one on every chunk, others send their choices in turn.
            self._may_linger = False
            self.whole_at = now if self.is_complete else None
            deadline.reschedule(latest)
        elif self.is_complete and self.whole_at is None:
            self.whole_at = now
            if self._may_linger:
                _hasten(deadline, LINGER_S)


def _hasten(deadline: asyncio.Timeout, seconds: float) -> None:
    soon = asyncio.get_running_loop().time() + seconds
    deadline.reschedule(min(deadline.when() or soon, soon))


def _reason(error: BaseException) -> str:
    """Return the words of the error that caused it all: those on top only say that something failed."""
    reason = str(error) or ("timed out" if isinstance(error, httpx.TimeoutException) else type(error).__name__)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            reason = cause.strerror
        cause = cause.__cause__ or cause.__context__
    return reason


def _host(url: httpx.URL) -> str:
    return url.netloc.decode("ascii")


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)
