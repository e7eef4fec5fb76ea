"""The local images and videos of a request: named by their content in its key, sent as `data:` URLs."""

import hashlib
import json
import re
import time
from binascii import b2a_base64
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from batchchat.prompt.media.file import (
    ROOT_FIELD,
    MediaError,
    MediaFile,
    MissingMediaError,
    blocks,
    find_file,
    inside,
    quoted,
)
from batchchat.prompt.media.mime import mime_type
from batchchat.prompt.media.resize import require_pillow
from batchchat.prompt.media.resize_process import image_process
from batchchat.records import ChatRequest, Media

__all__ = ["MediaError", "MediaFolder", "MediaMemory", "Unremembered", "build", "require_pillow"]

DIGEST_BYTES = 20
HEAD_BYTES = 4096
_BLOCK_BYTES = 2**20
_ENCODED_BYTES = 3 * 2**18  # a multiple of three: only the last block of base64 is padded
_COARSE_TICK_NS, _FINE_TICK_NS = 2 * 10**9, 50 * 10**6
_KINDS = MappingProxyType({"image_url": "image", "video_url": "video"})
_NAME = re.compile(rb'"(media:[^"\\]*)"')
_PASSED_ON = ("http://", "https://", "data:")
_BINARY = "the row's binary value"
_PATH = f"a path within {ROOT_FIELD}"

Place = tuple[str | int, ...]
Span = tuple[int, int]


class MediaMemory(Protocol):
    """What content a file had when it was last read."""

    def find(self, path: str, size_bytes: int, mtime_ns: int) -> tuple[bytes, str] | None:
        """Return digest and MIME type of a file that has not changed since, or None."""

    def recall(self, path: str) -> tuple[int, int, bytes, str] | None:
        """Return size, time, digest and MIME type of a file as it was when last read, whatever it is now, or None."""

    def remember(
        self, path: str, size_bytes: int, mtime_ns: int, digest: bytes, mime_type: str, *, lasts: bool = True
    ) -> None:
        """Keep what was read for the next run; what does not last only to be recalled in this one."""

    def flush(self) -> None:
        """Make what was kept outlast this run, should it be killed."""


class Unremembered:
    """A memory that keeps nothing, for looking at a few rows."""

    def find(self, path: str, size_bytes: int, mtime_ns: int) -> None:
        """Return None: nothing was read before."""

    def recall(self, path: str) -> None:
        """Return None, as `find`."""

    def remember(
        self, path: str, size_bytes: int, mtime_ns: int, digest: bytes, mime_type: str, *, lasts: bool = True
    ) -> None:
        """Keep nothing."""

    def flush(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class MediaFolder:
    """Where a job's local media are, and what of them may be sent.

    Rows may name files below `root` alone; with None, none. With `look_only` the digests are made up and no more than
    the first few KB of a file are read: enough to find what is wrong, too little for a request that is sent. With
    `as_read` a file that was read before counts as it was then: an output holds what the run found, though files have
    changed or gone since. One that has gone counts so in any case; where its request has no answer, it cannot be sent.
    """

    root: Path | None
    max_bytes: int
    max_image_side: int | None
    memory: MediaMemory
    look_only: bool = False
    as_read: bool = False

    def place(self, messages: list[Any]) -> tuple[list[Any], tuple[Media, ...]]:
        """Return messages in which each local medium is named by its content, and the media, in order.

        The given messages are not changed. URLs (http, https, data) and all other parts stay as they are.

        Raises:
            MediaError: a medium is missing, is not what its part takes, or may not be sent.
        """
        media = tuple(self._medium(place, key, value) for place, key, value in _local(messages))
        for one in media:
            messages = _replaced(messages, one.at[1:], one.name)
        return messages, media

    def _medium(self, at: Place, key: str, value: object) -> Media:
        source: Path | bytes
        if isinstance(value, bytes):
            shown, source, size_bytes, mtime_ns = _BINARY, value, len(value), 0
            _check_size(shown, size_bytes, self.max_bytes)
            digest, kind = _digest([value]), _kind(value, "", shown, key)
        elif isinstance(value, str):
            file, (digest, kind) = self._recalled(value) if self.as_read else (None, (b"", ""))
            if file is None:
                file, (digest, kind) = self._read(value, key)
            shown, source, size_bytes, mtime_ns = file.shown, Path(file.path), file.size_bytes, file.mtime_ns
        else:
            message = f"{key} is {quoted(str(value))}, which is not text; it takes a URL, {_PATH} or binary data"
            raise MediaError(message)
        _check_kind(shown, kind, key)
        side = self.max_image_side if key == "image_url" else None
        return Media(
            at=at,
            name=_name(kind, digest, side),
            source=source,
            mime_type=kind,
            digest=digest,
            size_bytes=size_bytes,
            mtime_ns=mtime_ns,
            max_image_side=side,
            shown=shown,
        )

    def _read(self, written: str, key: str) -> tuple[MediaFile, tuple[bytes, str]]:
        """Return a file with digest and MIME type; of one that has gone, those that it had."""
        try:
            file = self._file(written)
        except MissingMediaError:
            gone, content = self._recalled(written)
            if gone is None or self.look_only:
                raise
            return gone, content
        return file, self._content(file, key)

    def _recalled(self, written: str) -> tuple[MediaFile | None, tuple[bytes, str]]:
        """Return a file as it was when it was last read, with its digest and MIME type; None when it never was."""
        path, shown = inside(self._root(written), written)
        known = self.memory.recall(path)
        if known is None:
            return None, (b"", "")
        return MediaFile(path, known[0], known[1], shown), known[2:]

    def _root(self, written: str) -> Path:
        if self.root is None:
            message = f"{quoted(written)} is a local file; set {ROOT_FIELD} to the folder of the images and videos"
            raise MediaError(message)
        return self.root

    def _file(self, written: str) -> MediaFile:
        file = find_file(self._root(written), written)
        if not file.size_bytes:
            message = f"{file.shown} is empty; check the file"
            raise MediaError(message)
        _check_size(file.shown, file.size_bytes, self.max_bytes)
        return file

    def _content(self, file: MediaFile, key: str) -> tuple[bytes, str]:
        """Return a file's digest and MIME type; what is remembered is not read again."""
        identity = (file.path, file.size_bytes, file.mtime_ns)
        known = self.memory.find(*identity)
        if known is not None:
            return known
        begun_ns = time.time_ns()
        with closing(blocks(file, HEAD_BYTES if self.look_only else _BLOCK_BYTES)) as content:
            head = next(content)
            kind = _kind(head, Path(file.path).suffix, file.shown, key)
            if self.look_only:
                return _digest([repr(identity).encode()]), kind
            digest = _digest(chain([head], content))
        self.memory.remember(*identity, digest, kind, lasts=is_settled(file.mtime_ns, begun_ns))
        return digest, kind


def is_settled(mtime_ns: int, begun_ns: int) -> bool:
    """Whether a file that was read at `begun_ns` would have another time if it were written to since.

    Within one tick of its file system's clock it may keep its time: what was that young when it was read is read again,
    as git does with its index. The clocks that count whole seconds tick every second or two, others much faster.
    """
    tick_ns = _FINE_TICK_NS if mtime_ns % 10**9 else _COARSE_TICK_NS
    return begun_ns - mtime_ns >= tick_ns


def build(request: ChatRequest, body: bytes, max_bytes: int) -> bytes:
    """Return `body` with the `data:` URL of each of the request's media in place of its name, and no other change.

    `body` is JSON: the request's own, perhaps with more messages at its end. It may run in any thread.

    Raises:
        MediaError: a file has changed since it was placed, is damaged, or has more than `max_bytes`.
    """
    if not request.media:
        return body
    pieces: list[bytes] = []
    end = 0
    for (start, stop), one in _placed(body, request.media):
        pieces += (body[end:start], *_url(one, max_bytes))
        end = stop
    return b"".join((*pieces, body[end:]))


def _placed(body: bytes, media: Sequence[Media]) -> list[tuple[Span, Media]]:
    """Return the media by where their names stand in the body.

    The bytes around them are sent as they are: read and written again, a number of more digits than a float has would
    not be the one that is in the request's key.
    """
    names = sorted(one.name.encode() for one in media)
    wanted = frozenset(names)
    found = [match.span(1) for match in _NAME.finditer(body) if match[1] in wanted]
    by_name = sorted(found, key=lambda span: body[slice(*span)])
    if [body[slice(*span)] for span in by_name] == names:
        pairs = zip(by_name, sorted(media, key=lambda one: one.name), strict=True)
    else:
        pairs = zip(_spans_among(found, body, media), media, strict=True)
    return sorted(pairs, key=itemgetter(0))


def _spans_among(found: Sequence[Span], body: bytes, media: Sequence[Media]) -> Iterator[Span]:
    """Yield which of the spans are the media's places, where others are text that is the same as a medium's name."""
    ends = [0, *(stop for _, stop in found)]
    between = [body[end:start] for end, (start, _) in zip(ends, found, strict=False)]
    numbered = b"".join(b"%b%d" % (text, number) for number, text in enumerate(between)) + body[ends[-1] :]
    content = json.loads(numbered, parse_int=str, parse_float=str)  # no number is too long to be a text
    for one in media:
        yield found[int(_at(content, one.at))]


def _at(value: Any, place: Place) -> Any:
    for step in place:
        value = value[step]
    return value


def _url(one: Media, max_bytes: int) -> list[bytes]:
    """Return a medium's URL in pieces, which only the whole body joins: as one text it would be held a second time."""
    _check_size(one.shown, one.size_bytes, max_bytes)
    content = _blocks_of(one)
    if one.max_image_side is not None:
        small = image_process.shrunk(b"".join(content), one.mime_type, one.max_image_side, one.shown)
        content = _cut(small)
    return [f"data:{one.mime_type};base64,".encode(), *(b2a_base64(block, newline=False) for block in content)]


def _blocks_of(one: Media) -> Iterator[bytes]:
    if isinstance(one.source, bytes):
        return _cut(one.source)
    return blocks(MediaFile(str(one.source), one.size_bytes, one.mtime_ns, one.shown), _ENCODED_BYTES)


def _cut(content: bytes) -> Iterator[bytes]:
    # Coding keeps Python's lock: in one go, 20 MB would hold up everything else for 30 ms.
    return (content[start : start + _ENCODED_BYTES] for start in range(0, len(content), _ENCODED_BYTES))


def _local(messages: list[Any]) -> Iterator[tuple[Place, str, object]]:
    """Yield place, key and value of each image and video that is no URL; the place is that in the request's body."""
    for at, part in _parts(messages):
        for key in _KINDS:
            if key not in part and part.get("type") != key:
                continue
            value, place = part.get(key), (*at, key)
            if isinstance(value, dict):
                if "url" not in value and value.keys() - {"detail"}:
                    continue  # names the medium in a way of the provider's own
                value, place = value.get("url"), (*place, "url")
            if _is_local(part, key, value):
                yield place, key, value


def _parts(messages: list[Any]) -> Iterator[tuple[Place, dict[str, Any]]]:
    for number, message in enumerate(messages):
        content = message.get("content") if isinstance(message, dict) else None
        for position, part in enumerate(content if isinstance(content, list) else ()):
            if isinstance(part, dict):
                yield ("messages", number, "content", position), part


def _is_local(part: dict[str, Any], key: str, value: object) -> bool:
    if value is None and part.get("type") not in (key, None):
        return False  # parts of one column have all the fields that any of them has
    if value is None or (isinstance(value, (str, bytes)) and not value.strip()):
        message = f"the row has no {_KINDS[key]} for {key}; fill the cell, or leave such rows out with input.where"
        raise MediaError(message)
    return not (isinstance(value, str) and value.lstrip()[:8].lower().startswith(_PASSED_ON))


def _replaced(value: Any, place: Place, new: str) -> Any:
    """Return `value` with `new` at a place in it; what lies on the way is copied."""
    if not place:
        return new
    copy = value.copy()
    copy[place[0]] = _replaced(value[place[0]], place[1:], new)
    return copy


def _name(kind: str, digest: bytes, max_image_side: int | None) -> str:
    side = "" if max_image_side is None else f";max_side={max_image_side}"
    return f"media:{kind};blake2b={digest.hex()}{side}"


def _digest(content: Iterable[bytes]) -> bytes:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for block in content:
        digest.update(block)
    return digest.digest()


def _kind(head: bytes, suffix: str, shown: str, key: str) -> str:
    kind = mime_type(head[:HEAD_BYTES], suffix)
    if kind is not None:
        return kind
    known = "PNG, JPEG, WebP and GIF" if key == "image_url" else "MP4, MOV and WebM"
    message = f"{shown} does not begin as an image or a video does; {key} takes {_KINDS[key]}s such as {known}"
    raise MediaError(message)


def _check_kind(shown: str, kind: str, key: str) -> None:
    if not kind.startswith(f"{_KINDS[key]}/"):
        message = f"{shown} is {kind}; {key} takes {_KINDS[key]}s"
        raise MediaError(message)


def _check_size(shown: str, size_bytes: int, max_bytes: int) -> None:
    if size_bytes > max_bytes:
        message = f"{shown} has {size_bytes:,} bytes; at most {max_bytes:,} are sent (input.max_media_bytes)"
        raise MediaError(message)
