"""The wire's limit: a bare asyncio protocol that knows this endpoint alone, uvloop and orjson.

No limits, no retries, no other reply than the expected one, no output; the variant `durable` also keeps each answer in
SQLite by the hash of its request's body, in group commits, as what a resumable tool cannot do without.
"""

import asyncio
import hashlib
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import orjson
import uvloop

from tests.bench.asking import Task, check_complete, given_task, read_rows, request_of

COMMIT_ROWS = 256
Keep = Callable[[bytes, str, bytes], None]


class Connection(asyncio.Protocol):
    """A connection that asks about one row after the other, until there are none."""

    def __init__(self, head: bytes, bodies: Iterator[bytes], keep: Keep, done: asyncio.Future[None]) -> None:
        self._head, self._bodies, self._keep, self._done = head, bodies, keep, done
        self._body = self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for `ask_next`: it may end the connection, which uvloop must not see amid its making."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        """Take a reply, or a piece of it."""
        received = self._received + data if self._received else data
        end = received.find(b"\r\n\r\n") + 4
        if end < 4 or len(received) < end + _content_length(received[:end]):
            self._received = received
            return
        self._received = b""
        reply = received[end:]
        if received[9:12] != b"200":
            self._end(RuntimeError(reply.decode()))
            return
        self._keep(self._body, orjson.loads(reply)["choices"][0]["message"]["content"], reply)
        self.ask_next()

    def connection_lost(self, error: Exception | None) -> None:
        """Fail, if that was too early."""
        self._end(error or ConnectionError("the endpoint closed the connection"))

    def ask_next(self) -> None:
        """Ask about the next row, or end the connection when there is none."""
        assert self._transport is not None
        self._body = next(self._bodies, b"")
        if self._body:
            self._transport.write(b"%b%d\r\n\r\n%b" % (self._head, len(self._body), self._body))
            return
        self._end(None)
        self._transport.close()

    def _end(self, error: Exception | None) -> None:
        if self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)


def _content_length(head: bytes) -> int:
    start = head.lower().index(b"content-length: ") + 16
    return int(head[start : head.index(b"\r\n", start)])


async def ask_all(task: Task, keep: Keep) -> None:
    """Ask about all rows; `keep` gets each request's body, the completion and the reply."""
    loop = asyncio.get_running_loop()
    host, port = urlsplit(task.base_url).hostname or "", urlsplit(task.base_url).port or 80
    head = (
        f"POST {urlsplit(task.base_url).path}/chat/completions HTTP/1.1\r\nhost: {host}:{port}\r\n"
        "accept: application/json\r\ncontent-type: application/json\r\nauthorization: Bearer none\r\ncontent-length: "
    ).encode()
    bodies = (orjson.dumps(request_of(row)) for row in read_rows(task.rows))
    ends = [loop.create_future() for _ in range(task.concurrency)]
    made = [partial(Connection, head, bodies, keep, done) for done in ends]
    connections = [(await loop.create_connection(make, host, port))[1] for make in made]
    for connection in connections:
        connection.ask_next()
    await asyncio.gather(*ends)


def ask_in_memory(task: Task) -> int:
    """Ask about all rows, and return how many answers there are."""
    completions: list[str] = []
    uvloop.run(ask_all(task, lambda body, completion, reply: completions.append(completion)))
    return len(completions)


def ask_durably(task: Task, path: Path) -> int:
    """Ask about all rows, keep the answers in SQLite, and return how many are there."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE answers (key BLOB PRIMARY KEY, completion TEXT, reply BLOB) WITHOUT ROWID")
    waiting: list[tuple[bytes, str, bytes]] = []

    def commit() -> None:
        with database:
            database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", waiting)
        waiting.clear()

    def keep(body: bytes, completion: str, reply: bytes) -> None:
        waiting.append((hashlib.sha256(body).digest(), completion, reply))
        if len(waiting) >= COMMIT_ROWS:
            commit()

    uvloop.run(ask_all(task, keep))
    commit()
    (count,) = database.execute("SELECT count(*) FROM answers").fetchone()
    database.close()
    return int(count)


def main() -> None:
    """Ask about all rows."""
    task = given_task()
    is_durable = task.variant == "durable"
    check_complete(ask_durably(task, task.folder / "answers.sqlite") if is_durable else ask_in_memory(task), task)


if __name__ == "__main__":
    main()
