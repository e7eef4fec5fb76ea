"""The sockets and the timer that libcurl waits for, in the event loop.

What passes in is libcurl's word of what it waits for; what comes out is word to libcurl of what has happened. It does
not know requests.
"""

import asyncio
import os
import selectors
import stat
from collections.abc import Callable

import pycurl

_EVENTS = {
    pycurl.POLL_IN: selectors.EVENT_READ,
    pycurl.POLL_OUT: selectors.EVENT_WRITE,
    pycurl.POLL_INOUT: selectors.EVENT_READ | selectors.EVENT_WRITE,
}
_ACTIONS = {
    selectors.EVENT_READ: pycurl.CSELECT_IN,
    selectors.EVENT_WRITE: pycurl.CSELECT_OUT,
    selectors.EVENT_READ | selectors.EVENT_WRITE: pycurl.CSELECT_IN | pycurl.CSELECT_OUT,
}


class Sockets:
    """Waits for one `CurlMulti`; `take_ended` is called when requests of it may have ended.

    The sockets are in a selector of its own, which the loop waits for as for a single file. A connection's stays there
    while it is idle between two requests: to take it out and put it back would cost half as much as the request. When
    something happens to it meanwhile, it is taken out. libcurl does not say when it closes a socket, so its inode tells
    it from a later one with the same number.
    """

    def __init__(self, multi: pycurl.CurlMulti, take_ended: Callable[[], None]) -> None:
        self._multi = multi
        self._take_ended = take_ended
        self._loop: asyncio.AbstractEventLoop | None = None
        self._selector = selectors.DefaultSelector()
        self._wanted: set[int] = set()
        self._events: dict[int, int] = {}
        self._inodes: dict[int, int] = {}
        self._timer: asyncio.Handle | None = None
        self._is_due = False  # at the loop's next turn, which every request asks for
        self._is_closed = False
        multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)

    def wait_in(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait in this loop, from the first request on."""
        if self._loop is None:
            self._loop = loop
            loop.add_reader(self._selector, self._on_events)

    def close(self) -> None:
        """Wait for nothing any more."""
        self._on_timer(-1)
        self._is_closed = True
        if self._loop is not None:
            self._loop.remove_reader(self._selector)
        self._selector.close()

    def _on_socket(self, what: int, fd: int, _: object, __: object) -> None:
        if what == pycurl.POLL_REMOVE or self._is_closed:
            self._wanted.discard(fd)
            return
        if fd not in self._wanted:
            self._wanted.add(fd)
            self._note(fd)
        events, before = _EVENTS[what], self._events.get(fd)
        if before is None:
            self._selector.register(fd, events)
        elif before != events:
            self._selector.modify(fd, events)
        self._events[fd] = events

    def _note(self, fd: int) -> None:
        """Let go of what is there under a number, if it is another socket's now."""
        status = os.fstat(fd)
        if self._inodes.get(fd) != status.st_ino:
            self._forget(fd)
            self._inodes[fd] = status.st_ino if stat.S_ISSOCK(status.st_mode) else -1  # others share theirs

    def _forget(self, fd: int) -> None:
        if self._events.pop(fd, None) is not None:
            self._selector.unregister(fd)  # which does not mind one that is closed

    def _on_events(self) -> None:
        for key, events in self._selector.select(0):
            if key.fd in self._wanted:
                self._multi.socket_action(key.fd, _ACTIONS[events])
            else:  # idle: closed by the server, most likely, which libcurl sees when it wants it
                self._forget(key.fd)
        self._take_ended()

    def _on_timer(self, delay_ms: int) -> None:
        if delay_ms == 0 and self._is_due:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_due = delay_ms == 0
        if self._loop is None or self._is_closed:
            return
        if delay_ms == 0:
            self._timer = self._loop.call_soon(self._on_time)
        elif delay_ms > 0:
            self._timer = self._loop.call_later(delay_ms / 1_000, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self._is_due = False
        self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        self._take_ended()
