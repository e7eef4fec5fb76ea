"""Send a reply's bytes, at once or in a stream of events, whole or, for some faults, not.

Two faults need the connection itself, which ASGI does not give: `server.py` puts a function that hangs up into the
scope's state, under `HANG_UP`.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.types import Receive, Scope, Send

HANG_UP = "hang_up"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One reply. It is an ASGI application, so that Starlette sends it as it would send a response of its own.

    `sent_bytes` is how much of the body is sent before the connection ends; None sends all. `status` 0 is no reply at
    all: the connection ends before the first byte.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/json"
    sent_bytes: int | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        is_whole = self.sent_bytes is None and self.status != 0
        if self.status != 0:
            await send({"type": "http.response.start", "status": self.status, "headers": self._raw_headers()})
            await send({"type": "http.response.body", "body": self.body[: self.sent_bytes], "more_body": not is_whole})
        if not is_whole:
            await _hang_up(scope, receive)

    def _raw_headers(self) -> list[tuple[bytes, bytes]]:
        named = {"content-type": self.media_type, "content-length": str(len(self.body)), **self.headers}
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in named.items()]


@dataclass(frozen=True, slots=True)
class EventStream:
    """One reply as a stream of server-sent events, each of them sent by itself; an ASGI application too.

    `is_cut` says that the connection ends after them, rather than the reply.
    """

    events: tuple[bytes, ...]
    is_cut: bool = False
    status: int = 200

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        for event in self.events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
            # What is written within one turn of the loop goes out together, and one long reply would hold up the rest.
            await asyncio.sleep(0)
        if self.is_cut:
            await _hang_up(scope, receive)
        else:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _hang_up(scope: Scope, receive: Receive) -> None:
    scope["state"][HANG_UP]()
    # Returning while the server still holds the connection would make it send a reply of its own.
    while (await receive())["type"] != "http.disconnect":
        pass
