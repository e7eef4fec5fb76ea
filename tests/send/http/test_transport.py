"""Bytes out, bytes in, over a real loopback connection: every way a reply can come, or fail to."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import resource
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from batchchat.records import Failure
from batchchat.send.http.connection import RACE_S
from batchchat.send.http.deadline import TimeLimits
from batchchat.send.http.transport import LINGER_S, Reply, Transport, proxy_for
from batchchat.send.reply.failures import Verdict, is_race, verdict

KEY = "sk-secret-1234567890"
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@dataclass
class Exchange:
    """One request as the server got it, and the way to answer it."""

    number: int
    request_line: str
    headers: dict[str, str]
    body: bytes
    writer: asyncio.StreamWriter

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Send a whole reply; header names have underscores for hyphens."""
        lines = [f"HTTP/1.1 {status} Words", f"content-length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    def reset(self) -> None:
        """Break the connection without another word."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()


Script = Callable[[Exchange], Awaitable[None]]


@dataclass
class Server:
    """A loopback server that follows a script; it counts connections and keeps requests."""

    script: Script
    port: int = 0
    connections: int = 0
    exchanges: list[Exchange] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def base_url(self) -> str:
        """What a job file would have."""
        return f"http://127.0.0.1:{self.port}/api/ai"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection until either side closes it."""
        self.connections += 1
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                request_line, *lines = head.strip().split("\r\n")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                body = await reader.readexactly(int(headers["content-length"]))
                self.exchanges.append(Exchange(len(self.exchanges), request_line, headers, body, writer))
                await self.script(self.exchanges[-1])
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.closed.set()


@asynccontextmanager
async def serving(script: Script) -> AsyncIterator[Server]:
    """Run a server for as long as the block lasts, and wait for the last of its connections."""
    server = Server(script)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        await server.serve(reader, writer)

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1_024)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()


def limits_of(total_s: float, **others: float) -> TimeLimits:
    """Return limits of which only the whole one, and those that are named, can be met."""
    return TimeLimits(**{"connect_s": 20.0, "first_byte_s": total_s, "idle_s": total_s, "total_s": total_s, **others})


@asynccontextmanager
async def reaching(base_url: str, *, timeout_s: float = 10.0, api_key: str | None = KEY) -> AsyncIterator[Transport]:
    """Give a transport to a base URL, and close it."""
    transport = Transport(base_url, api_key=api_key, limits=limits_of(timeout_s))
    try:
        yield transport
    finally:
        await transport.aclose()


def outcomes_of(
    script: Script, *, count: int = 1, timeout_s: float = 10.0, api_key: str | None = KEY
) -> tuple[list[Reply | Failure | None], Server]:
    """Send some requests one after the other, and return what became of them, and the server."""

    async def scenario() -> tuple[list[Reply | Failure | None], Server]:
        async with serving(script) as server, reaching(server.base_url, timeout_s=timeout_s, api_key=api_key) as way:
            return [await way.send(b'{"n":%d}' % number) for number in range(count)], server

    return asyncio.run(scenario())


def outcome_of(script: Script, *, timeout_s: float = 10.0, api_key: str | None = KEY) -> Reply | Failure | None:
    """Send one request, and return what became of it."""
    return outcomes_of(script, timeout_s=timeout_s, api_key=api_key)[0][0]


async def yes(exchange: Exchange) -> None:
    """Answer."""
    exchange.reply(200, b"yes")


# Replies


def test_reply_is_read_whole() -> None:
    """Status, headers by lower-case name, body and a duration come out."""

    async def script(exchange: Exchange) -> None:
        exchange.reply(200, b'{"x": 1}', X_Request_ID="r1")

    reply = outcome_of(script)
    assert isinstance(reply, Reply)
    assert (reply.status, reply.body, reply.headers["x-request-id"]) == (200, b'{"x": 1}', "r1")
    assert 0 < reply.latency_s < 10


def test_request_is_sent_as_given() -> None:
    """The body goes out byte for byte, to the endpoint's route, with the key and nothing that was not asked for."""
    _, server = outcomes_of(yes)
    exchange = server.exchanges[0]
    assert exchange.request_line == "POST /api/ai/chat/completions HTTP/1.1"
    assert exchange.body == b'{"n":0}'
    assert exchange.headers == {
        "host": f"127.0.0.1:{server.port}",
        "accept": "application/json",
        "accept-encoding": "gzip",
        "content-type": "application/json",
        "user-agent": "batchchat",
        "authorization": f"Bearer {KEY}",
        "content-length": "7",
    }


def test_no_key_sends_no_authorization() -> None:
    """An endpoint that takes no key gets none."""
    _, server = outcomes_of(yes, api_key=None)
    assert "authorization" not in server.exchanges[0].headers


def test_compressed_reply_is_unpacked() -> None:
    """A gzip body comes out as its content."""

    async def script(exchange: Exchange) -> None:
        exchange.reply(200, gzip.compress(b"yes" * 1_000), content_encoding="gzip")

    reply = outcome_of(script)
    assert isinstance(reply, Reply)
    assert reply.body == b"yes" * 1_000


def test_chunked_reply_is_joined() -> None:
    """A body in chunks, with blank lines before it to keep the connection alive, is one body."""

    async def script(exchange: Exchange) -> None:
        exchange.writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for chunk in (b"\n", b"\n", b"ye", b"s"):
            exchange.writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            await exchange.writer.drain()
        exchange.writer.write(b"0\r\n\r\n")

    reply = outcome_of(script)
    assert isinstance(reply, Reply)
    assert reply.body == b"\n\nyes"


def test_reply_that_ends_with_its_connection_is_whole() -> None:
    """HTTP/1.0 servers say by closing that the body is over."""

    async def script(exchange: Exchange) -> None:
        exchange.writer.write(b"HTTP/1.0 200 OK\r\n\r\nyes")
        exchange.writer.close()

    reply = outcome_of(script)
    assert isinstance(reply, Reply)
    assert reply.body == b"yes"


@pytest.mark.parametrize("status", [204, 301, 307, 308, 400, 401, 429, 500, 503])
def test_any_status_is_a_reply(status: int) -> None:
    """Refusals and redirects come back as they are; nothing is followed or tried again."""

    async def script(exchange: Exchange) -> None:
        exchange.reply(status, location="/elsewhere", retry_after="1")

    outcomes, server = outcomes_of(script)
    assert isinstance(outcomes[0], Reply)
    assert (outcomes[0].status, outcomes[0].headers["location"]) == (status, "/elsewhere")
    assert len(server.exchanges) == 1


# Failures


def test_refused_connection_was_not_sent() -> None:
    """Where nothing listens, the request was surely not worked on, and the message says where."""

    async def scenario() -> tuple[Reply | Failure | None, int]:
        async with serving(yes) as server:
            port = server.port
        async with reaching(f"http://127.0.0.1:{port}/v1") as way:
            return await way.send(b"{}"), port

    failure, port = asyncio.run(scenario())
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.is_outcome_unknown, failure.status) == ("connect", False, None)
    assert failure.message.startswith(f"cannot connect to 127.0.0.1:{port}: ")
    assert verdict(failure) is Verdict.HOLD


def test_unknown_host_was_not_sent() -> None:
    """A name that does not resolve is nothing reached."""

    async def scenario() -> Reply | Failure | None:
        async with reaching("http://no-such-host.invalid/v1") as way:
            return await way.send(b"{}")

    failure = asyncio.run(scenario())
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.is_outcome_unknown) == ("connect", False)
    assert failure.message.startswith("cannot connect to no-such-host.invalid:80: ")


def test_connection_that_never_opens_was_not_sent() -> None:
    """With a timeout below 20 s too, a host that swallows connections was not reached: no attempt, nothing billed."""

    async def scenario() -> Reply | Failure | None:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            try:
                async with reaching(f"http://127.0.0.1:{full.getsockname()[1]}", timeout_s=0.3) as way:
                    return await way.send(b"{}")
            finally:
                for filler in fillers:
                    filler.close()

    failure = asyncio.run(scenario())
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.is_outcome_unknown) == ("connect", False)


async def reset_at_once(exchange: Exchange) -> None:
    """Break off before the first byte."""
    exchange.reset()


async def close_at_once(exchange: Exchange) -> None:
    """Close in good order before the first byte."""
    exchange.writer.close()


async def cut_body(exchange: Exchange) -> None:
    """Promise a hundred bytes, send three, and close."""
    exchange.writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nyes")
    exchange.writer.close()


async def cut_chunks(exchange: Exchange) -> None:
    """Leave out the last chunk."""
    exchange.writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nyes\r\n")
    exchange.writer.close()


async def no_http(exchange: Exchange) -> None:
    """Speak another protocol."""
    exchange.writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
    exchange.writer.close()


@pytest.mark.parametrize("script", [reset_at_once, close_at_once, cut_body, cut_chunks, no_http])
def test_broken_reply_may_be_billed(script: Script) -> None:
    """A connection that breaks after the request was written leaves its outcome unknown."""
    failure = outcome_of(script)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.status, failure.is_outcome_unknown) == ("connect", None, True)
    assert failure.message.startswith("the connection broke before the reply was whole: ")
    assert verdict(failure) is Verdict.RETRY


def test_broken_encoding_is_a_protocol_failure() -> None:
    """A body that is not what its encoding says is a failure of the reply, which may be billed."""

    async def script(exchange: Exchange) -> None:
        exchange.reply(200, b"this is not gzip", content_encoding="gzip")

    failure = outcome_of(script)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.is_outcome_unknown) == ("protocol", True)
    assert failure.message.startswith("the reply cannot be read: ")


def test_dribbling_reply_meets_the_deadline() -> None:
    """A byte now and then keeps no attempt alive past its deadline."""

    async def script(exchange: Exchange) -> None:
        exchange.writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        while not exchange.writer.is_closing():
            exchange.writer.write(b"\n")
            await exchange.writer.drain()
            await asyncio.sleep(0.01)  # the server's pace, not the test's

    failure = outcome_of(script, timeout_s=0.2)
    assert failure == Failure("timeout", "no whole reply within 0.2 s", 200, is_outcome_unknown=True)


def test_silent_endpoint_meets_the_deadline() -> None:
    """An endpoint that never answers is given up in time."""

    async def script(exchange: Exchange) -> None:
        await asyncio.Event().wait()

    failure = outcome_of(script, timeout_s=0.1)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.is_outcome_unknown) == ("timeout", True)


# Connections


def test_connection_is_used_again() -> None:
    """Requests one after the other, whatever their status, share a connection."""

    async def script(exchange: Exchange) -> None:
        exchange.reply([200, 429, 500, 400][exchange.number % 4], b"words")

    outcomes, server = outcomes_of(script, count=12)
    assert [reply.status for reply in outcomes if isinstance(reply, Reply)] == [200, 429, 500, 400] * 3
    assert server.connections == 1


@pytest.mark.slow
def test_failed_connection_is_replaced() -> None:
    """After a cut body, nonsense and a late reset, the next request gets a new connection and its own answer."""

    async def reset_later(exchange: Exchange) -> None:
        await asyncio.sleep(3 * RACE_S)
        exchange.reset()

    faults: list[Script] = [reset_at_once, yes, cut_body, yes, reset_later, yes, no_http, yes]

    async def script(exchange: Exchange) -> None:
        await faults[exchange.number](exchange)

    outcomes, server = outcomes_of(script, count=8)
    assert [type(outcome) for outcome in outcomes] == [Failure, Reply] * 4
    assert len(server.exchanges) == 8
    assert server.connections <= 6  # five, and one that was opened for a repeat that is not made


@pytest.mark.parametrize("fault", [reset_at_once, close_at_once])
def test_used_connection_that_was_closed_meanwhile_is_told_apart(fault: Script) -> None:
    """A server that closes a used connection may have billed the request: it is not sent again behind our back."""
    asked: list[bytes] = []

    async def script(exchange: Exchange) -> None:
        asked.append(exchange.body)
        await (fault if exchange.number in (1, 2) else yes)(exchange)

    outcomes, server = outcomes_of(script, count=4)
    assert [type(outcome) for outcome in outcomes] == [Reply, Failure, Failure, Reply]
    raced, fresh = outcomes[1:3]
    assert isinstance(raced, Failure)
    assert isinstance(fresh, Failure)
    assert (is_race(raced), is_race(fresh)) == (True, False)
    assert raced.is_outcome_unknown
    assert asked == [b'{"n":0}', b'{"n":1}', b'{"n":2}', b'{"n":3}']
    assert server.connections == 3


def test_request_that_met_a_closed_connection_goes_out_again_on_its_own() -> None:
    """The second time it takes no used connection, and then any is good again."""
    numbers = (0, 1, 2, 1, 3)
    again = 3

    async def script(exchange: Exchange) -> None:
        await (reset_at_once if exchange.number == 1 else yes)(exchange)

    async def scenario() -> tuple[list[Reply | Failure | None], int]:
        async with serving(script) as server, reaching(server.base_url) as way:
            bodies = [b'{"n":%d}' % number for number in numbers]
            outcomes = [await way.send(body, wants_new=place == again) for place, body in enumerate(bodies)]
            return outcomes, server.connections

    outcomes, connections = asyncio.run(scenario())
    assert [type(outcome) for outcome in outcomes] == [Reply, Failure, Reply, Reply, Reply]
    assert connections == 3


def test_first_connection_that_breaks_is_not_asked_again() -> None:
    """On a connection that was opened for it, a request has been seen: it may be billed."""

    async def script(exchange: Exchange) -> None:
        await (reset_at_once if exchange.number == 0 else yes)(exchange)

    outcomes, server = outcomes_of(script)
    assert isinstance(outcomes[0], Failure)
    assert len(server.exchanges) == 1


@pytest.mark.slow
def test_each_time_limit_names_what_did_not_come() -> None:
    """Connecting, the first byte, the time between two pieces and the whole each have a limit of their own."""

    async def dribble(exchange: Exchange) -> None:
        exchange.writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        while not exchange.writer.is_closing():
            exchange.writer.write(b" ")
            await asyncio.sleep(0.02)

    async def stall(exchange: Exchange) -> None:
        exchange.writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n ")
        await asyncio.sleep(5)

    async def silence(exchange: Exchange) -> None:
        await asyncio.sleep(5)

    async def scenario(script: Script, limits: TimeLimits) -> Reply | Failure | None:
        async with serving(script) as server:
            transport = Transport(server.base_url, api_key=None, limits=limits)
            outcome = await transport.send(b"{}")
            await transport.aclose()
            return outcome

    for script, limits, said, status in (
        (silence, limits_of(60.0, first_byte_s=0.2), "no reply began within 0.2 s", None),
        (stall, limits_of(60.0, first_byte_s=50.0, idle_s=0.2), "nothing more of the reply came for 0.2 s", 200),
        (dribble, limits_of(0.4, first_byte_s=0.2, idle_s=0.1), "no whole reply within 0.4 s", 200),
    ):
        outcome = asyncio.run(scenario(script, limits))
        assert outcome == Failure("timeout", said, status, is_outcome_unknown=True)


def test_halted_transport_writes_no_request() -> None:
    """What is still connecting when the run stops is never sent, and is neither a reply nor a failure."""

    async def scenario() -> tuple[list[Reply | Failure | None], Server]:
        async with serving(yes) as server, reaching(server.base_url) as way:
            sending = [asyncio.create_task(way.send(b"{}")) for _ in range(5)]
            await asyncio.sleep(0)
            way.halt()
            return [*await asyncio.gather(*sending), await way.send(b"{}")], server

    outcomes, server = asyncio.run(scenario())
    assert outcomes == [None] * 6
    assert server.exchanges == []


def test_too_many_open_files_are_no_outage() -> None:
    """Without a free descriptor nothing was sent; fewer requests at once are the remedy."""

    async def scenario() -> Reply | Failure | None:
        async with serving(yes) as server, reaching(server.base_url) as way:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            lowest = os.dup(0)
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            try:
                return await way.send(b"{}")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    failure = asyncio.run(scenario())
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.code, failure.is_outcome_unknown) == ("connect", "EMFILE", False)
    assert verdict(failure) is Verdict.CUT


def test_late_reply_never_answers_another_request() -> None:
    """The reply to a request that was given up is not taken for the next one's."""

    async def scenario() -> tuple[list[Reply | Failure | None], int]:
        release = asyncio.Event()

        async def script(exchange: Exchange) -> None:
            if exchange.number == 0:
                await release.wait()
            exchange.reply(200, exchange.body)

        async with serving(script) as server, reaching(server.base_url, timeout_s=0.2) as way:
            first = await way.send(b"first")
            release.set()
            return [first, await way.send(b"second"), await way.send(b"third")], server.connections

    outcomes, connections = asyncio.run(scenario())
    assert isinstance(outcomes[0], Failure)
    assert [reply.body for reply in outcomes[1:] if isinstance(reply, Reply)] == [b"second", b"third"]
    assert connections == 2


def test_closed_idle_connection_is_not_used() -> None:
    """A server that closes idle connections costs a new connection and no failure."""

    async def scenario() -> tuple[list[Reply | Failure | None], int]:
        async def script(exchange: Exchange) -> None:
            exchange.reply(200, b"yes")
            exchange.writer.close()

        async with serving(script) as server, reaching(server.base_url) as way:
            outcomes = []
            for _ in range(5):
                server.closed.clear()
                outcomes.append(await way.send(b"{}"))
                await server.closed.wait()
                await server.exchanges[-1].writer.wait_closed()
                for _ in range(2):
                    await asyncio.sleep(0)  # turns of the loop, in which it hears of the end
            return outcomes, server.connections

    outcomes, connections = asyncio.run(asyncio.wait_for(scenario(), 20))
    assert [type(outcome) for outcome in outcomes] == [Reply] * 5
    assert connections == 5


@pytest.mark.slow
def test_many_requests_get_their_own_replies() -> None:
    """Three hundred requests at a time, in three waves: each gets its answer, over no more connections than that."""

    async def scenario() -> tuple[list[Reply | Failure | None], int]:
        async def script(exchange: Exchange) -> None:
            await asyncio.sleep(0)
            exchange.reply(200, exchange.body)

        async with serving(script) as server, reaching(server.base_url) as way:
            replies = []
            for wave in range(3):
                replies += await asyncio.gather(*(way.send(b"%d-%d" % (wave, number)) for number in range(300)))
            return replies, server.connections

    replies, connections = asyncio.run(scenario())
    bodies = [reply.body for reply in replies if isinstance(reply, Reply)]
    assert bodies == [b"%d-%d" % (wave, number) for wave in range(3) for number in range(300)]
    assert connections <= 300


def test_cancelled_request_leaves_the_way_usable() -> None:
    """Requests cut off in the middle do not stand in the way of the next ones."""

    async def scenario() -> list[Reply | Failure | None]:
        arrived = asyncio.Semaphore(0)

        async def script(exchange: Exchange) -> None:
            if exchange.body == b"hold":
                exchange.writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n" if exchange.number % 2 else b"")
                await exchange.writer.drain()
                arrived.release()
                await asyncio.Event().wait()
            exchange.reply(200, exchange.body)

        async with serving(script) as server, reaching(server.base_url) as way:
            tasks = [asyncio.create_task(way.send(b"hold")) for _ in range(10)]
            for _ in tasks:
                await arrived.acquire()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return await asyncio.gather(*(way.send(b"%d" % number) for number in range(20)))

    replies = asyncio.run(scenario())
    assert [reply.body for reply in replies if isinstance(reply, Reply)] == [b"%d" % number for number in range(20)]


# The key


def test_echoed_key_is_taken_out() -> None:
    """An endpoint that repeats the key in its error does not get it into the checkpoint, compressed or not."""

    async def script(exchange: Exchange) -> None:
        body = f"Incorrect API key provided: {KEY}. {exchange.headers['authorization']}".encode()
        exchange.reply(401, gzip.compress(body), content_encoding="gzip")

    reply = outcome_of(script)
    assert isinstance(reply, Reply)
    assert reply.body == b"Incorrect API key provided: [redacted]. Bearer [redacted]"


@pytest.mark.parametrize("name", ["location", "x_request_id"])
def test_key_echoed_in_a_header_is_taken_out(name: str) -> None:
    """A header that is quoted in failures does not carry the key into them."""

    async def script(exchange: Exchange) -> None:
        exchange.reply(308, b"", **{name: f"https://elsewhere.test/?key={KEY}"})

    reply = outcome_of(script)
    assert isinstance(reply, Reply)
    assert KEY not in repr(list(reply.headers.values()))


def test_placeholder_key_spoils_no_reply() -> None:
    """A key of a few characters is a placeholder, and stays in replies that happen to have it."""

    async def script(exchange: Exchange) -> None:
        exchange.reply(200, b"extra")

    reply = outcome_of(script, api_key="x")
    assert isinstance(reply, Reply)
    assert reply.body == b"extra"


@pytest.mark.parametrize("script", [reset_at_once, cut_body, no_http])
def test_failure_never_has_the_key(script: Script) -> None:
    """No fault of the way says the key."""
    assert KEY not in repr(outcome_of(script))


def test_fault_that_quotes_the_key_is_redacted() -> None:
    """A library's error that repeats what the server said is redacted like the reply itself."""

    class Quoting(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            """Fail as a parser does that quotes the line it could not read."""
            raise httpx.RemoteProtocolError(f"illegal status line: {request.headers['authorization']}")

    async def scenario() -> Reply | Failure | None:
        return await Transport("http://127.0.0.1:9", api_key=KEY, limits=limits_of(1.0), transport=Quoting()).send(
            b"{}"
        )

    assert asyncio.run(scenario()) == Failure(
        "connect",
        "the connection broke before the reply was whole: illegal status line: Bearer [redacted]",
        is_outcome_unknown=True,
    )


# Proxies


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on the machine's proxies."""
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def test_loopback_never_goes_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a proxy for everything, which is not there, the embedded endpoint is reached all the same."""
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:9")
    assert isinstance(outcome_of(yes), Reply)


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://127.0.0.1:8000", None),
        ("http://127.9.9.9", None),
        ("http://[::1]:8000", None),
        ("http://localhost:8000", None),
        ("http://api.localhost", None),
        ("http://inside.test", None),
        ("http://deep.inside.test", None),
        ("http://outside.test", "http://plain-proxy:1"),
        ("https://outside.test", "http://tls-proxy:2"),
        ("http://10.0.0.1", "http://plain-proxy:1"),
    ],
)
def test_proxy_is_the_environments(monkeypatch: pytest.MonkeyPatch, url: str, proxy: str | None) -> None:
    """Each scheme has its proxy, `NO_PROXY` is obeyed, and loopback has none."""
    monkeypatch.setenv("http_proxy", "http://plain-proxy:1")
    monkeypatch.setenv("https_proxy", "http://tls-proxy:2")
    monkeypatch.setenv("no_proxy", "inside.test")
    assert proxy_for(httpx.URL(url)) == proxy


def test_proxy_for_all_schemes_is_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ALL_PROXY` serves a scheme that has none of its own."""
    monkeypatch.setenv("all_proxy", "http://any-proxy:3")
    assert proxy_for(httpx.URL("https://outside.test")) == "http://any-proxy:3"
    assert proxy_for(httpx.URL("https://localhost")) is None


# Streams

EVENT = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":%s}]}\n\n'
HEADERS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunked(content: bytes) -> bytes:
    """Return a piece of a reply whose length is not known."""
    return b"%x\r\n%s\r\n" % (len(content), content)


def content_of(outcome: Reply | Failure | None) -> str:
    """Return the text of a reply's first choice."""
    assert isinstance(outcome, Reply), outcome
    return str(json.loads(outcome.body)["choices"][0]["message"]["content"])


def test_stream_is_the_body_of_a_plain_reply() -> None:
    """Pieces come out as one completion, with the time of the first; the connection is used again."""

    async def script(exchange: Exchange) -> None:
        exchange.writer.write(HEADERS + chunked(b": hello\n\n"))
        await exchange.writer.drain()
        for piece in (EVENT % (b"Hi", b"null"), EVENT % (b" there", b'"stop"'), b"data: [DONE]\n\n"):
            exchange.writer.write(chunked(piece))
            await exchange.writer.drain()
        exchange.writer.write(chunked(b""))

    replies, server = outcomes_of(script, count=3)
    assert [content_of(reply) for reply in replies] == ["Hi there"] * 3
    assert server.connections == 1
    for reply in replies:
        assert isinstance(reply, Reply)
        assert reply.first_token_s is not None
        assert 0 < reply.first_token_s <= reply.latency_s


def test_stream_that_is_said_to_be_plain_is_recognised() -> None:
    """Some servers stream under another content type; the bytes tell."""

    async def script(exchange: Exchange) -> None:
        exchange.reply(200, EVENT % (b"Hi", b'"stop"') + b"data: [DONE]\n\n", content_type="text/plain")

    assert content_of(outcome_of(script)) == "Hi"


def test_plain_reply_has_no_first_token() -> None:
    """A reply that came whole says nothing of when it began."""
    reply = outcome_of(yes)
    assert isinstance(reply, Reply)
    assert reply.first_token_s is None


def test_stream_that_breaks_before_its_end_is_a_failure() -> None:
    """What was said before the connection broke is no answer."""

    async def script(exchange: Exchange) -> None:
        exchange.writer.write(HEADERS + chunked(EVENT % (b"Hi", b"null")))
        await exchange.writer.drain()
        exchange.writer.close()

    failure = outcome_of(script)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.is_outcome_unknown, verdict(failure)) == ("connect", True, Verdict.RETRY)


def test_stream_that_ends_early_in_good_order_is_a_failure() -> None:
    """A whole HTTP reply may still be half a stream."""

    async def script(exchange: Exchange) -> None:
        exchange.writer.write(HEADERS + chunked(EVENT % (b"Hi", b"null")) + chunked(b""))

    failure = outcome_of(script)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.message) == ("connect", "the stream ended before the reply was whole")


def test_stream_that_breaks_after_its_finish_reason_is_whole() -> None:
    """The model said that it had ended; only the mark of the end is missing."""

    async def script(exchange: Exchange) -> None:
        exchange.writer.write(HEADERS + chunked(EVENT % (b"Hi", b'"stop"')))
        await exchange.writer.drain()
        exchange.reset()

    assert content_of(outcome_of(script)) == "Hi"


@pytest.mark.slow
def test_stream_left_open_after_its_end_is_not_waited_for() -> None:
    """After `[DONE]` nothing more is expected, though the server keeps the connection."""

    async def script(exchange: Exchange) -> None:
        exchange.writer.write(HEADERS + chunked(EVENT % (b"Hi", b'"stop"') + b"data: [DONE]\n\n"))
        await exchange.writer.drain()
        await asyncio.Event().wait()

    reply = outcome_of(script, timeout_s=3_600)
    assert content_of(reply) == "Hi"


@pytest.mark.slow
def test_stream_that_never_ends_meets_the_timeout() -> None:
    """Comments keep a connection alive, and no longer than one attempt may take."""

    async def script(exchange: Exchange) -> None:
        exchange.writer.write(HEADERS)
        while not exchange.writer.is_closing():
            exchange.writer.write(chunked(b": ping\n\n"))
            await exchange.writer.drain()
            await asyncio.sleep(0.02)

    failure = outcome_of(script, timeout_s=0.3)
    assert isinstance(failure, Failure)
    assert failure.kind == "timeout"


def test_key_is_taken_out_of_a_stream() -> None:
    """A key that is echoed over two pieces is not stored."""

    async def script(exchange: Exchange) -> None:
        for piece in (EVENT % (KEY[:9].encode(), b"null"), EVENT % (KEY[9:].encode(), b'"stop"')):
            exchange.writer.write((HEADERS if b"null" in piece else b"") + chunked(piece))
        exchange.writer.write(chunked(b"data: [DONE]\n\n") + chunked(b""))

    assert content_of(outcome_of(script)) == "[redacted]"


def test_error_that_comes_as_a_stream_keeps_its_status() -> None:
    """A refusal is one, however it is wrapped."""

    async def script(exchange: Exchange) -> None:
        exchange.reply(429, b'data: {"error":{"message":"slow down"}}\n\n', content_type="text/event-stream")

    reply = outcome_of(script)
    assert isinstance(reply, Reply)
    assert reply.status == 429
    assert b"slow down" in reply.body


def test_large_request_arrives_whole() -> None:
    """A body that goes out in slices is the same, with its length."""
    body = bytes(range(256)) * 5_000

    async def scenario() -> tuple[Reply | Failure | None, Server]:
        async with serving(yes) as server, reaching(server.base_url) as way:
            return await way.send(body), server

    reply, server = asyncio.run(scenario())
    assert isinstance(reply, Reply)
    assert server.exchanges[0].body == body
    assert server.exchanges[0].headers["content-length"] == str(len(body))


@pytest.mark.slow
def test_choices_one_after_the_other_are_all_read() -> None:
    """That the first choice has ended does not end a stream that was asked for two."""
    end = b'data: {"choices":[{"index":%d,"delta":{"content":"%s"},"finish_reason":"stop"}]}\n\n'

    async def script(exchange: Exchange) -> None:
        exchange.writer.write(HEADERS + chunked(end % (0, b"a")))
        await exchange.writer.drain()
        await asyncio.sleep(LINGER_S + 0.3)
        exchange.writer.write(chunked(end % (1, b"b")) + chunked(b"data: [DONE]\n\n") + chunked(b""))

    async def scenario() -> Reply | Failure | None:
        async with serving(script) as server, reaching(server.base_url) as way:
            return await way.send(b"{}", choice_count=2)

    reply = asyncio.run(scenario())
    assert isinstance(reply, Reply), reply
    assert [choice["message"]["content"] for choice in json.loads(reply.body)["choices"]] == ["a", "b"]


@pytest.mark.slow
def test_finish_reason_on_every_chunk_ends_nothing() -> None:
    """As long as more comes, a stream is not over; some endpoints repeat its end."""

    async def script(exchange: Exchange) -> None:
        exchange.writer.write(HEADERS)
        for letter in (b"a", b"b", b"c"):
            exchange.writer.write(chunked(EVENT % (letter, b'"stop"')))
            await exchange.writer.drain()
            await asyncio.sleep(0.5 * LINGER_S if letter == b"a" else 0.6 * LINGER_S)
        exchange.writer.write(chunked(b"data: [DONE]\n\n") + chunked(b""))

    reply = outcome_of(script, timeout_s=30)
    assert content_of(reply) == "abc"


@pytest.mark.slow
def test_stream_left_open_without_done_is_soon_whole() -> None:
    """A stream that said why it ended, and then nothing more, is not waited for until the timeout."""

    async def script(exchange: Exchange) -> None:
        exchange.writer.write(HEADERS + chunked(EVENT % (b"Hi", b'"stop"')))
        await exchange.writer.drain()
        await asyncio.Event().wait()

    reply = outcome_of(script, timeout_s=3_600)
    assert content_of(reply) == "Hi"
    assert isinstance(reply, Reply)
    assert reply.latency_s < LINGER_S


@pytest.mark.parametrize(
    "spelled", [KEY, KEY.replace("-", "\\u002d"), KEY.replace("-", "\\u002D"), KEY.replace("s", "\\u0073")]
)
@pytest.mark.parametrize("shape", ["plain", "stream", "broken stream"])
def test_key_is_taken_out_however_it_is_spelled(shape: str, spelled: str) -> None:
    """Some echo the headers of a request, with escapes of their own; nothing that is kept has the key."""
    content = {
        "plain": f'{{"error":{{"message":"Bearer {spelled}"}}}}',
        "stream": f'data: {{"error":{{"message":"Bearer {spelled}"}}}}\n\n',
        "broken stream": f"data: {{Bearer {spelled}}}\n\ndata: [DONE]\n\n",
    }[shape]

    async def script(exchange: Exchange) -> None:
        kind = "application/json" if shape == "plain" else "text/event-stream"
        exchange.reply(200, content.encode(), content_type=kind)

    outcome = outcome_of(script)
    assert outcome is not None
    kept = outcome.message.encode() if isinstance(outcome, Failure) else outcome.body
    assert b"[redacted]" in kept
    assert KEY.encode() not in kept
    assert spelled.encode() not in kept


def test_endless_reply_is_not_read_to_its_end() -> None:
    """A body beyond all sense fails its row instead of filling the memory."""

    async def script(exchange: Exchange) -> None:
        exchange.writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while not exchange.writer.is_closing():
            exchange.writer.write(chunked(b"x" * 2**20))
            await exchange.writer.drain()

    failure = outcome_of(script)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.message) == ("too_large", "the reply is larger than 64 MB")
    assert verdict(failure) is Verdict.ROW


@pytest.mark.slow
@pytest.mark.parametrize(("line_count", "is_too_large"), [(250, False), (257, True)])
def test_endless_stream_is_not_read_to_its_end(line_count: int, is_too_large: bool) -> None:
    """A stream may be larger than a plain reply, for all that wraps its words, but not without end."""
    line = gzip.compress(b":" + b" " * (2**20 - 2) + b"\n", 1)  # of a megabyte; repeated, they make a gzip file as well

    async def script(exchange: Exchange) -> None:
        end = gzip.compress(EVENT % (b"Hi", b'"stop"') + b"data: [DONE]\n\n")
        exchange.reply(200, line * line_count + end, content_type="text/event-stream", content_encoding="gzip")

    outcome = outcome_of(script)
    if not is_too_large:
        assert content_of(outcome) == "Hi"
        return
    assert isinstance(outcome, Failure)
    assert (outcome.kind, outcome.message) == ("too_large", "the reply is larger than 256 MB")
    assert verdict(outcome) is Verdict.ROW
