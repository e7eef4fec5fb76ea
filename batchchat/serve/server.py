"""Run the embedded endpoint on 127.0.0.1, in a thread with an event loop of its own, until it is told to stop.

uvicorn's log records from this thread are dropped, those of other servers in the process are not.
"""

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from batchchat.errors import UsageError
from batchchat.serve.app import BASE_PATH, Respond, create_app
from batchchat.serve.delivery import HANG_UP
from batchchat.serve.request_log import opened_ledger
from batchchat.serve.settings import ServeSettings

_new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
# There is no uvloop for Windows.
with suppress(ImportError):
    from uvloop import new_event_loop as _new_event_loop

HOST = "127.0.0.1"
_BACKLOG = 2048
# Longer than a client is idle between two retries, so that it is seldom the server that closes first.
_KEEP_ALIVE_S = 75
# How long requests in flight may go on after the end was asked for.
_GRACE_S = 1


class EmbeddedEndpoint:
    """A running endpoint, for the length of a `with` block.

    The port is bound when the block is entered: connections are accepted from then on, and an error (a port in use, a
    ledger that cannot be written) is raised there, as UsageError. Port 0 takes a free one. At the end of the block,
    requests in flight have one second left. `respond` may reply to a request in the endpoint's place.
    """

    def __init__(self, settings: ServeSettings, port: int = 0, respond: Respond | None = None) -> None:
        self._settings = settings
        self._port = port
        self._respond = respond
        self._closing = ExitStack()

    @property
    def base_url(self) -> str:
        """The URL to which `/chat/completions` is appended; the port is known within the block only."""
        return f"http://{HOST}:{self._port}{BASE_PATH}"

    def __enter__(self) -> "EmbeddedEndpoint":
        with ExitStack() as stack:
            write_entry = stack.enter_context(opened_ledger(self._settings.log_path))
            listener = stack.enter_context(_listener(self._port))
            self._port = listener.getsockname()[1]
            stack.enter_context(_serving(create_app(self._settings, write_entry, self._respond), listener))
            self._closing = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.close()


def serve_forever(settings: ServeSettings, port: int, on_ready: Callable[[str], None]) -> int:
    """Serve until SIGINT or SIGTERM, and return that signal's number; to be called from the main thread.

    `on_ready` is called once, with the base URL, when the port is bound. Raises UsageError when it cannot be.
    """
    # A SimpleQueue, unlike an Event, may be used by a signal handler that interrupts the very thread that waits for it.
    received: SimpleQueue[int] = SimpleQueue()
    with _signals_into(received), EmbeddedEndpoint(settings, port) as endpoint:
        on_ready(endpoint.base_url)
        return received.get()


@contextmanager
def _signals_into(received: "SimpleQueue[int]") -> Iterator[None]:
    ends = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, frame: received.put(number)) for number in ends}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _listener(port: int) -> Iterator[socket.socket]:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with listener:
        # Else a port cannot be used again for a minute after a server on it has ended.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(
                f"port {port} on {HOST} cannot be used ({reason}); choose another, or 0 for a free one"
            ) from error
        listener.listen(_BACKLOG)
        yield listener


@contextmanager
def _serving(app: Starlette, listener: socket.socket) -> Iterator[None]:
    """Serve on the listener, in a daemon thread, until the block ends."""
    server = uvicorn.Server(_config(app))
    thread = threading.Thread(target=_run, args=(server, listener), name="batchchat-endpoint", daemon=True)
    with _silenced(thread):
        thread.start()
        try:
            yield
        finally:
            server.should_exit = True
            thread.join()


def _run(server: uvicorn.Server, listener: socket.socket) -> None:
    # Whatever ends the loop, a client must find the port closed rather than wait on it.
    with listener, asyncio.Runner(loop_factory=_new_event_loop) as runner:
        runner.run(server.serve(sockets=[listener]))


def _config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_protocol,  # type: ignore[arg-type]  # uvicorn only calls it
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
    )


def _protocol(*, app_state: dict[str, Any], **arguments: Any) -> Any:
    """Return uvicorn's protocol for one connection, with a function in the state of its requests that closes it.

    Closing sends what was written before, then ends the connection.
    """
    protocol: Any = AutoHTTPProtocol(app_state=app_state, **arguments)  # type: ignore[call-arg]

    def hang_up() -> None:
        protocol.transport.close()

    protocol.app_state = {**app_state, HANG_UP: hang_up}
    # Else each reply is logged wherever the program has a log handler.
    protocol.access_log = False
    return protocol


@contextmanager
def _silenced(thread: threading.Thread) -> Iterator[None]:
    """Drop what uvicorn logs from this thread."""

    def is_from_elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != thread.ident

    logger = logging.getLogger("uvicorn.error")
    logger.addFilter(is_from_elsewhere)
    try:
        yield
    finally:
        logger.removeFilter(is_from_elsewhere)
