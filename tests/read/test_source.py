"""Reading a path or a frame: rows, numbers, names, conditions, limits, several files, and memory."""

import datetime
import decimal
import gzip
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from batchchat.errors import InputError
from batchchat.read.source import Source, frame_source, open_source

LANGS = pl.DataFrame({"id": ["a", None, "c", "d"], "n": [1, 2, None, 4], "lang": ["en", "de", "en", "en"]})


def _rows(source: Source, columns: list[str] | None = None) -> list[tuple[int, str, dict[str, object]]]:
    return [(row.number, row.name, dict(row.values)) for batch in source.batches(columns) for row in batch.rows]


def _frame(source: Source) -> pl.DataFrame:
    return pl.concat([batch.frame for batch in source.batches()])


def _write(frame: pl.DataFrame, path: Path) -> Path:
    if path.suffix == ".csv":
        frame.write_csv(path)
    elif path.suffix in (".jsonl", ".ndjson"):
        frame.write_ndjson(path)
    elif path.suffix in (".parquet", ".pq"):
        frame.write_parquet(path)
    else:
        frame.write_ipc(path)
    return path


def _error(path: Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        open_source(path, **options)  # type: ignore[arg-type]
    return str(caught.value)


SUFFIXES = [".csv", ".jsonl", ".ndjson", ".parquet", ".pq", ".arrow", ".feather", ".ipc"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    """All formats deliver the same values, schema, names and count."""
    source = open_source(_write(LANGS, tmp_path / f"t{suffix}"), id_column="id")
    assert source.files == (tmp_path / f"t{suffix}",)
    assert source.columns == ("id", "n", "lang")
    assert source.schema == LANGS.schema
    assert source.total_rows == 4
    assert _rows(source) == [
        (1, "a", {"id": "a", "n": 1, "lang": "en"}),
        (2, "2", {"id": None, "n": 2, "lang": "de"}),
        (3, "c", {"id": "c", "n": None, "lang": "en"}),
        (4, "d", {"id": "d", "n": 4, "lang": "en"}),
    ]
    assert _rows(source) == _rows(source)
    assert_frame_equal(_frame(source), LANGS)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".arrow"])
def test_where_and_limit_keep_row_numbers(tmp_path: Path, suffix: str) -> None:
    """Rows are numbered before `where`, and `limit` counts after it."""
    path = _write(LANGS, tmp_path / f"t{suffix}")
    source = open_source(path, where="lang = 'en'", limit=2, id_column="id")
    assert source.total_rows == 2
    assert _rows(source, ["n"]) == [(1, "a", {"n": 1}), (3, "c", {"n": None})]
    assert _rows(source, []) == [(1, "a", {}), (3, "c", {})]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".arrow"])
def test_chosen_columns_are_all_a_batch_holds(tmp_path: Path, suffix: str) -> None:
    """Frame, values and the text of the file are narrowed alike, in file order."""
    (batch,) = open_source(_write(LANGS, tmp_path / f"t{suffix}")).batches(["lang", "id"])
    assert batch.frame.columns == ["id", "lang"]
    assert dict(batch.rows[0].values) == {"id": "a", "lang": "en"}
    assert (batch.csv_text is not None) == (suffix == ".csv")
    assert (batch.json_rows is not None) == (suffix == ".jsonl")
    if batch.csv_text is not None:
        assert batch.csv_text.columns == ["id", "lang"]
    if batch.json_rows is not None:
        assert batch.json_rows[0] == {"id": "a", "lang": "en"}


def test_unknown_column_names_the_nearest(tmp_path: Path) -> None:
    """A misspelt id, condition or choice is refused with the column that was meant."""
    path = _write(LANGS, tmp_path / "t.csv")
    assert _error(path, id_column="idd") == (
        'input.id names the column "idd", which is not there; did you mean "id"? The columns are: id, n, lang'
    )
    assert 'did you mean "lang"?' in _error(path, where="langu = 'en'")
    assert "text goes in single quotes" in _error(path, where='lang = "en"')
    with pytest.raises(InputError, match='names the column "x"'):
        next(open_source(path).batches(["x"]))


def test_frame_gives_its_rows() -> None:
    """A frame, lazy or not, is a source without files."""
    for frame in (LANGS, LANGS.lazy()):
        source = frame_source(frame, where="n > 1", limit=5, id_column="id")
        assert (source.files, source.total_rows) == ((), 2)
        assert [(number, name) for number, name, _ in _rows(source)] == [(2, "2"), (4, "d")]
    with pytest.raises(InputError, match="the frame cannot be collected"):
        frame_source(LANGS.lazy().select("nope"))


def test_batches_hold_at_most_1000_rows() -> None:
    """Rows are cut evenly into batches of at most 1,000, and nothing is lost between them."""
    source = frame_source(pl.DataFrame({"n": range(2_500)}))
    batches = list(source.batches())
    assert [len(batch.rows) for batch in batches] == [834, 834, 832]
    assert [row.number for batch in batches for row in batch.rows] == list(range(1, 2_501))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_huge_cells_make_small_batches(tmp_path: Path, suffix: str) -> None:
    """A cell of 5 MB is read whole, and never together with more than a few of its kind."""
    texts = [
        character * size for character, size in zip("abcdef", (10, 5_000_000, 9, 5_000_000, 5_000_000, 8), strict=True)
    ]
    source = open_source(_write(pl.DataFrame({"n": range(6), "text": texts}), tmp_path / f"t{suffix}"))
    assert [values["text"] for _, _, values in _rows(source)] == texts
    assert all(batch.frame.estimated_size() < 12_000_000 for batch in source.batches())


@pytest.mark.slow
def test_repeated_huge_value_makes_small_batches(tmp_path: Path) -> None:
    """A Parquet dictionary that holds a large value once does not make a batch that holds it a thousand times."""
    path = _write(pl.DataFrame({"text": ["x" * 200_000] * 500}), tmp_path / "t.parquet")
    sizes = [batch.frame.estimated_size() for batch in open_source(path).batches()]
    assert max(sizes) <= 9_000_000
    assert sum(sizes) >= 100_000_000


@pytest.mark.parametrize(
    ("where", "numbers"),
    [
        ("true", [1, 2, 3, 4]),
        ("n IS NULL", [3]),
        ("n IN (1, 4) AND NOT lang = 'de'", [1, 4]),
        ("n BETWEEN 2 AND 3 OR id LIKE 'c%'", [2, 3]),
        ("CASE WHEN n > 2 THEN true ELSE false END", [4]),
        ("length(lang) = 2 AND upper(lang) <> 'DE' AND coalesce(n, 0) % 2 = 0", [3, 4]),
        ("strpos(lang, 'n') > 0 AND CAST(n AS TEXT) ~ '^[0-9]$' AND abs(-n) >= 1", [1, 4]),
        ("greatest(n, 3) = 3", [1, 2, 3]),
    ],
)
def test_condition_selects_its_rows(where: str, numbers: list[int]) -> None:
    """Ordinary SQL conditions are taken, and null is not true."""
    assert [number for number, _, _ in _rows(frame_source(LANGS, where=where))] == numbers


@pytest.mark.parametrize(
    "where",
    [
        "n > avg(n)",
        "n = max(n)",
        "count(*) > 1",
        "n = first_value(n)",
        "median(n) > 1",
        "quantile_cont(n, 0.5) > 1",
        "corr(n, n) > 0",
        "string_agg(lang, ',') = 'en'",
        "row_number() OVER (ORDER BY n) < 3",
        "lag(n) OVER (ORDER BY n) > 1",
        "sum(n) OVER (PARTITION BY lang) > 3",
        "lang = 'en' OR stddev(n) > 1",
        "exists(SELECT 1)",
    ],
)
def test_condition_on_several_rows_is_refused(where: str) -> None:
    """What would be computed for each batch alone is an error, not a silently wrong selection."""
    with pytest.raises(InputError, match="only conditions on the columns of one row are allowed"):
        frame_source(LANGS, where=where)


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("n >", "input.where (n >) is not a condition in SQL: unable to parse"),
        ("n > 1; drop", "is not a condition in SQL"),
        ("n + 1", "input.where (n + 1) gives Int64 and not true or false"),
        ("null", "gives Null and not true or false"),
        ("n = 'x'", "cannot be computed: cannot compare string with numeric type (i64) (n is Int64)"),
        ("CAST(lang AS INT) > 1", "fails on a value: conversion from `str` to `i32` failed"),
    ],
)
def test_unusable_condition_is_refused(where: str, text: str) -> None:
    """The error quotes the condition and says why it cannot be used."""
    with pytest.raises(InputError) as caught:
        frame_source(LANGS, where=where)
    assert text in str(caught.value)


def test_glob_and_folder_are_read_in_order(tmp_path: Path) -> None:
    """Files come sorted by path, hidden and underscored ones and other kinds left out, row numbers running on."""
    for name in ("b.csv", "a.csv", "sub/c.csv", ".hidden.csv", "_old.csv", "_tmp/d.csv", ".git/e.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"name\n{name}\n")
    (tmp_path / "README.md").write_text("no table")
    assert [(n, v["name"]) for n, _, v in _rows(open_source(tmp_path))] == [
        (1, "a.csv"),
        (2, "b.csv"),
        (3, "sub/c.csv"),
    ]
    assert [v["name"] for _, _, v in _rows(open_source(tmp_path / "[a-z].csv"))] == ["a.csv", "b.csv"]


def test_literal_name_wins_over_pattern(tmp_path: Path) -> None:
    """A file whose name looks like a pattern is that file."""
    (tmp_path / "a[1].csv").write_text("x\nliteral\n")
    (tmp_path / "a1.csv").write_text("x\npattern\n")
    assert _rows(open_source(tmp_path / "a[1].csv")) == [(1, "1", {"x": "literal"})]


def test_format_overrides_the_suffix(tmp_path: Path) -> None:
    """`format` reads a file of any name, and picks its files from a folder of several formats."""
    (tmp_path / "t.txt").write_text("x\n1\n")
    assert _rows(open_source(tmp_path / "t.txt", format="csv")) == [(1, "1", {"x": 1})]
    (tmp_path / "t.csv").write_text("x\n2\n")
    (tmp_path / "t.jsonl").write_text('{"x": 3}\n')
    assert _rows(open_source(tmp_path, format="jsonl")) == [(1, "1", {"x": 3})]
    assert _rows(open_source(tmp_path / "t*", format="csv")) == [(1, "1", {"x": 2}), (2, "2", {"x": 1})]
    assert 'input.format is "tsv"; allowed are csv, jsonl, parquet, arrow' in _error(tmp_path, format="tsv")


def test_path_errors_say_what_to_do(tmp_path: Path) -> None:
    """Every path that cannot be read is one clear line."""
    (tmp_path / "tickets.csv").write_text("x\n1\n")
    (tmp_path / "a.jsonl").write_text("{}\n")
    (tmp_path / "t.xlsx").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    assert _error(tmp_path / "ticket.csv").endswith('ticket.csv does not exist; did you mean "tickets.csv"?')
    assert "does not exist, nor does its folder" in _error(tmp_path / "nope" / "x.csv")
    assert "no file matches" in _error(tmp_path / "*.pq")
    assert "has no file to read: it is empty" in _error(tmp_path / "empty")
    assert "several formats (csv: tickets.csv; jsonl: a.jsonl)" in _error(tmp_path)
    assert "(.xlsx) names no known format; allowed are .csv, .jsonl" in _error(tmp_path / "t.xlsx")
    assert "is a URL (https); only files are read. Download it first" in _error(Path("https://x.org/t.csv"))
    assert "is a URL (http)" in _error(tmp_path / "http://x.org/t.csv")
    assert "is not a regular file" in _error(Path("/dev/null"))
    assert "loop.csv" in _error(tmp_path / "loop.csv")


def test_damaged_files_are_input_errors(tmp_path: Path) -> None:
    """Truncated and foreign bytes end in one line that names the file, in every format."""
    whole = _write(pl.DataFrame({"n": range(50_000)}), tmp_path / "w.parquet").read_bytes()
    packed = gzip.compress(b"a,b\n" + b"1,2\n" * 50_000)
    for name, content in (
        ("cut.parquet", whole[:-100]),
        ("zero.parquet", b""),
        ("text.parquet", b"a,b\n1,2\n"),
        ("cut.arrow", b"ARROW1\0\0nothing"),
        ("text.arrow", b"a,b\n1,2\n"),
        ("zero.arrow", b""),
        ("cut.csv.gz", packed[:-50]),
        ("plain.csv.gz", b"a,b\n1,2\n"),
        ("cut.jsonl.gz", packed[:-50]),
        ("cut.csv.zst", b"\x28\xb5\x2f\xfd123"),
    ):
        (tmp_path / name).write_bytes(content)
        message = _error(tmp_path / name)
        assert message.startswith(str(tmp_path / name)), message
        assert "\n" not in message


def test_folder_named_as_a_file_is_a_folder(tmp_path: Path) -> None:
    """A data set in a folder called `x.parquet` is read as the files in it."""
    (tmp_path / "x.parquet").mkdir()
    _write(LANGS, tmp_path / "x.parquet" / "part-0.parquet")
    assert open_source(tmp_path / "x.parquet").total_rows == 4


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".arrow"])
def test_files_with_other_columns_are_refused(tmp_path: Path, suffix: str) -> None:
    """The error names the file and the columns by which it differs."""
    _write(pl.DataFrame({"a": [1], "b": [2]}), tmp_path / f"1{suffix}")
    _write(pl.DataFrame({"a": [1], "c": [2]}), tmp_path / f"2{suffix}")
    assert f"2{suffix} does not have the columns of {tmp_path / f'1{suffix}'}: it lacks b; it also has c." in _error(
        tmp_path
    )


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".arrow"])
def test_files_are_brought_to_one_schema(tmp_path: Path, suffix: str) -> None:
    """Columns in another order are put in the first file's, and integers join floats."""
    _write(pl.DataFrame({"a": [1], "b": ["x"]}), tmp_path / f"1{suffix}")
    _write(pl.DataFrame({"b": ["y"], "a": [1.5]}), tmp_path / f"2{suffix}")
    source = open_source(tmp_path)
    assert source.schema == pl.Schema({"a": pl.Float64(), "b": pl.String()})
    assert [batch.frame.rows() for batch in source.batches()] == [[(1.0, "x")], [(1.5, "y")]]


def test_files_of_other_dtypes_are_refused(tmp_path: Path) -> None:
    """A column that is a number in one file and text in the next has no common dtype."""
    _write(pl.DataFrame({"a": [1]}), tmp_path / "1.parquet")
    _write(pl.DataFrame({"a": ["x"]}), tmp_path / "2.parquet")
    assert 'the column "a" is String, but Int64 in the files before it' in _error(tmp_path)


def test_changed_file_is_refused(tmp_path: Path) -> None:
    """Rows that were never checked are not delivered."""
    path = _write(LANGS, tmp_path / "t.csv")
    source = open_source(path)
    path.write_text("id,n,lang\nx,1,en\n")
    with pytest.raises(InputError, match="changed after it was checked"):
        list(source.batches())


def test_parquet_equals_what_polars_reads(tmp_path: Path) -> None:
    """Every dtype, nested ones too, arrives as `polars.read_parquet` gives it."""
    when = datetime.datetime(2020, 1, 1, 12)  # noqa: DTZ001 - a column without time zone
    frame = pl.DataFrame(
        {
            "categorical": pl.Series(["x", None], dtype=pl.Categorical()),
            "enum": pl.Series(["a", None], dtype=pl.Enum(["a", "b"])),
            "decimal": pl.Series([decimal.Decimal("1.10"), None], dtype=pl.Decimal(10, 2)),
            "zoned": pl.Series([when, None]).dt.replace_time_zone("Europe/Rome"),
            "nanoseconds": pl.Series([when, None], dtype=pl.Datetime("ns")),
            "duration": [datetime.timedelta(seconds=1), None],
            "time": [datetime.time(1), None],
            "date": [when.date(), None],
            "binary": [b"\xff", None],
            "unsigned": pl.Series([2**64 - 1, None], dtype=pl.UInt64()),
            "small": pl.Series([1.5, None], dtype=pl.Float32()),
            "nothing": [None, None],
            "struct": [{"a": 1, "b": {"c": ["x"]}}, None],
            "list": [[{"a": 1}], None],
            "array": pl.Series([[1, 2], None], dtype=pl.Array(pl.Int64(), 2)),
            'dots. "quotes" 🙂': [True, None],
        }
    )
    path = _write(frame, tmp_path / "t.parquet")
    source = open_source(path)
    assert_frame_equal(_frame(source), pl.read_parquet(path))
    assert source.schema == pl.read_parquet_schema(path)
    (batch,) = source.batches()
    assert [dict(row.values) for row in batch.rows] == frame.rows(named=True)
    assert _rows(source, ['dots. "quotes" 🙂']) == [
        (1, "1", {'dots. "quotes" 🙂': True}),
        (2, "2", {'dots. "quotes" 🙂': None}),
    ]


def test_unreadable_types_name_the_column(tmp_path: Path) -> None:
    """What polars cannot hold is refused before it panics, and so is a column that is there twice."""
    wide = pa.table({"price": pa.array([decimal.Decimal(1)], pa.decimal256(50, 2))})
    pq.write_table(wide, tmp_path / "wide.parquet")
    assert 'the column "price" is of type decimal256(50, 2), which cannot be read' in _error(tmp_path / "wide.parquet")
    nested = pa.table({"l": pa.array([[1]], pa.list_view(pa.int64()))})
    with pa.ipc.new_file(str(tmp_path / "nested.arrow"), nested.schema) as writer:
        writer.write_table(nested)
    assert 'the column "l" is of type list_view' in _error(tmp_path / "nested.arrow")
    _write(pl.DataFrame({"n": pl.Series([1], dtype=pl.Int128())}), tmp_path / "int128.parquet")
    assert "a type that cannot be read" in _error(tmp_path / "int128.parquet")
    pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), tmp_path / "twice.parquet")
    assert 'has the column "a" more than once' in _error(tmp_path / "twice.parquet")


def test_arrow_stream_is_read(tmp_path: Path) -> None:
    """The stream format of Arrow IPC has the same suffix, and is told by its first bytes."""
    LANGS.write_ipc_stream(tmp_path / "t.arrow")
    assert_frame_equal(_frame(open_source(tmp_path / "t.arrow")), LANGS)


PEAK = """
import os, sys
from pathlib import Path
from batchchat.read.source import open_source
source = open_source(Path(sys.argv[1]))
assert sum(len(batch.rows) for batch in source.batches()) == int(sys.argv[2])
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0], flush=True)
os._exit(0)  # as the command does: a thread of pyarrow may still be tidying up
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="what getrusage says begins with the parent's peak")
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_memory_does_not_grow_with_the_table(tmp_path: Path, suffix: str) -> None:
    """Sixty megabytes more take at most 1.2 times the memory, even in a Parquet file of one row group."""
    peaks = []
    for rows in (40_000, 100_000):
        path = tmp_path / f"{rows}{suffix}"
        frame = pl.DataFrame({"id": range(rows), "text": [f"{number:010d}" * 100 for number in range(rows)]})
        if suffix == ".parquet":
            frame.write_parquet(path, row_group_size=rows, compression="uncompressed")
        else:
            _write(frame, path)
        command = [sys.executable, "-c", PEAK, str(path), str(rows)]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert peaks[1] <= 1.2 * peaks[0], peaks


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".arrow"])
def test_odd_column_names_are_names(tmp_path: Path, suffix: str) -> None:
    """The empty name, and names that polars would take for a pattern or a path, are columns like all others."""
    frame = pl.DataFrame({"x": [1], "^x$": [2], "": [3], "a.b": [4], "a": [{"b": 5}], "*": [6], 'say "hi" 🙂': [7]})
    source = open_source(_write(frame, tmp_path / f"t{suffix}"))
    assert _rows(source) == [(1, "1", frame.rows(named=True)[0])]
    assert _rows(source, ["^x$", "", "a.b"]) == [(1, "1", {"^x$": 2, "": 3, "a.b": 4})]
    with pytest.raises(InputError, match="polars takes for a pattern"):
        frame_source(frame, where='"^x$" = 2')
