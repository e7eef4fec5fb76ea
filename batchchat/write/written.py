"""A written output file, read again next to what should stand in it.

What passes in is a file of one of the three formats, and batches with their new columns; what comes out are, for rows
that are not what the writer would write, the cells of both as text. It does not know which rows or columns these are.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import polars as pl
import pyarrow as pa

from batchchat.records import Batch
from batchchat.write.cell import csv_column, json_values
from batchchat.write.columns import OutputPlan
from batchchat.write.format import format_of, joined

Cells = Mapping[str, str | None]
"""A row's values as text, by column."""

READ_ROWS = 1_000
READ_BYTES = 8 << 20
"""Rows and bytes of a Parquet file that are read at a time."""

MOST_ROW_BYTES = 256 << 20
"""Bytes of a row of text: what is longer is a quote that is never closed."""

_STREAM_BUFFER_BYTES = 1 << 20
_CELL = re.compile(rb'(?:^|,)("[^"]*(?:""[^"]*)*"|[^,"]*)')


_NO_OBJECT = "(a line that is no JSON object)"


class Unreadable(Exception):  # noqa: N818 - it is caught here and in `compare`, and is no error of the program
    """The file is not one that the writer wrote, or not all of it."""


class Written(Protocol):
    """A file that is read from its first row on; `end` says how it ends, once it has fewer rows than were wanted."""

    end: str

    def schema_problems(self) -> list[str]:
        """Return what is wrong with its columns; called once, first."""

    def differing(self, batch: Batch, answers: pl.DataFrame) -> tuple[Sequence[Cells], Sequence[Cells]] | None:
        """Return the cells that the next rows should have, and those of the file, fewer at its end; None if equal."""

    def skip(self, row_count: int) -> int:
        """Go on behind so many rows; return how many there were."""


@contextmanager
def written(path: Path, plan: OutputPlan, empty: pl.DataFrame) -> Iterator[Written]:
    """Open an output; `empty` is it without rows.

    Raises:
        Unreadable: it is not of the format that its suffix says.
        OSError: the system cannot read it.
    """
    with path.open("rb") as file:
        if path.suffix.lower() == ".parquet":
            yield _Parquet(path, file, plan, empty)
        else:
            is_csv = path.suffix.lower() == ".csv"
            cells = _csv_cells(empty.columns) if is_csv else _json_cells
            yield _Text(path, file, plan, empty, _csv_records if is_csv else _lines, cells)


class _Parquet:
    """Compared by values: the bytes depend on the version of the library that wrote them."""

    end = "the file ends before it"

    def __init__(self, path: Path, file: BinaryIO, plan: OutputPlan, empty: pl.DataFrame) -> None:
        import pyarrow.parquet as pq

        self._plan = plan
        stream = io.BytesIO()
        format_of(Path("empty.parquet"))(stream, plan, empty).finish()
        self._schema = _frame(pq.ParquetFile(stream).schema_arrow.empty_table()).schema
        with _readable():
            pl.read_parquet_schema(path)  # a damaged footer may be readable to one library and not to the other
            self._parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=_STREAM_BUFFER_BYTES)
        self._batches = self._read()
        self._pending: list[pl.DataFrame] = []

    def schema_problems(self) -> list[str]:
        with _readable():
            found = _frame(self._parquet.schema_arrow.empty_table()).schema
        return [*_name_problems(self._schema.names(), self._parquet.schema_arrow.names), *self._dtype_problems(found)]

    def _dtype_problems(self, found: pl.Schema) -> Iterator[str]:
        for name, dtype in self._schema.items():
            if name in found and found[name] != dtype:
                yield f"the column `{name}` is {found[name]}, and should be {dtype}"

    def differing(self, batch: Batch, answers: pl.DataFrame) -> tuple[Sequence[Cells], Sequence[Cells]] | None:
        expected = joined(batch, answers, self._plan)
        found = self._take(expected.height)
        if found.height == expected.height and not any(
            _differ(expected[name], found[name]) for name in expected.columns
        ):
            return None
        return _cells(expected), _cells(found)

    def skip(self, row_count: int) -> int:
        left = row_count
        while left and (taken := self._take(min(left, READ_ROWS)).height):
            left -= taken
        return row_count - left

    def _take(self, row_count: int) -> pl.DataFrame:
        while sum(frame.height for frame in self._pending) < row_count:
            with _readable():
                frame = next(self._batches, None)
            if frame is None:
                break
            self._pending.append(frame)
        rows = pl.concat(self._pending) if self._pending else pl.DataFrame(schema=self._schema)
        self._pending = [rows.slice(row_count)] if rows.height > row_count else []
        return rows.head(row_count)

    def _read(self) -> Iterator[pl.DataFrame]:
        metadata = self._parquet.metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        row_bytes = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=1)
        most = max(1, min(READ_ROWS, int(READ_BYTES / max(row_bytes, 1))))
        for batch in self._parquet.iter_batches(most, use_threads=False):
            yield _frame(pa.Table.from_batches([batch]))


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, pl.exceptions.PolarsError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        reason = str(error).partition("\n")[0]
        raise Unreadable(reason) from error


def _frame(table: pa.Table) -> pl.DataFrame:
    # polars takes texts for UTF-8 without looking.
    table.validate(full=True)
    return pl.DataFrame(table)


def _differ(expected: pl.Series, found: pl.Series) -> bool:
    # Whose categories are in different dictionaries, and what polars cannot compare, is compared as it would be said.
    try:
        return bool(expected.cast(found.dtype).ne_missing(found).any())
    except pl.exceptions.PolarsError:
        return json_values(expected) != json_values(found)


def _cells(frame: pl.DataFrame) -> list[Cells]:
    texts = pl.DataFrame([csv_column(column).cast(pl.String) for column in frame.get_columns()])
    return [dict(zip(frame.columns, row, strict=True)) for row in texts.iter_rows()]


def _name_problems(expected: Sequence[str], found: Sequence[str]) -> Iterator[str]:
    yield from (f"the column `{name}` is missing" for name in expected if name not in found)
    yield from (f"the column `{name}` should not be there" for name in found if name not in expected)
    if set(expected) == set(found) and list(expected) != list(found):
        yield f"the columns are {', '.join(found)}, and should be {', '.join(expected)}"


class _Text:
    """Compared by bytes first, which are the same for the same rows."""

    def __init__(
        self,
        path: Path,
        file: BinaryIO,
        plan: OutputPlan,
        empty: pl.DataFrame,
        records: Callable[[BinaryIO], Iterator[bytes]],
        cells: Callable[[bytes], Cells],
    ) -> None:
        self._file = file
        self._records = records
        self._cells = cells
        self._stream = io.BytesIO()
        self._writer = format_of(path)(self._stream, plan, empty)
        self.end = "the file ends before it"
        self._is_with_header = path.suffix.lower() == ".csv"

    def schema_problems(self) -> list[str]:
        header = self._written()
        if not self._is_with_header or self._is_next(header):
            return []
        found = next(_csv_records(self._file), None)
        if found is None:
            return ["the file is empty"]
        return [*_name_problems(_csv_names(header), _csv_names(found))]

    def differing(self, batch: Batch, answers: pl.DataFrame) -> tuple[Sequence[Cells], Sequence[Cells]] | None:
        self._writer.write(batch, answers)
        expected = self._written()
        if self._is_next(expected):
            return None
        return list(map(self._cells, self._records(io.BytesIO(expected)))), list(self._found(batch.frame.height))

    def _found(self, row_count: int) -> Iterator[Cells]:
        try:
            yield from map(self._cells, islice(self._records(self._file), row_count))
        except Unreadable as error:
            self.end = f"{error}"

    def skip(self, row_count: int) -> int:
        return sum(1 for _ in islice(self._records(self._file), row_count))

    def _written(self) -> bytes:
        content = self._stream.getvalue()
        self._stream.seek(0)
        self._stream.truncate()
        return content

    def _is_next(self, content: bytes) -> bool:
        """Go on behind these bytes, if they come next."""
        start = self._file.tell()
        if self._file.read(len(content)) == content:
            return True
        self._file.seek(start)
        return False


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(MOST_ROW_BYTES):
        if not line.endswith(b"\n"):
            message = "the file ends in the middle of a row"
            raise Unreadable(message)
        yield line


def _csv_records(file: BinaryIO) -> Iterator[bytes]:
    """Yield the rows of a CSV file: a line end between quotes is none."""
    parts: list[bytes] = []
    quotes = size = 0
    for line in _lines(file):
        parts.append(line)
        quotes += line.count(b'"')
        size += len(line)
        if quotes % 2 == 0:
            yield b"".join(parts)
            parts, quotes, size = [], 0, 0
        elif size > MOST_ROW_BYTES:
            break
    if parts:
        message = "the file ends in the middle of a row, or a quote is never closed"
        raise Unreadable(message)


def _csv_values(record: bytes) -> list[str | None]:
    """Return a row's cells, None for an empty one without quotes; as one cell where they cannot be told apart."""
    row = record.removesuffix(b"\n").removesuffix(b"\r")
    cells = [match[1] for match in _CELL.finditer(row)]
    if b",".join(cells) != row:
        return [row.decode("utf-8", "replace")]
    return [_csv_value(cell.decode("utf-8", "replace")) for cell in cells]


def _csv_names(record: bytes) -> list[str]:
    return [name or "" for name in _csv_values(record)]


def _csv_value(cell: str) -> str | None:
    if not cell:
        return None
    return cell[1:-1].replace('""', '"') if cell.startswith('"') else cell


def _csv_cells(names: Sequence[str]) -> Callable[[bytes], Cells]:
    def cells(record: bytes) -> Cells:
        values = _csv_values(record)
        # Beyond the names: a cell too many differs from none.
        numbers = [f"cell {number}" for number in range(len(names) + 1, len(values) + 1)]
        return dict(zip([*names, *numbers], values, strict=False))

    return cells


def _json_cells(line: bytes) -> Cells:
    try:
        pairs = json.loads(line, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        pairs = None
    if not isinstance(pairs, dict):
        return {_NO_OBJECT: line.decode("utf-8", "replace")}
    return {key: None if value is None else json.dumps(value, ensure_ascii=False) for key, value in pairs.items()}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) < len(pairs):
        message = "a key is there twice"
        raise ValueError(message)
    return names
