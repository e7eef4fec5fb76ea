"""The sockets and the timer that libcurl waits for, in the event loop.

What passes in is libcurl's word of what it waits for; what comes out is word to libcurl of what has happened. It does
not know requests.
"""

import asyncio
import os
import stat
from collections.abc import Callable

import pycurl


class Sockets:
    """Waits for one `CurlMulti`; `take_ended` is called when requests of it may have ended.

    A connection's socket stays registered while it is idle between two requests: to take it out and put it back would
    cost half as much as the request. When something happens there meanwhile, it is taken out. A socket's inode tells
    it from a later one that got the same number, since libcurl does not say when it closes one.
    """

    def __init__(
        self, multi: pycurl.CurlMulti, loop: asyncio.AbstractEventLoop, take_ended: Callable[[], None]
    ) -> None:
        self._multi = multi
        self._loop = loop
        self._take_ended = take_ended
        self._wanted: set[int] = set()
        self._inodes: dict[int, int] = {}
        self._readers: set[int] = set()
        self._writers: set[int] = set()
        self._timer: asyncio.Handle | None = None
        multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)

    def close(self) -> None:
        """Wait for nothing any more."""
        self._on_timer(-1)
        for fd in self._readers | self._writers:
            self._watch(fd, 0)

    def _on_socket(self, what: int, fd: int, _: object, __: object) -> None:
        if what == pycurl.POLL_REMOVE:
            self._wanted.discard(fd)
            self._watch(fd, pycurl.POLL_IN if fd in self._readers and fd in self._inodes else 0)
            return
        if fd not in self._wanted:
            self._wanted.add(fd)
            self._note(fd)
        self._watch(fd, what)

    def _note(self, fd: int) -> None:
        """Let go of what was registered under a number, if it is another socket's now."""
        inode = _inode_of_socket(fd)
        if inode is None or self._inodes.get(fd) != inode:
            self._watch(fd, 0)
            self._inodes.pop(fd, None)
        if inode is not None:
            self._inodes[fd] = inode

    def _watch(self, fd: int, what: int) -> None:
        is_read, is_written = what & pycurl.POLL_IN, what & pycurl.POLL_OUT
        if is_read and fd not in self._readers:
            self._readers.add(fd)
            self._loop.add_reader(fd, self._on_event, fd, pycurl.CSELECT_IN)
        elif not is_read and fd in self._readers:
            self._readers.remove(fd)
            self._loop.remove_reader(fd)
        if is_written and fd not in self._writers:
            self._writers.add(fd)
            self._loop.add_writer(fd, self._on_event, fd, pycurl.CSELECT_OUT)
        elif not is_written and fd in self._writers:
            self._writers.remove(fd)
            self._loop.remove_writer(fd)

    def _on_event(self, fd: int, what: int) -> None:
        if fd not in self._wanted:  # idle: closed by the server, most likely, which libcurl sees when it wants it
            self._watch(fd, 0)
            return
        self._multi.socket_action(fd, what)
        self._take_ended()

    def _on_timer(self, delay_ms: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if delay_ms == 0:
            self._timer = self._loop.call_soon(self._on_time)
        elif delay_ms > 0:
            self._timer = self._loop.call_later(delay_ms / 1_000, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        self._take_ended()


def _inode_of_socket(fd: int) -> int | None:
    status = os.fstat(fd)
    return status.st_ino if stat.S_ISSOCK(status.st_mode) else None
