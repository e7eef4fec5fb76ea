"""The bytes of a reply as they come -> the body of a plain reply, also where they are server-sent events.

What passes in are parts of a body, cut anywhere; what comes out are the bytes that `read_reply` reads, or a Failure
where a stream was not whole. It knows the format of events (the WHATWG's, and what endpoints make of it), and leaves
what the events say to `assembly.py`.
"""

from collections.abc import Mapping
from typing import Any

from batchchat.records import Failure
from batchchat.send.assembly import Assembly
from batchchat.send.jsonvalue import json_bytes, mapping_of, read_pieces
from batchchat.send.reply import error_inside, snippet

_MARK = b"\xef\xbb\xbf"
_FIELDS = frozenset({b"data", b"event", b"id", b"retry"})
_STREAM_STARTS = (b":", *(name + b":" for name in sorted(_FIELDS)))
_PLAIN_STARTS = (b"{", b"[", b"<")
_JSON_STARTS = (b"{", b"[")
_DONE = b"[DONE]"


class ReplyBody:
    """The bytes of one 2xx reply as they come: a plain body, or a stream of events that is assembled into one.

    `is_event_stream` is what the content type says; how the body starts counts for more. `first_token_at` is the `now`
    of the first piece of a stream with any content, reasoning, refusal or tool call, `last_token_at` that of the last.
    """

    def __init__(self, *, is_event_stream: bool) -> None:
        self._is_said_stream = is_event_stream
        self._received = bytearray()
        self._start = b""
        self._is_plain = False
        self._events: _Events | None = None

    @property
    def first_token_at(self) -> float | None:
        """The `now` of the first piece of an answer; None in a plain body."""
        return self._events.first_token_at if self._events else None

    @property
    def last_token_at(self) -> float | None:
        """The `now` of the last piece of an answer so far; None in a plain body."""
        return self._events.last_token_at if self._events else None

    @property
    def is_complete(self) -> bool:
        """Whether a stream said that it is done, or why every choice ended, or what went wrong."""
        return self._events is not None and self._events.is_complete

    def feed(self, part: bytes, now: float) -> bool:
        """Take the next bytes; return whether more are wanted, which they are not once a stream said `[DONE]`."""
        if self._events is not None:
            return self._events.feed(part, now)
        self._received += part
        if self._is_plain:
            return True
        if part[:1] == b"{" and not self._start:
            self._is_plain = True
            return True
        self._start = _without_blanks(self._start + part)
        if self._is_undecided():
            return True
        starts = self._start.startswith(_PLAIN_STARTS if self._is_said_stream else _STREAM_STARTS)
        self._is_plain = starts if self._is_said_stream else not starts
        if self._is_plain:
            return True
        return self._open(now)

    def whole(self) -> bytes | Failure:
        """Return the body, now that all of it came: a plain one as received, a stream as its plain reply."""
        if self._events is None and self._is_said_stream and not self._is_plain:
            self._open(0.0)
        return bytes(self._received) if self._events is None else self._events.whole()

    def _is_undecided(self) -> bool:
        """Whether the first bytes may still be the start of either."""
        if not self._start or (len(self._start) < len(_MARK) and _MARK.startswith(self._start)):
            return True
        return not self._is_said_stream and any(
            len(self._start) < len(start) and start.startswith(self._start) for start in _STREAM_STARTS
        )

    def _open(self, now: float) -> bool:
        self._events = _Events()
        self._received.clear()
        return self._events.feed(self._start, now)


def _without_blanks(start: bytes) -> bytes:
    """Return bytes without the white space, and the byte-order mark, that they begin with."""
    start = start.lstrip()
    while start.startswith(_MARK):
        start = start[len(_MARK) :].lstrip()
    return start


class _Events:
    """The lines of a stream of events, and what they came to."""

    def __init__(self) -> None:
        self.first_token_at: float | None = None
        self.last_token_at: float | None = None
        self._assembly = Assembly()
        self._error: dict[str, Any] | None = None
        self._nonsense: bytes | None = None
        self._is_done = False
        self._now = 0.0
        self._pending = bytearray()
        self._ended_with_cr = False
        self._event = b""
        self._data: list[bytes] = []
        self._lines: list[bytes] = []  # the data, with lines that name no field: empty where there are none of those

    @property
    def is_complete(self) -> bool:
        return self._is_done or self._error is not None or self._assembly.is_finished

    def feed(self, part: bytes, now: float) -> bool:
        if self._is_done:
            return False
        self._now = now
        if self._ended_with_cr and part:
            part = part.removeprefix(b"\n")
            self._ended_with_cr = False
        if b"\n" not in part and b"\r" not in part:
            self._pending += part
            return True
        lines = part.splitlines()
        if self._pending:
            lines[0] = bytes(self._pending) + lines[0]
            self._pending.clear()
        if part[-1] not in b"\r\n":
            self._pending += lines.pop()
        self._ended_with_cr = part[-1] == 13
        for line in lines:
            self._take(line)
        return not self._is_done

    def whole(self) -> bytes | Failure:
        if self._pending:
            self._take(bytes(self._pending))
            self._pending.clear()
        self._dispatch(is_cut=True)
        if self._nonsense is not None and self._error is None:
            return _no_reply("protocol", f"an event of the stream is not JSON: {snippet(self._nonsense)}")
        if not self.is_complete:
            return _no_reply("connect", "the stream ended before the reply was whole")
        body = json_bytes(self._assembly.as_reply() if self._error is None else self._error)
        return _no_reply("protocol", "the reply is nested too deeply") if body is None else body

    def _take(self, line: bytes) -> None:
        if self._is_done:
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            self._take_data(value.removeprefix(b" "))
        elif not line:
            self._dispatch()
        elif name == b"event":
            self._event = value.removeprefix(b" ")
        elif name and name not in _FIELDS and (self._data or self._lines or line.lstrip().startswith(b"{")):
            if not self._lines:
                self._lines = list(self._data)
            self._lines.append(line)  # some print an error over several lines, of which at most the first is named

    def _take_data(self, value: bytes) -> None:
        if value.strip() == _DONE:
            self._dispatch()
            self._is_done = True
            return
        self._data.append(value)
        if self._lines:
            self._lines.append(value)

    def _dispatch(self, *, is_cut: bool = False) -> None:
        """Take the event that the lines so far make; one that the end of the stream cut off is dropped."""
        event, data, lines = self._event, self._data, self._lines
        self._event = b""
        if not data and not lines:
            return
        self._data, self._lines = [], []
        values = _values(data, lines)
        for value in values:
            for chunk in value if isinstance(value, list) else (value,):
                self._use(mapping_of(chunk), is_error=event == b"error")
        if not values:
            self._use_text(b"\n".join(lines or data), is_error=event == b"error", is_cut=is_cut)

    def _use_text(self, text: bytes, *, is_error: bool, is_cut: bool) -> None:
        if is_error and text.strip():
            self._use({"message": text.decode("utf-8", "replace")}, is_error=True)
        elif text.lstrip().startswith(_JSON_STARTS) and not is_cut:
            self._nonsense = self._nonsense or text

    def _use(self, chunk: Mapping[str, Any], *, is_error: bool) -> None:
        if error_inside(chunk):
            self._error = self._error or dict(chunk)
        elif is_error:
            self._error = self._error or {"error": dict(chunk) or {"message": "the endpoint reported an error"}}
        elif self._assembly.add(chunk):
            self.last_token_at = self._now
            self.first_token_at = self._now if self.first_token_at is None else self.first_token_at


def _values(data: list[bytes], lines: list[bytes]) -> list[Any]:
    """Return the JSON of an event: of its data, or with the lines that name no field, or of each line by itself."""
    value = _json_or_none(b"\n".join(data))
    if value is None and lines:
        value = _json_or_none(b"\n".join(lines))
    if value is not None:
        return [value]
    values = [_json_or_none(line) for line in data] if len(data) > 1 else []
    return [] if any(value is None for value in values) else values


def _json_or_none(text: bytes) -> Any:
    return read_pieces(text) if text.lstrip().startswith(_JSON_STARTS) else None


def _no_reply(kind: str, message: str) -> Failure:
    return Failure(kind, message, 200, is_outcome_unknown=True)
