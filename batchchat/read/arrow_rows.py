"""Parquet and Arrow IPC files -> a Table, from their metadata alone, then read in small parts.

The frames have the dtypes that polars gives such files. Files are brought to the column order of the first one, and to
dtypes that hold the values of all.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.ipc as pa_ipc
import pyarrow.parquet as pq

from batchchat.errors import InputError
from batchchat.read.arrow_dtype import check_readable, common_dtype
from batchchat.read.streams import STREAM_BUFFER_BYTES, reading
from batchchat.read.table import CHUNK_BYTES, CHUNK_ROWS, Table, TableChunk, columns_of, different_columns, split

_PROBE_ROWS = 8


@dataclass(frozen=True, slots=True)
class _Contents:
    """What one file says of itself."""

    schema: pl.Schema
    rows: int


def parquet_table(files: Sequence[Path]) -> Table:
    """Read the metadata of Parquet files; raises InputError for a damaged file, or files that are not one table."""
    return _table(files, _parquet_contents, _parquet_frames)


def arrow_table(files: Sequence[Path]) -> Table:
    """Read the metadata of Arrow IPC files; raises InputError for a damaged file, or files that are not one table.

    A file is read one record batch at a time, as large as its writer made them.
    """
    return _table(files, _arrow_contents, _arrow_frames)


def _table(
    files: Sequence[Path],
    contents_of: Callable[[Path], _Contents],
    frames_of: Callable[[Path, Sequence[str]], Iterator[pl.DataFrame]],
) -> Table:
    contents = {file: contents_of(file) for file in files}
    first = contents[files[0]].schema
    schema = dict(first)
    for file, found in contents.items():
        if set(found.schema) != set(first):
            raise different_columns(file, found.schema.names(), files[0], first.names())
        schema = {name: _common(file, name, wanted, found.schema[name]) for name, wanted in schema.items()}
    if not schema:
        raise InputError(f"{files[0]} has no columns; there is nothing to make requests from")
    final = pl.Schema(schema)
    total_rows = sum(found.rows for found in contents.values())
    return Table(final, total_rows, partial(_chunks, files, frames_of, final))


def _common(file: Path, name: str, wanted: pl.DataType, found: pl.DataType) -> pl.DataType:
    common = common_dtype(wanted, found)
    if common is None:
        raise InputError(
            f'{file}: the column "{name}" is {found}, but {wanted} in the files before it; '
            "make them the same, or choose files with a glob"
        )
    return common


def _chunks(
    files: Sequence[Path],
    frames_of: Callable[[Path, Sequence[str]], Iterator[pl.DataFrame]],
    schema: pl.Schema,
    columns: Sequence[str],
) -> Iterator[TableChunk]:
    names = list(columns) or schema.names()[:1]
    wanted = pl.Schema({name: schema[name] for name in names})
    for number, file in enumerate(files):
        for frame in frames_of(file, names):
            selected = columns_of(frame, names)
            for part in split(_cast(selected, wanted)):
                yield TableChunk(part, part.height, file=number)


def _cast(frame: pl.DataFrame, wanted: pl.Schema) -> pl.DataFrame:
    if frame.schema == wanted:
        return frame
    return pl.DataFrame({values.name: values.cast(wanted[values.name]) for values in frame})


def _schema(file: Path, schema: pa.Schema) -> pl.Schema:
    check_readable(file, schema)
    # Of a table, and not of a record batch, polars would rename a column without a name.
    columns = [column.combine_chunks() for column in schema.empty_table().columns]
    return pl.DataFrame(pa.RecordBatch.from_arrays(columns, schema=schema)).schema


def _parquet_contents(file: Path) -> _Contents:
    with reading(file, "Parquet"), _open_parquet(file) as parquet:
        return _Contents(_schema(file, parquet.schema_arrow), parquet.metadata.num_rows)


def _parquet_frames(file: Path, names: Sequence[str]) -> Iterator[pl.DataFrame]:
    with reading(file, "Parquet"), _open_parquet(file) as parquet:
        for batch in parquet.iter_batches(_batch_rows(file, names), columns=names, use_threads=False):
            yield pl.DataFrame(batch)


def _open_parquet(file: Path) -> pq.ParquetFile:
    # Buffered, page by page: with pre_buffer a whole row group, which may be the whole file, is held.
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=STREAM_BUFFER_BYTES)


def _batch_rows(file: Path, names: Sequence[str]) -> int:
    """Return how many rows make about CHUNK_BYTES, by the metadata and by the first rows.

    The metadata counts a value that a dictionary holds once; the first rows tell what it is when repeated.
    """
    with _open_parquet(file) as parquet:
        groups = (parquet.metadata.row_group(index) for index in range(parquet.num_row_groups))
        row_bytes = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=1)
        probe = next(parquet.iter_batches(_PROBE_ROWS, columns=names, use_threads=False), None)
    if probe is not None and probe.num_rows:
        row_bytes = max(row_bytes, probe.nbytes / probe.num_rows)
    return max(1, min(CHUNK_ROWS, int(CHUNK_BYTES / max(row_bytes, 1))))


def _arrow_contents(file: Path) -> _Contents:
    with reading(file, "Arrow IPC"), pa.OSFile(str(file)) as source:
        reader = _open_arrow(source, None)
        schema = _schema(file, reader.schema)
        # One column is enough to count the rows.
        counted = _open_arrow(source, [0]) if len(schema) else reader
        return _Contents(schema, sum(batch.num_rows for batch in _record_batches(counted)))


def _arrow_frames(file: Path, names: Sequence[str]) -> Iterator[pl.DataFrame]:
    with reading(file, "Arrow IPC"), pa.OSFile(str(file)) as source:
        schema = _open_arrow(source, None).schema
        reader = _open_arrow(source, sorted(schema.get_field_index(name) for name in names))
        for batch in _record_batches(reader):
            yield pl.DataFrame(batch)


def _open_arrow(source: pa.NativeFile, indexes: list[int] | None) -> Any:
    """Open the file format, which has its magic at the start, or else the stream format."""
    options = pa_ipc.IpcReadOptions(included_fields=indexes, use_threads=False)
    source.seek(0)
    is_file = source.read(6) == b"ARROW1"
    source.seek(0)
    return pa_ipc.open_file(source, options=options) if is_file else pa_ipc.open_stream(source, options=options)


def _record_batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa_ipc.RecordBatchFileReader):
        return (reader.get_batch(index) for index in range(reader.num_record_batches))
    return iter(reader)
