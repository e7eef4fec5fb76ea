"""JSONL files -> a Table: every line parsed and every dtype found in one pass, then read again in small parts.

One JSON object a line; blank lines are skipped, a key that a line does not have is null. Several files are one table,
so that their dtypes are found together.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import polars as pl

from batchchat.errors import InputError
from batchchat.read.jsonl_dtype import NO_OBJECT, Shape, conformed, dtype, is_natural, widened_object
from batchchat.read.streams import MAX_ROW_BYTES, open_bytes, reading
from batchchat.read.table import CHUNK_BYTES, CHUNK_ROWS, Table, TableChunk

_KINDS = {list: "a list", str: "a string", int: "a number", float: "a number", bool: "a boolean", type(None): "null"}
_EXPECTED = "each line must be one JSON object"
_LONG_NUMBER = re.compile(rb"[0-9]{19}")
_UTF8_BOM = b"\xef\xbb\xbf"


def jsonl_table(files: Sequence[Path]) -> Table:
    """Parse all lines of the files and find the schema and the number of rows.

    Raises InputError for a line that is not one JSON object, and for an input without any.
    """
    shape = NO_OBJECT
    total_rows = 0
    for file in files:
        for _, row in _objects(file):
            shape = widened_object(shape, row)
            total_rows += 1
    if not total_rows:
        message = f"{', '.join(str(file) for file in files[:3])} is empty; it needs one JSON object in each line"
        raise InputError(message)
    schema = pl.Schema({name: dtype(field) for name, field in shape.fields.items()})
    return Table(schema, total_rows, partial(_chunks, files, shape.fields, schema), brings_values=True)


def _chunks(
    files: Sequence[Path], shapes: Mapping[str, Shape], schema: pl.Schema, columns: Sequence[str]
) -> Iterator[TableChunk]:
    for number, file in enumerate(files):
        for rows in _parts(file):
            yield TableChunk(_frame(rows, shapes, schema, columns), len(rows), json_rows=rows, file=number)


def _parts(file: Path) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    held_bytes = 0
    for line_bytes, row in _objects(file):
        if rows and (len(rows) == CHUNK_ROWS or held_bytes + line_bytes > CHUNK_BYTES):
            yield rows
            rows, held_bytes = [], 0
        rows.append(row)
        held_bytes += line_bytes
    if rows:
        yield rows


def _frame(
    rows: Sequence[Mapping[str, Any]], shapes: Mapping[str, Shape], schema: pl.Schema, columns: Sequence[str]
) -> pl.DataFrame:
    return pl.DataFrame({name: _series(name, rows, shapes[name], schema[name]) for name in columns})


def _series(name: str, rows: Sequence[Mapping[str, Any]], shape: Shape, column_dtype: pl.DataType) -> pl.Series:
    values = [row.get(name) for row in rows]
    if not is_natural(shape):
        values = [conformed(value, shape) for value in values]
    return pl.Series(name, values, dtype=column_dtype)


def _objects(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the size in bytes and the object of every line that is not blank."""
    with reading(file, "JSONL"), open_bytes(file) as stream:
        for number, line in enumerate(_lines(stream, file), start=1):
            text = line.removeprefix(_UTF8_BOM) if number == 1 else line
            if not text.isspace() and text:
                yield len(text), _object(text, file, number)


def _lines(stream: BinaryIO, file: Path) -> Iterator[bytes]:
    number = 0
    while line := stream.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(line) > MAX_ROW_BYTES:
            message = f"{file}:{number}: the line is longer than {MAX_ROW_BYTES >> 20} MB; {_EXPECTED}, and no larger"
            raise InputError(message)
        yield line


def _object(text: bytes, file: Path, number: int) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
        if _LONG_NUMBER.search(text):
            value = json.loads(text)  # orjson makes floats of integers beyond 64 bits
    except orjson.JSONDecodeError as error:
        reason = f"{error.msg}, at character {error.pos + 1}"
        raise InputError(f"{file}:{number}: not valid JSON ({reason}); {_EXPECTED}") from error
    if not isinstance(value, dict):
        raise InputError(f"{file}:{number}: {_KINDS[type(value)]} and not a JSON object; {_EXPECTED}")
    return value
