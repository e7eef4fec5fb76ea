"""One output file for each input file, at the same place within a folder."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import polars as pl

from batchchat.errors import OutputError
from batchchat.records import Batch
from batchchat.write.atomic_file import Replacement, commit, discard
from batchchat.write.columns import OutputPlan
from batchchat.write.sink import Sink, check_folder, check_is_no_input, output_errors

_SUFFIXES = {"csv": (".csv",), "jsonl": (".jsonl", ".ndjson"), "parquet": (".parquet",), "arrow": (".parquet",)}
"""The suffixes that a file of each input format may have as output; the first is given to those that have another."""

_REPLACED = (".gz", ".zst", ".pq", ".arrow", ".feather", ".ipc")


def output_files(folder: Path, files: Sequence[Path], root: Path, input_format: str) -> tuple[Path, ...]:
    """Return the output file in `folder` for each input file, which is below `root`.

    Raises:
        OutputError: two input files would have the same one.
    """
    owners: dict[Path, Path] = {}
    for file in files:
        output = folder / _renamed(file.relative_to(root), input_format)
        if output in owners:
            message = f"{output}: is the output of both {owners[output]} and {file}; rename one, or move it elsewhere"
            raise OutputError(message)
        owners[output] = file
    return tuple(owners)


def _renamed(path: Path, input_format: str) -> Path:
    """Return a path with a suffix that its format has as output, without one for compression."""
    suffixes = _SUFFIXES[input_format]
    while path.suffix.lower() in _REPLACED:
        path = path.with_suffix("")
    return path if path.suffix.lower() in suffixes else path.with_name(path.name + suffixes[0])


def check_output_folder(folder: Path, outputs: Sequence[Path], input_files: Collection[Path]) -> None:
    """Find out, before anything is sent, whether the files can be written; leaves nothing behind.

    Raises:
        OutputError: the folder is none, or cannot be made or written into; or a file is an input, or no file.
        StorageError: the system cannot write there just now.
    """
    with output_errors(folder):
        nearest = folder if folder.exists() else folder.parent
        check_folder(folder, nearest)
        if not os.access(nearest, os.W_OK | os.X_OK):
            message = f"{nearest}: may not be written into; change its permissions, or name another in output.path"
            raise OutputError(message)
        inputs = {os.path.realpath(file): file for file in input_files}
        identities = {(stat.st_dev, stat.st_ino): file for file in input_files for stat in [file.stat()]}
        for output in outputs:
            if not output.exists():
                continue
            if not output.is_file():
                message = f"{output}: is not a regular file, but an output would be written there; move it away"
                raise OutputError(message)
            stat = output.stat()
            found = inputs.get(os.path.realpath(output)) or identities.get((stat.st_dev, stat.st_ino))
            if found is not None:
                check_is_no_input(output, [found])


def left_behind(folder: Path, outputs: Collection[Path]) -> int:
    """Return how many files that look like outputs are in a folder beside those: of inputs that are gone."""
    suffixes = {suffix for of_format in _SUFFIXES.values() for suffix in of_format}
    known = set(outputs)
    return sum(1 for file in _files(folder) if file.suffix.lower() in suffixes and file not in known)


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in names if not name.startswith("."))


class FolderSink:
    """The output files being written one after the other, as a context manager.

    A file is in its place once the rows of the next one come; an exception leaves it, and all after it, as they were.

    Raises:
        OutputError: as `Sink`.
        StorageError: as `Sink`.
    """

    def __init__(self, outputs: Sequence[Path], plan: OutputPlan, schema: pl.Schema) -> None:
        self._outputs = outputs
        self._plan = plan
        self._schema = schema
        self._at = -1
        self._sink: Sink | None = None

    def __enter__(self) -> Self:
        return self

    def write(self, batch: Batch, answers: pl.DataFrame) -> None:
        """Write rows of one input file into its output."""
        self._go_to(batch.file)
        assert self._sink is not None
        self._sink.write(batch, answers)

    def _go_to(self, number: int) -> None:
        """End the files before this one, those without rows too, and begin it."""
        while self._at < number:
            self._end(None, None, None)
            self._at += 1
            if self._at == len(self._outputs):
                return
            output = self._outputs[self._at]
            with output_errors(output):
                output.parent.mkdir(parents=True, exist_ok=True)
            self._sink = Sink(output, self._plan, self._schema, _put_if_changed).__enter__()

    def _end(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.__exit__(kind, error, traceback)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._go_to(len(self._outputs))
        else:
            self._end(kind, error, traceback)


def _put_if_changed(new: Replacement) -> None:
    """Put a file in its place, unless what is there is the same to the byte."""
    new.file.flush()
    if new.target.is_file() and filecmp.cmp(new.temporary, new.target, shallow=False):
        discard(new)
    else:
        commit(new)
