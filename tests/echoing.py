"""An endpoint that answers as a test's script says, and keeps the headers that it was sent."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Sent:
    """What to reply; with `is_cut`, the connection breaks amid the body."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    is_cut: bool = False


Script = Callable[[int, Mapping[str, str], bytes], Sent]
"""Makes the reply to the request of a number, from 0, with its lower-case headers and its body."""


def completion(content: str, **fields: Any) -> bytes:
    """Return the body of an answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return json.dumps({"id": "x", "object": "chat.completion", "model": "m", "choices": [choice], **fields}).encode()


class ManyAtOnce(ThreadingHTTPServer):
    """A server that many connections may be opened to at once; the standard library's queue holds five."""

    request_queue_size = 1024
    daemon_threads = True


class Echoing:
    """Serves a script on a free port of this machine for as long as the block lasts."""

    def __init__(self, script: Script) -> None:
        self.seen: list[dict[str, str]] = []
        lock = threading.Lock()
        echoing = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one piece: a client's system may wait 40 ms before it answers the first

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                with lock:
                    number = len(echoing.seen)
                    echoing.seen.append(headers)
                self._send(script(number, headers, body))

            do_GET = do_CONNECT = do_POST  # noqa: N815 -- the standard library's names

            def _send(self, sent: Sent) -> None:
                self.send_response(sent.status)
                for name, value in sent.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(sent.body) + 100 * sent.is_cut))
                self.end_headers()
                self.wfile.write(sent.body)
                self.close_connection = self.close_connection or sent.is_cut

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the standard library's name
                """Say nothing."""

        self._server = ManyAtOnce(("127.0.0.1", 0), Handler)
        self.place = f"127.0.0.1:{self._server.server_port}"
        self.base_url = f"http://{self.place}/v1"

    def __enter__(self) -> Echoing:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
