"""CSV: cells as they stand in the file, dtypes without loss, and every malformed row found when the file is opened."""

import csv
import gzip
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.errors import InputError
from batchchat.prompt.json_text import as_text
from batchchat.read.source import open_source


def _text(path: Path) -> list[tuple[str | None, ...]]:
    return [row for batch in open_source(path).batches() if batch.csv_text is not None for row in batch.csv_text.rows()]


def _written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _error(path: Path, content: str | bytes) -> str:
    with pytest.raises(InputError) as caught:
        open_source(_written(path, content))
    return str(caught.value)


@pytest.mark.parametrize(
    ("cells", "dtype", "values"),
    [
        (["1", "-5", "0"], pl.Int64, [1, -5, 0]),
        (["9223372036854775807", "-9223372036854775808"], pl.Int64, [2**63 - 1, -(2**63)]),
        (["9223372036854775808"], pl.String, ["9223372036854775808"]),
        (["007", "1"], pl.String, ["007", "1"]),
        (["+1"], pl.String, ["+1"]),
        (["-0"], pl.String, ["-0"]),
        (["-0", "1.5"], pl.String, ["-0", "1.5"]),
        ([" 1"], pl.String, [" 1"]),
        (["1.50", "2", ""], pl.Float64, [1.5, 2.0, None]),
        (["1e5", "-1.25E-3"], pl.Float64, [1e5, -1.25e-3]),
        (["0.1", "123456789012345"], pl.Float64, [0.1, 123456789012345.0]),
        (["0.1", "1234567890123456"], pl.String, ["0.1", "1234567890123456"]),
        (["1.234567890123456"], pl.String, ["1.234567890123456"]),
        (["0.000123456789012345"], pl.Float64, [0.000123456789012345]),
        (["01.5"], pl.String, ["01.5"]),
        ([".5"], pl.String, [".5"]),
        (["1e999"], pl.String, ["1e999"]),
        (["NaN"], pl.String, ["NaN"]),
        (["true", "false", ""], pl.Boolean, [True, False, None]),
        (["True"], pl.String, ["True"]),
        (["true", "1"], pl.String, ["true", "1"]),
        (["", ""], pl.String, [None, None]),
        (['""', ""], pl.String, ["", None]),
        (["1", '""'], pl.String, ["1", ""]),
        (["2024-01-01"], pl.String, ["2024-01-01"]),
        (["null", "NA"], pl.String, ["null", "NA"]),
    ],
)
def test_column_gets_the_dtype_that_loses_nothing(
    tmp_path: Path, cells: list[str], dtype: type[pl.DataType], values: list[object]
) -> None:
    """Numbers and booleans only where the text could be had back; everything else is String."""
    path = _written(tmp_path / "t.csv", "c,d\n" + "".join(f"{cell},x\n" for cell in cells))
    source = open_source(path)
    assert source.schema["c"] == dtype
    assert [row.values["c"] for batch in source.batches() for row in batch.rows] == values


def test_dtype_is_found_over_all_blocks_and_files(tmp_path: Path) -> None:
    """One cell at the end of the last file decides for the column."""
    _written(tmp_path / "1.csv", "n,zip\n" + "1,10115\n" * 200_000)
    _written(tmp_path / "2.csv", "n,zip\n1.5,01067\n")
    source = open_source(tmp_path)
    assert source.schema == pl.Schema({"n": pl.Float64(), "zip": pl.String()})
    assert source.total_rows == 200_001


def test_cells_keep_their_text(tmp_path: Path) -> None:
    """BOM, CRLF, line breaks in quotes, doubled quotes, and null beside the empty string."""
    path = _written(tmp_path / "t.csv", b'\xef\xbb\xbf"a",b\r\n1,"x\r\n""y"""\r\n\r\n007,""\r\n,\xf0\x9f\x99\x82')
    assert open_source(path).columns == ("a", "b")
    assert _text(path) == [("1", 'x\r\n"y"'), ("007", ""), (None, "🙂")]


@pytest.mark.parametrize("content", ["a,b", "a,b\n", "a,b\r\n", "\n\na,b\n\n"])
def test_header_alone_is_no_rows(tmp_path: Path, content: str) -> None:
    """A table without rows is a table."""
    source = open_source(_written(tmp_path / "t.csv", content))
    assert (source.columns, source.total_rows, list(source.batches())) == (("a", "b"), 0, [])


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b"\r\n"])
def test_no_header_is_refused(tmp_path: Path, content: bytes) -> None:
    """A file without any row cannot name its columns."""
    assert "has no header: it is empty" in _error(tmp_path / "t.csv", content)


def test_odd_column_names_work(tmp_path: Path) -> None:
    """Names are any text, the empty one included."""
    names = ["order id", "a.b", 'say "hi"', "🙂", "", "new\nline", "^x$"]
    path = tmp_path / "t.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, [str(index) for index in range(7)]])
    (batch,) = open_source(path, where='"order id" = 0').batches()
    assert dict(batch.rows[0].values) == dict(zip(names, range(7), strict=True))


def test_malformed_rows_are_found_at_once(tmp_path: Path) -> None:
    """Opening the file names the row, what it has and what it should have."""
    path = tmp_path / "t.csv"
    assert f"{path}: row 2 has 1 cell, but the header has 2 cells: '3'" in _error(path, "a,b\n1,2\n\n3\n5,6\n")
    assert "row 30001 has 3 cells, but the header has 2 cells: '3,4,5'" in _error(
        path, "a,b\n" + "1,2\n" * 30_000 + "3,4,5\n"
    )
    assert 'row 400001, column "b" is not valid UTF-8' in _error(path, b"a,b\n" + b"1,2\n" * 400_000 + b"1,\xff\n")
    assert "the header is not valid UTF-8" in _error(path, b"a,\xff\n1,2\n")
    assert 'the header names the column "a" more than once' in _error(path, "a,b,a\n1,2,3\n")


@pytest.mark.parametrize("tail", ['3,"x', '3,"x\n', '3,"x\n5,6\n', '"3,4\n5,6\n7,8\n', '3,"x""\n'])
def test_open_quote_is_refused(tmp_path: Path, tail: str) -> None:
    """A quote that is never closed would swallow the rows after it."""
    with pytest.raises(InputError, match=r"never closed|header has 2 cells"):
        open_source(_written(tmp_path / "t.csv", "a,b\n1,2\n" + tail))


def test_compressed_files_are_read(tmp_path: Path) -> None:
    """Gzip and zstd by suffix, or by the first bytes."""
    content = b"a,b\n1,2\n"
    for name, data in (
        ("t.csv.gz", gzip.compress(content)),
        ("two.csv.gz", gzip.compress(b"a,b\n") + gzip.compress(b"1,2\n")),
        ("t.csv.zst", pa.compress(content, "zstd", asbytes=True)),
        ("unnamed.csv", gzip.compress(content)),
    ):
        assert _text(_written(tmp_path / name, data)) == [("1", "2")]


@pytest.mark.slow
def test_huge_cell_after_many_rows(tmp_path: Path) -> None:
    """A cell larger than a block makes the blocks larger, without losing or repeating the rows before it."""
    rows = [(str(number), "x" * 100) for number in range(30_000)]
    rows[20_000] = ("20000", "y" * 20_000_000)
    path = _written(tmp_path / "t.csv", "n,text\n" + "".join(f"{n},{text}\n" for n, text in rows))
    assert _text(path) == rows


@pytest.mark.slow
def test_ten_thousand_columns_take_seconds(tmp_path: Path) -> None:
    """A wide table is checked, typed and read."""
    names = [f"c{index}" for index in range(10_000)]
    row = ",".join(str(index) for index in range(10_000))
    path = _written(tmp_path / "t.csv", "\n".join([",".join(names), *([row] * 300)]) + "\n")
    start = time.process_time()
    source = open_source(path)
    assert sum(len(batch.rows) for batch in source.batches()) == 300
    assert source.schema["c9999"] == pl.Int64
    assert time.process_time() - start < 20


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12) | st.from_regex(
    r"\A-?[0-9]{1,20}(\.[0-9]{1,18})?(e-?[0-9]{1,3})?\Z"
)


@pytest.mark.slow
@given(st.lists(st.tuples(CELLS, CELLS), max_size=12), st.sampled_from(["\n", "\r\n"]))
def test_csv_cells_come_back_exactly(rows: list[tuple[str, str]], end: str) -> None:
    """What Python's csv module wrote is what csv_text holds, and typed cells lose nothing."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "t.csv")
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator=end).writerows([("a", "b"), *rows])
        assert _text(path) == rows
        with path.open("w", newline="", encoding="utf-8") as file:
            # With another line end, the writer does not quote a lone carriage return.
            csv.writer(file, lineterminator="\r\n").writerows([("a", "b"), *rows])
        source = open_source(path)
        assert _text(path) == [tuple(cell or None for cell in row) for row in rows]
        for batch in source.batches():
            for row, cells in zip(batch.rows, rows, strict=True):
                for value, cell in zip(row.values.values(), cells, strict=True):
                    assert value == (type(value)(cell) if isinstance(value, int | float | str) else None) or (
                        cell in ("true", "false")
                    )


def test_number_cells_print_as_they_stand(tmp_path: Path) -> None:
    """3.10 is a number in a template, and 3.10 in its text; 3 stays 3 beside a fraction."""
    (tmp_path / "t.csv").write_text("n,v\na,3.10\na,3\na,3.1\na,\na,-2e3\n")
    values = [row.values["v"] for batch in open_source(tmp_path / "t.csv").batches() for row in batch.rows]
    assert [None if value is None else str(value) for value in values] == ["3.10", "3", "3.1", None, "-2e3"]
    assert [value for value in values if value is not None] == [3.1, 3, 3.1, -2000.0]


@pytest.mark.slow
@given(st.lists(st.from_regex(r"-?(0|[1-9][0-9]{0,5})(\.[0-9]{1,4})?|n/a|true|", fullmatch=True), min_size=2))
def test_row_below_changes_no_text_above(tmp_path_factory: pytest.TempPathFactory, cells: list[str]) -> None:
    """What a cell looks like in a prompt depends on the cell alone, or a new row would ask the others again."""
    path = tmp_path_factory.mktemp("t") / "t.csv"
    prompts = []
    for shown in (cells[:-1], cells):
        path.write_text("n,v\n" + "".join(f"x,{cell}\n" for cell in shown))
        rows = [row.values["v"] for batch in open_source(path).batches() for row in batch.rows]
        prompts.append([as_text(value) for value in rows][: len(cells) - 1])
    assert [str(text) for text in prompts[0]] == [str(text) for text in prompts[1]]
