"""A reply read as what it says, without holding up the others, and as what it tells of the endpoint's limits."""

import asyncio
import time

from batchchat.records import Completion, Failure
from batchchat.send.cost import Costs
from batchchat.send.limits import RateLimits
from batchchat.send.rateheaders import allowance
from batchchat.send.reply import read_reply
from batchchat.send.transport import Reply

LARGE_REPLY_BYTES = 2**17
"""Bytes from which on a reply is read in a thread, while others' replies come in."""
LIMITS_INTERVAL_S = 0.05
"""Seconds for which what a reply told of the endpoint's limits is believed, before another is read for that."""


class Reading:
    """Reads one run's replies; what they tell of limits, `rates` follows, and `costs` knows what they cost."""

    def __init__(self, rates: RateLimits, costs: Costs) -> None:
        self._rates = rates
        self._costs = costs
        self._limits_due_at = 0.0

    async def read(self, reply: Reply, body: bytes) -> Completion | Failure:
        """Return what a reply to a request with this body says, and cost."""
        now = time.monotonic()
        if reply.status >= 400 or now >= self._limits_due_at:
            self._note_limits(reply, now)
        if len(reply.body) > LARGE_REPLY_BYTES:
            return self._costs.priced(await asyncio.to_thread(_read, reply), body)
        return self._costs.priced(_read(reply), body)

    def _note_limits(self, reply: Reply, now: float) -> None:
        told = allowance(reply.headers, unix_now=time.time())
        if told is not None:
            self._limits_due_at = now + LIMITS_INTERVAL_S
            self._rates.note(told, now)


def _read(reply: Reply) -> Completion | Failure:
    return read_reply(reply.status, reply.headers, reply.body, unix_now=time.time())
