"""Any input -> batches of rows, in order and in bounded memory, as often as they are asked for."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import file_digest, sha256
from itertools import compress
from pathlib import Path

import polars as pl

from batchchat.errors import InputError
from batchchat.read.paths import input_files
from batchchat.read.rows import Rows
from batchchat.read.streams import reading
from batchchat.read.table import Table, TableChunk, columns_of, nearest_column, part_of, selected, split
from batchchat.read.where import condition_error, first_line, row_condition
from batchchat.records import Batch, Row


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

    `files` are the input files in reading order (none for a frame), `format` is theirs (None for a frame), `columns`
    the names in file order, `total_rows` the number of rows after `where` and `limit`.
    """

    files: tuple[Path, ...]
    format: str | None
    columns: tuple[str, ...]
    schema: pl.Schema
    total_rows: int
    _table: Table
    _selection: _Selection
    _versions: tuple[tuple[int, int], ...]

    def rows(self, columns: Collection[str] | None = None) -> Iterator[Row]:
        """Read the rows again, in input order, without their frames; otherwise as `batches`."""
        for batch in self._read((), self._in_order(columns)):
            yield from batch.rows

    def batches(
        self, columns: Collection[str] | None = None, *, values_of: Collection[str] | None = None
    ) -> Iterator[Batch]:
        """Read the rows again, in input order, in batches of at most 1,000 rows and about 8 MB (or one larger row).

        Only `columns` are in the batches, in file order; None means all. Of these, the rows have the values of
        `values_of` alone, which need not become Python's for all. Raises InputError for an unknown column, and when
        the files are not what they were.
        """
        names = self._in_order(columns)
        return self._read(names, names if values_of is None else self._in_order(values_of))

    def digest(self) -> bytes:
        """Return what tells this input from any other: the files' content, `where` and `limit`; not the files' names.

        Raises InputError when a file cannot be read, or the files are not what they were.
        """
        digest = sha256(repr((self._selection.where, self._selection.limit)).encode())
        for file in self.files:
            with reading(file, self.format or ""), file.open("rb") as stream:
                digest.update(file_digest(stream, sha256).digest())
        self._check_unchanged()
        return digest.digest()

    def _in_order(self, columns: Collection[str] | None) -> list[str]:
        for name in columns or ():
            _check_column(name, self.schema, "the columns to read")
        return [name for name in self.columns if columns is None or name in columns]

    def _read(self, names: Sequence[str], value_names: Sequence[str]) -> Iterator[Batch]:
        self._check_unchanged()
        delivered = 0
        id_column = self._selection.id_column
        try:
            in_frames = set(names) if self._table.brings_values else {*names, *value_names, id_column or ""}
            for chunk, numbers in _rows(self._table, self._selection, in_frames):
                delivered += chunk.height
                rows = Rows(chunk, numbers, value_names, id_column)
                yield _batch(chunk, rows, names, is_narrowed=len(names) < len(self.columns))
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
    table = _table(found_format, files)
    source = _source(table, where=where, limit=limit, id_column=id_column)
    return replace(source, files=files, format=found_format, _versions=versions)


def _table(found_format: str, files: tuple[Path, ...]) -> Table:
    """Return the table of the files; only what reads their format is imported: together it takes as long as polars."""
    if found_format == "csv":
        from batchchat.read.csv_rows import csv_table

        return csv_table(files)
    if found_format == "jsonl":
        from batchchat.read.jsonl_rows import jsonl_table

        return jsonl_table(files)
    from batchchat.read.arrow_rows import arrow_table, parquet_table

    return parquet_table(files) if found_format == "parquet" else arrow_table(files)


def frame_source(
    frame: object,
    *,
    where: str | None = None,
    limit: int | None = None,
    id_column: str | None = None,
) -> Source:
    """Return the rows of a frame as a Source; a LazyFrame is collected. Raises InputError as `open_source` does."""
    if not isinstance(frame, pl.DataFrame | pl.LazyFrame):
        raise InputError(f"frame is a {type(frame).__name__}; it must be a polars DataFrame or LazyFrame")
    try:
        collected = frame.collect() if isinstance(frame, pl.LazyFrame) else frame
    except pl.exceptions.PolarsError as error:
        raise InputError(f"the frame cannot be collected: {first_line(error)}") from error
    if not collected.width:
        raise InputError("the frame has no columns")
    table = Table(collected.schema, collected.height, partial(_frame_chunks, collected))
    return _source(table, where=where, limit=limit, id_column=id_column)


def _frame_chunks(frame: pl.DataFrame, columns: Sequence[str]) -> Iterator[TableChunk]:
    for part in split(columns_of(frame, list(columns) or frame.columns[:1])):
        yield TableChunk(part, part.height)


def _source(table: Table, *, where: str | None, limit: int | None, id_column: str | None) -> Source:
    """Return the rows of a table as a Source without files."""
    if id_column is not None:
        _check_column(id_column, table.schema, "input.id")
    condition = None if where is None else row_condition(where, table.schema)
    selection = _Selection(where, condition, limit, id_column)
    # The limit bounds the count, but every row was checked all the same when the table was made.
    total_rows = table.total_rows if limit is None else min(limit, table.total_rows)
    if condition is not None:
        total_rows = sum(chunk.height for chunk, _ in _rows(table, selection, set()))
    return Source(
        files=(),
        format=None,
        columns=tuple(table.schema.names()),
        schema=table.schema,
        total_rows=total_rows,
        _table=table,
        _selection=selection,
        _versions=(),
    )


def _rows(table: Table, selection: _Selection, names: set[str]) -> Iterator[tuple[TableChunk, Sequence[int]]]:
    """Yield the rows that count, each chunk with its rows' numbers; stop reading at the limit."""
    roots = selection.condition.meta.root_names() if selection.condition is not None else ()
    wanted = {*names, *roots}
    needed = [name for name in table.schema.names() if name in wanted]
    left = selection.limit
    start = 1
    for read_chunk in table.chunks(needed):
        chunk = read_chunk
        numbers: Sequence[int] = range(start, start + read_chunk.height)
        start += read_chunk.height
        if selection.condition is not None:
            mask = _mask(chunk, selection)
            chunk, numbers = selected(chunk, mask), list(compress(numbers, mask))
        if left is not None:
            chunk, numbers = part_of(chunk, 0, left), numbers[:left]
            left -= chunk.height
        if chunk.height:
            yield chunk, numbers
        if left == 0:
            return


def _mask(chunk: TableChunk, selection: _Selection) -> pl.Series:
    assert selection.condition is not None
    try:
        mask = chunk.frame.select(selection.condition.alias("where")).to_series()
    except pl.exceptions.PolarsError as error:
        raise condition_error(selection.where or "", f"fails on a value: {first_line(error)}") from error
    # A condition without columns, such as `true`, gives one value.
    return mask if mask.len() == chunk.height else mask.new_from_index(0, chunk.height)


def _batch(chunk: TableChunk, rows: Rows, names: Sequence[str], *, is_narrowed: bool) -> Batch:
    frame = columns_of(chunk.frame, names)
    csv_text = None if chunk.csv_text is None else columns_of(chunk.csv_text, names)
    json_rows = chunk.json_rows
    if json_rows is not None and is_narrowed:
        wanted = set(names)
        json_rows = [{name: value for name, value in row.items() if name in wanted} for row in json_rows]
    return Batch(frame, rows, csv_text, json_rows, chunk.file)


def _check_column(name: str, schema: pl.Schema, what: str) -> None:
    if name not in schema:
        message = f'{what} names the column "{name}", which is not there; {nearest_column(name, schema.names())}'
        raise InputError(message)


def _versions(files: Sequence[Path]) -> tuple[tuple[int, int], ...]:
    """Return what tells that a file was written to: its size and its time of modification."""
    try:
        stats = [file.stat() for file in files]
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error
    return tuple((stat.st_size, stat.st_mtime_ns) for stat in stats)
