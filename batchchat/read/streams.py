"""A file -> its bytes, decompressed; and whatever goes wrong in reading it -> InputError.

Every reader of this room works inside `reading`, so that no library's own exception leaves the room.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import polars as pl
import pyarrow as pa

from batchchat.errors import InputError
from batchchat.read.paths import COMPRESSION_SUFFIXES

STREAM_BUFFER_BYTES = 1 << 20
MAX_ROW_BYTES = 128 << 20
"""A row has to fit in memory several times over; a few KB of a compressed file may unfold to any size."""
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_DAMAGED = "the file is damaged, incomplete, or not what its name says: copy or download it again"


@contextmanager
def reading(path: Path, kind: str, but: type[Exception] | tuple[()] = ()) -> Iterator[None]:
    """Turn what the operating system, pyarrow or polars raise about `path` into InputError; `kind` names its format.

    `but` is the one exception that the caller knows more about.
    """
    try:
        yield
    except but:
        raise
    except PermissionError as error:
        raise InputError(f"{path} cannot be read: permission denied; check its permissions") from error
    except OSError as error:
        reason = error.strerror or f"{_first_line(error)}; {_DAMAGED}"
        raise InputError(f"{path} cannot be read: {reason}") from error
    except pa.ArrowNotImplementedError as error:
        reason = _first_line(error)
        message = f"{path} has a column of a type that cannot be read ({reason}); cast that column, or leave it out"
        raise InputError(message) from error
    except (pa.ArrowException, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path} is not readable as {kind}: {_first_line(error)}; {_DAMAGED}") from error


def open_bytes(path: Path) -> BinaryIO:
    """Open the file for reading, through gzip or zstd when its suffix or its first bytes say so."""
    file = io.BufferedReader(path.open("rb", buffering=0), STREAM_BUFFER_BYTES)
    compression = COMPRESSION_SUFFIXES.get(path.suffix.lower()) or _magic_compression(file.peek(4))
    if compression is None or not file.peek(1):
        return file
    # pyarrow's own reader is duck-typed: BufferedReader needs only readinto and the predicates.
    return io.BufferedReader(cast(io.RawIOBase, pa.CompressedInputStream(file, compression)), STREAM_BUFFER_BYTES)


def open_bytes_with_end(path: Path, end: bytes) -> BinaryIO:
    """Open the file as `open_bytes` does, and let `end` follow its last byte."""
    return io.BufferedReader(_Concatenation(open_bytes(path), io.BytesIO(end)), STREAM_BUFFER_BYTES)


class _Concatenation(io.RawIOBase):
    """The bytes of several streams, one after the other; a class because the standard library has none to offer."""

    def __init__(self, *streams: BinaryIO) -> None:
        self._streams = streams

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        for stream in self._streams:
            if count := cast(io.BufferedIOBase, stream).readinto(buffer):
                return count
        return 0

    def close(self) -> None:
        for stream in self._streams:
            stream.close()
        super().close()


def _magic_compression(head: bytes) -> str | None:
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")
