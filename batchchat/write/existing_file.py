"""The rows of an output file that is there: their columns, how many they are, and others put between them.

Rows of text are copied as they stand, and Parquet by row groups.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson
import polars as pl
import pyarrow as pa

from batchchat.errors import OutputError
from batchchat.write.columns import OutputPlan
from batchchat.write.format import ROW_GROUP_ROWS, format_of

if TYPE_CHECKING:
    import pyarrow.parquet as pq

ANYWHERE = -1
"""The first row of a segment that cannot be found any more."""

COPIED_BYTES = 2**20
_BATCH_BYTES = 32 * 2**20
_REMEDY = "Move it away to begin a new one, or name another file in output.path"


def check_columns(path: Path, plan: OutputPlan, empty: pl.DataFrame, is_all_null: Callable[[str], bool]) -> None:
    """Raise OutputError unless a file has the columns that rows of the plan have; `empty` is the output without rows.

    In Parquet the dtypes have to be the same too, but for a column of the input of which `is_all_null` is true.
    """
    match path.suffix.lower():
        case ".csv":
            _check_header(path, plan, empty)
        case ".parquet":
            _check_schema(path, plan, empty, is_all_null)
        case _:
            _check_keys(path, plan, empty)


def row_count(path: Path, suffix: str) -> int:
    """Return how many rows a file has; `suffix` is that of its format."""
    if suffix.lower() == ".parquet":
        with _parquet(path) as parquet:
            return int(parquet.metadata.num_rows)
    return sum(1 for _ in _record_ends(path, suffix)) - _header_records(suffix)


def join(out: BinaryIO, suffix: str, old: Path, new: Path, start: int | None, end: int | None) -> None:
    """Write a file of the rows of `old` up to `start`, all rows of `new`, and those of `old` from `end` on.

    Without `start` and `end`, those of `new` come last.
    """
    if suffix.lower() == ".parquet":
        _join_parquet(out, old, new, start, end)
    else:
        _join_text(out, suffix, old, new, start, end)


def _header_records(suffix: str) -> int:
    return 1 if suffix.lower() == ".csv" else 0


def _record_ends(path: Path, suffix: str) -> Iterator[int]:
    """Yield where each line that is not blank ends; of CSV each record, in whose quotes there may be ends of lines."""
    has_quotes = suffix.lower() == ".csv"
    at, is_open = 0, False
    with path.open("rb") as file:
        for line in file:
            at += len(line)
            if has_quotes and line.count(b'"') % 2:
                is_open = not is_open
            if not is_open and not line.isspace():
                yield at
    if is_open:
        yield at


def _offset(path: Path, suffix: str, records: int) -> int:
    """Return where so many records end."""
    if records == 0:
        return 0
    return next((at for number, at in enumerate(_record_ends(path, suffix), start=1) if number == records), 0)


def _join_text(out: BinaryIO, suffix: str, old: Path, new: Path, start: int | None, end: int | None) -> None:
    header = _header_records(suffix)
    old_bytes = old.stat().st_size
    first = old_bytes if start is None else _offset(old, suffix, start + header)
    last = old_bytes if end is None else _offset(old, suffix, end + header)
    with old.open("rb") as rows:
        if not _copy(rows, out, first):
            out.write(b"\n")
        with new.open("rb") as new_rows:
            new_rows.seek(_offset(new, suffix, header))
            _copy(new_rows, out, new.stat().st_size)
        rows.seek(last)
        _copy(rows, out, old_bytes)


def _copy(rows: BinaryIO, out: BinaryIO, end: int) -> bool:
    """Copy from where a file is read up to an end; return whether nothing, or a whole line, stands before that."""
    block = b""
    while (left := end - rows.tell()) > 0 and (read := rows.read(min(left, COPIED_BYTES))):
        block = read
        out.write(block)
    return block == b"" or block.endswith(b"\n")


def _join_parquet(out: BinaryIO, old: Path, new: Path, start: int | None, end: int | None) -> None:
    import pyarrow.parquet as pq

    with _parquet(old) as old_rows, _parquet(new) as new_rows:
        schema = old_rows.schema_arrow.remove_metadata()
        count = old_rows.metadata.num_rows
        writer = pq.ParquetWriter(out, schema, compression="zstd")
        try:
            for batch in _batches(old_rows, 0, count if start is None else start):
                writer.write_batch(batch)
            for batch in _batches(new_rows, 0, new_rows.metadata.num_rows):
                writer.write_batch(_cast(batch, schema))
            for batch in _batches(old_rows, count if end is None else end, count):
                writer.write_batch(batch)
        except BaseException:
            writer.is_open = False  # or its finalizer writes to a file that is closed by then
            raise
        writer.close()


def _parquet(path: Path | io.BytesIO) -> pq.ParquetFile:
    import pyarrow.parquet as pq  # not at the start of a run, which has no use for it until its end

    return pq.ParquetFile(path, pre_buffer=False, buffer_size=COPIED_BYTES)


def _batches(parquet: pq.ParquetFile, start: int, end: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows from `start` to `end`, a row group at a time where it is not too large."""
    at = 0
    for number in range(parquet.num_row_groups):
        group = parquet.metadata.row_group(number)
        if at < end and at + group.num_rows > start:
            row_bytes = max(group.total_byte_size // max(group.num_rows, 1), 1)
            most = max(min(ROW_GROUP_ROWS, _BATCH_BYTES // row_bytes), 1)
            place = at
            for batch in parquet.iter_batches(most, row_groups=[number], use_threads=False):
                part = batch.slice(max(start - place, 0), max(end - max(start, place), 0))
                if part.num_rows:
                    yield part
                place += batch.num_rows
        at += group.num_rows


def _cast(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return the rows in a schema of the same columns, whose dtypes are others only where there are no values."""
    if batch.schema.remove_metadata() == schema:
        return batch
    columns = [
        pa.nulls(batch.num_rows, field.type) if column.null_count == batch.num_rows else column.cast(field.type)
        for column, field in zip(batch.columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _check_header(path: Path, plan: OutputPlan, empty: pl.DataFrame) -> None:
    expected = io.BytesIO()
    format_of(path)(expected, plan, empty)
    with path.open("rb") as file:
        header = file.read(_offset(path, path.suffix, 1))
    _check_names(path, _cells(header), _cells(expected.getvalue()))


def _cells(header: bytes) -> list[str]:
    lines = io.StringIO(header.decode("utf-8-sig", "replace"), newline="")
    return next((cells for cells in csv.reader(lines) if cells), [])


def _check_keys(path: Path, plan: OutputPlan, empty: pl.DataFrame) -> None:
    """Check the first object's keys: of the input's columns any may be absent."""
    with path.open("rb") as file:
        line = next((line for line in file if not line.isspace()), b"{}")
    try:
        found = orjson.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise OutputError(f"{path}: its first line is no JSON object, so nothing can be appended to it. {_REMEDY}")
    optional = set(plan.keep) - set(found)
    _check_names(path, [*found], [name for name in empty.columns if name not in optional], is_ordered=False)


def _check_schema(path: Path, plan: OutputPlan, empty: pl.DataFrame, is_all_null: Callable[[str], bool]) -> None:
    written = io.BytesIO()
    format_of(path)(written, plan, empty).finish()
    written.seek(0)
    with _parquet(written) as expected, _parquet(path) as existing:
        wanted, found = _dtypes(expected.schema_arrow), _dtypes(existing.schema_arrow)
    _check_names(path, [*found], [*wanted])
    for name, dtype in wanted.items():
        if found[name] != dtype and not (name in plan.keep and is_all_null(name)):
            raise OutputError(
                f"{path}: its column `{name}` is {found[name]}, and {dtype} in what would be appended; make the dtypes"
                f" the same, or write .csv or .jsonl, which have none. {_REMEDY}"
            )


def _dtypes(schema: pa.Schema) -> dict[str, Any]:
    """Return the dtypes as polars has them, to which texts of any size are the same."""
    columns = [column.combine_chunks() for column in schema.empty_table().columns]
    return dict(pl.DataFrame(pa.RecordBatch.from_arrays(columns, schema=schema)).schema)


def _check_names(path: Path, found: list[str], wanted: list[str], *, is_ordered: bool = True) -> None:
    if found == wanted or (not is_ordered and set(found) == set(wanted)):
        return
    lacks, has = [name for name in wanted if name not in found], [name for name in found if name not in wanted]
    parts = [
        f"{verb} {', '.join(f'`{name}`' for name in names[:5])}{' and more' if len(names) > 5 else ''}"
        for verb, names in (("it lacks", lacks), ("it also has", has))
        if names
    ] or ["they stand in another order"]
    message = f"{path}: its columns are not those of the rows that would be appended: {'; '.join(parts)}. {_REMEDY}"
    raise OutputError(message)
