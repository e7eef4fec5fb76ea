"""The scripted server, a process of its own: `python -m tests.torture.server --ledger PATH`.

It prints its base URL, then obeys one command a line on standard input and prints a line for each; it ends with its
standard input. Answers depend on the request alone (`answers.py`), faults on the request and the attempt (`faults.py`).

    faults RATE           deal faults to this share of the attempts
    latency LOW HIGH      seconds before each answer, from a hash of the request
    pad BYTES             make the body of each plain answer so much longer, by what does not compress
    idle LOW HIGH         close connections that are idle for so many seconds; `idle off` keeps them
    refuse NAME COUNT     answer COUNT more requests, then refuse all in the words of `refusals.py`
    pass NAME S           refuse all in these words for S seconds, after the next 100 answers
    well                  end of refusals
    down S                close the listening socket for S seconds, and reset the connections that still bring requests
    unavailable S         answer 503 to all for S seconds
    blackhole S           answer nothing for S seconds
    count                 print how many requests arrived, and how many answers were delivered
    closed                print how many connections were closed for being idle
    flush                 put the ledger into its file
"""

import argparse
import asyncio
import random
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import uvloop

from tests.torture.answers import digest_of
from tests.torture.connection import Connection
from tests.torture.faults import FAULTS, draw
from tests.torture.ledger import ANSWER, GONE, Entry, LedgerFile
from tests.torture.misbehaviour import MISBEHAVIOURS, asked_for
from tests.torture.refusals import REFUSALS
from tests.torture.wire import Ending, Wire, answer, http

BACKLOG = 4_096
_UNAVAILABLE = Wire(http(503, b'{"error":{"message":"Service Unavailable","type":"server_error"}}'))


@dataclass
class Script:
    """What the server is to do now; `until` fields are of the monotonic clock."""

    fault_rate: float = 0.0
    latency_s: tuple[float, float] = (0.0, 0.0)
    idle_s: tuple[float, float] | None = None
    refusal: str | None = None
    answers_before_refusal: int = 0
    refusal_s: float | None = None
    refused_since: float | None = None
    unavailable_until: float = 0.0
    blackhole_until: float = 0.0
    is_down: bool = False
    padding_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that is there; `response_id` is that of the answer it may get."""

    at: float
    digest: str
    attempt: int
    response_id: str
    is_streamed: bool


@dataclass
class Server:
    """The server's state: its script, its clients, and what it counted."""

    ledger: LedgerFile
    script: Script = field(default_factory=Script)
    connections: set[Connection] = field(default_factory=set)
    attempts: Counter[str] = field(default_factory=Counter)
    delivered_count: int = 0
    arrival_count: int = 0
    idle_close_count: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    listener: asyncio.Server | None = None
    port: int = 0

    async def listen(self) -> None:
        """Open the port, the same one every time."""
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self.port))
        self.port = listening.getsockname()[1]
        self.listener = await asyncio.get_running_loop().create_server(
            lambda: Connection(self.handle, self.connections, self._idle_s, self._count_idle_close),
            sock=listening,
            backlog=BACKLOG,
        )

    def handle(self, connection: Connection, body: bytes) -> None:
        """Take a whole request, and see to its reply."""
        data = orjson.loads(body)
        digest = digest_of(data)
        self.attempts[digest] += 1
        self.arrival_count += 1
        now = time.monotonic()
        response_id = f"chatcmpl-{random.getrandbits(64):016x}"
        arrival = Arrival(now, digest, self.attempts[digest], response_id, data.get("stream") is True)
        script = self.script
        if script.is_down:
            self._reply(connection, arrival, "down", Wire(b"", Ending.RESET), is_billed=False)
        elif now < script.blackhole_until:
            self._note(arrival, "blackhole", is_billed=False)
        elif now < script.unavailable_until:
            self._reply(connection, arrival, "unavailable", _UNAVAILABLE, is_billed=False)
        elif self._refuses(now):
            assert script.refusal is not None
            wire = Wire(REFUSALS[script.refusal].content)
            self._reply(connection, arrival, script.refusal, wire, is_billed=False)
        elif b"do:" in body and (name := asked_for(body)) is not None:
            task = asyncio.get_running_loop().create_task(self._misbehave(connection, arrival, name, body))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        else:
            self._answer_later(connection, arrival)

    def _refuses(self, now: float) -> bool:
        script = self.script
        if script.refusal is None:
            return False
        script.answers_before_refusal -= 1
        if script.answers_before_refusal >= 0:
            return False
        script.refused_since = script.refused_since or now
        return script.refusal_s is None or now - script.refused_since < script.refusal_s

    def _answer_later(self, connection: Connection, arrival: Arrival) -> None:
        low, high = self.script.latency_s
        delay_s = low + (high - low) * int(arrival.digest[-6:], 16) / 0xFFFFFF
        if delay_s > 0:
            asyncio.get_running_loop().call_later(delay_s, self._answer, connection, arrival)
        else:
            self._answer(connection, arrival)

    def _answer(self, connection: Connection, arrival: Arrival) -> None:
        if not connection.is_open:
            self._note(arrival, GONE, is_billed=True)
            return
        if self.script.is_down:
            self._reply(connection, arrival, "down", Wire(b"", Ending.RESET), is_billed=True)
            return
        name = draw(arrival.digest, arrival.attempt, self.script.fault_rate, is_streamed=arrival.is_streamed)
        if name is not None:
            fault = FAULTS[name]
            wire = fault.wire(arrival.digest, arrival.response_id)
            self._reply(connection, arrival, name, wire, is_billed=fault.is_billed)
            return
        padding_bytes = 0 if arrival.is_streamed else self.script.padding_bytes
        wire = answer(arrival.digest, arrival.response_id, padding_bytes, is_streamed=arrival.is_streamed)
        self._reply(connection, arrival, ANSWER, wire, is_billed=True)

    async def _misbehave(self, connection: Connection, arrival: Arrival, name: str, body: bytes) -> None:
        await MISBEHAVIOURS[name](connection, body)
        self._note(arrival, name, is_billed=False)

    def _reply(self, connection: Connection, arrival: Arrival, sent: str, wire: Wire, *, is_billed: bool) -> None:
        connection.reply(wire)
        self._note(arrival, sent, is_billed=is_billed)

    def _note(self, arrival: Arrival, sent: str, *, is_billed: bool) -> None:
        self.delivered_count += sent == ANSWER
        replied, delivered = time.monotonic(), sent == ANSWER
        self.ledger.note(
            Entry(arrival.at, replied, arrival.digest, arrival.attempt, sent, is_billed, delivered, arrival.response_id)
        )

    def _count_idle_close(self) -> None:
        self.idle_close_count += 1

    def _idle_s(self) -> float | None:
        return None if self.script.idle_s is None else random.uniform(*self.script.idle_s)

    # Commands

    def obey(self, line: str) -> str:
        """Do what a line of standard input says; return the line to print."""
        name, *arguments = line.split()
        done = self._commands()[name](*arguments)
        return done or "ok"

    def _commands(self) -> Mapping[str, Callable[..., str | None]]:
        return {
            "faults": self._set_faults,
            "latency": self._set_latency,
            "pad": self._set_padding,
            "idle": self._set_idle,
            "refuse": self._set_refusal,
            "pass": self._set_passing_refusal,
            "well": self._end_refusal,
            "down": self._go_down,
            "unavailable": self._set_unavailable,
            "blackhole": self._set_blackhole,
            "count": lambda: f"{self.arrival_count} {self.delivered_count}",
            "closed": lambda: str(self.idle_close_count),
            "flush": self.ledger.flush,
        }

    def _set_faults(self, rate: str) -> None:
        self.script.fault_rate = float(rate)

    def _set_latency(self, low: str, high: str) -> None:
        self.script.latency_s = (float(low), float(high))

    def _set_padding(self, size: str) -> None:
        self.script.padding_bytes = int(size)

    def _set_idle(self, low: str, high: str = "") -> None:
        self.script.idle_s = None if low == "off" else (float(low), float(high))

    def _set_refusal(self, name: str, count: str) -> None:
        self.script.refusal, self.script.answers_before_refusal = name, int(count)
        self.script.refusal_s = self.script.refused_since = None

    def _set_passing_refusal(self, name: str, seconds: str) -> None:
        self._set_refusal(name, "100")
        self.script.refusal_s = float(seconds)

    def _end_refusal(self) -> None:
        self.script.refusal = None

    def _set_unavailable(self, seconds: str) -> None:
        self.script.unavailable_until = time.monotonic() + float(seconds)

    def _set_blackhole(self, seconds: str) -> None:
        self.script.blackhole_until = time.monotonic() + float(seconds)

    def _go_down(self, seconds: str) -> None:
        assert self.listener is not None
        self.listener.close()
        self.script.is_down = True
        loop = asyncio.get_running_loop()
        loop.call_later(float(seconds), lambda: self.tasks.add(loop.create_task(self._come_back())))

    async def _come_back(self) -> None:
        self.script.is_down = False
        await self.listen()


async def serve(ledger_path: Path) -> None:
    """Serve until standard input ends."""
    server = Server(LedgerFile(ledger_path))
    await server.listen()
    loop, has_ended = asyncio.get_running_loop(), asyncio.Event()
    _print(f"http://127.0.0.1:{server.port}/v1")

    def read_commands() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(lambda line: _print(server.obey(line)), line)
        loop.call_soon_threadsafe(has_ended.set)

    threading.Thread(target=read_commands, daemon=True).start()
    await has_ended.wait()
    server.ledger.close()


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--ledger", type=Path, required=True)
    uvloop.run(serve(parser.parse_args().ledger))
