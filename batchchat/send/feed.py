"""Rows on their way from the input into the queue, a chunk at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from batchchat.records import Chunk
from batchchat.send.commits import Commits, in_thread
from batchchat.send.counts import Counts
from batchchat.send.ending import Ending
from batchchat.send.queue import Queue


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
        with ThreadPoolExecutor(1, "feed") as thread:
            while True:
                await self._is_wanted.wait()
                try:
                    chunk = await in_thread(thread, lambda: next(self._chunks, None))
                    if chunk is None:
                        self._queue.is_fed = True
                    else:
                        await self._accept(chunk)
                except Exception as error:  # whatever it is, it is raised again when everything answered is kept
                    self._ending.stop(error)
                self._is_wanted.clear()
                changed.set()

    async def _accept(self, chunk: Chunk) -> None:
        self._counts.rows_read += len(chunk.requests) + chunk.failed_row_count
        self._counts.rows_failed += chunk.failed_row_count
        for row in await self._commits.unanswered(chunk.requests):
            self._queue.add(row)
