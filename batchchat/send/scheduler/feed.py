"""Rows on their way from the input into the queue, a chunk at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

from batchchat.records import Chunk
from batchchat.send.scheduler.commits import Commits
from batchchat.send.scheduler.ending import Ending
from batchchat.send.scheduler.queue import Queue
from batchchat.send.state.counts import Counts


class Feed:
    """Fetches chunks of rows when the queue runs low."""

    def __init__(self, chunks: Iterator[Chunk], queue: Queue, commits: Commits, counts: Counts, ending: Ending) -> None:
        self._chunks = chunks
        self._queue = queue
        self._commits = commits
        self._counts = counts
        self._ending = ending
        self._is_wanted = asyncio.Event()

    @property
    def is_busy(self) -> bool:
        """Whether a chunk is being fetched, or about to be."""
        return self._is_wanted.is_set()

    def refill(self, limit: int) -> None:
        """Have a chunk fetched, if the queue has not enough to keep `limit` slots busy."""
        if not self._queue.is_fed and self._queue.wants_more(limit):
            self._is_wanted.set()

    async def run(self, changed: asyncio.Event) -> None:
        """Fetch whenever that is wanted, until cancelled; set `changed` after each chunk."""
        try:
            while True:
                await self._is_wanted.wait()
                await self._fetch()
                self._is_wanted.clear()
                changed.set()
        finally:  # a chunk may be half made: a template may never end
            self._is_wanted.clear()
            changed.set()

    async def _fetch(self) -> None:
        try:
            chunk = await _in_daemon_thread(lambda: next(self._chunks, None))
            if chunk is None:
                self._queue.is_fed = True
            else:
                await self._accept(chunk)
        except Exception as error:  # whatever it is, it is raised again when everything answered is kept
            self._ending.stop(error)

    async def _accept(self, chunk: Chunk) -> None:
        self._counts.rows_read += len(chunk.requests) + chunk.failed_row_count
        self._counts.rows_failed += chunk.failed_row_count
        for row in await self._commits.unanswered(chunk.requests):
            self._queue.add(row)


async def _in_daemon_thread(call: Callable[[], Chunk | None]) -> Chunk | None:
    """Return what a blocking call returns; its thread holds up neither the end of the run nor that of the process."""
    future: Future[Chunk | None] = Future()
    future.set_running_or_notify_cancel()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name="feed", daemon=True).start()
    return await asyncio.wrap_future(future)
