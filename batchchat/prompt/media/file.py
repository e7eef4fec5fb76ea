"""A path that a row names -> a file that may be read, and its bytes."""

import os
import re
import stat
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import MappingProxyType

SHOWN_CHARACTERS = 200
ROOT_FIELD = "input.media_root"
_MOST_PATH_BYTES = 4096
_MOST_NAMES = 5_000
_MOST_FOLDERS = 8
# A device or a FIFO that takes a file's place between the look and the opening must not block; nor may a link lead out.
_OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
_UNSHOWN = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class MediaError(ValueError):
    """A row's medium cannot be sent; the text is for the row's `error`."""


class MissingMediaError(MediaError):
    """There is no file at a row's path."""


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A regular file as it was when it was looked at; `path` has no links, `shown` is what errors call it."""

    path: str
    size_bytes: int
    mtime_ns: int
    shown: str


def quoted(text: str) -> str:
    """Return a row's text as errors show it: short, and of characters that every output can hold."""
    cut = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
    return f'"{_UNSHOWN.sub(lambda one: ascii(one[0])[1:-1], cut)}"'


def inside(root: Path, written: str) -> tuple[str, str]:
    """Return the path, without links, that `written` means within `root`, and what errors call it.

    Raises:
        MediaError: it is no relative path, or leads out of `root`.
    """
    shown = quoted(written)
    _refuse_odd(written, shown)
    base, path = _resolved(root, written, shown)
    if os.path.commonpath((base, path)) != base:
        message = f"{shown} leads out of {root} ({ROOT_FIELD}), by a link; only files in that folder are sent"
        raise MediaError(message)
    return path, shown


def find_file(root: Path, written: str) -> MediaFile:
    """Return the file that `written`, a path relative to `root`, names.

    Raises:
        MediaError: as `inside`, or it names nothing, or something that is not a regular file.
    """
    path, shown = inside(root, written)
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingMediaError(_missing(root, path, shown)) from error
    except OSError as error:
        raise _unreadable(shown, error) from error
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "a link without end")
        message = f"{shown} is {kind}; only regular files are sent"
        raise MediaError(message)
    return MediaFile(path, status.st_size, status.st_mtime_ns, shown)


def blocks(file: MediaFile, block_bytes: int) -> Generator[bytes, None, None]:
    """Yield a file's content, each block but the last of exactly `block_bytes`.

    Raises:
        MediaError: it cannot be read, or it is not as it was when it was looked at, be it after the last block.
    """
    if os.path.realpath(file.path) != file.path:
        raise _changed(file)
    try:
        descriptor = os.open(file.path, _OPEN_FLAGS)
        try:
            yield from _content(file, descriptor, block_bytes)
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise _changed(file) from error
    except OSError as error:
        raise _unreadable(file.shown, error) from error


def _content(file: MediaFile, descriptor: int, block_bytes: int) -> Iterator[bytes]:
    _compare(file, descriptor)
    with os.fdopen(descriptor, "rb", closefd=False) as stream:
        left = file.size_bytes
        while left:
            block = stream.read(min(block_bytes, left))
            if not block:
                raise _changed(file)
            left -= len(block)
            yield block
    _compare(file, descriptor)


def _compare(file: MediaFile, descriptor: int) -> None:
    status = os.fstat(descriptor)
    same = (status.st_size, status.st_mtime_ns) == (file.size_bytes, file.mtime_ns)
    if not (same and stat.S_ISREG(status.st_mode)):
        raise _changed(file)


def _refuse_odd(written: str, shown: str) -> None:
    """Refuse every text that is not plainly a relative path."""
    how = f"a local file is named by its path within {ROOT_FIELD}, such as photos/1.png"
    scheme = _SCHEME.match(written)
    if scheme:
        message = f"{shown} begins with {scheme[1]}: ; allowed are http:, https: and data: URLs, and {how}"
    elif "\\" in written:
        message = f"{shown} has a backslash; write / between folders: {how}"
    elif written.startswith("/"):
        message = f"{shown} is an absolute path; {how}"
    elif ".." in written.split("/"):
        message = f'{shown} has ".." in it; {how}'
    elif "\0" in written:
        message = f"{shown} has a NUL character in it; {how}"
    elif not _is_encodable(written):
        message = f"{shown} has characters that no file name has; {how}"
    elif len(os.fsencode(written)) > _MOST_PATH_BYTES:
        message = (
            f"{shown} has {len(written):,} characters, too many for a path; base64 goes as data:image/png;base64,…"
        )
    else:
        return
    raise MediaError(message)


def _is_encodable(written: str) -> bool:
    try:
        os.fsencode(written)
    except UnicodeEncodeError:
        return False
    return True


def _resolved(root: Path, written: str, shown: str) -> tuple[str, str]:
    try:
        base = os.path.realpath(root)
        return base, os.path.realpath(os.path.join(base, written))  # noqa: PTH118 - a Path drops what is odd in it
    except OSError as error:
        raise _unreadable(shown, error) from error
    except RecursionError as error:
        message = f"{shown} is a chain of too many links; name the file itself"
        raise MediaError(message) from error


def _missing(root: Path, path: str, shown: str) -> str:
    if not root.is_dir():
        return f"{shown} cannot be found: {root} ({ROOT_FIELD}) is not a folder; check {ROOT_FIELD}"
    nearest = _nearest(path)
    hint = f"did you mean {quoted(nearest)}?" if nearest else "check the path"
    return f"{shown} does not exist in {root} ({ROOT_FIELD}); {hint}"


def _nearest(path: str) -> str | None:
    """Return a file beside the missing one whose name differs in case or suffix alone.

    No closer comparison: it would take a second for each row of a job whose folder is wrong.
    """
    folder, name = os.path.split(path)
    try:
        names = _names(folder, os.stat(folder).st_mtime_ns)  # noqa: PTH116 - a Path has no place in what is cached
    except OSError:
        return None
    return names.get(_stem(name))


@lru_cache(_MOST_FOLDERS)
def _names(folder: str, mtime_ns: int) -> Mapping[str, str]:
    """Return the files of a folder by their stems, of each stem the first; listed again when the folder changes."""
    del mtime_ns
    with os.scandir(folder) as entries:
        names = sorted((entry.name for entry in islice(entries, _MOST_NAMES)), reverse=True)
    return MappingProxyType({_stem(name): name for name in names})


def _stem(name: str) -> str:
    return os.path.splitext(name)[0].casefold()  # noqa: PTH122 - of names, of which there may be thousands


def _changed(file: MediaFile) -> MediaError:
    return MediaError(f"{file.shown} changed while the job ran; run the job again when nothing writes to it")


def _unreadable(shown: str, error: OSError) -> MediaError:
    return MediaError(f"{shown} cannot be read: {error.strerror or error}; check its permissions")
