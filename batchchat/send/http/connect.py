"""Open connections: addresses, sockets, TLS, and the way through a proxy."""

import asyncio
import os
import re
import socket
import ssl
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeVar, cast
from urllib.parse import unquote, urlsplit

import certifi
from aiohappyeyeballs import AddrInfoType, start_connection

EYEBALLS_S = 0.25
"""Seconds after which the next address of a host is tried beside one that does not answer (RFC 8305)."""
ADDRESSES_KEPT_S = 60.0
"""Seconds for which the addresses of a host are not looked up again."""
SILENT_S = 60
"""Seconds of silence after which, and between which, the system asks whether the other end is still there: a reply may
take minutes without a byte, and routers forget such connections."""
LARGEST_HEAD_BYTES = 300 * 2**10

_WHO_ASKS = b"407"
_HEAD_END = re.compile(rb"\n\r?\n")
"""The line without text that ends a head; some end their lines without CR."""
_NUMBER = re.compile(r"\[Errno (\d+)\]")
_DEFAULT_PORTS = {"http": 80, "https": 443}

P = TypeVar("P", bound=asyncio.Protocol)


class OpeningError(Exception):
    """No connection could be opened; `is_proxys` when the proxy says so, `number` is the system's reason, 0 if none."""

    def __init__(self, message: str, number: int = 0, *, is_proxys: bool = False) -> None:
        super().__init__(message)
        self.number = number
        self.is_proxys = is_proxys


class Origin(NamedTuple):
    """Whom to talk to: `host` is as in a URL, in ASCII, without brackets."""

    is_tls: bool
    host: str
    port: int

    @property
    def authority(self) -> str:
        """What a CONNECT names."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Proxy:
    """A proxy, by whose `authorization` (a header's value, or empty) it is asked."""

    origin: Origin
    authorization: bytes

    @classmethod
    def of(cls, url: str) -> "Proxy":
        """Read an `http` or `https` URL."""
        parts = urlsplit(url)
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        authorization = b"Basic " + b64encode(f"{user}:{password}".encode()) if user or password else b""
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
        return cls(Origin(parts.scheme == "https", parts.hostname or "", port), authorization)


class Trust:
    """The certificates that are trusted: those of the environment, or else Mozilla's."""

    def __init__(self) -> None:
        self._file, self._folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")

    def load(self) -> None:
        """Read them now.

        Raises:
            OSError: those that `SSL_CERT_FILE` or `SSL_CERT_DIR` name cannot be read.
        """
        if self._folder and not self._file:
            with os.scandir(self._folder):
                pass
        _ = self.context

    @cached_property
    def context(self) -> ssl.SSLContext:
        """What TLS is spoken with; making it takes some 25 ms."""
        if self._folder and not self._file:
            context = ssl.create_default_context(capath=self._folder)
        else:
            context = ssl.create_default_context(cafile=self._file or certifi.where())
        context.set_alpn_protocols(["http/1.1"])
        # As libraries in C do: an issuer of one's own need not lead to a root, nor have every extension.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


class Opener:
    """Opens connections to one origin."""

    def __init__(self, origin: Origin, proxy: Proxy | None, trust: Trust) -> None:
        self._origin = origin
        self._proxy = proxy
        self._trust = trust
        self._first_hop = proxy.origin if proxy else origin
        self._addresses: list[AddrInfoType] = []
        self._stale_at = 0.0
        self._lookup: asyncio.Task[OSError | None] | None = None

    async def open(self, new_protocol: Callable[[], P]) -> tuple[asyncio.Transport, P]:
        """Open a connection for a new protocol, through the proxy's tunnel where TLS needs one.

        Raises:
            OpeningError: it cannot be opened.
        """
        hop = await connected(await self._known_addresses())
        try:
            if self._proxy is not None and self._origin.is_tls:
                return await self._tunnelled(new_protocol, hop, self._proxy)
            return await self._begin(new_protocol, hop)
        except OSError as error:
            failure = _opening_error(error)
        except BaseException:
            hop.close()
            raise
        hop.close()
        raise failure  # not above, where the system's error would count as its cause

    async def _tunnelled(
        self, new_protocol: Callable[[], P], hop: socket.socket, proxy: Proxy
    ) -> tuple[asyncio.Transport, P]:
        outer, tunnel = await self._begin(_Tunnel, hop)
        try:
            await tunnel.ask(self._origin, proxy.authorization)
            protocol, context, name = new_protocol(), self._trust.context, _name(self._origin)
            transport = await asyncio.get_running_loop().start_tls(outer, protocol, context, server_hostname=name)
        except BaseException:
            outer.abort()
            raise
        assert transport is not None
        protocol.connection_made(transport)
        return transport, protocol

    async def _begin(self, new_protocol: Callable[[], P], hop: socket.socket) -> tuple[asyncio.Transport, P]:
        context = self._trust.context if self._first_hop.is_tls else None
        name = _name(self._first_hop) if self._first_hop.is_tls else None
        loop = asyncio.get_running_loop()
        return await loop.create_connection(new_protocol, sock=hop, ssl=context, server_hostname=name)

    async def _known_addresses(self) -> list[AddrInfoType]:
        """Return the addresses, that which answered last at first; all who wait for them wait for one lookup."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._stale_at:
            if self._lookup is None:
                self._lookup = loop.create_task(self._look_up())
            error = await asyncio.shield(self._lookup)
            if error is not None:
                where = "the proxy's host" if self._proxy else "the host"
                message = f"could not resolve {where} {self._first_hop.host}: {error.strerror or error}"
                raise OpeningError(message, _errno_of_opening(), is_proxys=self._proxy is not None)
        return self._addresses

    async def _look_up(self) -> OSError | None:
        loop = asyncio.get_running_loop()
        try:
            self._addresses = list(
                await loop.getaddrinfo(self._first_hop.host, self._first_hop.port, type=socket.SOCK_STREAM)
            )
        except OSError as error:
            return error
        except UnicodeError as error:  # an empty label, or one that is too long
            return OSError(0, str(error))
        finally:
            self._lookup = None
        self._stale_at = loop.time() + ADDRESSES_KEPT_S
        return None


class _Tunnel(asyncio.Protocol):
    """Asks a proxy for a tunnel."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._received = b""

    async def ask(self, origin: Origin, authorization: bytes) -> None:
        """Return when there is one.

        Raises:
            OpeningError: the proxy opens none.
        """
        place = origin.authority.encode("ascii")
        extra = b"Proxy-Authorization: %b\r\n" % authorization if authorization else b""
        self._transport.write(b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (place, place, extra))
        line = await self._answer
        status = line.split(None, 2)[1:2]
        if not line.startswith(b"HTTP/1.") or not status or not status[0].isdigit():
            raise OpeningError("the proxy's reply to CONNECT is no HTTP", is_proxys=True)
        if not 200 <= int(status[0]) < 300:
            why = ", which wants another user or password" if status[0] == _WHO_ASKS else ""
            raise OpeningError(f"CONNECT was answered with {int(status[0])} by the proxy{why}", is_proxys=True)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the way to the proxy."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not asyncio's by name

    def data_received(self, data: bytes) -> None:
        """Take a part of its reply."""
        self._received += data
        is_whole = _HEAD_END.search(self._received) or len(self._received) > LARGEST_HEAD_BYTES
        if is_whole and not self._answer.done():
            self._answer.set_result(self._received.partition(b"\n")[0])

    def connection_lost(self, _: Exception | None) -> None:
        """Take that none comes."""
        if not self._answer.done():
            self._answer.set_result(b"")


async def connected(addresses: list[AddrInfoType]) -> socket.socket:
    """Return a socket that is connected to the first address that answers, which is moved to the front.

    Raises:
        OpeningError: none answers.
    """
    try:
        hop = await start_connection(addresses, happy_eyeballs_delay=EYEBALLS_S, socket_factory=_new_socket)
        winner = hop.getpeername()
    except (OSError, RuntimeError) as error:  # the second is uvloop's, of an address that it cannot read
        # Of several addresses there is one error, in whose text each has its number; the last one's is told.
        number = int(["0", *_NUMBER.findall(str(error))][-1])
        failure = OpeningError(os.strerror(number) if number else str(error), number)
    else:
        addresses.sort(key=lambda address: address[4] != winner)
        return hop
    raise failure  # not above, where the system's error would count as its cause


def _new_socket(address: AddrInfoType) -> socket.socket:
    new = socket.socket(*address[:3])
    new.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    new.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in ("TCP_KEEPIDLE", "TCP_KEEPALIVE", "TCP_KEEPINTVL"):  # the second is macOS's name for the first
        if hasattr(socket, option):
            new.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), SILENT_S)
    return new


def _opening_error(error: OSError) -> OpeningError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return OpeningError(f"SSL certificate problem: {error.verify_message.rstrip('.')}")
    if isinstance(error, ssl.SSLError):
        return OpeningError(f"TLS failed: {(error.reason or str(error)).lower().replace('_', ' ')}")
    words = error.strerror or str(error) or "the connection was closed before it was ready"
    return OpeningError(words, error.errno or 0)


def _name(origin: Origin) -> str:
    """Return the name that a certificate must have."""
    return origin.host.rstrip(".")


def _errno_of_opening() -> int:
    """Return why no file can be opened, which a lookup does not say; 0 when one can."""
    try:
        os.close(os.dup(0))
    except OSError as error:
        return error.errno or 0
    return 0
