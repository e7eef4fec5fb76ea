"""Rows of one input after those that earlier inputs wrote to the same file; or where they are, once they are there.

Which rows are whose is known by the digest of the file's content: a file that another program changed is told from one
that has what this job wrote, and a kill at any moment leaves one that is known.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Protocol

import polars as pl

from batchchat.crash_points import crash_point
from batchchat.errors import OutputError
from batchchat.records import Segment
from batchchat.write.atomic_file import Replacement, commit, discard, open_replacement
from batchchat.write.columns import OutputPlan, empty_output
from batchchat.write.existing_file import ANYWHERE, check_columns, join, row_count
from batchchat.write.sink import output_errors

REMEDY = "Move it away to begin a new one, or name another file in output.path"


class Memory(Protocol):
    """What is known of the segments of a file, by the digest of its content."""

    def known(self, output: Path) -> Mapping[bytes, Sequence[Segment]]:
        """Return the segments of every content that a file may have, in their order."""

    def record(self, output: Path, content: bytes, segments: Sequence[Segment]) -> None:
        """Make the segments of a content durable, beside those of others."""

    def settle(self, output: Path, content: bytes) -> None:
        """Forget all contents of a file but this one."""


@dataclass(frozen=True, slots=True)
class _Existing:
    """A file as it stands: its segments, and whether it is as this job left it; `version` tells of a change to it."""

    path: Path
    version: tuple[int, ...]
    is_known: bool
    segments: Sequence[Segment]


def check_append(
    path: Path,
    input_digest: bytes,
    memory: Memory,
    plan: OutputPlan,
    schema: pl.Schema,
    is_all_null: Callable[[str], bool],
) -> None:
    """Find out, before anything is sent, whether the rows of an input can go into the file that is there.

    `is_all_null` says of a column of the input whether it has no value: then its dtype does not count.

    Raises:
        OutputError: its columns are others, or it was changed since it got this input's rows, which may be anywhere.
    """
    with output_errors(path):
        existing = _existing(path, memory)
        if existing is None:
            return
        _place(existing, input_digest)
        check_columns(path, plan, empty_output(plan, schema), is_all_null)


def appending(path: Path, input_digest: bytes, memory: Memory) -> Callable[[Replacement], None]:
    """Return what puts a finished file of an input's rows into the file at `path`.

    Raises (when it is called):
        OutputError: as `check_append`; or the file was written to meanwhile.
    """

    def put(new: Replacement) -> None:
        new.file.flush()
        existing = _existing(path, memory)
        count = row_count(new.temporary, path.suffix)
        if existing is None:
            _commit(new, [Segment(input_digest, 0, count)], memory, None)
            return
        place = _place(existing, input_digest)
        joined = open_replacement(path)
        try:
            start, end = (None, None) if place is None else (place.first_row, place.first_row + place.row_count)
            join(joined.file, path.suffix, existing.path, new.temporary, start, end)
            segments = _segments(existing, Segment(input_digest, ANYWHERE, count), place)
            joined.file.flush()
            _commit(joined, segments, memory, existing)
        except BaseException:
            discard(joined)
            raise
        discard(new)

    return put


def _existing(path: Path, memory: Memory) -> _Existing | None:
    """Return the file that is there with what is known of its rows; None where there is none, or nothing in it."""
    target = Path(os.path.realpath(path))
    if not target.exists() or not target.stat().st_size:
        return None
    version = _version(target)
    known = memory.known(target)
    if (segments := known.get(content_digest(target))) is not None:
        return _Existing(target, version, is_known=True, segments=segments)
    inputs = dict.fromkeys(segment.input for segments in known.values() for segment in segments)
    return _Existing(target, version, is_known=False, segments=[Segment(one, ANYWHERE, 0) for one in inputs])


def _version(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def content_digest(path: Path) -> bytes:
    """Return what tells the content of a file from any other."""
    with path.open("rb") as file:
        return file_digest(file, sha256).digest()


def _place(existing: _Existing, input_digest: bytes) -> Segment | None:
    """Return the segment that has this input's rows, None where there is none."""
    place = next((one for one in existing.segments if one.input == input_digest), None)
    if place is not None and place.first_row == ANYWHERE:
        raise OutputError(
            f"{existing.path} was changed by another program since it got the rows of this very input, so that they"
            f" can neither be replaced nor, without doubling them, be appended. {REMEDY}"
        )
    return place


def _segments(existing: _Existing, new: Segment, place: Segment | None) -> list[Segment]:
    """Return whose rows stand where once the new ones are in the file."""
    if place is None:
        return [*existing.segments, replace(new, first_row=_row_count(existing))]
    added = new.row_count - place.row_count
    return [
        replace(new, first_row=place.first_row)
        if one is place
        else replace(one, first_row=one.first_row + (added if one.first_row > place.first_row else 0))
        for one in existing.segments
    ]


def _row_count(existing: _Existing) -> int:
    if existing.is_known:
        return max((one.first_row + one.row_count for one in existing.segments), default=0)
    return row_count(existing.path, existing.path.suffix)


def _commit(new: Replacement, segments: Sequence[Segment], memory: Memory, existing: _Existing | None) -> None:
    """Put the file in its place. Before and after, whichever stands there is known: a kill never doubles a row."""
    target, content = new.target, content_digest(new.temporary)
    memory.record(target, content, segments)
    crash_point("after-record")
    is_unchanged = _version(target) == existing.version if existing else not (target.exists() and target.stat().st_size)
    if not is_unchanged:
        raise OutputError(f"{target} was written to by another program while rows were being appended to it; run again")
    commit(new)
    crash_point("before-settle")
    memory.settle(target, content)
