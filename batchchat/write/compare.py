"""Compare an output file with what the writer would write now, up to the first difference.

Nothing is held but a batch, or a row group of a Parquet file. Parquet is compared by value, as its bytes depend on the
library that wrote them: as polars reads it, which is what users will read it with, and as pyarrow does. CSV and JSONL
are compared byte by byte.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl
import pyarrow as pa

from batchchat.errors import OutputError
from batchchat.records import Batch
from batchchat.write.cell import csv_column
from batchchat.write.columns import OutputPlan, empty_output
from batchchat.write.format import ROW_GROUP_ROWS, format_of, joined

Cells = Mapping[str, str | None]
"""A row's values as text, by column."""

ROW_BYTES = 1 << 20
"""Bytes that are read of a row of text that is longer than it should be."""

_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Difference:
    """What an output file has otherwise than it should: `problem` says what.

    `row` and `column` are the names of those that it is about, None for the whole file or row. `expected` and `found`
    are the texts of the two values, cut to where they differ; None where the problem is not one of values.
    `columns_more` is in how many further columns the same row differs.
    """

    problem: str
    row: str | None = None
    column: str | None = None
    expected: str | None = None
    found: str | None = None
    columns_more: int = 0


class Unreadable(Exception):  # noqa: N818 - it is caught here, and is no error of the program
    """The file is not of its format, or not all of it."""


class Comparison:
    """An output file that is being compared; after a difference it is over. `schema` is that of the input.

    Raises:
        OutputError: the file is not there, or the system cannot read it.
    """

    def __init__(self, path: Path, plan: OutputPlan, schema: pl.Schema) -> None:
        self._path = path
        self._plan = plan
        self._empty = empty_output(plan, schema)
        self._row_count = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Comparison:
        if not self._path.is_file():
            message = f"{self._path}: there is no output to verify; `batchchat run` writes it"
            raise OutputError(message)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def begin(self) -> Difference | None:
        """Open the file; return what is wrong with its columns."""
        return self._guarded(self._begin)

    def _begin(self) -> Difference | None:
        file = self._stack.enter_context(self._path.open("rb"))
        kind = _Parquet if self._path.suffix.lower() == ".parquet" else _Text
        self._file: _Parquet | _Text = kind(self._path, file, self._plan, self._empty)
        return self._file.begin()

    def skip(self, row_count: int) -> Difference | None:
        """Leave out so many rows of the file, which are not those to be compared."""
        return self._guarded(lambda: self._file.skip(row_count))

    def compare(self, batch: Batch, answers: pl.DataFrame) -> Difference | None:
        """Compare the file's next rows with a batch; return in what they differ first."""
        difference = self._guarded(lambda: self._file.compare(batch, answers))
        self._row_count += batch.frame.height
        return difference

    def finish(self) -> Difference | None:
        """Return what is wrong behind the last row."""
        more = Difference(f"the file has more rows than the {self._row_count:,} that it should have")
        return self._guarded(lambda: more if self._file.has_more() else None)

    def _guarded(self, step: Callable[[], Difference | None]) -> Difference | None:
        try:
            return step()
        except Unreadable as error:
            behind = f" behind row {self._row_count:,} of it" if self._row_count else ""
            return Difference(f"the file cannot be read{behind}: {error}")
        except OSError as error:
            message = f"{self._path}: cannot be read: {error.strerror or error}"
            raise OutputError(message) from error


class _Parquet:
    """Compared by values, as each of the libraries reads them."""

    def __init__(self, path: Path, file: BinaryIO, plan: OutputPlan, empty: pl.DataFrame) -> None:
        self._plan = plan
        stream = io.BytesIO()
        format_of(path)(stream, plan, empty).finish()
        self._empty = _readers(io.BytesIO(stream.getvalue()), stream)
        with _readable():
            self._readers = _readers(path, file)

    def begin(self) -> Difference | None:
        pairs = zip(self._empty, self._readers, strict=True)
        return next(filter(None, (_schema_problem(empty.schema, found.schema) for empty, found in pairs)), None)

    def skip(self, row_count: int) -> None:
        for reader in self._readers:
            left = row_count
            while left and (taken := reader.take(min(left, ROW_GROUP_ROWS)).height):
                left -= taken

    def compare(self, batch: Batch, answers: pl.DataFrame) -> Difference | None:
        expected = joined(batch, answers, self._plan)
        names = [row.name for row in batch.rows]
        found = (reader.take(expected.height) for reader in self._readers)
        return next(filter(None, (_frame_difference(names, expected, frame) for frame in found)), None)

    def has_more(self) -> bool:
        return any(reader.take(1).height for reader in self._readers)


@dataclass
class _Reader:
    """The rows of a Parquet file as one library reads them, by row group."""

    schema: pl.Schema
    frames: Iterator[pl.DataFrame]
    pending: pl.DataFrame = field(default_factory=pl.DataFrame)

    def take(self, row_count: int) -> pl.DataFrame:
        """Return the next rows, fewer at the file's end."""
        with _readable():
            while self.pending.height < row_count and (frame := next(self.frames, None)) is not None:
                self.pending = pl.concat([self.pending, frame]) if self.pending.height else frame
        taken, self.pending = self.pending.head(row_count), self.pending.slice(row_count)
        return taken


def _readers(source: Path | io.BytesIO, file: BinaryIO) -> tuple[_Reader, _Reader]:
    import pyarrow.parquet as pq

    parquet = pq.ParquetFile(file, pre_buffer=False)
    lazy = pl.scan_parquet(source, glob=False, hive_partitioning=False)
    groups = range(parquet.metadata.num_row_groups)

    def by_polars() -> Iterator[pl.DataFrame]:
        start = 0
        for group in groups:
            row_count = parquet.metadata.row_group(group).num_rows
            yield lazy.slice(start, row_count).collect()
            start += row_count
        yield lazy.slice(start).collect()  # what only polars sees

    by_pyarrow = (_frame(parquet.read_row_group(group, use_threads=False)) for group in groups)
    schema = _frame(parquet.schema_arrow.empty_table()).schema
    # pyarrow comes first: polars ends the process at some pages that pyarrow refuses.
    return _Reader(schema, by_pyarrow), _Reader(lazy.collect_schema(), by_polars())


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (
        pa.ArrowException,
        UnicodeDecodeError,
        OSError,
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
    ) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        reason = str(error).partition("\n")[0]
        raise Unreadable(reason) from error


def _frame(table: pa.Table) -> pl.DataFrame:
    # polars takes texts for UTF-8 without looking.
    table.validate(full=True)
    return pl.DataFrame(table)


def _schema_problem(expected: pl.Schema, found: pl.Schema) -> Difference | None:
    if problem := _name_problem(expected.names(), found.names()):
        return problem
    for name, dtype in expected.items():
        if found[name] != dtype:
            return Difference(f"the column `{name}` is {found[name]}, and should be {dtype}")
    return None


def _name_problem(expected: Sequence[str], found: Sequence[str]) -> Difference | None:
    for name in expected:
        if name not in found:
            return Difference(f"the column `{name}` is missing")
    for name in found:
        if name not in expected:
            return Difference(f"the column `{name}` should not be there")
    if list(expected) != list(found):
        return Difference(f"the columns are {', '.join(found)}, and should be {', '.join(expected)}")
    return None


def _frame_difference(names: Sequence[str], expected: pl.DataFrame, found: pl.DataFrame) -> Difference | None:
    shared = expected.head(found.height)
    masks = [_differ(shared[name], found[name]) for name in expected.columns]
    at = min((mask.arg_max() or 0 for mask in masks if mask.any()), default=None)
    if at is not None:
        return _row_difference(names[at], _cells(expected.slice(at, 1)), _cells(found.slice(at, 1)))
    return _missing(names[found.height]) if found.height < expected.height else None


def _differ(expected: pl.Series, found: pl.Series) -> pl.Series:
    """Return for each row whether the two values differ."""
    try:
        return expected.cast(found.dtype).ne_missing(found)
    except pl.exceptions.PolarsError:  # categories in different dictionaries, and what polars cannot compare
        return _texts(expected).ne_missing(_texts(found))


def _cells(row: pl.DataFrame) -> Cells:
    return {column.name: _texts(column)[0] for column in row}


def _texts(column: pl.Series) -> pl.Series:
    return csv_column(column).cast(pl.String)


class _Text:
    """Compared by bytes, which are the same for the same rows."""

    def __init__(self, path: Path, file: BinaryIO, plan: OutputPlan, empty: pl.DataFrame) -> None:
        self._file = file
        self._is_csv = path.suffix.lower() == ".csv"
        self._stream = io.BytesIO()
        self._writer = format_of(path)(self._stream, plan, empty)
        self._header = self._take_written()

    def begin(self) -> Difference | None:
        found = self._file.read(len(self._header))
        if found == self._header:
            return None
        names = [_csv_row(row).columns for row in (self._header, self._first(found + self._file.read(ROW_BYTES)))]
        return _name_problem(*names) or Difference("the first line is not as batchchat writes it")

    def skip(self, row_count: int) -> None:
        for _ in islice(_ends(self._file, is_csv=self._is_csv), row_count):
            pass

    def compare(self, batch: Batch, answers: pl.DataFrame) -> Difference | None:
        self._writer.write(batch, answers)
        expected = self._take_written()
        found = self._file.read(len(expected))
        if found == expected:
            return None
        at = _first_unlike(expected, found)
        ends = [end for end in _ends(io.BytesIO(expected), is_csv=self._is_csv) if end <= at]
        start, name = ends[-1] if ends else 0, batch.rows[len(ends)].name
        row = self._first(found[start:] + self._file.read(ROW_BYTES))
        if not row:
            return _missing(name)
        if not row.endswith(b"\n") and not self.has_more():
            return Difference("is missing: the file ends in the middle of it", name)
        try:
            return _row_difference(name, self._cells(self._first(expected[start:])), self._cells(row))
        except Unreadable as error:
            return Difference(f"cannot be read: {error}", name)

    def has_more(self) -> bool:
        return bool(self._file.read(1))

    def _take_written(self) -> bytes:
        content = self._stream.getvalue()
        self._stream.seek(0)
        self._stream.truncate()
        return content

    def _first(self, rows: bytes) -> bytes:
        return rows[: next(_ends(io.BytesIO(rows), is_csv=self._is_csv), len(rows))]

    def _cells(self, row: bytes) -> Cells:
        if not self._is_csv:
            return _json_cells(row)
        frame = _csv_row(self._header + row)
        return frame.row(0, named=True) if frame.height else {}


def _csv_row(text: bytes) -> pl.DataFrame:
    """Return a header and at most one row."""
    with _readable():
        return pl.read_csv(io.BytesIO(text), infer_schema=False, truncate_ragged_lines=True)


def _ends(lines: Iterable[bytes], *, is_csv: bool) -> Iterator[int]:
    """Yield where each row ends: in CSV, at a line end that is not between quotes."""
    end = quotes = 0
    for line in lines:
        end += len(line)
        quotes += line.count(b'"') if is_csv else 0
        if quotes % 2 == 0:
            yield end


def _json_cells(line: bytes) -> Cells:
    try:
        row: dict[str, Any] = dict(json.loads(line))
    except (ValueError, TypeError, RecursionError):
        message = "it is no JSON object"
        raise Unreadable(message) from None
    return {key: None if value is None else json.dumps(value, ensure_ascii=False) for key, value in row.items()}


def _missing(row: str) -> Difference:
    return Difference("is missing: the file ends before it", row)


def _row_difference(row: str, expected: Cells, found: Cells) -> Difference:
    """Return the first cell in which two rows differ that are not the same."""
    names = [name for name in {**expected, **found} if expected.get(name, 0) != found.get(name, 0)]
    if not names:
        return Difference("has the right values, but not as batchchat writes them", row)
    texts = (_text(expected, names[0]), _text(found, names[0]))
    return Difference("differs", row, names[0], *_cut(*texts), len(names) - 1)


def _text(cells: Cells, name: str) -> str:
    if name not in cells:
        return "nothing"
    value = cells[name]
    return "null" if value is None else value


def _first_unlike(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Return how many items two texts have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (mine, theirs) in pairs if mine != theirs), min(len(one), len(other)))


def _cut(expected: str, found: str) -> tuple[str, str]:
    """Return two texts as short ones that show where they differ."""
    same = _first_unlike(expected, found)
    start = 0 if same < _SHOWN_CHARACTERS - 20 else same - 20
    return _part(expected, start), _part(found, start)


def _part(text: str, start: int) -> str:
    end = start + _SHOWN_CHARACTERS
    return f"{'…' if start else ''}{text[start:end]}{'…' if len(text) > end else ''}"
