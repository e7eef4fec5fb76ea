"""The local images and videos of a request: named by their content in its key, sent as `data:` URLs.

What passes in are rendered messages; what comes out are messages that name each local medium by its content, and, when
the request is sent, its body with the data in place. It does not know templates, keys or where digests are kept.
"""

import hashlib
import time
from binascii import b2a_base64
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import orjson

from batchchat.prompt.image import require_pillow, shrunk
from batchchat.prompt.mediafile import ROOT_FIELD, MediaError, MediaFile, blocks, find_file, quoted
from batchchat.prompt.mime import mime_type
from batchchat.records import ChatRequest, Media

__all__ = ["MediaError", "MediaFolder", "MediaMemory", "Unremembered", "build", "require_pillow"]

DIGEST_BYTES = 20
HEAD_BYTES = 4096
_BLOCK_BYTES = 2**20
_ENCODED_BYTES = 3 * 2**20  # a multiple of three: only the last block of base64 is padded
_COARSE_TICK_NS, _FINE_TICK_NS = 2 * 10**9, 50 * 10**6
_KINDS = MappingProxyType({"image_url": "image", "video_url": "video"})
_PASSED_ON = ("http://", "https://", "data:")
_BINARY = "the row's binary value"
_PATH = f"a path within {ROOT_FIELD}"

Place = tuple[str | int, ...]


class MediaMemory(Protocol):
    """What content a file had when it was last read."""

    def find(self, path: str, size_bytes: int, mtime_ns: int) -> tuple[bytes, str] | None:
        """Return digest and MIME type of a file that has not changed since, or None."""

    def remember(self, path: str, size_bytes: int, mtime_ns: int, digest: bytes, mime_type: str) -> None:
        """Keep what was read for the next run."""

    def flush(self) -> None:
        """Make what was kept outlast this run, should it be killed."""


class Unremembered:
    """A memory that keeps nothing, for looking at a few rows."""

    def find(self, path: str, size_bytes: int, mtime_ns: int) -> None:
        """Return None: nothing was read before."""

    def remember(self, path: str, size_bytes: int, mtime_ns: int, digest: bytes, mime_type: str) -> None:
        """Keep nothing."""

    def flush(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class MediaFolder:
    """Where a job's local media are, and what of them may be sent.

    Rows may name files below `root` alone; with None, none. With `look_only` the digests are made up and no more than
    the first few KB of a file are read: enough to find what is wrong, too little for a request that is sent.
    """

    root: Path | None
    max_bytes: int
    max_image_side: int | None
    memory: MediaMemory
    look_only: bool = False

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
            file = self._file(value)
            shown, source, size_bytes, mtime_ns = file.shown, Path(file.path), file.size_bytes, file.mtime_ns
            digest, kind = self._content(file, key)
        else:
            message = f"{key} is {quoted(str(value))}, which is not text; it takes a URL, {_PATH} or binary data"
            raise MediaError(message)
        _check_kind(shown, kind, key)
        side = self.max_image_side if key == "image_url" else None
        return Media(at, _name(kind, digest, side), source, kind, digest, size_bytes, mtime_ns, side)

    def _file(self, written: str) -> MediaFile:
        if self.root is None:
            message = f"{quoted(written)} is a local file; set {ROOT_FIELD} to the folder of the images and videos"
            raise MediaError(message)
        file = find_file(self.root, written)
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
        if is_settled(file.mtime_ns, begun_ns):
            self.memory.remember(*identity, digest, kind)
        return digest, kind


def is_settled(mtime_ns: int, begun_ns: int) -> bool:
    """Whether a file that was read at `begun_ns` would have another time if it were written to since.

    Within one tick of its file system's clock it may keep its time: what was that young when it was read is read again,
    as git does with its index. The clocks that count whole seconds tick every second or two, others much faster.
    """
    tick_ns = _FINE_TICK_NS if mtime_ns % 10**9 else _COARSE_TICK_NS
    return begun_ns - mtime_ns >= tick_ns


def build(request: ChatRequest, body: bytes, max_bytes: int) -> bytes:
    """Return `body` with the `data:` URL of each of the request's media in its place.

    `body` is JSON: the request's own, perhaps with more messages at its end. It may run in any thread.

    Raises:
        MediaError: a file has changed since it was placed, is damaged, or has more than `max_bytes`.
    """
    if not request.media:
        return body
    message = orjson.loads(body)
    for one in request.media:
        parent = message
        for step in one.at[:-1]:
            parent = parent[step]
        # A fragment is copied as it is: a str would be scanned for what to escape, and be held a second time.
        parent[one.at[-1]] = orjson.Fragment(_quoted_url(one, max_bytes))
    return orjson.dumps(message)


def _quoted_url(one: Media, max_bytes: int) -> bytes:
    shown = _BINARY if isinstance(one.source, bytes) else quoted(str(one.source))
    _check_size(shown, one.size_bytes, max_bytes)
    content = _blocks_of(one, shown, _ENCODED_BYTES)
    if one.max_image_side is not None:
        content = iter([shrunk(b"".join(content), one.mime_type, one.max_image_side, shown)])
    encoded = [b2a_base64(block, newline=False) for block in content]
    return b"".join((f'"data:{one.mime_type};base64,'.encode(), *encoded, b'"'))


def _blocks_of(one: Media, shown: str, block_bytes: int) -> Iterator[bytes]:
    if isinstance(one.source, bytes):
        return iter([one.source])
    return blocks(MediaFile(str(one.source), one.size_bytes, one.mtime_ns, shown), block_bytes)


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
