"""One client's connection: bytes in, whole requests out to a handler, and the bytes of replies back.

It knows as much of HTTP/1.1 as the torture needs: a head, a body of `content-length` bytes, one request at a time.
"""

import asyncio
import re
import socket
import struct
from collections.abc import Callable
from typing import cast

from tests.torture.wire import Ending, Wire

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_LINGER_NOT = struct.pack("ii", 1, 0)

Handler = Callable[["Connection", bytes], None]
"""Takes a connection and the body of a request on it."""


class Connection(asyncio.Protocol):
    """A connection from a client, one of `among` while it is open.

    `idle_s` says how long it is kept without a request, None for ever; `on_idle_close` is told when that is over.
    """

    def __init__(
        self,
        handle: Handler,
        among: set["Connection"],
        idle_s: Callable[[], float | None],
        on_idle_close: Callable[[], None],
    ) -> None:
        self._handle = handle
        self._open = among
        self._idle_s = idle_s
        self._on_idle_close = on_idle_close
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._has_room = asyncio.Event()
        self._has_room.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the client."""
        self._transport = cast(asyncio.Transport, transport)
        self._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self._stop_timer()
        self._open.discard(self)
        self._has_room.set()

    def data_received(self, data: bytes) -> None:
        """Hand on the request when it is whole."""
        self._stop_timer()
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        length = _LENGTH.search(self._buffer, 0, head_end + 2)
        end = head_end + 4 + (int(length.group(1)) if length else 0)
        if len(self._buffer) < end:
            return
        body = bytes(self._buffer[head_end + 4 : end])
        del self._buffer[:end]
        self._handle(self, body)

    def pause_writing(self) -> None:
        """Note that the client reads more slowly than is written."""
        self._has_room.clear()

    def resume_writing(self) -> None:
        """Note that there is room again."""
        self._has_room.set()

    @property
    def is_open(self) -> bool:
        """Whether the client is still there."""
        return self._transport is not None and not self._transport.is_closing()

    async def write(self, content: bytes) -> None:
        """Write, and wait until there is room for more."""
        if self.is_open and self._transport is not None:
            self._transport.write(content)
            await self._has_room.wait()

    def reply(self, wire: Wire) -> None:
        """Write a reply, and treat the connection as it says."""
        if self._transport is None:
            return
        if wire.content:
            self._transport.write(wire.content)
        if wire.ending is Ending.CLOSE:
            self._transport.close()
        elif wire.ending is Ending.RESET:
            self.reset()
        elif wire.ending is Ending.KEEP:
            idle_s = self._idle_s()
            if idle_s is not None:
                self._timer = asyncio.get_running_loop().call_later(idle_s, self._close_idle)

    def reset(self) -> None:
        """Let the client see a reset, not an end."""
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self._transport.abort()

    def _close_idle(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._on_idle_close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
