"""The output as a frame in memory, and its first rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchchat.read.source import Source, frame_source, open_source
from batchchat.records import Answer, Completion
from batchchat.write.columns import COLUMNS, OutputPlan, answer_columns, plan_output
from batchchat.write.frame_output import Collector, FirstRows

YES = Answer(Completion("yes"), b"", 0.5, 1)


def table(path: Path) -> pl.DataFrame:
    """Write a Parquet file of 32 rows of 1 MB, some eight of which are read at a time, and return what is in it."""
    names = [f"the name of picture {number}" for number in range(32)]
    frame = pl.DataFrame({"id": range(32), "name": names, "tags": [[name, None] for name in names]})
    pictures = pa.array([os.urandom(2**20) for _ in names])
    written = frame.to_arrow(compat_level=pl.CompatLevel.oldest()).append_column("picture", pictures)
    pq.write_table(written, path, row_group_size=8, use_dictionary=False)
    return frame


def plan_of(source: Source, keep: Sequence[str] | None) -> OutputPlan:
    """Return a plan that keeps these columns."""
    return plan_output(source.columns, keep=keep, rename={}, prefix="")


def collected(source: Source, keep: Sequence[str] | None) -> pl.DataFrame:
    """Return all rows of the source, each with the same answer."""
    plan = plan_of(source, keep)
    collector = Collector(plan, source.schema)
    for batch in source.batches():
        collector.write(batch, answer_columns([YES] * batch.frame.height, plan))
    return collector.frame()


@pytest.mark.slow
def test_left_out_columns_are_not_held(tmp_path: Path) -> None:
    """The frame has the kept columns and the new ones, and takes no memory for a picture that is in neither."""
    frame = table(tmp_path / "in.parquet")
    before = pa.total_allocated_bytes()
    found = collected(open_source(tmp_path / "in.parquet"), frame.columns)
    assert pa.total_allocated_bytes() - before < 2**20
    assert found.schema == pl.Schema({**frame.schema, **COLUMNS})
    assert found.select(frame.columns).equals(frame)
    assert found["completion"].to_list() == ["yes"] * 32


@pytest.mark.slow
@pytest.mark.parametrize(("where", "count"), [("id = 5", 1), ("id >= 8 AND id % 8 < 2", 6)])
def test_left_out_rows_are_not_held(tmp_path: Path, where: str, count: int) -> None:
    """Of the pictures that `where` leaves out, none stays in memory with those that it does not."""
    frame = table(tmp_path / "in.parquet")
    before = pa.total_allocated_bytes()
    found = collected(open_source(tmp_path / "in.parquet", where=where), None)
    assert pa.total_allocated_bytes() - before < 2**20
    assert found.select(frame.columns).equals(frame.sql(f"SELECT * FROM self WHERE {where}"))
    assert found["picture"].bin.size().to_list() == [2**20] * count


def test_whole_rows_are_not_copied(tmp_path: Path) -> None:
    """What is in memory and goes to the output as it is, is there once."""
    table(tmp_path / "in.parquet")
    before = pa.total_allocated_bytes()
    found = collected(open_source(tmp_path / "in.parquet"), None)
    assert 32 * 2**20 <= pa.total_allocated_bytes() - before < 34 * 2**20
    assert found.height == 32


def test_python_objects_stay() -> None:
    """A column of objects, which only a caller's frame has, comes back beside one that was left out."""
    things = [object(), object()]
    frame = pl.DataFrame({"id": [1, 2], "thing": pl.Series(things, dtype=pl.Object)})
    found = collected(frame_source(frame), ["thing"])
    assert found["thing"].to_list() == things


def test_first_rows_are_the_first_shown_columns(tmp_path: Path) -> None:
    """Only as many rows as are asked for are kept, of the columns to look at, and nothing of their batches."""
    frame = table(tmp_path / "in.parquet")
    source = open_source(tmp_path / "in.parquet")
    first = FirstRows(plan_of(source, None), ["id", "tags", "none"], 10)
    before = pa.total_allocated_bytes()
    for batch in source.batches():
        first.write(batch, answer_columns([YES] * batch.frame.height, plan_of(source, None)))
    del batch
    assert pa.total_allocated_bytes() - before < 2**20
    assert [{"id": row["id"], "tags": row["tags"]} for row in first.rows] == frame.head(10).select(
        "id", "tags"
    ).to_dicts()
    assert [list(row) for row in first.rows] == [["id", "tags", *COLUMNS]] * 10
