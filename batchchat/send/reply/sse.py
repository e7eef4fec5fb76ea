"""Server-sent events as they come, cut anywhere, assembled into the body of a plain reply.

The format of events is the WHATWG's, and what endpoints make of it; what the events say is read by `chunks.py`.
"""

from collections.abc import Mapping
from typing import Any

from batchchat.json_values import json_bytes, mapping_of, read_pieces
from batchchat.records import Failure
from batchchat.send.reply.chunks import Assembly
from batchchat.send.reply.reply import error_inside, snippet

_MARK = b"\xef\xbb\xbf"
_FIELDS = frozenset({b"data", b"event", b"id", b"retry"})
_STREAM_STARTS = (b":", *(name + b":" for name in sorted(_FIELDS)))
_PLAIN_STARTS = (b"{", b"[", b"<")
_JSON_STARTS = (b"{", b"[")
_DONE = b"[DONE]"


def without_blanks(start: bytes) -> bytes:
    """Return bytes without the white space, and the byte-order mark, that they begin with."""
    start = start.lstrip()
    while start.startswith(_MARK):
        start = start[len(_MARK) :].lstrip()
    return start


def begins_stream(start: bytes, *, is_said_stream: bool) -> bool | None:
    """Return whether a body that starts like this is a stream; None if that may still turn out either way.

    `start` is without blanks, `is_said_stream` what the content type says: how the body starts counts for more.
    """
    if not start or (len(start) < len(_MARK) and _MARK.startswith(start)):
        return None
    if is_said_stream:
        return not start.startswith(_PLAIN_STARTS)
    if any(len(start) < len(name) and name.startswith(start) for name in _STREAM_STARTS):
        return None
    return start.startswith(_STREAM_STARTS)


class Events:
    """A stream of events as it comes, assembled into the plain reply.

    `first_token_at` is the `now` of the first piece with any content, reasoning, refusal or tool call, and
    `last_token_at` that of the last.
    """

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
        """Whether the stream said that it is done, or why every choice ended, or what went wrong."""
        return self._is_done or self._error is not None or self._assembly.is_finished

    def feed(self, part: bytes, now: float) -> bool:
        """Take the next bytes; return whether more are wanted, which they are not once it said `[DONE]`."""
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
        """Return the plain reply, now that all of the stream came."""
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
