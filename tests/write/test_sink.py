"""The output file: its values in three formats, and that it appears complete or not at all."""

from __future__ import annotations

import csv
import datetime as dt
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.errors import OutputError, StorageError
from batchchat.read.source import Source, open_source
from batchchat.records import Answer, Batch, Completion, Outcome, ToolCall
from batchchat.write.columns import COLUMNS, OutputPlan, answer_columns, plan_output
from batchchat.write.sink import Sink, check_output, joined
from tests.running import ROOT

YES = Answer(Completion("yes", finish_reason="stop"), b"", 0.5, 1)
CALLS = Answer(Completion(None, tool_calls=(ToolCall("c", "look", '{"x": "é"}'),)), b"", 0.5, 1)

TYPED = pl.DataFrame(
    {
        "int8": pl.Series([1, None, -3], dtype=pl.Int8),
        "uint64": pl.Series([2**64 - 1, None, 0], dtype=pl.UInt64),
        "float32": pl.Series([0.5, None, math.nan], dtype=pl.Float32),
        "float64": [1e300, None, -math.inf],
        "boolean": [True, None, False],
        "decimal": pl.Series([Decimal("1.10"), None, Decimal("-0.05")], dtype=pl.Decimal(20, 2)),
        "date": [dt.date(2020, 2, 29), None, dt.date(1, 1, 1)],
        "datetime": pl.Series(["2020-01-01T12:00:00", None, "2020-01-01T00:00:00.000005"]).str.to_datetime(),
        "datetime_ns": pl.Series([1, None, 2], dtype=pl.Int64).cast(pl.Datetime("ns")),
        "datetime_tz": pl.Series([0, None, 1]).cast(pl.Datetime("ms", "Europe/Berlin")),
        "duration": pl.Series([1_500, None, -1], dtype=pl.Int64).cast(pl.Duration("ms")),
        "time": [dt.time(1, 2, 3), None, dt.time(0, 0, 0, 4)],
        "binary": [b"\xff\x00", None, b""],
        "string": ["a\0b", None, ""],
        "categorical": pl.Series(["x", None, "y"], dtype=pl.Categorical),
        "enum": pl.Series(["b", None, "a"], dtype=pl.Enum(["b", "a", "c"])),
        "null": pl.Series([None, None, None], dtype=pl.Null),
        "list": pl.Series([[1, None], None, []], dtype=pl.List(pl.Int16)),
        "array": pl.Series([[1, 2], None, [3, None]], dtype=pl.Array(pl.Int16, 2)),
        "struct": [{"s": "x", "l": [dt.date(2020, 1, 1)]}, None, {"s": None, "l": []}],
        "categories": pl.Series([["x"], None, ["y", "x"]], dtype=pl.List(pl.Categorical)),
    }
)
HUGE = pl.DataFrame({"int128": pl.Series([2**100, None, -1], dtype=pl.Int128), "string": ["a", "b", "c"]})


def plan_of(frame: pl.DataFrame, *, keep: Sequence[str] | None = None) -> OutputPlan:
    """Return the plan that writes the frame's columns."""
    return plan_output(frame.columns, keep=keep, rename={}, prefix="")


def batches(frame: pl.DataFrame, size: int) -> Iterator[Batch]:
    """Yield the frame in batches of `size` rows."""
    for start in range(0, frame.height, size):
        yield Batch(frame.slice(start, size), [])


def write(path: Path, source: Sequence[Batch], schema: pl.Schema, plan: OutputPlan, outcome: Outcome = YES) -> Path:
    """Write the batches, each row with the same outcome."""
    with Sink(path, plan, schema) as sink:
        for batch in source:
            sink.write(batch, answer_columns([outcome] * batch.frame.height, plan))
    return path


def write_frame(path: Path, frame: pl.DataFrame, *, size: int = 2, outcome: Outcome = YES) -> Path:
    """Write a frame in batches of `size` rows."""
    return write(path, list(batches(frame, size)), frame.schema, plan_of(frame), outcome)


def write_text(path: Path, text: pl.DataFrame, *, size: int = 1) -> Path:
    """Write the cells of a CSV input whose every column was read as string."""
    source = [Batch(part, [], csv_text=part) for part in text.iter_slices(size)]
    return write(path, source, text.schema, plan_of(text))


def write_objects(path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> Path:
    """Write the objects of a JSONL input, one a batch, keeping the columns."""
    frame = pl.DataFrame({column: [None] for column in columns})
    source = [Batch(frame, [], json_rows=[row]) for row in rows]
    return write(path, source, frame.schema, plan_of(frame))


def csv_rows(path: Path) -> list[list[str]]:
    """Return the cells of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def objects(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSONL file, decimals exact."""
    return [json.loads(line, parse_float=Decimal) for line in path.read_bytes().splitlines()]


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("left_out", [[], ["string"]])
def test_parquet_keeps_every_dtype(tmp_path: Path, size: int, left_out: list[str]) -> None:
    """Input columns come out with the values and dtypes they had, also from batches with dictionaries of their own."""
    kept = TYPED.drop(left_out)
    plan = plan_of(TYPED, keep=kept.columns)
    back = pl.read_parquet(write(tmp_path / "o.parquet", list(batches(TYPED, size)), TYPED.schema, plan))
    assert back.schema == pl.Schema({**kept.schema, **COLUMNS})
    assert back.select(kept.columns).equals(kept)
    assert back["completion"].to_list() == ["yes"] * 3


@pytest.mark.parametrize("size", [1, 3])
def test_parquet_keeps_128_bit_integers(tmp_path: Path, size: int) -> None:
    """A dtype that pyarrow does not know comes out unchanged too."""
    back = pl.read_parquet(write_frame(tmp_path / "o.parquet", HUGE, size=size))
    assert back.schema == pl.Schema({**HUGE.schema, **COLUMNS})
    assert back.select(HUGE.columns).equals(HUGE)


@pytest.mark.parametrize("frame", [TYPED, HUGE])
def test_parquet_of_no_rows_has_the_schema(tmp_path: Path, frame: pl.DataFrame) -> None:
    """Without a row, the columns and dtypes are the same as with rows."""
    back = pl.read_parquet(write_frame(tmp_path / "o.parquet", frame.clear()))
    assert back.schema == pl.Schema({**frame.schema, **COLUMNS})
    assert back.height == 0


def test_categories_differ_by_batch(tmp_path: Path) -> None:
    """Batches whose categories came from separate reads are one column."""
    parts = [pl.DataFrame({"c": pl.Series([text] * 2, dtype=pl.Categorical)}) for text in ("z", "a", "m")]
    path = write(tmp_path / "o.parquet", [Batch(part, []) for part in parts], parts[0].schema, plan_of(parts[0]))
    back = pl.read_parquet(path)
    assert back["c"].dtype == pl.Categorical
    assert back["c"].cast(pl.String).to_list() == ["z", "z", "a", "a", "m", "m"]


@pytest.mark.slow
def test_row_groups_are_cut_by_rows(tmp_path: Path) -> None:
    """Small batches make full row groups, a large batch is cut, and the bytes do not depend on the batches."""
    frame = pl.DataFrame({"n": range(150_000)})
    few = write_frame(tmp_path / "few.parquet", frame, size=150_000)
    many = write_frame(tmp_path / "many.parquet", frame, size=7_001)
    metadata = pq.read_metadata(many)
    groups = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
    assert groups == [65_536, 65_536, 18_928]
    assert few.read_bytes() == many.read_bytes()


def picture_source(path: Path, where: str | None) -> Source:
    """Return a Parquet file of 64 rows of 1 MB, some eight of which are read at a time."""
    columns = {"id": list(range(64)), "name": [f"the name of picture {number}" for number in range(64)]}
    pictures = [os.urandom(2**20) for _ in range(64)]
    pq.write_table(pa.table({**columns, "picture": pictures}), path, row_group_size=8, use_dictionary=False)
    return open_source(path, where=where)


@pytest.mark.slow
@pytest.mark.parametrize(("keep", "where"), [(["id", "name"], None), (None, "id % 8 = 7")])
def test_what_is_not_written_is_not_held(tmp_path: Path, keep: Sequence[str] | None, where: str | None) -> None:
    """Rows that wait for their row group hold on to no column, and to no row, that was read with them and left out."""
    source = picture_source(tmp_path / "in.parquet", where)
    plan = plan_output(source.columns, keep=keep, rename={}, prefix="")
    before, held = pa.total_allocated_bytes(), []
    with Sink(tmp_path / "o.parquet", plan, source.schema) as sink:
        for batch in source.batches():
            sink.write(batch, answer_columns([YES] * batch.frame.height, plan))
            held.append(pa.total_allocated_bytes() - before)
    assert max(held) < 30 * 2**20
    wanted = pl.read_parquet(tmp_path / "in.parquet").sql(f"SELECT * FROM self WHERE {where or 'true'}")
    assert pl.read_parquet(tmp_path / "o.parquet").select(plan.keep).equals(wanted.select(plan.keep))


@pytest.mark.slow
def test_many_small_batches_are_one_row_group(tmp_path: Path) -> None:
    """Batches of one row, which are brought together before there are enough of them, change nothing in the file."""
    frame = pl.concat([TYPED] * 200)
    few = write_frame(tmp_path / "few.parquet", frame, size=600)
    many = write_frame(tmp_path / "many.parquet", frame, size=1)
    assert pq.read_metadata(many).num_row_groups == 1
    assert few.read_bytes() == many.read_bytes()


@pytest.mark.slow
def test_large_rows_make_smaller_row_groups(tmp_path: Path) -> None:
    """Rows of many bytes do not pile up until there are enough of them."""
    frame = pl.DataFrame({"t": [str(number) * 2**20 for number in range(10)] * 8})
    metadata = pq.read_metadata(write_frame(tmp_path / "o.parquet", frame, size=8))
    assert [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)] == [8] * 10


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_same_rows_give_same_bytes(tmp_path: Path, suffix: str) -> None:
    """However often and in whatever batches rows are written, the bytes are the same."""
    paths = [write_frame(tmp_path / f"{size}{turn}.{suffix}", TYPED, size=size) for size in (1, 2, 3) for turn in "ab"]
    assert len({path.read_bytes() for path in paths}) == 1


def test_csv_writes_typed_values(tmp_path: Path) -> None:
    """CSV has ISO dates, seconds, base64, and JSON where a value is nested; null is an empty cell."""
    header, first, second, third = csv_rows(write_frame(tmp_path / "o.csv", TYPED, outcome=CALLS))
    assert header == [*TYPED.columns, *COLUMNS]
    row = dict(zip(header, first, strict=True))
    assert row | {"latency_s": "", "attempts": ""} == dict.fromkeys(COLUMNS, "") | {
        "int8": "1",
        "uint64": "18446744073709551615",
        "float32": "0.5",
        "float64": "1e+300",
        "boolean": "true",
        "decimal": "1.10",
        "date": "2020-02-29",
        "datetime": "2020-01-01T12:00:00",
        "datetime_ns": "1970-01-01T00:00:00.000000001",
        "datetime_tz": "1970-01-01T01:00:00+01:00",
        "duration": "1.5",
        "time": "01:02:03",
        "binary": "/wA=",
        "string": "a\0b",
        "categorical": "x",
        "enum": "b",
        "null": "",
        "list": "[1,null]",
        "array": "[1,2]",
        "struct": '{"s":"x","l":["2020-01-01"]}',
        "categories": '["x"]',
        "tool_calls": '[{"id":"c","name":"look","arguments":"{\\"x\\": \\"é\\"}"}]',
    }
    assert set(second[: TYPED.width]) == {""}
    negative = dict(zip(header, third, strict=True))
    assert (negative["duration"], negative["decimal"], negative["time"]) == ("-0.001", "-0.05", "00:00:00.000004")


def test_csv_tells_null_from_empty(tmp_path: Path) -> None:
    """Null is nothing between the commas, an empty string is a pair of quotes."""
    path = write_frame(tmp_path / "o.csv", pl.DataFrame({"a": [None, ""], "b": ["x", "y"]}))
    assert [line.split(b",")[0] for line in path.read_bytes().splitlines()] == [b"a", b"", b'""']


def test_csv_of_no_rows_has_the_header(tmp_path: Path) -> None:
    """Without a row, the CSV has its header, quoted where needed."""
    path = write_frame(tmp_path / "o.csv", pl.DataFrame(schema={'a,"b"': pl.List(pl.Int8)}))
    assert path.read_bytes() == f'"a,""b""",{",".join(COLUMNS)}\n'.encode()


def test_csv_cells_of_csv_stay(tmp_path: Path) -> None:
    """The cells of a CSV input are written as they stood, not as the dtypes would have them."""
    frame = pl.DataFrame({"zip": [123, 4], "price": [1.0, None]})
    text = pl.DataFrame({"zip": ["00123", " 4 "], "price": ["1.00", None]})
    path = write(tmp_path / "o.csv", [Batch(frame, [], csv_text=text)], frame.schema, plan_of(frame))
    assert [row[:2] for row in csv_rows(path)] == [["zip", "price"], ["00123", "1.00"], [" 4 ", ""]]


# Carriage returns, quotes and NUL on purpose; surrogates cannot be in a polars string.
cells = st.none() | st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('",\r\n\0 '), max_size=12)


@pytest.mark.slow
@given(st.lists(st.tuples(cells, cells), max_size=6))
def test_csv_cells_come_back(rows: list[tuple[str | None, str | None]]) -> None:
    """Any cells of a CSV input are read back by Python's csv module as they were."""
    text = pl.DataFrame(rows, schema={"a": pl.String, "b": pl.String}, orient="row")
    with tempfile.TemporaryDirectory() as folder:
        found = csv_rows(write_text(Path(folder) / "o.csv", text))
    assert [row[:2] for row in found[1:]] == [[a or "", b or ""] for a, b in rows]


def test_jsonl_writes_typed_values(tmp_path: Path) -> None:
    """JSONL has natural values: exact decimals, ISO dates, seconds, base64, null for floats that are not finite."""
    first, second, third = objects(write_frame(tmp_path / "o.jsonl", TYPED.hstack(HUGE.select("int128"))))
    assert list(first) == [*TYPED.columns, "int128", *COLUMNS]
    assert {column: first[column] for column in [*TYPED.columns, "int128"]} == {
        "int8": 1,
        "uint64": 2**64 - 1,
        "float32": Decimal("0.5"),
        "float64": Decimal("1e300"),
        "boolean": True,
        "decimal": Decimal("1.10"),
        "date": "2020-02-29",
        "datetime": "2020-01-01T12:00:00",
        "datetime_ns": "1970-01-01T00:00:00.000000001",
        "datetime_tz": "1970-01-01T01:00:00+01:00",
        "duration": Decimal("1.5"),
        "time": "01:02:03",
        "binary": "/wA=",
        "string": "a\0b",
        "categorical": "x",
        "enum": "b",
        "null": None,
        "list": [1, None],
        "array": [1, 2],
        "struct": {"s": "x", "l": ["2020-01-01"]},
        "categories": ["x"],
        "int128": 2**100,
    }
    assert set(map(str, list(second.values())[: TYPED.width])) == {"None"}
    assert (third["float32"], third["float64"], third["struct"]) == (None, None, {"s": None, "l": []})


def test_jsonl_decimals_keep_their_digits(tmp_path: Path) -> None:
    """A decimal is a number with all its digits, at any depth."""
    inner = pl.Series([[Decimal("1.10")]], dtype=pl.List(pl.Decimal(38, 2)))
    frame = pl.DataFrame({"d": inner, "e": pl.Series(["12345678901234567890.10"]).cast(pl.Decimal(38, 2))})
    line = write_frame(tmp_path / "o.jsonl", frame).read_bytes()
    assert line.startswith(b'{"d":[1.10],"e":12345678901234567890.10,"completion":"yes","parsed":null,')


def test_jsonl_rows_of_jsonl_stay(tmp_path: Path) -> None:
    """The objects of a JSONL input keep their keys, absent and null ones, less those not kept."""
    rows: list[dict[str, Any]] = [{"b": None, "x": 1, "a": {"k": [1.5, "é"]}}, {"a": 2**64}, {"x": 5}]
    lines = write_objects(tmp_path / "o.jsonl", rows, ["a", "b"]).read_bytes().splitlines()
    starts = [
        '{"b":null,"a":{"k":[1.5,"é"]},"completion":"yes",',
        '{"a":18446744073709551616,"completion"',
        '{"completion"',
    ]
    assert [line.startswith(start.encode()) for line, start in zip(lines, starts, strict=True)] == [True, True, True]
    assert list(objects(tmp_path / "o.jsonl")[2]) == list(COLUMNS)


json_leaves = st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.text(st.characters(codec=None), max_size=8)
json_objects = st.dictionaries(
    st.sampled_from(["a", "b"]), st.recursive(json_leaves, lambda inner: st.lists(inner, max_size=3))
)


@pytest.mark.slow
@given(st.lists(json_objects, max_size=5))
def test_jsonl_objects_come_back(rows: list[dict[str, Any]]) -> None:
    """Any objects of a JSONL input are read back as they were, huge integers and lone surrogates included."""
    with tempfile.TemporaryDirectory() as folder:
        found = objects(write_objects(Path(folder) / "o.jsonl", rows, ["a", "b"]))
    assert [{key: row[key] for key in row if key not in COLUMNS} for row in found] == rows


def test_ndjson_of_no_rows_is_empty(tmp_path: Path) -> None:
    """Without a row, JSONL is an empty file."""
    assert write_frame(tmp_path / "o.ndjson", TYPED.clear()).read_bytes() == b""


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_no_kept_column_writes_only_new_ones(tmp_path: Path, suffix: str) -> None:
    """With nothing kept, the output has the new columns alone, and every row."""
    plan = plan_of(TYPED, keep=[])
    path = write(tmp_path / f"o.{suffix}", list(batches(TYPED, 2)), TYPED.schema, plan)
    scans = {
        "parquet": lambda: pl.scan_parquet(path),
        "csv": lambda: pl.scan_csv(path),
        "jsonl": lambda: pl.scan_ndjson(path),
    }
    back = scans[suffix]().collect()
    assert back.columns == list(COLUMNS)
    assert back.height == 3


PARSED_SCHEMA = {
    "type": "object",
    "properties": {
        "label": {"enum": ["a", "b"]},
        "*": {"type": ["integer", "null"]},
        "^l.*$": {
            "type": "array",
            "items": {"type": "object", "properties": {"of": {"anyOf": [{}, {"type": "null"}]}}},
        },
    },
}
PARSED_TEXTS = [
    '{"label":"a","*":1,"^l.*$":[{"of":"x"},{"of":{"k":[1.5]}},{}]}',
    None,
    '{"label":"b, \\"c\\"","^l.*$":[]}',
]
PARSED_VALUES: list[dict[str, Any] | None] = [
    {"label": "a", "*": 1, "^l.*$": [{"of": '"x"'}, {"of": '{"k":[1.5]}'}, {"of": None}]},
    None,
    {"label": 'b, "c"', "*": None, "^l.*$": []},
]


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_parsed_comes_back(tmp_path: Path, suffix: str, size: int) -> None:
    """Parsed answers, structs whose fields have odd names, come back from every format, in any batches."""
    source = pl.DataFrame({"id": [1, 2, 3]})
    extra = ["completions", "logprobs", "raw"]
    plan = plan_output(["id"], keep=None, rename={}, prefix="", schema=PARSED_SCHEMA, extra=extra)
    answers = [Answer(Completion("é", parsed=text, logprobs="[]"), b"{}", 0.5, 1) for text in PARSED_TEXTS]
    path = tmp_path / f"o.{suffix}"
    with Sink(path, plan, source.schema) as sink:
        for batch, start in zip(batches(source, size), range(0, 3, size), strict=True):
            sink.write(batch, answer_columns(answers[start : start + size], plan))
    if suffix == "parquet":
        back = pl.read_parquet(path)
        assert back.schema == pl.Schema({"id": pl.Int64(), **plan.columns})
        rows = back.rows(named=True)
    elif suffix == "jsonl":
        rows = objects(path)
    else:
        header, *cells = csv_rows(path)
        rows = [dict(zip(header, row, strict=True)) for row in cells]
        for row in rows:
            row["parsed"] = json.loads(row["parsed"] or "null")
            row["completions"] = json.loads(row["completions"])
    assert [row["parsed"] for row in rows] == PARSED_VALUES
    assert [(row["completions"], row["logprobs"], row["raw"]) for row in rows] == [(["é"], "[]", "{}")] * 3


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("name", ["*", "^a.*$"])
def test_pattern_is_only_a_name(tmp_path: Path, suffix: str, name: str) -> None:
    """A column that is called like a pattern of polars is written like any other, whatever its dtype."""
    for number, column in enumerate(TYPED.get_columns()):
        frame = pl.DataFrame([column.alias(name), column.alias("plain")])
        path = write_frame(tmp_path / f"{number}.{suffix}", frame, size=3)
        if suffix == "parquet":
            back = pl.read_parquet(path)
            assert back[name].equals(back["plain"], null_equal=True)
        elif suffix == "csv":
            assert [row[0] for row in csv_rows(path)[1:]] == [row[1] for row in csv_rows(path)[1:]]
        else:
            assert [row[name] for row in objects(path)] == [row["plain"] for row in objects(path)]


def test_joined_is_kept_then_new() -> None:
    """The frame of a batch has the kept input columns, then the new ones."""
    plan = plan_of(TYPED, keep=["string", "int8"])
    frame = joined(Batch(TYPED, []), answer_columns([YES, None, CALLS], plan), plan)
    assert frame.columns == ["int8", "string", *COLUMNS]
    assert frame["completion"].to_list() == ["yes", None, None]


def test_objects_are_refused(tmp_path: Path) -> None:
    """Python objects in a column are an error before anything is written."""
    frame = pl.DataFrame({"o": pl.Series([object()], dtype=pl.Object)})
    with pytest.raises(OutputError, match="`o`: values of dtype Object cannot be written"):
        write_frame(tmp_path / "o.parquet", frame)
    assert list(tmp_path.iterdir()) == []


def test_dtype_without_place_is_an_error(tmp_path: Path) -> None:
    """A dtype that Parquet has no place for is an OutputError with the library's words, and leaves nothing."""
    frame = pl.DataFrame({"s": pl.Series([{}], dtype=pl.Struct([]))})
    with pytest.raises(OutputError, match=r"o\.parquet: cannot be written: Cannot write struct type 's'"):
        write_frame(tmp_path / "o.parquet", frame)
    assert list(tmp_path.iterdir()) == []


def test_unequal_heights_are_refused(tmp_path: Path) -> None:
    """A batch with fewer answers than rows is a mistake in the program, and nothing is written."""
    plan = plan_of(TYPED)
    with pytest.raises(ValueError, match="3 rows with 1 answers"), Sink(tmp_path / "o.csv", plan, TYPED.schema) as sink:
        sink.write(Batch(TYPED, []), answer_columns([YES], plan))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_exception_leaves_the_old_file(tmp_path: Path, suffix: str, kind: type[BaseException]) -> None:
    """An exception in the block leaves the old file byte for byte, and no temporary file."""
    path = tmp_path / f"o.{suffix}"
    path.write_bytes(b"old")
    plan = plan_of(TYPED)
    answers = answer_columns([YES] * 3, plan)

    def stop_halfway() -> None:
        with Sink(path, plan, TYPED.schema) as sink:
            sink.write(Batch(TYPED, []), answers)
            raise kind

    with pytest.raises(kind):
        stop_halfway()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_file_appears_at_the_end(tmp_path: Path, suffix: str) -> None:
    """Until the block ends there is only a hidden file; afterwards only the output."""
    path = tmp_path / f"o.{suffix}"
    with Sink(path, plan_of(TYPED), TYPED.schema):
        (temporary,) = tmp_path.iterdir()
        assert temporary.name.startswith(".batchchat-")
    assert list(tmp_path.iterdir()) == [path]


def test_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    """A symbolic link at the path is followed: the file it leads to is replaced, in its own folder."""
    (tmp_path / "far").mkdir()
    target = tmp_path / "far" / "real.csv"
    target.write_bytes(b"old")
    link = tmp_path / "o.csv"
    link.symlink_to(target)
    write_frame(link, TYPED)
    assert link.is_symlink()
    assert target.read_bytes().startswith(b"int8,")


@pytest.mark.parametrize(("old", "mask", "expected"), [(None, 0o027, 0o640), (0o604, 0o027, 0o604)])
def test_mode_is_the_old_or_the_users(tmp_path: Path, old: int | None, mask: int, expected: int) -> None:
    """A new file has the mode that the umask gives, a replaced one keeps its own."""
    path = tmp_path / "o.csv"
    if old is not None:
        path.touch()
        path.chmod(old)
    before = os.umask(mask)
    try:
        write_frame(path, TYPED)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o7777 == expected


FULL_DISK = """
import resource, sys
from pathlib import Path
import polars as pl
from batchchat.errors import StorageError
from batchchat.records import Batch
from batchchat.write.columns import answer_columns, plan_output
from batchchat.write.sink import Sink

path, rows, dtype = Path(sys.argv[1]), int(sys.argv[2]), getattr(pl, sys.argv[3])
frame = pl.DataFrame({"n": pl.Series([i * 7919 % 1000003 for i in range(rows)], dtype=dtype)})
plan = plan_output(["n"], keep=None, rename={}, prefix="")
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    with Sink(path, plan, frame.schema) as sink:
        for start in range(0, rows, 10_000):
            part = frame.slice(start, 10_000)
            sink.write(Batch(part, []), answer_columns([None] * part.height, plan))
except StorageError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("rows", [10_000, 200_000])
@pytest.mark.parametrize("dtype", ["Int64", "Int128"])
def test_full_disk_leaves_the_old_file(tmp_path: Path, suffix: str, rows: int, dtype: str) -> None:
    """When the file cannot grow, in a batch or at the end, one sentence says so and the old file stays."""
    path = tmp_path / f"o.{suffix}"
    path.write_bytes(b"old")
    command = [sys.executable, "-W", "error", "-c", FULL_DISK, str(path), str(rows), dtype]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert done.stdout.startswith(f"{path}: cannot be written: ")
    assert "File too large; raise the limit on file sizes (ulimit -f)" in done.stdout
    assert done.stderr == ""
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def refusal(path: Path, *input_files: Path) -> str:
    """Return what `check_output` says against the path."""
    with pytest.raises(OutputError) as caught:
        check_output(path, input_files)
    return str(caught.value)


@pytest.mark.parametrize("name", ["o.parquet", "o.csv", "o.jsonl", "o.ndjson", "o.PARQUET"])
def test_good_path_is_accepted(tmp_path: Path, name: str) -> None:
    """A path that can be written passes, and nothing is left in the folder."""
    check_output(tmp_path / name, [tmp_path / "in.csv"])
    assert list(tmp_path.iterdir()) == []


ENDS = "output.path ends in .parquet, .csv, .jsonl, .ndjson"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("o.parqet", f"the suffix `.parqet` is no output format (did you mean `.parquet`?); {ENDS}"),
        ("o.xlsx", f"the suffix `.xlsx` is no output format; {ENDS}"),
        ("o", f"there is no suffix to tell the format; {ENDS}"),
    ],
)
def test_unknown_suffix_is_refused(tmp_path: Path, name: str, said: str) -> None:
    """A suffix that is no format is an error with the nearest and the allowed ones."""
    assert refusal(tmp_path / name) == f"{tmp_path / name}: {said}"


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    """A missing folder is an error with the command that creates it."""
    folder = tmp_path / "no such"
    path = folder / "o.csv"
    assert refusal(path) == f"{path}: the folder {folder} does not exist; create it with `mkdir -p '{folder}'`"


def test_file_as_folder_is_refused(tmp_path: Path) -> None:
    """A folder that is a file is an error."""
    (tmp_path / "f").touch()
    path = tmp_path / "f" / "o.csv"
    assert refusal(path) == f"{path}: {tmp_path / 'f'} is not a folder; name another place in output.path"


def test_folder_and_device_are_refused(tmp_path: Path) -> None:
    """A path that is a folder, or leads to a device, is never replaced."""
    folder = tmp_path / "o.csv"
    folder.mkdir()
    device = tmp_path / "null.csv"
    device.symlink_to("/dev/null")
    assert refusal(folder) == f"{folder}: is a folder; name a file in output.path"
    assert refusal(device) == f"{device}: is not a regular file; name a file in output.path"


@pytest.mark.parametrize("link", ["same", "symbolic", "hard", "folder"])
def test_input_as_output_is_refused(tmp_path: Path, link: str) -> None:
    """The output may not be an input file under any of its names."""
    source = tmp_path / "in.csv"
    source.write_bytes(b"a\n")
    path = tmp_path / "o.csv"
    if link == "symbolic":
        path.symlink_to(source)
    elif link == "hard":
        path.hardlink_to(source)
    elif link == "folder":
        (tmp_path / "there").symlink_to(tmp_path)
        path = tmp_path / "there" / "in.csv"
    else:
        path = source
    said = f"{path}: is the input file {source}, which is never modified; name another file in output.path"
    assert refusal(path, tmp_path / "other.csv", source) == said
    assert source.read_bytes() == b"a\n"


def test_folder_without_room_is_refused() -> None:
    """A folder that takes no files is found out by creating one, whoever asks."""
    assert refusal(Path("/proc/o.csv")) == "/proc/o.csv: cannot be written: No such file or directory"


def test_endless_link_is_refused(tmp_path: Path) -> None:
    """A link that leads to itself is an error, not a file to replace."""
    path = tmp_path / "o.csv"
    path.symlink_to(path)
    assert refusal(path) == f"{path}: cannot be written: Too many levels of symbolic links"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """The temporary file of a process that was killed goes when somebody writes into the folder, and nothing else."""
    path = tmp_path / "o.csv"
    other = tmp_path / ".batchchat-notes.txt"
    other.touch()
    script = KILLED_WRITER.format(path=str(path))
    killed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".batchchat-*.tmp"))) == 1
    write_frame(path, TYPED)
    assert sorted(tmp_path.iterdir()) == [other, path]


KILLED_WRITER = """
import os, signal
from pathlib import Path
from batchchat.write.atomic_file import open_replacement

open_replacement(Path({path!r}))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_file_that_a_live_process_writes_is_left_alone(tmp_path: Path) -> None:
    """Two jobs that write into one folder at the same time do not remove each other's files."""
    with Sink(tmp_path / "a.csv", plan_of(TYPED), TYPED.schema):
        with Sink(tmp_path / "b.csv", plan_of(TYPED), TYPED.schema):
            assert len(list(tmp_path.glob(".batchchat-*.tmp"))) == 2
        check_output(tmp_path / "c.csv", [])
    assert sorted(tmp_path.iterdir()) == [tmp_path / "a.csv", tmp_path / "b.csv"]


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_only_looks_left_behind_stays(tmp_path: Path, kind: str) -> None:
    """Only a plain file is removed, and a pipe does not keep anybody waiting."""
    (tmp_path / "kept").touch()
    odd = tmp_path / ".batchchat-odd.tmp"
    if kind == "link":
        odd.symlink_to(tmp_path / "kept")
    elif kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.mkdir()
    write_frame(tmp_path / "o.csv", TYPED)
    assert sorted(tmp_path.iterdir()) == [odd, tmp_path / "kept", tmp_path / "o.csv"]


def test_no_open_files_left_is_no_mistake_of_the_users(tmp_path: Path) -> None:
    """A system without room ends the run with exit 3, from which the same command goes on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 1, hard))
    try:
        with pytest.raises(StorageError, match=r"Too many open files; raise the limit on open files") as caught:
            check_output(tmp_path / "o.csv", [])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(held[0])
    assert (caught.value.exit_code, caught.value.is_resumable) == (3, True)


# Writes a file, and says when it gets its name whether its temporary file's lock could be taken by another.
RENAMING = """
import fcntl, os, sys
from pathlib import Path
from batchchat.write.atomic_file import commit, open_replacement

def look(event, arguments):
    if event == "os.rename":
        try:
            fcntl.flock(os.open(arguments[0], os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
            print("free")
        except BlockingIOError:
            print("locked")

sys.addaudithook(look)
replacement = open_replacement(Path(sys.argv[1]))
replacement.file.write(b"text")
commit(replacement)
"""


@pytest.mark.slow
def test_temporary_file_is_locked_until_it_has_its_name(tmp_path: Path) -> None:
    """Another process that writes into the folder must not take it for one that was left behind."""
    command = [sys.executable, "-c", RENAMING, str(tmp_path / "out.csv")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout == "locked\n"
    assert (tmp_path / "out.csv").read_bytes() == b"text"
