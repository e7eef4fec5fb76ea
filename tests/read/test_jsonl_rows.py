"""JSONL: values as they are, one schema over the whole file, and every bad line found when the file is opened."""

import gzip
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.errors import InputError
from batchchat.read.source import open_source


def _written(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines))
    return path


def _error(path: Path, *lines: str | bytes) -> str:
    with pytest.raises(InputError) as caught:
        open_source(_written(path, *lines))
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "dtype", "cells"),
    [
        (["1", "2.5", "null"], pl.Float64(), [1.0, 2.5, None]),
        (["true", "null"], pl.Boolean(), [True, None]),
        (["null"], pl.Null(), [None]),
        (['"x"', "1", "[1]"], pl.String(), ["x", "1", "[1]"]),
        (["true", "1"], pl.String(), ["true", "1"]),
        (["[1]", '["x", null]'], pl.List(pl.String()), [["1"], ["x", None]]),
        (["[1]", "[2.5]", "[]"], pl.List(pl.Float64()), [[1.0], [2.5], []]),
        (["[1]", "1"], pl.String(), ["[1]", "1"]),
        (["[]"], pl.List(pl.Null()), [[]]),
        (["{}"], pl.String(), ["{}"]),
        (
            ['{"a": 1}', '{"b": {"c": [1]}}', "{}"],
            pl.Struct({"a": pl.Int64(), "b": pl.Struct({"c": pl.List(pl.Int64())})}),
            [{"a": 1, "b": None}, {"a": None, "b": {"c": [1]}}, {"a": None, "b": None}],
        ),
        (['{"a": 1}', '"x"'], pl.String(), ['{"a":1}', "x"]),
        (["9223372036854775808", "1"], pl.String(), ["9223372036854775808", "1"]),
        (["123456789012345678901234567890"], pl.String(), ["123456789012345678901234567890"]),
    ],
)
def test_column_gets_one_dtype_for_all_lines(
    tmp_path: Path, values: list[str], dtype: pl.DataType, cells: list[Any]
) -> None:
    """Values that go together are unified; the others become text in the frame and stay themselves in the row."""
    source = open_source(_written(tmp_path / "t.jsonl", *(f'{{"v": {value}}}' for value in values)))
    (batch,) = source.batches()
    assert source.schema["v"] == dtype
    assert batch.frame["v"].to_list() == cells
    natural = [json.loads(value) for value in values]
    assert [row.values["v"] for row in batch.rows] == natural
    assert batch.json_rows == [{"v": value} for value in natural]


def test_missing_keys_are_null(tmp_path: Path) -> None:
    """Columns come in the order of first sight, blank lines are no rows, `{}` is one, the last of two keys counts."""
    path = _written(tmp_path / "t.jsonl", b'\xef\xbb\xbf{"b": 1}', "", '{"a": 1.5, "b": 2, "b": 3}', "  \r", "{}")
    source = open_source(path)
    assert source.columns == ("b", "a")
    (batch,) = source.batches()
    assert [dict(row.values) for row in batch.rows] == [{"b": 1, "a": None}, {"b": 3, "a": 1.5}, {"b": None, "a": None}]
    assert batch.json_rows == [{"b": 1}, {"a": 1.5, "b": 3}, {}]
    assert type(batch.rows[0].values["b"]) is int


def test_lines_without_keys_are_rows(tmp_path: Path) -> None:
    """A file of empty objects has rows and no columns."""
    source = open_source(_written(tmp_path / "t.jsonl", "{}", "{}"))
    assert (source.columns, source.total_rows) == ((), 2)
    assert [row.number for batch in source.batches() for row in batch.rows] == [1, 2]


def test_files_are_unified_together(tmp_path: Path) -> None:
    """A key that one file lacks is null in its rows: lines have no columns of their own."""
    _written(tmp_path / "1.jsonl", '{"a": 1}')
    (tmp_path / "2.jsonl.gz").write_bytes(gzip.compress(b'{"a": "x", "b": true}'))
    source = open_source(tmp_path)
    assert source.schema == pl.Schema({"a": pl.String(), "b": pl.Boolean()})
    assert [batch.frame.rows() for batch in source.batches()] == [[("1", None)], [("x", True)]]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"a": NaN}', "not valid JSON (unexpected character"),
        ('{"a": 1', "not valid JSON ("),
        ('{"a": 1}}', "not valid JSON (unexpected content after document, at character 9)"),
        (b'{"a": "\xff"}', "not valid JSON (str is not valid UTF-8"),
        ("[1]", "a list and not a JSON object"),
        ("1", "a number and not a JSON object"),
        ("null", "null and not a JSON object"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, line: str | bytes, reason: str) -> None:
    """The error has file, line and reason, and comes before any row."""
    path = tmp_path / "t.jsonl"
    message = _error(path, '{"a": 1}', "", line)
    assert message.startswith(f"{path}:3: {reason}")
    assert message.endswith("; each line must be one JSON object")


def test_empty_file_is_refused(tmp_path: Path) -> None:
    """Without a line there are no columns to make requests from."""
    assert "is empty; it needs one JSON object in each line" in _error(tmp_path / "t.jsonl", "")


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3)
)


@pytest.mark.slow
@given(st.lists(st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3), min_size=1, max_size=8))
def test_any_json_can_be_read(rows: list[dict[str, Any]]) -> None:
    """Whatever the lines hold there is a frame for it, and the objects come back as they were."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "t.jsonl")
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        source = open_source(path)
        (batch,) = source.batches()
        assert batch.json_rows == rows
        assert [dict(row.values) for row in batch.rows] == [
            {name: row.get(name) for name in source.columns} for row in rows
        ]
        assert batch.frame.schema == source.schema
        batch.frame.write_parquet(Path(folder, "t.parquet"))
