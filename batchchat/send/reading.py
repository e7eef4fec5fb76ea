"""One reply read as what it says, without holding up the others."""

import asyncio
import time
from functools import partial

from batchchat.records import Completion, Failure
from batchchat.send.reply import read_reply
from batchchat.send.transport import Reply

LARGE_REPLY_BYTES = 2**20


async def read(reply: Reply) -> Completion | Failure:
    """Return what a reply says; a large one is read in a thread, while others' replies come in."""
    reading = partial(read_reply, reply.status, reply.headers, reply.body, unix_now=time.time())
    return reading() if len(reply.body) <= LARGE_REPLY_BYTES else await asyncio.to_thread(reading)
