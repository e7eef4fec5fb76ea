"""One request sent, and its reply read whole: a plain body as it stands, a stream as the plain reply it amounts to.

With `pool.py` and `connection.py`, this is all that knows an HTTP library.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Self
from urllib.request import getproxies, proxy_bypass

import httpx

from batchchat.errors import UsageError
from batchchat.records import Failure, dataclass
from batchchat.redaction import Redaction
from batchchat.send.http.connection import BEFORE_WRITE, WANTS_NEW, ClosedWhileIdleError, HaltedError, ReplyStream
from batchchat.send.http.content_encoding import ACCEPTED, Decoder, DecodingError
from batchchat.send.http.deadline import Alarm, Deadline, TimeLimits
from batchchat.send.http.pool import ConnectionPool
from batchchat.send.reply.failures import CLOSED_WHILE_IDLE
from batchchat.send.reply.sse import Events, begins_stream, without_blanks

AsyncBaseTransport = httpx.AsyncBaseTransport
"""What can take the place of the connections."""

LARGEST_REPLY_BYTES = 64 * 2**20
LARGEST_STREAM_BYTES = 4 * LARGEST_REPLY_BYTES
"""Bytes of a stream, which wraps every word of a reply in some 200 of its own."""
LINGER_S = 3.0
"""Seconds in which a stream whose reply is whole may still send its usage and `[DONE]`; some never do."""
LAST_LINGER_S = 0.25
"""Seconds after `[DONE]` in which the connection may come to its end, and so be used again."""


LARGE_CONTENT_BYTES = 2**17
"""Bytes of a body from which on it is searched for the key in a thread, while others' replies come in."""
MOST_KNOWN_HEADERS = 512
KNOWN_VALUE_BYTES = 256
"""Headers that are remembered, and the bytes that a value of theirs may have."""


class TooLargeError(Exception):
    """The reply exceeds LARGEST_REPLY_BYTES, or LARGEST_STREAM_BYTES."""


_FAULTS = (TimeoutError, TooLargeError, DecodingError, httpx.DecodingError, httpx.TransportError, OSError)
"""What may go wrong on the way; TimeoutError: the deadline is over."""

RawHeaders = Sequence[tuple[bytes, bytes]]
"""Headers as they stand in a message."""


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


@dataclass(frozen=True, slots=True)
class Body:
    """A body as a plain reply would have it, or what was wrong with the stream.

    `whole_at` is when the last byte that counts came, `first_token_at` when a stream first said something; both in
    seconds of the monotonic clock.
    """

    content: bytes | Failure
    whole_at: float
    first_token_at: float | None = None


class Transport:
    """The way to one endpoint's `/chat/completions`, with its key, over any `httpx.AsyncBaseTransport`."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None,
        limits: TimeLimits,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        try:
            self.url = httpx.URL(f"{base_url}/chat/completions")
        except httpx.InvalidURL as error:
            raise UsageError(f"endpoint.base_url {base_url!r} is not a URL: {error}") from error
        self._transport = transport or new_pool(self.url)
        self._redaction = Redaction(api_key)
        self._reader = _HeaderReader(self._redaction)
        self._limits, self._alarm = limits, Alarm()
        self._is_halted = False
        headers = {"accept": "application/json", "content-type": "application/json", "user-agent": "batchchat"}
        if api_key is not None:
            headers["authorization"] = f"Bearer {api_key}"
        headers = {"host": _host(self.url), "accept-encoding": ACCEPTED, **headers}
        self._url, self._headers = str(self.url), httpx.Headers(headers).raw
        connect_s = min(limits.connect_s, limits.total_s / 2)  # below the whole: what never connected was never billed
        self._timeout = {"connect": connect_s, "read": None, "write": None, "pool": None}  # the deadline is nearer

    def halt(self) -> None:
        """From now on write no request; what is still connecting comes back as None."""
        self._is_halted = True

    async def send(self, body: bytes, *, choice_count: int = 1, wants_new: bool = False) -> Reply | Failure | None:
        """Send one request and read the whole reply within the limits; a fault of the way comes back as a Failure.

        `choice_count` is how many choices it asks for: a stream may bring one after the other. With `wants_new` it goes
        over a connection on which nothing was sent yet. None: it was halted
        before the first byte was written.
        """
        started = time.monotonic()
        deadline = Deadline(self._limits, self._alarm)
        status: int | None = None
        read: Body | None = None
        try:
            with deadline:
                status, raw_headers, stream = await self._begin(body, deadline, wants_new)
                headers = self._reader.read(raw_headers)
                try:
                    read = await read_body(stream, headers, deadline, may_linger=choice_count == 1)
                finally:
                    await stream.aclose()
        except HaltedError:
            return None
        except _FAULTS as error:
            if read is None:
                return self._failure(error, status, deadline)
        assert status is not None
        assert read is not None
        return await self._reply(status, headers, read=read, started=started)

    async def _reply(self, status: int, headers: Mapping[str, str], read: Body, started: float) -> Reply | Failure:
        """Return what was read, without the key."""
        content, first_token_at = read.content, read.first_token_at
        if isinstance(content, Failure):
            if status < 300:
                return replace(content, message=self._redaction.message(content.message))
            content = b""  # an error that came as a broken stream: its status still says what it is
        if len(content) > LARGE_CONTENT_BYTES:
            content = await asyncio.to_thread(self._redaction.content, content)
        else:
            content = self._redaction.content(content)
        first_token_s = None if first_token_at is None else first_token_at - started
        return Reply(
            status, headers=headers, body=content, latency_s=read.whole_at - started, first_token_s=first_token_s
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.aclose()

    async def _begin(
        self, body: bytes, deadline: Deadline, wants_new: bool
    ) -> tuple[int, RawHeaders, httpx.AsyncByteStream]:
        """Send a request; return the reply's status, its headers, and the body that is still to come."""

        def before_write() -> bool:
            deadline.on_written()
            return not self._is_halted

        extensions = {"timeout": self._timeout, BEFORE_WRITE: before_write, WANTS_NEW: wants_new}
        if isinstance(self._transport, ConnectionPool):
            reply = await self._transport.post(self._url, self._headers, body=body, extensions=extensions)
            return reply.status, reply.headers, reply
        # Given as a stream, body and headers are taken as they stand.
        headers, stream = [*self._headers, (b"content-length", b"%d" % len(body))], httpx.ByteStream(body)
        request = httpx.Request("POST", self.url, headers=headers, stream=stream, extensions=extensions)
        response = await self._transport.handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        return response.status_code, response.headers.raw, response.stream

    def _failure(self, error: Exception, status: int | None, deadline: Deadline) -> Failure:
        cause = _system_error(error)
        text = self._redaction.message(_reason(error, cause))
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)):
            code = errno.errorcode.get(cause.errno or 0) if cause else None
            return Failure("connect", f"cannot connect to {self.url.host}:{_port(self.url)}: {text}", code=code)
        if isinstance(error, TooLargeError):
            return Failure("too_large", text, status, is_outcome_unknown=True)
        if isinstance(error, TimeoutError):
            return Failure("timeout", str(deadline), status, is_outcome_unknown=True)
        if isinstance(error, httpx.TimeoutException):
            return Failure("timeout", f"no reply in time ({text})", is_outcome_unknown=True)
        if isinstance(error, (DecodingError, httpx.DecodingError)):
            return Failure("protocol", text, is_outcome_unknown=True)
        code = CLOSED_WHILE_IDLE if isinstance(error, ClosedWhileIdleError) else None
        message = f"the connection broke before the reply was whole: {text}"
        return Failure("connect", message, code=code, is_outcome_unknown=True)


def new_pool(url: httpx.URL) -> ConnectionPool:
    """Return the pool for a URL, with what the environment says about proxies and certificates.

    Raises:
        UsageError: it names a proxy that cannot be used, or certificates that are not there.
    """
    proxy = proxy_for(url)
    if proxy is not None and httpx.URL(proxy).scheme not in ("http", "https"):
        parts = httpx.URL(proxy)
        message = f"the environment names the proxy {parts.host!r} by {parts.scheme}; only http and https proxies work"
        raise UsageError(message)
    try:
        return ConnectionPool(proxy, speaks_tls="https" in (url.scheme, httpx.URL(proxy or "").scheme))
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
                whole_at = now
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


class _HeaderReader:
    """Reads headers, and takes the key out of them; most stood in the reply before, just so, and are known."""

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction
        self._known: dict[tuple[bytes, bytes], tuple[str, str]] = {}

    def read(self, headers: RawHeaders) -> dict[str, str]:
        """Return headers by lower-case name; of several with one name, all values (RFC 9110, section 5.2)."""
        named: dict[str, str] = {}
        for header in headers:
            name, value = self._known.get(header) or self._look_at(header)
            named[name] = f"{named[name]}, {value}" if name in named else value
        return named

    def _look_at(self, header: tuple[bytes, bytes]) -> tuple[str, str]:
        raw_name, raw_value = header
        read = raw_name.decode("latin-1").lower(), self._redaction.text(raw_value.decode("utf-8", "replace"))
        if len(raw_value) <= KNOWN_VALUE_BYTES:
            if len(self._known) >= MOST_KNOWN_HEADERS:
                self._known.clear()
            self._known[header] = read
        return read


def _system_error(error: BaseException) -> OSError | None:
    """Return the system's own error that caused it all: those on top only say that something failed."""
    found: OSError | None = None
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            found = cause
        cause = cause.__cause__ or cause.__context__
    return found


def _reason(error: BaseException, cause: OSError | None) -> str:
    if cause is not None and cause.strerror:
        return cause.strerror
    return str(error) or ("timed out" if isinstance(error, httpx.TimeoutException) else type(error).__name__)


def _host(url: httpx.URL) -> str:
    return url.netloc.decode("ascii")


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)
