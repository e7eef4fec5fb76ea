"""Source batches and their answers as the output file, complete or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import polars as pl
import pyarrow as pa

from batchchat.errors import OutputError, StorageError, is_of_the_system, remedy
from batchchat.records import Batch
from batchchat.write.atomic_file import Replacement, commit, discard, open_replacement
from batchchat.write.columns import OutputPlan, empty_output
from batchchat.write.format import Writer, format_of, joined

__all__ = ["Sink", "check_output", "joined"]

_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def check_output(path: Path, input_files: Collection[Path]) -> None:
    """Find out, before anything is sent, whether the output can be written; leaves nothing behind.

    Raises:
        OutputError: the suffix is no format, the folder is missing or cannot be written to, or `path` is a folder, a
            device, or one of the input files under whatever name.
        StorageError: the system cannot write it just now.

    """
    format_of(path)
    with output_errors(path):
        target = Path(os.path.realpath(path))
        check_folder(path, target.parent)
        if target.exists() and not target.is_file():
            what = "a folder" if target.is_dir() else "not a regular file"
            raise OutputError(f"{path}: is {what}; name a file in output.path")
        check_is_no_input(path, input_files)
        discard(open_replacement(path))


def check_folder(path: Path, folder: Path) -> None:
    """Raise OutputError unless the output's folder is there."""
    if not folder.exists():
        command = f"mkdir -p {shlex.quote(str(folder))}"
        raise OutputError(f"{path}: the folder {folder} does not exist; create it with `{command}`")
    if not folder.is_dir():
        raise OutputError(f"{path}: {folder} is not a folder; name another place in output.path")


def check_is_no_input(path: Path, input_files: Collection[Path]) -> None:
    """Raise OutputError if the output is an input file, through a link of either kind too."""
    for input_file in input_files:
        is_same_path = os.path.realpath(path) == os.path.realpath(input_file)
        if is_same_path or (path.exists() and input_file.exists() and path.samefile(input_file)):
            raise OutputError(
                f"{path}: is the input file {input_file}, which is never modified; name another file in output.path"
            )


class Sink:
    """The output file being written, as a context manager.

    Leaving the `with` block puts the whole file in its place; leaving it by an exception removes what was written and
    leaves the output as it was. `schema` is that of the input, so that no rows give the same columns as many. Same
    rows, same bytes. `put` does otherwise with the file, when it is whole.

    Raises:
        OutputError: the file cannot be written, or a column's dtype has no place in its format.
        StorageError: the system cannot write it just now.

    """

    def __init__(
        self, path: Path, plan: OutputPlan, schema: pl.Schema, put: Callable[[Replacement], None] = commit
    ) -> None:
        self._path = path
        self._put = put
        self._plan = plan
        self._schema = schema

    def __enter__(self) -> Self:
        writer = format_of(self._path)
        empty = empty_output(self._plan, self._schema)
        _check_dtypes(self._path, empty.schema)
        with output_errors(self._path):
            self._replacement = open_replacement(self._path)
            with _discarded_on_error(self._replacement):
                self._writer = writer(self._replacement.file, self._plan, empty)
        return self

    def write(self, batch: Batch, answers: pl.DataFrame) -> None:
        """Write the batch's rows, each with its row of `answers` (as from `answer_columns`, of the same height)."""
        if batch.frame.height != answers.height:
            raise ValueError(f"{batch.frame.height} rows with {answers.height} answers")
        with output_errors(self._path):
            self._writer.write(batch, answers)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._writer.abandon()
            discard(self._replacement)
            return
        with output_errors(self._path), _discarded_on_error(self._replacement, self._writer):
            self._writer.finish()
            self._put(self._replacement)


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn what the system and the file libraries raise into an error that names the path, and says what to do."""
    try:
        yield
    except (OSError, pa.ArrowException, pl.exceptions.PolarsError) as error:
        cause = _system_error(error)
        if cause is None:
            raise OutputError(f"{path}: cannot be written: {error}") from error
        message = f"{path}: cannot be written: {cause.strerror or error}{remedy(cause)}"
        raise (StorageError if is_of_the_system(cause) else OutputError)(message) from error


def _system_error(error: Exception) -> OSError | None:
    """Return the system's error, which polars passes on as a text with its number; None when it is no such error."""
    if isinstance(error, OSError):
        return error
    found = _OS_ERROR.search(str(error))
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else None


@contextlib.contextmanager
def _discarded_on_error(replacement: Replacement, writer: Writer | None = None) -> Iterator[None]:
    """Remove the temporary file if the block does not come to its end, Ctrl-C included."""
    try:
        yield
    except BaseException:
        if writer is not None:
            writer.abandon()
        discard(replacement)
        raise


def _check_dtypes(path: Path, schema: pl.Schema) -> None:
    """Raise OutputError for columns of Python objects: pyarrow would write their addresses in memory."""
    objects = [f"`{column}`" for column, dtype in schema.items() if dtype == pl.Object]
    if objects:
        raise OutputError(
            f"{path}: {', '.join(objects)}: values of dtype Object cannot be written to a file; leave the column out"
            " with output.keep"
        )
