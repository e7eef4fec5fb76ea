"""What the scripted server does to a request whose text asks for it (`do:NAME`): dribbles, bombs, echoes.

Each is a coroutine that writes to a connection until it has said all, or the client has left.
"""

import asyncio
import functools
import gzip
import re
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import orjson

from tests.torture.wire import http

PIECE = 2**20
DRIBBLE_S = 0.1
"""Seconds between two bytes of a dribble; the issue's second, scaled with the deadline that it is held against."""

_ASKED = re.compile(rb"do:([a-z0-9-]+)")
_HEAD = b"HTTP/1.1 200 OK\r\n"
_JSON = _HEAD + b"content-type: application/json\r\n"
_LARGEST_BYTES = 300 * PIECE


class Client(Protocol):
    """The connection to whom it is done."""

    @property
    def is_open(self) -> bool:
        """Whether the client is still there."""

    async def write(self, content: bytes) -> None:
        """Write, and wait until there is room for more."""


def asked_for(body: bytes) -> str | None:
    """Return the name of the misbehaviour that a request asks for."""
    found = _ASKED.search(body)
    return found.group(1).decode() if found else None


async def _dribble(client: Client, head: bytes, piece: bytes) -> None:
    await client.write(head)
    while client.is_open:
        await client.write(piece)
        await asyncio.sleep(DRIBBLE_S)


async def _dribbled_body(client: Client, body: bytes) -> None:
    await _dribble(client, _JSON + b"content-length: 100000\r\n\r\n", b" ")


async def _dribbled_head(client: Client, body: bytes) -> None:
    await _dribble(client, _JSON + b"x-more: ", b"a")


async def _dribbled_comments(client: Client, body: bytes) -> None:
    head = _HEAD + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    await _dribble(client, head, b"e\r\n: keep-alive\n\n\r\n")


async def _endless(client: Client, head: bytes, piece: bytes) -> None:
    await client.write(head)
    for _ in range(_LARGEST_BYTES // len(piece)):
        if not client.is_open:
            return
        await client.write(piece)


async def _endless_header(client: Client, body: bytes) -> None:
    await _endless(client, _JSON + b"x-more: ", b"a" * PIECE)


async def _many_headers(client: Client, body: bytes) -> None:
    await client.write(_JSON)
    for _ in range(100):
        await client.write(b"x-more: again\r\n" * 10_000)
    await client.write(b"content-length: 2\r\n\r\n{}")


async def _huge_reply(client: Client, body: bytes) -> None:
    await _endless(client, _JSON + b"content-length: %d\r\n\r\n" % (100 * PIECE), b" " * PIECE)


async def _gzip_bomb(client: Client, body: bytes) -> None:
    bomb = _bomb()
    await client.write(_JSON + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(bomb))
    for start in range(0, len(bomb), 2**16):
        await client.write(bomb[start : start + 2**16])


@functools.cache
def _bomb() -> bytes:
    """Return 256 MiB of spaces, gzipped: four times what a client should unpack."""
    return gzip.compress(b" " * 2**28, 6)


async def _deep_json(client: Client, body: bytes) -> None:
    await client.write(http(200, b'{"choices":' + b"[" * 10**6 + b"]" * 10**6 + b"}"))


async def _always_500(client: Client, body: bytes) -> None:
    await client.write(http(500, b'{"error":{"message":"internal error","type":"server_error"}}'))


async def _echo(client: Client, body: bytes) -> None:
    prompt = orjson.loads(body)["messages"][0]["content"]
    error = {"message": f"Invalid value in messages[0]: {prompt}", "type": "invalid_request_error", "code": None}
    await client.write(http(400, orjson.dumps({"error": error})))


MISBEHAVIOURS: Mapping[str, Callable[[Client, bytes], Awaitable[None]]] = MappingProxyType(
    {
        "dribbled-body": _dribbled_body,
        "dribbled-head": _dribbled_head,
        "dribbled-comments": _dribbled_comments,
        "endless-header": _endless_header,
        "many-headers": _many_headers,
        "huge-reply": _huge_reply,
        "gzip-bomb": _gzip_bomb,
        "deep-json": _deep_json,
        "always-500": _always_500,
        "echo": _echo,
    }
)
