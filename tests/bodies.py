"""Bodies of replies read as a run reads them, of parts that are cut anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import httpx

from batchchat.send.http.deadline import Alarm, Deadline, TimeLimits
from batchchat.send.http.transport import Body, read_body

HANG_S = 300.0


class Parts(httpx.AsyncByteStream):
    """A body that comes in these parts; `asked` counts those that were read."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        self.parts = parts
        self.asked = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            self.asked += 1
            yield part


def read(parts: Sequence[bytes], *, is_event_stream: bool) -> Body:
    """Return what a body comes to that arrives in these parts."""
    headers = {"content-type": "text/event-stream" if is_event_stream else "application/json"}

    async def read_parts() -> Body:
        limits = TimeLimits(connect_s=HANG_S, first_byte_s=HANG_S, idle_s=HANG_S, total_s=HANG_S)
        with Deadline(limits, Alarm()) as deadline:
            return await read_body(Parts(parts), headers, deadline, may_linger=True)

    return asyncio.run(read_parts())
