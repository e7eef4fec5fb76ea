"""The three formats of the output: how rows become bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, BinaryIO, Literal

import orjson
import polars as pl
import pyarrow as pa

from batchchat.errors import OutputError
from batchchat.records import Batch
from batchchat.write.cell import csv_column, json_values, spreadsheet_safe
from batchchat.write.columns import OutputPlan

# A row group is cut at a fixed number of rows, so that it does not depend on how rows arrive in batches. Only where
# rows are so large that this many would not fit in memory is it cut earlier, where a batch ends.
ROW_GROUP_ROWS = 65_536
ROW_GROUP_BYTES = 8 * 2**20
# A frame takes some 15 KB besides its values, which is much where few rows come at a time.
_MOST_FRAMES = 256


class Writer:
    """Rows to bytes in one format."""

    def write(self, batch: Batch, answers: pl.DataFrame) -> None:
        """Take the rows of a batch, each with its row of new columns."""
        raise NotImplementedError

    def finish(self) -> None:
        """Write what is still held, and the end of the file; the file stays open."""

    def abandon(self) -> None:
        """Let go of the file; what is in it is of no use."""


def joined(batch: Batch, answers: pl.DataFrame, plan: OutputPlan) -> pl.DataFrame:
    """Return the rows of the output for a batch as one frame: kept input columns, then the new ones."""
    return pl.DataFrame([*_columns(batch.frame, plan), *answers.get_columns()])


class Joiner:
    """Rows of the output, to be held after their batch is gone: they take no more memory than they show.

    A column shares the memory of all that was read with it, in polars also after a filter. That is no loss where all of
    it is in the output; once a column is not, or a row was left out, the columns are copied.
    """

    def __init__(self, plan: OutputPlan) -> None:
        self._plan = plan
        self._row_count = 0

    def join(self, batch: Batch, answers: pl.DataFrame) -> pl.DataFrame:
        """Return the next batch's rows as `joined` does."""
        kept = pl.DataFrame(_columns(batch.frame, self._plan))
        self._row_count += answers.height
        is_whole = kept.width == batch.frame.width and not self._has_gaps(batch)
        return pl.DataFrame([*(kept if is_whole else _copied(kept)), *answers])

    def _has_gaps(self, batch: Batch) -> bool:
        return bool(batch.rows) and batch.rows[-1].number != self._row_count


def _copied(frame: pl.DataFrame) -> pl.DataFrame:
    if pl.Object in frame.dtypes:
        return frame  # of Python's own memory, and no format has them
    # Neither `rechunk` nor `gather` nor `concat` copies text and binary values: they stay where they are.
    stream = io.BytesIO()
    frame.write_ipc_stream(stream, compression="uncompressed")
    stream.seek(0)
    return pl.read_ipc_stream(stream)


def _columns(frame: pl.DataFrame, plan: OutputPlan) -> list[pl.Series]:
    """Return the kept input columns; polars' own `select` takes a name like `^x$` for a pattern."""
    return [frame.get_column(name) for name in plan.keep]


class _CsvWriter(Writer):
    """CSV: null is an empty cell, an empty string `""`, nested values JSON; the cells of a CSV input as they were.

    With the plan's `spreadsheet_safe`, no cell and no name of a column is one that a spreadsheet would evaluate, and
    every text is quoted.
    """

    def __init__(self, file: BinaryIO, plan: OutputPlan, empty: pl.DataFrame) -> None:
        self._file = file
        self._plan = plan
        self._quote_style: Literal["necessary", "non_numeric"] = "necessary"
        if plan.spreadsheet_safe:
            self._quote_style = "non_numeric"
            names = [spreadsheet_safe(pl.Series(f"{number}", [name])) for number, name in enumerate(empty.columns)]
            file.write(self._lines(names))
            return
        header = pl.DataFrame(schema=dict.fromkeys(empty.columns, pl.String))
        file.write(header.write_csv().encode())

    def write(self, batch: Batch, answers: pl.DataFrame) -> None:
        inputs = batch.frame if batch.csv_text is None else batch.csv_text
        columns = [*_columns(inputs, self._plan), *answers.get_columns()]
        cells = [csv_column(column) for column in columns]
        if self._plan.spreadsheet_safe:
            cells = [spreadsheet_safe(column) for column in cells]
        # Written here and not by polars, which would go round the file's buffer.
        self._file.write(self._lines(cells))

    def _lines(self, cells: list[pl.Series]) -> bytes:
        return pl.DataFrame(cells).write_csv(include_header=False, quote_style=self._quote_style).encode()


class _JsonlWriter(Writer):
    """JSON Lines: one object a row; the keys of a JSONL input as they were, absent ones absent."""

    def __init__(self, file: BinaryIO, plan: OutputPlan, empty: pl.DataFrame) -> None:
        del empty
        self._file = file
        self._keep = plan.keep

    def write(self, batch: Batch, answers: pl.DataFrame) -> None:
        inputs = self._frame_objects(batch) if batch.json_rows is None else self._source_objects(batch.json_rows)
        pairs = zip(inputs, _objects(answers.columns, answers), strict=True)
        self._file.write(b"".join(_json_line(row, answer) for row, answer in pairs))

    def _frame_objects(self, batch: Batch) -> Sequence[bytes]:
        if not self._keep:
            return [b"{}"] * batch.frame.height
        return _objects(self._keep, batch.frame)

    def _source_objects(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[bytes]:
        keep = frozenset(self._keep)
        return [_source_object({key: value for key, value in row.items() if key in keep}) for row in rows]


def _objects(names: Collection[str], frame: pl.DataFrame) -> list[bytes]:
    """Return each row's values of the named columns as a JSON object."""
    columns = [json_values(frame[name]) for name in names]
    return [orjson.dumps(dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True)]


def _source_object(row: dict[str, Any]) -> bytes:
    """Return a row of a JSONL input as JSON again."""
    try:
        return orjson.dumps(row)
    except orjson.JSONEncodeError:
        # Integers beyond 64 bits and half a surrogate pair: JSON can say them, orjson does not.
        return json.dumps(row, separators=(",", ":")).encode()


def _json_line(first: bytes, second: bytes) -> bytes:
    """Return two JSON objects as one, on a line; the second is not empty."""
    separator = b"" if first == b"{}" else b","
    return first[:-1] + separator + second[1:] + b"\n"


class _ParquetWriter(Writer):
    """Parquet, row group by row group."""

    def __init__(self, file: BinaryIO, plan: OutputPlan, empty: pl.DataFrame) -> None:
        import pyarrow.parquet as pq  # not at the start of a run, which has no use for it until its end

        self._joiner = Joiner(plan)
        self._pending: list[pl.DataFrame] = []
        self._pending_rows = 0
        self._pending_bytes: float = 0
        self._parquet = pq.ParquetWriter(file, _arrow(empty).schema, compression="zstd")

    def write(self, batch: Batch, answers: pl.DataFrame) -> None:
        rows = self._joiner.join(batch, answers)
        self._pending.append(rows)
        self._pending_rows += rows.height
        self._pending_bytes += rows.estimated_size()
        if self._pending_rows >= ROW_GROUP_ROWS or self._pending_bytes >= ROW_GROUP_BYTES:
            self._write_row_groups()
        elif len(self._pending) >= _MOST_FRAMES:
            self._pending = [pl.concat(self._pending, rechunk=True)]

    def _write_row_groups(self) -> None:
        """Write the full row groups that are pending, and the rest too where it is large."""
        rows = pl.concat(self._pending)
        while rows.height >= ROW_GROUP_ROWS:
            self._write_row_group(rows.head(ROW_GROUP_ROWS))
            rows = rows.slice(ROW_GROUP_ROWS)
        if rows.estimated_size() >= ROW_GROUP_BYTES:
            self._write_row_group(rows)
            rows = rows.clear()
        self._pending = [rows] if rows.height else []
        self._pending_rows = rows.height
        self._pending_bytes = rows.estimated_size()

    def _write_row_group(self, rows: pl.DataFrame) -> None:
        # In one chunk: each batch's categories have a dictionary of their own.
        self._parquet.write_table(_arrow(rows.rechunk()), row_group_size=ROW_GROUP_ROWS)

    def finish(self) -> None:
        if self._pending:
            self._write_row_group(pl.concat(self._pending))
        self._parquet.close()

    def abandon(self) -> None:
        # Otherwise its finalizer writes a footer to a file that is closed by then, or to a disk that is full.
        self._parquet.is_open = False


class _HeldParquetWriter(Writer):
    """Parquet with dtypes that only polars can write, and only at once: every row is held until the end.

    Only a frame that the caller holds anyway has such dtypes.
    """

    def __init__(self, file: BinaryIO, plan: OutputPlan, empty: pl.DataFrame) -> None:
        self._file = file
        self._plan = plan
        self._frames = [empty]

    def write(self, batch: Batch, answers: pl.DataFrame) -> None:
        self._frames.append(joined(batch, answers, self._plan))

    def finish(self) -> None:
        rows = pl.concat(self._frames, rechunk=True)
        rows.write_parquet(self._file, compression="zstd", row_group_size=ROW_GROUP_ROWS)


def _arrow(frame: pl.DataFrame) -> pa.Table:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def _parquet_writer(file: BinaryIO, plan: OutputPlan, empty: pl.DataFrame) -> Writer:
    """Return a writer that pyarrow can serve, or else, for 128-bit integers, one that holds all rows."""
    try:
        _arrow(empty)
    except pa.ArrowInvalid:
        return _HeldParquetWriter(file, plan, empty)
    return _ParquetWriter(file, plan, empty)


_FORMATS: Mapping[str, Callable[[BinaryIO, OutputPlan, pl.DataFrame], Writer]] = {
    ".parquet": _parquet_writer,
    ".csv": _CsvWriter,
    ".jsonl": _JsonlWriter,
    ".ndjson": _JsonlWriter,
}


def format_of(path: Path) -> Callable[[BinaryIO, OutputPlan, pl.DataFrame], Writer]:
    """Return what makes a writer for the path's suffix, from a binary file, the plan, and the output without rows.

    Raises:
        OutputError: no format has that suffix.

    """
    suffix = path.suffix.lower()
    if suffix in _FORMATS:
        return _FORMATS[suffix]
    near = get_close_matches(suffix, _FORMATS, n=1)
    found = f"the suffix `{path.suffix}` is no output format" if suffix else "there is no suffix to tell the format"
    hint = f" (did you mean `{near[0]}`?)" if near else ""
    raise OutputError(f"{path}: {found}{hint}; output.path ends in {', '.join(_FORMATS)}")
