"""Rows on their way from the feed into the backlog, a chunk at a time.

What passes in are chunks of requests; what comes out, into the backlog, are those that must be asked. It does not know
when they are.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future

from batchchat.records import Chunk
from batchchat.send.backlog import Backlog
from batchchat.send.settling import Settling
from batchchat.send.tally import Tally


class Feeding:
    """One run's feed; `has_changed` is called after every chunk, `has_failed` with the feed's or the store's error."""

    def __init__(
        self,
        feed: Iterator[Chunk],
        backlog: Backlog,
        settling: Settling,
        tally: Tally,
        has_changed: Callable[[], None],
        has_failed: Callable[[Exception], None],
    ) -> None:
        self._feed = feed
        self._backlog = backlog
        self._settling = settling
        self._tally = tally
        self._has_changed = has_changed
        self._has_failed = has_failed
        self._fetching: asyncio.Task[None] | None = None
        self.is_busy = False
        self.is_exhausted = False

    def refill(self, limit: int, tasks: asyncio.TaskGroup, store_thread: Executor) -> None:
        """Fetch a chunk, if the backlog has not enough to keep `limit` slots busy."""
        if self.is_busy or self.is_exhausted or not self._backlog.wants_more(limit):
            return
        self.is_busy = True
        self._fetching = tasks.create_task(self._fetch(store_thread))

    def abandon(self) -> None:
        """Wait no longer for the chunk that is being made: a template may never end."""
        if self._fetching is not None:
            self._fetching.cancel()

    async def _fetch(self, store_thread: Executor) -> None:
        try:
            chunk = await _in_daemon_thread(lambda: next(self._feed, None))
            if chunk is None:
                self.is_exhausted = True
            else:
                await self._accept(chunk, store_thread)
        except Exception as error:  # whatever it is, it is raised again when everything answered is kept
            self._has_failed(error)
        finally:
            self.is_busy = False
            self._has_changed()

    async def _accept(self, chunk: Chunk, store_thread: Executor) -> None:
        self._tally.rows_read += len(chunk.requests) + chunk.failed_row_count
        self._tally.rows_failed += chunk.failed_row_count
        for pending in await self._settling.unanswered(chunk.requests, store_thread):
            self._backlog.add(pending)


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
