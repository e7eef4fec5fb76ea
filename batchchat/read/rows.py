"""A chunk of the table -> its rows as natural Python values, made when they are asked for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, overload

import polars as pl

from batchchat.read.table import TableChunk, columns_of, part_of, split
from batchchat.records import Row

STEP_ROWS = 256
STEP_BYTES = 1 << 20
"""Values that are made at a time: meanwhile no other thread can run, and the event loop of a run is one."""


@dataclass(frozen=True, slots=True)
class Rows(Sequence[Row]):
    """The rows of a chunk, with the values of `columns`; made anew each time that they are asked for."""

    chunk: TableChunk
    numbers: Sequence[int]
    columns: Sequence[str]
    id_column: str | None

    def __len__(self) -> int:
        return self.chunk.height

    def __iter__(self) -> Iterator[Row]:
        values = _values(self.chunk, self.columns)
        return map(Row, self.numbers, values, self._names())

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> "Rows": ...
    def __getitem__(self, index: int | slice) -> "Row | Rows":
        if isinstance(index, int):
            at = range(len(self))[index]
            return next(iter(self[at : at + 1]))
        start, stop, step = index.indices(len(self))
        if step != 1:
            raise ValueError(f"rows follow one another; a step of {step} is not possible")
        part = part_of(self.chunk, start, max(stop - start, 0))
        return Rows(part, self.numbers[index], self.columns, self.id_column)

    def _names(self) -> Iterator[str]:
        if self.id_column is None:
            return map(str, self.numbers)
        ids = (values[self.id_column] for values in _values(self.chunk, [self.id_column]))
        return (str(number if value is None else value) for value, number in zip(ids, self.numbers, strict=True))


def _values(chunk: TableChunk, names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the values of the named columns of each row."""
    if not names:
        return iter([{}] * chunk.height)
    if chunk.json_rows is not None:
        return ({name: row.get(name) for name in names} for row in chunk.json_rows)
    return _frame_values(columns_of(chunk.frame, names), chunk.csv_text)


def _frame_values(frame: pl.DataFrame, csv_text: pl.DataFrame | None) -> Iterator[Mapping[str, Any]]:
    names = frame.columns
    start = 0
    for part in split(frame, STEP_ROWS, STEP_BYTES):
        lists = [_list(column, csv_text, start) for column in part]
        yield from map(dict, map(zip, repeat(names), zip(*lists, strict=True)))
        start += part.height


def _list(column: pl.Series, csv_text: pl.DataFrame | None, start: int) -> list[Any]:
    """Return a column's values, of CSV with numbers that print as their cells do.

    3.10 must not become 3.1 in a prompt, nor 3 become 3.0 because some other row has a fraction: the same cell would
    make another request when a row is added.
    """
    if csv_text is None or column.dtype != pl.Float64:
        return column.to_list()
    cells = csv_text.get_column(column.name).slice(start, len(column))
    return [None if cell is None else number(cell) for cell in cells.to_list()]


class CellFloat(float):
    """A float whose text is that of the cell it was read from: `3.10` stays `3.10`."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> "CellFloat":
        """Read the number; `text` is a plain decimal number."""
        value = super().__new__(cls, text)
        value.text = text
        return value

    def __str__(self) -> str:
        return self.text


def number(text: str) -> int | CellFloat:
    """Return the number that a cell of a numeric column holds: an int if it is written as one."""
    return int(text) if text.lstrip("-").isdecimal() else CellFloat(text)
