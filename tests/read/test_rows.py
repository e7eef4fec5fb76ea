"""A batch's rows: made when they are asked for, little at a time, in whatever format they were read."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import polars as pl
import pytest

from batchchat.read.rows import STEP_BYTES, STEP_ROWS
from batchchat.read.source import Source, frame_source, open_source

SUFFIXES = [".csv", ".jsonl", ".parquet", ".arrow"]
TABLE = pl.DataFrame(
    {
        "id": [f"row {number}" if number % 3 else None for number in range(700)],
        "price": [number / 4 for number in range(700)],
        "text": [f"text {number}" * (number % 7) for number in range(700)],
    }
)


def table(folder: Path, suffix: str) -> Source:
    """Write the table in a format, without every seventh row, and open it."""
    path = folder / f"t{suffix}"
    if suffix == ".csv":
        TABLE.write_csv(path)
    elif suffix == ".jsonl":
        TABLE.write_ndjson(path)
    elif suffix == ".parquet":
        TABLE.write_parquet(path, row_group_size=500)
    else:
        TABLE.write_ipc(path)
    return open_source(path, where="price <> 3.5", id_column="id")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_single_rows_are_those_of_the_whole(tmp_path: Path, suffix: str) -> None:
    """By index, in part, twice, or all at once: each row has its own number, name and values."""
    numbers = []
    for batch in table(tmp_path, suffix).batches():
        rows = list(batch.rows)
        assert list(batch.rows) == rows
        assert [batch.rows[index] for index in range(-len(rows), len(rows))] == rows * 2
        assert list(batch.rows[100:300]) == rows[100:300]
        assert list(batch.rows[-3:]) == rows[-3:]
        assert list(batch.rows[5:2]) == []
        numbers += [row.number for row in rows]
        for row in rows:
            assert row.name == (f"row {row.number - 1}" if (row.number - 1) % 3 else str(row.number))
            assert row.values["price"] == (row.number - 1) / 4
    assert numbers == [number for number in range(1, 701) if number != 15]


def test_rows_beyond_the_end_are_not_there() -> None:
    """It is an error, as with any sequence, and so is a step over rows."""
    (batch,) = frame_source(TABLE).batches()
    with pytest.raises(IndexError):
        batch.rows[700]
    with pytest.raises(ValueError, match="a step of 2 is not possible"):
        batch.rows[::2]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("columns", [["text"], ["price", "id"], [], None])
def test_rows_alone_are_those_of_the_batches(tmp_path: Path, suffix: str, columns: list[str] | None) -> None:
    """A run reads rows without frames, an output whole frames with the rows' few values: both see the same."""
    source = table(tmp_path, suffix)
    wanted = [row for batch in source.batches(columns) for row in batch.rows]
    assert list(source.rows(columns)) == wanted
    batches = list(source.batches(values_of=columns))
    assert [row for batch in batches for row in batch.rows] == wanted
    assert pl.concat([batch.frame for batch in batches]).equals(TABLE.filter(pl.col("price") != 3.5))


def test_values_are_made_little_by_little() -> None:
    """Python's lock is held while it is done, and the event loop of a run would have to wait for it."""
    cells = ["x" * 20_000] * 390
    (batch,) = frame_source(pl.DataFrame({"text": cells})).batches()
    rows = iter(batch.rows)
    tracemalloc.start()
    try:
        next(rows)
        first_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 20_000 < first_bytes < 1.2 * STEP_BYTES
    assert len(list(rows)) == 389
    (many,) = frame_source(pl.DataFrame({"n": range(999)})).batches()
    assert STEP_ROWS < 999
    assert [row.values["n"] for row in many.rows] == list(range(999))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "unneeded"),
    [(".parquet", ["pyarrow.csv", "pyarrow.compute"]), (".csv", ["pyarrow.parquet"]), (".jsonl", ["pyarrow.parquet"])],
)
def test_only_the_readers_of_the_format_are_imported(tmp_path: Path, suffix: str, unneeded: list[str]) -> None:
    """They take long to import, and the first request waits for it."""
    table(tmp_path, suffix)
    code = (
        "import sys; from pathlib import Path; from batchchat.read.source import open_source;"
        "import batchchat.write.sink; next(open_source(Path(sys.argv[1])).rows()); print(*sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / f"t{suffix}")]
    imported = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert "polars" in imported
    assert not set(unneeded) & set(imported)
