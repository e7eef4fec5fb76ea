"""CSV files -> a Table: every row checked and every dtype found in one pass, then read again in small blocks.

Comma-separated, RFC 4180, UTF-8, the first row is the header. An empty cell is null, a quoted empty one is "". Blank
lines are no rows. Of several files the dtypes are found together, because the files are one table.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv

from batchchat.errors import InputError
from batchchat.read.csv_dtype import CANDIDATES, final_dtype, remaining, typed
from batchchat.read.streams import MAX_ROW_BYTES, open_bytes, open_bytes_with_end, reading
from batchchat.read.table import Table, TableChunk, different_columns, split

# A row must fit in a block. Blocks start small, to keep memory low, and grow only for a file with huge cells.
_BLOCK_BYTES = (1 << 20, 16 << 20, MAX_ROW_BYTES)
# Small blocks of a table with thousands of columns would hold few rows, at a fixed cost for each column.
_BLOCK_BYTES_PER_COLUMN = 1 << 10
# A row that is put after the end of the file: where a quote is never closed it is not found as a row of its own.
_END_CELL = "\x00end\x00"
_HEADER_CHARACTERS = 4 << 20
_INVALID_UTF8 = re.compile(r"column #(\d+): Row #(\d+): .*invalid UTF8")
_SHOWN_CHARACTERS = 60


def csv_table(files: Sequence[Path]) -> Table:
    """Check all rows of the files and find the schema and the number of rows.

    Raises InputError for a missing or ambiguous header, a row with too many or too few cells, a quote that is never
    closed, invalid UTF-8, or a file with other columns than the first.
    """
    headers = {file: _header(file) for file in files}
    for file, header in headers.items():
        if set(header) != set(headers[files[0]]):
            raise different_columns(file, header, files[0], headers[files[0]])
    schema, total_rows = _survey(headers)
    return Table(schema, total_rows, partial(_chunks, headers, schema))


def _chunks(headers: dict[Path, list[str]], schema: pl.Schema, columns: Sequence[str]) -> Iterator[TableChunk]:
    names = list(columns) or schema.names()[:1]
    for number, (file, header) in enumerate(headers.items()):
        for block in _blocks(file, header, names):
            for text in split(pl.DataFrame(block)):
                yield TableChunk(typed(text, schema), text.height, csv_text=text, file=number)


def _survey(headers: dict[Path, list[str]]) -> tuple[pl.Schema, int]:
    names = next(iter(headers.values()))
    candidates = dict.fromkeys(names, CANDIDATES)
    all_null = set(names)
    total_rows = 0
    for file, header in headers.items():
        for block in _blocks(file, header, names):
            total_rows += block.num_rows
            for name, cells in zip(names, block.columns, strict=True):
                if cells.null_count < len(cells):
                    all_null.discard(name)
                    candidates[name] = remaining(candidates[name], cells)
    dtypes = {name: final_dtype(left, is_all_null=name in all_null) for name, left in candidates.items()}
    return pl.Schema(dtypes), total_rows


def _header(file: Path) -> list[str]:
    # Wrong bytes further down are found, with their row, by the survey.
    with (
        reading(file, "CSV"),
        open_bytes(file) as stream,
        io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="") as text,
    ):
        try:
            names = next(filter(None, csv.reader(_lines(text, file))), [])
        except csv.Error as error:
            message = (
                f"{file}: the header cannot be read ({error}); check for a quote that is never closed in the first row"
            )
            raise InputError(message) from error
    if not names:
        raise InputError(f"{file} has no header: it is empty, and the first row must name the columns")
    if any("\udc80" <= character <= "\udcff" for character in "".join(names)):
        raise InputError(f"{file}: the header is not valid UTF-8; save the file as UTF-8")
    if len(set(names)) < len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        message = f'{file}: the header names the column "{twice}" more than once; give every column a name of its own'
        raise InputError(message)
    return names


def _lines(text: io.TextIOWrapper, file: Path) -> Iterator[str]:
    """Yield the lines, none of them longer than a header may be."""
    while line := text.readline(_HEADER_CHARACTERS):
        if len(line) == _HEADER_CHARACTERS:
            message = f"{file}: the header is longer than {_HEADER_CHARACTERS:,} characters; is this a CSV file?"
            raise InputError(message)
        yield line


def _blocks(file: Path, header: list[str], names: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield all rows below the header, as strings, in blocks of any size; `names` are the columns, in their order."""
    delivered = 1  # the header is a row to the parser
    first_bytes = max(_BLOCK_BYTES[0], _BLOCK_BYTES_PER_COLUMN * len(header))
    for block_bytes in (first_bytes, *_BLOCK_BYTES[1:]):
        ragged: list[pa_csv.InvalidRow] = []
        seen = 0
        is_whole = False
        try:
            # To the very end, past the end marker, so that pyarrow's own thread has nothing left to read.
            for block in _parsed(file, header, names, block_bytes, ragged):
                new = block.slice(max(delivered - seen, 0))
                seen += block.num_rows
                delivered = max(delivered, seen)
                if not new.num_rows:
                    continue
                is_whole = new.column(0)[-1].as_py() == _END_CELL
                yield new.slice(0, new.num_rows - 1) if is_whole else new
        except pa.ArrowInvalid as error:
            # Anything else is a row that does not fit in a block.
            if (row_error := _row_error(file, header, ragged, str(error))) is not None:
                raise row_error from error
        else:
            if is_whole:
                return
            break
    raise InputError(
        f"{file}: row {delivered} or one after it opens a quote that is never closed, or is larger than "
        f"{_BLOCK_BYTES[-1] >> 20} MB; close the quote, and double every quote within a cell"
    )


def _parsed(
    file: Path, header: list[str], names: list[str], block_bytes: int, ragged: list[pa_csv.InvalidRow]
) -> Iterator[pa.RecordBatch]:
    def note(row: pa_csv.InvalidRow) -> str:
        ragged.append(row)
        return "error"

    end = "\n" + ",".join([_END_CELL] * len(header)) + "\n"
    with (
        reading(file, "CSV", but=pa.ArrowInvalid),
        open_bytes_with_end(file, end.encode()) as stream,
        _reader(stream, header, names, block_bytes, note) as reader,
    ):
        yield from reader


def _reader(
    stream: BinaryIO, header: list[str], names: list[str], block_bytes: int, note: object
) -> pa_csv.CSVStreamingReader:
    return pa_csv.open_csv(
        stream,
        # Threads would read ahead, and hold what they have read.
        read_options=pa_csv.ReadOptions(use_threads=False, block_size=block_bytes, column_names=header),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note),
        convert_options=pa_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            include_columns=names,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        ),
    )


def _row_error(file: Path, header: list[str], ragged: list[pa_csv.InvalidRow], text: str) -> InputError | None:
    """Return the error for the row that the parser refused, None if it refused none; the header is its row 1."""
    if ragged:
        row = ragged[0]
        shown = repr(row.text[:_SHOWN_CHARACTERS]) + ("..." if len(row.text) > _SHOWN_CHARACTERS else "")
        return InputError(
            f"{file}: row {row.number - 1} has {_cells(row.actual_columns)}, but the header has {_cells(len(header))}: "
            f"{shown}; put cells that hold a comma, a quote or a line break in double quotes"
        )
    found = _INVALID_UTF8.search(text)
    if found is not None:
        number, column = int(found[2]) - 1, header[int(found[1])]
        return InputError(f'{file}: row {number}, column "{column}" is not valid UTF-8; save the file as UTF-8')
    return None


def _cells(count: int) -> str:
    return f"{count} cell" if count == 1 else f"{count} cells"
