"""Any input -> batches of rows, in order and in bounded memory, as often as they are asked for.

What passes in is a path (or a frame) and the settings of `input`; what comes out is a `Source`, whose rows, columns and
dtypes are known, and whose every row was checked, before the first request. It does not know templates or outputs.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from batchchat.errors import InputError
from batchchat.read.arrow_rows import arrow_table, parquet_table
from batchchat.read.cell import number
from batchchat.read.condition import condition_error, first_line, row_condition
from batchchat.read.csv_rows import csv_table
from batchchat.read.jsonl_rows import jsonl_table
from batchchat.read.location import input_files
from batchchat.read.table import Chunk, Table, columns_of, first_rows, nearest_column, selected, split
from batchchat.records import Batch, Row

_TABLES = {"csv": csv_table, "jsonl": jsonl_table, "parquet": parquet_table, "arrow": arrow_table}


@dataclass(frozen=True, slots=True)
class _Selection:
    """Which rows of the table count: those that meet the condition, up to the limit; and the column that names them."""

    where: str | None
    condition: pl.Expr | None
    limit: int | None
    id_column: str | None


@dataclass(frozen=True, slots=True)
class Source:
    """An input that was checked from the first row to the last.

    `files` are the input files in reading order (none for a frame), `columns` the names in file order, `total_rows` the
    number of rows after `where` and `limit`.
    """

    files: tuple[Path, ...]
    columns: tuple[str, ...]
    schema: pl.Schema
    total_rows: int
    _table: Table
    _selection: _Selection
    _versions: tuple[tuple[int, int], ...]

    def batches(self, columns: Collection[str] | None = None) -> Iterator[Batch]:
        """Read the rows again, in input order, in batches of at most 1,000 rows and about 8 MB (or one larger row).

        Only `columns` are in the batches, in file order; None means all. Raises InputError for an unknown column, and
        when the files are not what they were.
        """
        for name in columns or ():
            _check_column(name, self.schema, "the columns to read")
        wanted = set(self.columns if columns is None else columns)
        return self._read([name for name in self.columns if name in wanted])

    def _read(self, names: Sequence[str]) -> Iterator[Batch]:
        self._check_unchanged()
        delivered = 0
        id_column = self._selection.id_column
        try:
            for chunk, numbers in _rows(self._table, self._selection, {*names, id_column or ""}):
                delivered += chunk.height
                row_names = _row_names(chunk, numbers, id_column)
                yield _batch(chunk, numbers, row_names, names, is_narrowed=len(names) < len(self.columns))
        except Exception:
            self._check_unchanged()  # what does not fit the schema any more was written since
            raise
        self._check_unchanged(is_whole=delivered == self.total_rows)

    def _check_unchanged(self, *, is_whole: bool = True) -> None:
        if not is_whole or _versions(self.files) != self._versions:
            message = (
                f"the input in {self.files[0].parent} changed after it was checked; run again, and leave it alone then"
            )
            raise InputError(message)


def open_source(
    path: Path,
    *,
    format: str | None = None,  # noqa: A002 - named as in the job file
    where: str | None = None,
    limit: int | None = None,
    id_column: str | None = None,
) -> Source:
    """Check the file, glob or folder from the first row to the last, and return it as a Source.

    `format` is one of `input.format`, None to go by the suffix. `where` is an SQL condition on the columns of one row,
    `limit` counts the rows that meet it. Raises InputError for whatever cannot be read.
    """
    files, found_format = input_files(path, format)
    versions = _versions(files)
    return _source(_TABLES[found_format](files), files, versions, where=where, limit=limit, id_column=id_column)


def frame_source(
    frame: object,
    *,
    where: str | None = None,
    limit: int | None = None,
    id_column: str | None = None,
) -> Source:
    """Return the rows of a frame as a Source; a LazyFrame is collected. Raises InputError as `open_source` does."""
    if not isinstance(frame, pl.DataFrame | pl.LazyFrame):
        message = f"frame is a {type(frame).__name__}; it must be a polars DataFrame or LazyFrame"
        raise InputError(message)
    try:
        collected = frame.collect() if isinstance(frame, pl.LazyFrame) else frame
    except pl.exceptions.PolarsError as error:
        message = f"the frame cannot be collected: {first_line(error)}"
        raise InputError(message) from error
    if not collected.width:
        message = "the frame has no columns"
        raise InputError(message)
    table = Table(collected.schema, collected.height, partial(_frame_chunks, collected))
    return _source(table, (), (), where=where, limit=limit, id_column=id_column)


def _frame_chunks(frame: pl.DataFrame, columns: Sequence[str]) -> Iterator[Chunk]:
    for part in split(columns_of(frame, list(columns) or frame.columns[:1])):
        yield Chunk(part, part.height)


def _source(
    table: Table,
    files: tuple[Path, ...],
    versions: tuple[tuple[int, int], ...],
    *,
    where: str | None,
    limit: int | None,
    id_column: str | None,
) -> Source:
    if id_column is not None:
        _check_column(id_column, table.schema, "input.id")
    condition = None if where is None else row_condition(where, table.schema)
    selection = _Selection(where, condition, limit, id_column)
    # The limit bounds the count, but every row was checked all the same when the table was made.
    total_rows = table.total_rows if limit is None else min(limit, table.total_rows)
    if condition is not None:
        total_rows = sum(chunk.height for chunk, _ in _rows(table, selection, set()))
    return Source(files, tuple(table.schema.names()), table.schema, total_rows, table, selection, versions)


def _rows(table: Table, selection: _Selection, names: set[str]) -> Iterator[tuple[Chunk, list[int]]]:
    """Yield the rows that count, each chunk with its rows' numbers; stop reading at the limit."""
    roots = selection.condition.meta.root_names() if selection.condition is not None else ()
    wanted = {*names, *roots}
    needed = [name for name in table.schema.names() if name in wanted]
    left = selection.limit
    start = 1
    for read_chunk in table.chunks(needed):
        chunk, numbers = read_chunk, list(range(start, start + read_chunk.height))
        start += read_chunk.height
        if selection.condition is not None:
            mask = _mask(chunk, selection)
            chunk, numbers = selected(chunk, mask), pl.Series(numbers, dtype=pl.Int64).filter(mask).to_list()
        if left is not None:
            chunk, numbers = first_rows(chunk, left), numbers[:left]
            left -= chunk.height
        if chunk.height:
            yield chunk, numbers
        if left == 0:
            return


def _mask(chunk: Chunk, selection: _Selection) -> pl.Series:
    assert selection.condition is not None
    try:
        mask = chunk.frame.select(selection.condition.alias("where")).to_series()
    except pl.exceptions.PolarsError as error:
        raise condition_error(selection.where or "", f"fails on a value: {first_line(error)}") from error
    # A condition without columns, such as `true`, gives one value.
    return mask if mask.len() == chunk.height else mask.new_from_index(0, chunk.height)


def _row_names(chunk: Chunk, numbers: Sequence[int], id_column: str | None) -> list[str]:
    if id_column is None:
        return [str(number) for number in numbers]
    ids = [values[id_column] for values in _values(chunk, columns_of(chunk.frame, [id_column]))]
    return [str(number if value is None else value) for value, number in zip(ids, numbers, strict=True)]


def _batch(
    chunk: Chunk, numbers: Sequence[int], row_names: Sequence[str], names: Sequence[str], *, is_narrowed: bool
) -> Batch:
    frame = columns_of(chunk.frame, names)
    rows = [Row(*row) for row in zip(numbers, _values(chunk, frame), row_names, strict=True)]
    csv_text = None if chunk.csv_text is None else columns_of(chunk.csv_text, names)
    json_rows = chunk.json_rows
    if json_rows is not None and is_narrowed:
        wanted = set(names)
        json_rows = [{name: value for name, value in row.items() if name in wanted} for row in json_rows]
    return Batch(frame, rows, csv_text, json_rows)


def _values(chunk: Chunk, frame: pl.DataFrame) -> Sequence[Mapping[str, Any]]:
    """Return the chunk's rows as natural Python values, of the frame's columns only."""
    if chunk.json_rows is not None:
        return [{name: row.get(name) for name in frame.columns} for row in chunk.json_rows]
    if chunk.csv_text is not None and pl.Float64 in frame.dtypes:
        return _csv_values(frame, chunk.csv_text)
    return frame.rows(named=True) if frame.width else [{}] * chunk.height


def _csv_values(frame: pl.DataFrame, csv_text: pl.DataFrame) -> Sequence[Mapping[str, Any]]:
    """Return the rows with numbers that print as their cells do.

    3.10 must not become 3.1 in a prompt, nor 3 become 3.0 because some other row has a fraction: the same cell would
    make another request when a row is added.
    """
    columns: list[Sequence[Any]] = []
    for column in frame:
        if column.dtype == pl.Float64:
            columns.append([None if cell is None else number(cell) for cell in csv_text.get_column(column.name)])
        else:
            columns.append(column.to_list())
    return [dict(zip(frame.columns, values, strict=True)) for values in zip(*columns, strict=True)]


def _check_column(name: str, schema: pl.Schema, what: str) -> None:
    if name not in schema:
        message = f'{what} names the column "{name}", which is not there; {nearest_column(name, schema.names())}'
        raise InputError(message)


def _versions(files: Sequence[Path]) -> tuple[tuple[int, int], ...]:
    """Return what tells that a file was written to: its size and its time of modification."""
    try:
        stats = [file.stat() for file in files]
    except OSError as error:
        message = f"{error.filename} cannot be read: {error.strerror}"
        raise InputError(message) from error
    return tuple((stat.st_size, stat.st_mtime_ns) for stat in stats)
