"""Connections as any user of httpx's transports meets them: TLS, proxies, limits, and sockets that come and go."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import uvloop
from aiohappyeyeballs import AddrInfoType

from batchchat.send.http.connect import OpeningError, connected
from batchchat.send.http.connection import HaltedError
from batchchat.send.http.pool import ConnectionPool
from tests.running import ROOT

CERTIFICATE = ROOT / "tests" / "certificates" / "localhost.pem"
"""Its own issuer, for localhost and 127.0.0.1, with its key beside it; good for a hundred years and nothing else."""

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes"

Reply = Callable[[str, bytes], bytes | None]
"""Returns what to write back to a request's head and body; None closes the connection at once."""


@dataclass
class Server:
    """A loopback server that keeps the heads of what it was asked."""

    reply: Reply = lambda _head, _body: OK
    heads: list[str] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's requests."""
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                size = next((line[15:] for line in head.lower().split("\r\n") if line.startswith("content-length:")), 0)
                body = await reader.readexactly(int(size))
                self.heads.append(head)
                reply = self.reply(head, body)
                if reply is None:
                    break
                writer.write(reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


class Proxy(Server):
    """A proxy that opens tunnels, and counts them among its heads."""

    answer = b"HTTP/1.1 200 Connection established\r\nx-from: the proxy\r\n\r\n"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Open one tunnel to where the CONNECT says."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        port = int(head.split()[1].rsplit(":", 1)[1])
        away_reader, away_writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(self.answer)
        await asyncio.gather(_pump(reader, away_writer), _pump(away_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def serving(server: Server, *, with_tls: bool = False) -> AsyncIterator[Server]:
    """Run a server for as long as the block lasts."""
    context = None
    if with_tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE, CERTIFICATE.with_suffix(".key"))
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await server.serve(reader, writer)
        finally:
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context, backlog=1_024)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def pooled(proxy: str | None = None) -> AsyncIterator[ConnectionPool]:
    """Give a pool, and close it."""
    pool = ConnectionPool(proxy)
    try:
        yield pool
    finally:
        await pool.aclose()


async def asked(pool: ConnectionPool, url: str, body: bytes = b"{}", **extensions: Any) -> tuple[int, bytes]:
    """Send one request; return the status and the whole body of its reply."""
    request = httpx.Request("POST", url, content=body, extensions=extensions)
    response = await pool.handle_async_request(request)
    return response.status_code, await response.aread()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario in the loop that batchchat runs in."""

    async def bounded() -> None:
        async with asyncio.timeout(30):
            await scenario()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


@pytest.fixture
def _trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))


# TLS and proxies


@pytest.mark.usefixtures("_trusted")
def test_tls_connection_is_used_again() -> None:
    """With the certificate in `SSL_CERT_FILE`, requests go over one TLS connection."""

    async def scenario() -> None:
        async with serving(Server(), with_tls=True) as server, pooled() as pool:
            for _ in range(3):
                assert await asked(pool, f"https://localhost:{server.port}/v1") == (200, b"yes")
            assert server.connections == 1

    run(scenario)


def test_certificate_that_nobody_vouches_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written to a server that cannot show who it is: not the key, nor the row."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)

    async def scenario() -> None:
        written: list[bool] = []
        async with serving(Server(), with_tls=True) as server, pooled() as pool:
            with pytest.raises(httpx.ConnectError, match="certificate") as raised:
                await asked(pool, f"https://localhost:{server.port}/v1", before_write=lambda: written.append(True))
            assert (server.heads, written) == ([], [])
            assert raised.value.__cause__ is None  # not that of ::1, which localhost is as well, where nothing listens

    run(scenario)


@pytest.mark.usefixtures("_trusted")
@pytest.mark.parametrize("is_tunnelled", [False, True])
def test_certificate_of_another_host_is_refused(*, is_tunnelled: bool) -> None:
    """A certificate counts only for the names that are in it, directly or through a tunnel."""

    async def scenario() -> None:
        written: list[bool] = []
        async with serving(Server(), with_tls=True) as server, serving(Proxy()) as proxy:
            async with pooled(f"http://127.0.0.1:{proxy.port}" if is_tunnelled else None) as pool:
                host = "elsewhere.test" if is_tunnelled else "127.1"  # which is 127.0.0.1, but not in the certificate
                with pytest.raises(httpx.ConnectError, match="Hostname mismatch"):
                    await asked(pool, f"https://{host}:{server.port}/v1", before_write=lambda: written.append(True))
            assert (server.heads, written) == ([], [])

    run(scenario)


def test_certificates_that_are_not_there_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong `SSL_CERT_FILE` is found before the first request."""
    monkeypatch.setenv("SSL_CERT_FILE", "no-such-file.pem")
    with pytest.raises(FileNotFoundError):
        ConnectionPool()


@pytest.mark.usefixtures("_trusted")
def test_tls_goes_through_the_proxys_tunnel() -> None:
    """A proxy is asked for a tunnel, and sees neither the headers of the request nor has its own in the reply."""

    async def scenario() -> None:
        async with serving(Server(), with_tls=True) as server, serving(Proxy()) as proxy:
            async with pooled(f"http://127.0.0.1:{proxy.port}") as pool:
                headers = {"authorization": "Bearer secret"}
                request = httpx.Request("POST", f"https://localhost:{server.port}/v1", headers=headers, content=b"{}")
                response = await pool.handle_async_request(request)
                assert (response.status_code, "x-from" in response.headers) == (200, False)
                assert await response.aread() == b"yes"
            assert [head.split("\r\n")[0] for head in proxy.heads] == [f"CONNECT localhost:{server.port} HTTP/1.1"]
            assert "secret" not in proxy.heads[0]
            assert "Bearer secret" in server.heads[0]

    run(scenario)


@pytest.mark.usefixtures("_trusted")
def test_proxy_that_opens_no_tunnel_was_not_asked() -> None:
    """What a proxy refuses was not sent: it is no reply of the endpoint."""

    async def scenario() -> None:
        written: list[bool] = []
        refusing = Server(lambda _head, _body: b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 2\r\n\r\nno")
        async with serving(refusing) as proxy, pooled(f"http://127.0.0.1:{proxy.port}") as pool:
            with pytest.raises(httpx.ProxyError):
                await asked(pool, "https://localhost:9/v1", before_write=lambda: written.append(True))
            assert written == []

    run(scenario)


@pytest.mark.usefixtures("_trusted")
def test_tunnel_that_ends_where_it_begins_is_a_failure_and_no_more() -> None:
    """A proxy that opens a tunnel to nowhere costs one attempt, and puts nothing on the terminal."""

    class Closing(Server):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """Say yes, and close."""
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK[:15] + b"\r\n\r\n")
            writer.close()

    async def scenario() -> None:
        errors: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        async with serving(Closing()) as proxy, pooled(f"http://127.0.0.1:{proxy.port}") as pool:
            for _ in range(5):
                with pytest.raises(httpx.ConnectError):
                    await asked(pool, "https://localhost:9/v1")
            await asyncio.sleep(0.05)
        assert errors == []

    run(scenario)


@pytest.mark.usefixtures("_trusted")
def test_proxy_may_end_its_lines_without_cr() -> None:
    """A tunnel is open with the first line without text, however it ends."""

    class Careless(Proxy):
        answer = b"HTTP/1.0 200 Connection established\n\n"

    async def scenario() -> None:
        async with (
            serving(Server(), with_tls=True) as server,
            serving(Careless()) as proxy,
            pooled(f"http://127.0.0.1:{proxy.port}") as pool,
        ):
            assert await asked(pool, f"https://localhost:{server.port}/v1") == (200, b"yes")

    run(scenario)


def test_plain_request_is_given_to_the_proxy() -> None:
    """Without TLS, the proxy gets the request itself, with the whole URL."""

    async def scenario() -> None:
        async with serving(Server()) as proxy, pooled(f"http://127.0.0.1:{proxy.port}") as pool:
            assert await asked(pool, "http://elsewhere.test/v1") == (200, b"yes")
            assert proxy.heads[0].startswith("POST http://elsewhere.test/v1 HTTP/1.1\r\n")

    run(scenario)


@pytest.mark.usefixtures("_trusted")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_that_speaks_tls_gets_its_credentials_and_no_other(scheme: str) -> None:
    """Over a proxy's own TLS goes a tunnel with TLS in it, or the request itself; its password is for it alone."""

    async def scenario() -> None:
        between = Proxy() if scheme == "https" else Server()
        async with serving(Server(), with_tls=True) as server, serving(between, with_tls=True) as proxy:
            async with pooled(f"https://me:p%40ss@localhost:{proxy.port}") as pool:
                for _ in range(2):
                    assert await asked(pool, f"{scheme}://localhost:{server.port}/v1") == (200, b"yes")
            assert "proxy-authorization: basic bwu6cebzcw==" in proxy.heads[0].lower()
            counts = (len(proxy.heads), proxy.connections, server.connections)
            assert counts == ((1, 0, 1) if scheme == "https" else (2, 1, 0))
            assert not any("proxy-authorization" in head for head in server.heads)

    run(scenario)


@pytest.mark.usefixtures("_trusted")
def test_tls_where_none_is_spoken_was_not_sent() -> None:
    """A server that answers a TLS greeting in plain text was not asked, and the words say what is wrong."""

    async def scenario() -> None:
        class Plain(Server):
            async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                """Answer anything at all."""
                await reader.read(1)
                writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

        async with serving(Plain()) as server, pooled() as pool:
            with pytest.raises(httpx.ConnectError, match=r"wrong version number|record layer"):
                await asked(pool, f"https://localhost:{server.port}/v1")

    run(scenario)


def test_environments_proxy_is_not_the_pools_business(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which proxy there is, the caller says; the pool looks for none."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    async def scenario() -> None:
        async with serving(Server()) as server, pooled() as pool:
            assert await asked(pool, f"http://127.0.0.1:{server.port}/v1") == (200, b"yes")

    run(scenario)


# httpx's transport


def test_pool_serves_an_httpx_client() -> None:
    """It is a transport like any other, for all that chat completions need."""

    async def scenario() -> None:
        reply = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 7\r\n\r\n{"x":1}'
        client = httpx.AsyncClient(transport=ConnectionPool())
        async with serving(Server(lambda _head, _body: reply)) as server, client:
            response = await client.post(f"http://127.0.0.1:{server.port}/v1", json={"y": 2})
            assert (response.json(), response.headers["content-type"]) == ({"x": 1}, "application/json")
            with pytest.raises(httpx.LocalProtocolError, match="only POST requests are sent, and this is a GET"):
                await client.get(f"http://127.0.0.1:{server.port}/v1")

    run(scenario)


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["connect", "read"])
def test_limits_of_the_request_are_httpxs_timeouts(limit: str) -> None:
    """A reply that does not come is a read timeout; the limit on connecting does not count for it."""

    async def scenario() -> None:
        class Slow(Server):
            async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                """Answer late."""
                await asyncio.sleep(0.6)
                await super().serve(reader, writer)

        async with serving(Slow()) as server, pooled() as pool:
            asking = asked(pool, f"http://127.0.0.1:{server.port}/v1", timeout={limit: 0.3})
            if limit == "connect":
                assert await asking == (200, b"yes")
            else:
                with pytest.raises(httpx.ReadTimeout):
                    await asking

    run(scenario)


def test_request_that_may_not_be_written_is_not() -> None:
    """`before_write` decides at the last moment, and is asked once for each request."""

    async def scenario() -> None:
        answers = [True, False]
        async with serving(Server()) as server, pooled() as pool:
            url = f"http://127.0.0.1:{server.port}/v1"
            assert await asked(pool, url, before_write=lambda: answers.pop(0)) == (200, b"yes")
            with pytest.raises(HaltedError):
                await asked(pool, url, before_write=lambda: answers.pop(0))
            assert len(server.heads) == 1

    run(scenario)


@pytest.mark.parametrize("header", [("x-a", "1\r\nx-b: 2"), ("x-a: 1\r\nx-b", "2"), ("x-a", "1\0")])
def test_header_that_would_be_two_is_not_written(header: tuple[str, str]) -> None:
    """What is in a header cannot become another, or another request; the error does not repeat it."""

    async def scenario() -> None:
        async with serving(Server()) as server, pooled() as pool:
            request = httpx.Request("POST", f"http://127.0.0.1:{server.port}/v1", headers=[header], content=b"{}")
            with pytest.raises(httpx.LocalProtocolError, match="the request's header"):
                await pool.handle_async_request(request)
            assert server.connections == 0

    run(scenario)


# Replies


def test_interim_replies_and_trailers_are_not_the_reply() -> None:
    """Status and headers are those of the final head (RFC 9110, 15.2), whatever comes before it or behind the body."""
    wire = (
        b"HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-a: 1\r\nx-a: 2\r\n\r\n3\r\nyes\r\n0\r\nx-late: 3\r\n\r\n"
    )

    async def scenario() -> None:
        async with serving(Server(lambda _head, _body: wire)) as server, pooled() as pool:
            for _ in range(2):
                request = httpx.Request("POST", f"http://127.0.0.1:{server.port}/v1", content=b"{}")
                response = await pool.handle_async_request(request)
                assert (response.status_code, await response.aread()) == (200, b"yes")
                assert response.headers.multi_items() == [("transfer-encoding", "chunked"), ("x-a", "1"), ("x-a", "2")]
            assert server.connections == 1

    run(scenario)


@pytest.mark.slow
@pytest.mark.parametrize("wire", [b"\r\nHTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 2x0 OK\r\n\r\n"])
def test_reply_without_a_status_is_an_error(wire: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    """It is httpx's, and nothing is printed by the way."""

    async def scenario() -> None:
        async with serving(Server(lambda _head, _body: wire)) as server, pooled() as pool:
            with pytest.raises(httpx.TransportError):
                await asked(pool, f"http://127.0.0.1:{server.port}/v1", timeout={"read": 0.5})

    run(scenario)
    assert capfd.readouterr() == ("", "")


def test_large_body_is_sent_at_once() -> None:
    """Megabytes go out without first asking whether they are welcome."""
    sizes: list[int] = []

    def reply(head: str, body: bytes) -> bytes:
        sizes.append(len(body))
        return OK if "expect" not in head.lower() else b""

    async def scenario() -> None:
        async with serving(Server(reply)) as server, pooled() as pool:
            assert await asked(pool, f"http://127.0.0.1:{server.port}/v1", b"x" * 5_000_000) == (200, b"yes")

    run(scenario)
    assert sizes == [5_000_000]


def test_response_that_is_closed_early_leaves_nothing_for_the_next() -> None:
    """Its connection is closed: the rest of its body is not the next reply."""
    wire = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbeginning"

    async def scenario() -> None:
        async with serving(Server(lambda _head, body: wire if body == b"long" else OK)) as server, pooled() as pool:
            url = f"http://127.0.0.1:{server.port}/v1"
            response = await pool.handle_async_request(httpx.Request("POST", url, content=b"long"))
            await response.aclose()
            assert await asked(pool, url) == (200, b"yes")
            assert server.connections == 2

    run(scenario)


@pytest.mark.parametrize("excess", [OK.replace(b"yes", b"no!"), b"excess", b"H", b"HTTP/1.1 200 OK\r\ncontent-le"])
@pytest.mark.parametrize("is_late", [False, True])
def test_bytes_behind_a_reply_are_never_the_next_one(excess: bytes, is_late: bool) -> None:
    """A body that is longer than was said, or a reply that comes twice, costs a connection and nothing else."""

    async def scenario() -> None:
        answered, closed = asyncio.Event(), asyncio.Event()

        class Talkative(Server):
            async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                """Say more than was asked, at once or when the reply has been read."""
                self.connections += 1
                await reader.readuntil(b"{}")
                writer.write(OK if is_late else OK + excess)
                if is_late:
                    await answered.wait()
                    writer.write(excess)
                with suppress(ConnectionError):
                    await reader.read()
                closed.set()

        async with serving(Talkative()) as server, pooled() as pool:
            for number in range(1, 4):
                answered.clear()
                closed.clear()
                assert await asked(pool, f"http://127.0.0.1:{server.port}/v1") == (200, b"yes")
                answered.set()
                await closed.wait()
                assert server.connections == number

    run(scenario)


@pytest.mark.parametrize(
    ("wire", "body", "is_kept"),
    [
        (b"HTTP/1.1 200 OK\ncontent-length: 3\nx-b:\n\nyes", b"yes", True),
        (
            b"HTTP/1.1 200\r\nConnection: Upgrade, Keep-Alive\r\nUpgrade: h2c\r\ncontent-length: 3\r\n\r\nyes",
            b"yes",
            True,
        ),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3  \r\nyes\r\n0\r\n\r\n", b"yes", True),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\n\r\n",
            b"yes",
            True,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n3\r\nyes\r\n0\r\n\r\n",
            b"yes",
            True,
        ),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nyes", b"yes", False),
        (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 3\r\n\r\nyes", b"yes", True),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\nyes", b"yes", False),
        (b"HTTP/1.1 204 None\r\n\r\n", b"", True),
        (b"HTTP/1.1 500 No\r\ncontent-length: 0\r\nx: \xe4\x01\r\n folded\r\n\r\n", b"", True),
    ],
)
def test_reply_is_read_however_it_is_written(wire: bytes, body: bytes, *, is_kept: bool) -> None:
    """Old and careless servers are understood, and their connections are used again where they allow it."""

    async def scenario() -> None:
        async with serving(Server(lambda _head, _body: wire)) as server, pooled() as pool:
            for _ in range(3):
                assert (await asked(pool, f"http://127.0.0.1:{server.port}/v1"))[1] == body
            assert server.connections == (1 if is_kept else 3)

    run(scenario)


@pytest.mark.slow
@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 2**20,
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 2**18,
        b"HTTP/1.1 102 Processing\r\n\r\n" * 2**16,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\ny\r\n0\r\n" + b"x: y\r\n" * 2**18,
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nyes!",
    ],
)
def test_reply_without_end_or_sense_is_given_up(wire: bytes) -> None:
    """Headers that go on for ever do not fill the memory, and a length that is two is none."""

    async def scenario() -> None:
        async with serving(Server(lambda _head, _body: wire)) as server, pooled() as pool:
            with pytest.raises(httpx.RemoteProtocolError):
                await asked(pool, f"http://127.0.0.1:{server.port}/v1")

    run(scenario)


@pytest.mark.slow
def test_reply_that_nobody_reads_waits_in_the_network() -> None:
    """Of a large reply, only some of it is taken until it is read; then all of it comes."""
    size = 48 * 2**20
    left: list[int] = []

    async def scenario() -> None:
        class Large(Server):
            async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                """Send much, and count what is still to be sent."""
                await reader.readuntil(b"{}")
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)
                await asyncio.sleep(0.3)
                left.append(writer.transport.get_write_buffer_size())
                await reader.read()

        async with serving(Large()) as server, pooled() as pool:
            request = httpx.Request("POST", f"http://127.0.0.1:{server.port}/v1", content=b"{}")
            response = await pool.handle_async_request(request)
            await asyncio.sleep(0.5)
            assert left[0] > size // 2
            assert len(await response.aread()) == size

    run(scenario)


def test_reply_to_half_a_request_frees_no_connection() -> None:
    """A server that answers before it has read everything gets no second request behind the rest of the first."""

    async def scenario() -> None:
        class Hasty(Server):
            async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                """Answer to the head alone."""
                self.connections += 1
                self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
                writer.write(OK)
                await asyncio.sleep(1)

        async with serving(Hasty()) as server, pooled() as pool:
            for number in range(1, 3):
                assert await asked(pool, f"http://127.0.0.1:{server.port}/v1", b"x" * 2**25) == (200, b"yes")
                assert server.connections == number

    run(scenario)


# Sockets


@pytest.mark.slow
def test_hundreds_of_connections_are_opened_at_once() -> None:
    """Five hundred requests that begin together each get a connection, and their own reply."""

    async def scenario() -> None:
        def reply(_head: str, body: bytes) -> bytes:
            return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)

        async with serving(Server(reply)) as server, pooled() as pool:
            bodies = [b"%d" % number for number in range(500)]
            replies = await asyncio.gather(
                *(asked(pool, f"http://localhost:{server.port}/v1", body) for body in bodies)
            )
            assert replies == [(200, body) for body in bodies]

    run(scenario)


@pytest.mark.slow
def test_address_that_does_not_answer_is_not_waited_for() -> None:
    """The next address is tried beside one that is silent; the one that answers is the first from then on."""

    async def scenario() -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen(0)
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(silent.getsockname())
            async with serving(Server()) as server:
                addresses = [tcp(*silent.getsockname()), tcp("127.0.0.1", server.port)]
                (await connected(addresses)).close()
                assert addresses[0] == tcp("127.0.0.1", server.port)
            for filler in fillers:
                filler.close()

    run(scenario)


def test_addresses_that_all_refuse_give_the_systems_reason() -> None:
    """Each address is tried, and what is said is the system's word for the last."""

    async def scenario() -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
            for first in ("127.0.0.2", "255.255.255.255"):  # the second fails for another reason
                with pytest.raises(OpeningError, match=r"^Connection refused$") as refused:
                    await connected([tcp(first, port), tcp("127.0.0.1", port)])
                assert refused.value.number == errno.ECONNREFUSED

    run(scenario)


def tcp(host: str, port: int) -> AddrInfoType:
    """Return an address as getaddrinfo does."""
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_socket_with_the_number_of_a_closed_one_is_heard(host: str) -> None:
    """A server that closes each connection, and names that are looked up, give numbers to new sockets all the time."""

    async def scenario() -> None:
        def reply(_head: str, body: bytes) -> bytes | None:
            return OK if int(body) % 3 else b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\nyes"

        async with serving(Server(reply)) as server, pooled() as pool:
            url = f"http://{host}:{server.port}/v1"
            for wave in range(10):
                bodies = [b"%d" % (wave * 20 + number) for number in range(20)]
                replies = await asyncio.gather(*(asked(pool, url, body) for body in bodies))
                assert replies == [(200, b"yes")] * 20

    run(scenario)


@pytest.mark.slow
def test_idle_connections_that_are_closed_keep_nobody_busy() -> None:
    """The end of an idle connection is heard once; the loop does not turn round and round for it."""

    async def scenario() -> None:
        async with pooled() as pool:
            async with serving(Server()) as server:
                url = f"http://127.0.0.1:{server.port}/v1"
                await asyncio.gather(*(asked(pool, url) for _ in range(10)))
            before_s = time.thread_time()
            await asyncio.sleep(0.5)
            assert time.thread_time() - before_s < 0.1

    run(scenario)
