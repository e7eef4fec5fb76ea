"""The rows that can still be found in a damaged checkpoint, page by page.

It relies on nothing but the pages that rows stand on: no schema, index or tree needs to be whole, and a page that
cannot be read costs only its own rows. A row may come more than once, as it was at different times.
"""

import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any

from batchchat.checkpoint.sqlite import PAGE_BYTES
from batchchat.checkpoint.tables import COLUMNS, Row, is_whole
from batchchat.checkpoint.wal_end import FRAME_HEADER_BYTES, HEADER_BYTES, frames_behind_the_end

_HEADER_BYTES = 100
_TABLE_LEAF = 13

_REAL: dict[str, tuple[int, ...]] = {"answers": (2, 6), "runs": (1, 2, 3), "settled": (), "segments": ()}
"""The columns of floating point numbers: a whole one is stored as an integer."""

_TABLES = {len(COLUMNS[table]): table for table in _REAL}
"""A table by its number of columns: the row itself does not say which it is in."""


def carve(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield table and row of every whole row of the file and its WAL."""
    with path.open("rb") as file:
        pages = _Pages(file)
        wal = path.with_name(f"{path.name}-wal")
        if not wal.exists():
            yield from _rows_of_pages(pages, pages.states())
            return
        with wal.open("rb") as log:
            pages.read_log(log)
            yield from _rows_of_pages(pages, pages.states())


def carve_behind_the_log(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield the whole rows that stand in the WAL, which is there, behind the place where SQLite ends it."""
    with path.open("rb") as file, path.with_name(f"{path.name}-wal").open("rb") as log:
        pages = _Pages(file)
        frames = list(frames_behind_the_end(log, PAGE_BYTES))
        pages.read_log(log)
        yield from _rows_of_pages(pages, pages.logged(frames))


@dataclass
class _Pages:
    """The pages of a file, by number from 1; of one that stands in the WAL too, every state."""

    file: BufferedReader
    log: BufferedReader | None = None
    newest: dict[int, int] = field(default_factory=dict)
    frames: list[tuple[int, int]] = field(default_factory=list)

    def read_log(self, log: BufferedReader) -> None:
        """Take the pages of a WAL, however damaged: each row has a checksum of its own."""
        self.log = log
        size = _size(log)
        for start in range(HEADER_BYTES, size, FRAME_HEADER_BYTES + PAGE_BYTES):
            number = int.from_bytes(_read(log, start, 4))
            self.frames.append((number, start + FRAME_HEADER_BYTES))
            self.newest[number] = start + FRAME_HEADER_BYTES

    def size(self) -> int:
        """Return how many bytes there are in all."""
        return _size(self.file) + (_size(self.log) if self.log else 0)

    def states(self) -> Iterator[tuple[int, bytes]]:
        """Yield number and content of every page, those of the WAL last."""
        for number in range(1, _size(self.file) // PAGE_BYTES + 2):
            yield number, self.page(number, is_logged=False)
        yield from self.logged(self.frames)

    def logged(self, frames: Sequence[tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
        """Yield number and content of the pages in some frames of the WAL."""
        for number, start in frames:
            assert self.log is not None
            yield number, _read(self.log, start, PAGE_BYTES)

    def page(self, number: int, *, is_logged: bool) -> bytes:
        """Return a page as the file has it, or with `is_logged` as the WAL has it last."""
        if is_logged and self.log is not None and number in self.newest:
            return _read(self.log, self.newest[number], PAGE_BYTES)
        return _read(self.file, (number - 1) * PAGE_BYTES, PAGE_BYTES)


def _size(file: BufferedReader) -> int:
    return file.seek(0, 2)


def _read(file: BufferedReader, start: int, size: int) -> bytes:
    """Return bytes of a file; none where the disk fails."""
    try:
        file.seek(start)
        return file.read(size)
    except OSError:
        return b""


def _rows_of_pages(pages: _Pages, states: Iterator[tuple[int, bytes]]) -> Iterator[tuple[str, Row]]:
    for number, page in states:
        start = _HEADER_BYTES if number == 1 else 0
        if len(page) < start + 8 or page[start] != _TABLE_LEAF:
            continue
        count = int.from_bytes(page[start + 3 : start + 5])
        for at in range(start + 8, min(start + 8 + 2 * count, len(page) - 1), 2):
            yield from _rows_of_cell(pages, page, int.from_bytes(page[at : at + 2]))


def _rows_of_cell(pages: _Pages, page: bytes, at: int) -> Iterator[tuple[str, Row]]:
    """Yield the row that a cell holds, if it is one of ours, and whole."""
    try:
        size, at = _varint(page, at)
        rowid, at = _varint(page, at)
        types, _ = _types(page, at)
        table = _TABLES.get(len(types))
        if table is None or size > pages.size():
            return
    except IndexError:
        return
    # A row's further pages may be newer in the file than in the WAL, where that begins anew.
    for is_logged in (True, False) if pages.log else (False,):
        with suppress(IndexError, ValueError, struct.error):
            values = _values(_payload(pages, page, at, size, is_logged=is_logged))
            row = _as_stored(table, values, rowid)
            if is_whole(table, row):
                yield table, row
                return


def _payload(pages: _Pages, page: bytes, at: int, size: int, *, is_logged: bool) -> bytes:
    """Return a cell's record: what stands on its own page, and on those that go on with it."""
    if size <= PAGE_BYTES - 35:
        return page[at : at + size]
    least = (PAGE_BYTES - 12) * 32 // 255 - 23
    local = least + (size - least) % (PAGE_BYTES - 4)
    local = local if local <= PAGE_BYTES - 35 else least
    parts, held = [page[at : at + local]], local
    number = int.from_bytes(page[at + local : at + local + 4])
    while held < size:
        content = pages.page(number, is_logged=is_logged)
        if number == 0 or len(content) < 4:
            message = "the row does not go on"
            raise ValueError(message)
        parts.append(content[4 : 4 + size - held])
        held += len(parts[-1])
        number = int.from_bytes(content[:4])
    return b"".join(parts)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number that begins at a place, and where it ends."""
    value = 0
    for place in range(at, at + 8):
        value = value << 7 | data[place] & 0x7F
        if data[place] < 0x80:
            return value, place + 1
    return value << 8 | data[at + 8], at + 9


def _types(record: bytes, at: int) -> tuple[Sequence[int], int]:
    """Return the types of a record's values, and where the values begin; no more than a row of ours can have."""
    size, place = _varint(record, at)
    end = at + size
    types: list[int] = []
    while place < end and len(types) <= max(_TABLES):
        kind, place = _varint(record, place)
        types.append(kind)
    return types, end


def _values(record: bytes) -> list[Any]:
    types, at = _types(record, 0)
    values = []
    for kind in types:
        value, at = _value(record, at, kind)
        values.append(value)
    return values


_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_CONSTANTS = {0: None, 8: 0, 9: 1}


def _value(record: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind in _CONSTANTS:
        return _CONSTANTS[kind], at
    if kind in _INTEGER_BYTES:
        end = at + _INTEGER_BYTES[kind]
        return int.from_bytes(record[at:end], signed=True), end
    if kind == 7:
        return struct.unpack_from(">d", record, at)[0], at + 8
    if kind < 12:
        message = "no such type"
        raise ValueError(message)
    end = at + (kind - 12) // 2
    return (record[at:end].decode() if kind % 2 else record[at:end]), end


def _as_stored(table: str, values: list[Any], rowid: int) -> Row:
    """Return the values as SQLite would: with whole numbers as floating point ones, and the key that is the row's."""
    for at in _REAL[table]:
        values[at] = float(values[at]) if isinstance(values[at], int) else values[at]
    if table == "runs":
        values[0] = rowid - 2**64 if rowid >= 2**63 else rowid  # of a run that was aside
    return tuple(values)
