"""An output file against what the writer would write: the first differences.

What passes in is the path of an output, batches in input order, each with a frame of its new columns; what comes out is
what the file has otherwise, row by row and column by column. Nothing is held but a batch. It does not know requests,
answers or the job. Parquet is compared by the values of its columns; CSV and JSONL by their bytes, and where these
differ, by what stands in the cells.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

import polars as pl

from batchchat.errors import OutputError
from batchchat.records import Batch
from batchchat.write.columns import OutputPlan, empty_output
from batchchat.write.written import Cells, Unreadable, written

MOST_DIFFERENCES = 10
"""Differences of a batch that are told."""

MOST_COLUMNS = 3
"""Columns of a row that are told one by one."""

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


class Comparison:
    """An output file that is being compared, as a context manager.

    `schema` is that of the input. `is_over` says that nothing after the last difference can be compared.

    Raises:
        OutputError: the file is not there, or the system cannot read it.
    """

    def __init__(self, path: Path, plan: OutputPlan, schema: pl.Schema) -> None:
        self._path = path
        self._plan = plan
        self._empty = empty_output(plan, schema)
        self._row_count = 0
        self._stack = contextlib.ExitStack()
        self.is_over = False

    def __enter__(self) -> Self:
        if not self._path.is_file():
            message = f"{self._path}: there is no output to verify; `batchchat run` writes it"
            raise OutputError(message)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def begin(self) -> list[Difference]:
        """Open the file; return what is wrong with its columns."""
        try:
            with self._system_errors():
                self._file = self._stack.enter_context(written(self._path, self._plan, self._empty))
                problems = self._file.schema_problems()
        except Unreadable as error:
            problems = [f"the file cannot be read: {error}"]
        self.is_over = bool(problems)
        return [Difference(problem) for problem in problems]

    def skip(self, row_count: int) -> None:
        """Leave out so many rows of the file, which are not those to be compared."""
        with self._system_errors():
            self._row_count += self._file.skip(row_count)

    def compare(self, batch: Batch, answers: pl.DataFrame) -> list[Difference]:
        """Compare the file's next rows with a batch; return in what they differ, in order."""
        try:
            with self._system_errors():
                cells = self._file.differing(batch, answers)
        except Unreadable as error:
            self.is_over = True
            return [Difference(f"the file cannot be read behind row {self._row_count:,} of it: {error}")]
        self._row_count += batch.frame.height
        if cells is None:
            return []
        names = [row.name for row in batch.rows]
        return list(islice(self._differences(names, *cells), MOST_DIFFERENCES))

    def finish(self) -> list[Difference]:
        """Return what is wrong behind the last row."""
        try:
            with self._system_errors():
                more = self._file.skip(1)
        except Unreadable as error:
            return [Difference(f"the file cannot be read behind row {self._row_count:,} of it: {error}")]
        return [Difference(f"the file has more rows than the {self._row_count:,} that it should have")] if more else []

    def _differences(
        self, names: Sequence[str], expected: Sequence[Cells], found: Sequence[Cells]
    ) -> Iterator[Difference]:
        for at, name in enumerate(names):
            if at < len(found) and list(found[at].items()) == list(expected[at].items()):  # JSON has an order in a row
                continue
            if at >= len(found):
                self.is_over = True
                yield Difference(f"is missing: {self._file.end}", name)
                return
            if found[at] != expected[at] and (moved := _moved(at, expected, found, names)):
                self.is_over = True
                yield Difference(moved, name)
                return
            yield from _cell_differences(name, expected[at], found[at])

    @contextlib.contextmanager
    def _system_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            message = f"{self._path}: cannot be read: {error.strerror or error}"
            raise OutputError(message) from error


def _moved(at: int, expected: Sequence[Cells], found: Sequence[Cells], names: Sequence[str]) -> str | None:
    """Return what to say of a row in whose place there is another of the same batch; None where there is none."""
    with contextlib.suppress(ValueError):
        other = expected.index(found[at])
        if other < at:
            return f"another row stands in its place: row {names[other]} a second time, or out of order"
        is_shifted = found[at : at + 2] == expected[other : other + 2]
        return f"{'is missing' if is_shifted else 'is out of order'}: row {names[other]} stands in its place"
    with contextlib.suppress(ValueError):
        found.index(expected[at], at)
        return "a row that should not be there stands in its place"
    return None


def _cell_differences(row: str, expected: Cells, found: Cells) -> Iterator[Difference]:
    differing = [name for name in dict.fromkeys((*expected, *found)) if expected.get(name, 0) != found.get(name, 0)]
    if not differing:
        yield Difference(f"its keys are in another order than they should be: {', '.join(found)}", row)
    more = len(differing) - MOST_COLUMNS
    for number, name in enumerate(differing[:MOST_COLUMNS], start=1):
        columns_more = more if number == MOST_COLUMNS and more > 0 else 0
        texts = (_text(expected, name), _text(found, name))
        yield Difference("differs", row, name, *_cut(*texts), columns_more)


def _text(cells: Cells, name: str) -> str:
    if name not in cells:
        return "nothing"
    value = cells[name]
    return "null" if value is None else value


def _cut(expected: str, found: str) -> tuple[str, str]:
    """Return two texts as short ones that show where they differ."""
    same = next(
        (at for at, (one, other) in enumerate(zip(expected, found, strict=False)) if one != other),
        min(len(expected), len(found)),
    )
    start = 0 if same < _SHOWN_CHARACTERS - 20 else same - 20
    return _part(expected, start), _part(found, start)


def _part(text: str, start: int) -> str:
    end = start + _SHOWN_CHARACTERS
    return f"{'…' if start else ''}{text[start:end]}{'…' if len(text) > end else ''}"
