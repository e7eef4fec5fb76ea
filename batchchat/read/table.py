"""What every format's reader gives to `source.py`: a `Table` of `Chunk`s of rows, in file order."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import polars as pl

from batchchat.errors import InputError

CHUNK_ROWS = 1_000
CHUNK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class TableChunk:
    """Consecutive rows of at most CHUNK_ROWS rows and about CHUNK_BYTES, a single larger row excepted.

    `height` is the number of rows, which a frame without columns cannot tell. `csv_text` and `json_rows` are the same
    rows as the file has them, for CSV and JSONL; None otherwise. `file` is the place of their file among the files.
    """

    frame: pl.DataFrame
    height: int
    csv_text: pl.DataFrame | None = None
    json_rows: Sequence[Mapping[str, Any]] | None = None
    file: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that can be read many times.

    `chunks` takes the names of the columns to read, in schema order; the frames have those columns, perhaps one more.
    With `brings_values` the chunks have the values of all columns with them (`json_rows`), whatever is in their frames.
    """

    schema: pl.Schema
    total_rows: int
    chunks: Callable[[Sequence[str]], Iterator[TableChunk]]
    brings_values: bool = False


def split(frame: pl.DataFrame, most_rows: int = CHUNK_ROWS, most_bytes: int = CHUNK_BYTES) -> Iterator[pl.DataFrame]:
    """Cut the frame, without copying, into parts of even length that are as small as a Chunk has to be, or smaller."""
    parts = max(-(-frame.height // most_rows), -(-int(frame.estimated_size()) // most_bytes))
    if parts <= 1 or frame.height <= 1:
        if frame.height:
            yield frame
        return
    step = -(-frame.height // min(parts, frame.height))
    for start in range(0, frame.height, step):
        # Rows of uneven size: a part may still be too large.
        yield from split(frame.slice(start, step), most_rows, most_bytes)


def columns_of(frame: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Return the frame's columns of these names; polars' own `select` takes a name like `^x$` for a pattern."""
    return pl.DataFrame({name: frame.get_column(name) for name in names})


def selected(chunk: TableChunk, mask: pl.Series) -> TableChunk:
    """Return the rows of the chunk where `mask` is true; null counts as false."""
    is_kept = mask.fill_null(value=False)
    return TableChunk(
        chunk.frame.filter(is_kept),
        int(is_kept.sum()),
        None if chunk.csv_text is None else chunk.csv_text.filter(is_kept),
        None if chunk.json_rows is None else [row for row, kept in zip(chunk.json_rows, is_kept, strict=True) if kept],
        chunk.file,
    )


def part_of(chunk: TableChunk, start: int, count: int) -> TableChunk:
    """Return `count` rows of the chunk from `start` on, or those that it has."""
    if not start and chunk.height <= count:
        return chunk
    return TableChunk(
        chunk.frame.slice(start, count),
        min(count, chunk.height - start),
        None if chunk.csv_text is None else chunk.csv_text.slice(start, count),
        None if chunk.json_rows is None else chunk.json_rows[start : start + count],
        chunk.file,
    )


def nearest_column(name: str, columns: Sequence[str]) -> str:
    """Return the end of an error message about an unknown column: the nearest name, and the columns there are."""
    nearest = get_close_matches(name, columns, n=1)
    hint = f'did you mean "{nearest[0]}"? ' if nearest else ""
    more = f" and {len(columns) - 10} more" if len(columns) > 10 else ""
    return f"{hint}The columns are: {', '.join(columns[:10])}{more}"


def different_columns(file: Path, columns: Sequence[str], first: Path, first_columns: Sequence[str]) -> InputError:
    """Return the error for a file whose column names are not those of the first file."""
    missing = list(dict.fromkeys(first_columns).keys() - set(columns))
    extra = list(dict.fromkeys(columns).keys() - set(first_columns))
    parts = [
        f"{verb} {', '.join(sorted(names)[:5])}{' and more' if len(names) > 5 else ''}"
        for verb, names in (("it lacks", missing), ("it also has", extra))
        if names
    ]
    return InputError(
        f"{file} does not have the columns of {first}: {'; '.join(parts)}. "
        "All files of one input need the same columns; choose files with a glob, or make the columns the same"
    )
