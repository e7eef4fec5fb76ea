"""`batchchat verify`: whatever is planted in an output file is found, and what a run wrote passes."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchchat.checkpoint.shared_cost import SharedCost
from batchchat.checkpoint.store import open_checkpoint
from batchchat.commands import verify as verifying
from batchchat.commands.export import export
from batchchat.commands.output import outcomes_of
from batchchat.commands.plan import prepare
from batchchat.commands.verify import Verification
from batchchat.job.file import load_job
from batchchat.write.columns import answer_columns
from batchchat.write.compare import Comparison
from tests.running import batchchat, write_job

ROWS = 1_200  # more than a batch
SUFFIXES = [".parquet", ".csv", ".jsonl"]
TEXTS = ['say "no", or\nyes', "plain", "", "-5", "日本 ünïcode", "x" * 200]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job that has run: its output in each of the formats, beside it."""
    folder = tmp_path_factory.mktemp("verified")
    texts = [f"{TEXTS[number % len(TEXTS)]} #{number}" for number in range(ROWS)]
    prices: list[float | None] = [None if number % 7 == 0 else number / 4 for number in range(ROWS)]
    frame = pl.DataFrame({"id": [f"T-{number}" for number in range(ROWS)], "text": texts, "price": prices})
    frame.write_csv(folder / "rows.csv")
    request = {"model": "stand-in", "messages": [{"role": "user", "content": "Repeat: {{ text }}"}]}
    path = write_job(folder, input={"path": "rows.csv", "id": "id"}, request=request)
    assert batchchat("run", path, "--quiet").code == 0
    for suffix in SUFFIXES:
        plan = prepare(load_job(path, overrides={("output", "path"): folder / f"out{suffix}"}))
        export(plan)
    return path


def verified(job: Path, output: Path, *settings: str) -> Verification:
    """Verify an output of the job."""
    loaded = load_job(job, settings=settings, overrides={("output", "path"): output})
    return verifying.verify(prepare(loaded, is_read_only=True))


def lines(job: Path, output: Path, *settings: str) -> list[str]:
    """Return what is said of an output of the job."""
    found = verified(job, output, *settings)
    assert found.differences
    return verifying.as_lines(found)


Change = Callable[[pl.DataFrame], pl.DataFrame]


def with_cell(frame: pl.DataFrame, at: int, **values: Any) -> pl.DataFrame:
    """Return the frame with other values in a row."""
    for name, value in values.items():
        column = frame[name].to_list()
        column[at] = value
        frame = frame.with_columns(pl.Series(name, column, dtype=frame[name].dtype))
    return frame


def swapped(frame: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    """Return the frame with some values of two rows exchanged."""
    one, other = 3, 1_104
    mine, others = frame.select(names).row(one, named=True), frame.select(names).row(other, named=True)
    return with_cell(with_cell(frame, one, **others), other, **mine)


def new_columns(frame: pl.DataFrame) -> list[str]:
    """Return the columns that are not the input's."""
    return [name for name in frame.columns if name not in ("id", "text", "price")]


def renamed(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame with another name for the answers."""
    return frame.rename({"completion": "answer"})


PLANTED: dict[str, tuple[Change, str]] = {
    "an edited completion": (
        lambda frame: with_cell(frame, 1_100, completion="edited"),
        "row T-1100: completion: expected [stand-in] Repeat: #1100, found edited",
    ),
    "one character more": (
        lambda frame: with_cell(frame, 5, completion=frame["completion"][5] + " "),
        "row T-5: completion: expected ",
    ),
    "the answers of two rows": (
        lambda frame: swapped(frame, new_columns(frame)),
        "row T-3: completion: expected [stand-in] Repeat: -5 #3",
    ),
    "the tokens of two rows": (
        lambda frame: swapped(with_cell(frame, 1_104, prompt_tokens=999), ["prompt_tokens"]),
        "row T-3: prompt_tokens: expected ",
    ),
    "another latency": (lambda frame: with_cell(frame, 7, latency_s=9.5), "row T-7: latency_s: expected 0."),
    "a missing row": (
        lambda frame: pl.concat([frame.head(1_050), frame.slice(1_051)]),
        "row T-1050: id: expected T-1050, found T-1051, and ",
    ),
    "no last row": (lambda frame: frame.head(ROWS - 1), "row T-1199: is missing: the file ends before it"),
    "a doubled row": (
        lambda frame: pl.concat([frame.head(11), frame.slice(10)]),
        "row T-11: id: expected T-11, found T-10, and ",
    ),
    "a row behind the last": (
        lambda frame: pl.concat([frame, frame.head(1)]),
        "the file has more rows than the 1,200 that it should have",
    ),
    "reordered rows": (lambda frame: frame[list(reversed(range(ROWS)))], "row T-0: "),
    "two rows in each other's place": (
        lambda frame: pl.concat([frame.head(20), frame[21], frame[20], frame.slice(22)]),
        "row T-20: id: expected T-20, found T-21, and ",
    ),
    "another input value": (lambda frame: with_cell(frame, 9, price=2.0), "row T-9: price: expected 2.25, found 2"),
    "null for an input value": (lambda frame: with_cell(frame, 9, price=None), "found null"),
    "a dropped column": (lambda frame: frame.drop("reasoning"), "the column `reasoning` is missing"),
    "a renamed column": (renamed, "the column `completion` is missing"),
    "an added column": (
        lambda frame: frame.with_columns(pl.lit("x").alias("extra")),
        "the column `extra` should not be there",
    ),
    "columns in another order": (
        lambda frame: frame.select(["text", "id", *frame.columns[2:]]),
        "and should be id, text",
    ),
    "answered and failed at once": (
        lambda frame: with_cell(frame, 42, error_kind="timeout", error="no reply"),
        "row T-42: error_kind: expected null, found timeout",
    ),
    "failed in place of answered": (
        lambda frame: with_cell(frame, 42, completion=None, finish_reason=None, error_kind="timeout"),
        "row T-42: completion: expected ",
    ),
    "null in place of an answer": (
        lambda frame: with_cell(frame, 8, completion=None),
        "row T-8: completion: expected ",
    ),
    "empty text in place of null": (
        lambda frame: with_cell(frame, 8, refusal=""),
        "row T-8: refusal: expected null, found",
    ),
}
OF_JSON = {
    "a dropped column": "row T-0: reasoning: expected null, found nothing",
    "a renamed column": "row T-0: completion: expected",
    "an added column": 'row T-0: extra: expected nothing, found "x"',
    "columns in another order": "row T-0: has the right values, but not as batchchat writes them",
    "a missing row": 'row T-1050: id: expected "T-1050", found "T-1051", and ',
    "a doubled row": 'row T-11: id: expected "T-11", found "T-10", and ',
    "two rows in each other's place": 'row T-20: id: expected "T-20", found "T-21", and ',
    "an edited completion": 'found "edited"',
    "the answers of two rows": "row T-3: completion: expected",
    "answered and failed at once": 'row T-42: error_kind: expected null, found "timeout"',
    "failed in place of answered": "row T-42: completion: expected",
    "null in place of an answer": "row T-8: completion: expected",
}


def rewritten(source: Path, target: Path, change: Change) -> None:
    """Write an output of the job anew, changed, as text in the form that the writer gives it."""
    if source.suffix == ".parquet":
        change(pl.read_parquet(source)).write_parquet(target)
    elif source.suffix == ".csv":
        frame = pl.read_csv(source, schema_overrides={"refusal": pl.String, "reasoning": pl.String}, infer_schema=False)
        frame = frame.cast({"price": pl.Float64, "prompt_tokens": pl.Int64, "latency_s": pl.Float64})
        change(frame).write_csv(target)
    else:
        frame = pl.read_ndjson(source, infer_schema_length=None)
        frame = frame.cast({name: pl.String for name, dtype in frame.schema.items() if dtype == pl.Null})
        change(frame).write_ndjson(target)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_untouched_output_passes(job: Path, tmp_path: Path, suffix: str) -> None:
    """What was written is right; so is the same table in Parquet of another library."""
    found = verified(job, job.with_name(f"out{suffix}"))
    assert (found.differences, found.rows_answered, found.rows_failed, found.rows_unasked) == ([], ROWS, 0, 0)
    (line,) = verifying.as_lines(found)
    assert line.startswith("verified 1,200 rows: 1,200 answered, 0 failed")
    if suffix == ".parquet":
        rewritten(job.with_name(f"out{suffix}"), tmp_path / f"out{suffix}", lambda frame: frame)
        assert verified(job, tmp_path / f"out{suffix}").differences == []


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("what", PLANTED)
def test_planted_corruption_is_found(job: Path, tmp_path: Path, what: str, suffix: str) -> None:
    """Each kind is found, and the first difference names the row and the column."""
    change, expected = PLANTED[what]
    if suffix == ".jsonl":
        expected = OF_JSON.get(what, expected)
    output = tmp_path / f"out{suffix}"
    rewritten(job.with_name(output.name), output, change)
    said = lines(job, output)
    assert expected in said[0]
    assert len(said) == 2


@pytest.mark.slow
def test_other_dtype_is_found(job: Path, tmp_path: Path) -> None:
    """The same values in a column of another dtype are not what was promised."""
    output = tmp_path / "out.parquet"
    pl.read_parquet(job.with_name("out.parquet")).cast({"attempts": pl.Int64}).write_parquet(output)
    assert lines(job, output)[0] == "the column `attempts` is Int64, and should be Int32"


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_truncated_file_is_found(job: Path, tmp_path: Path, suffix: str, share: float) -> None:
    """A file of which the end is missing is not complete, wherever it was cut."""
    content = job.with_name(f"out{suffix}").read_bytes()
    output = tmp_path / f"out{suffix}"
    output.write_bytes(content[: int(len(content) * share)])
    assert any(word in lines(job, output)[0] for word in ("cannot be read", "is missing"))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_lost_line_end_and_a_line_too_many_are_found(job: Path, tmp_path: Path, suffix: str) -> None:
    """A text file that lacks its last byte is not complete; one with garbage behind it has more than it should."""
    content = job.with_name(f"out{suffix}").read_bytes()
    output = tmp_path / f"out{suffix}"
    output.write_bytes(content[:-1])
    assert lines(job, output)[0] == "row T-1199: is missing: the file ends in the middle of it"
    output.write_bytes(content + b"?\n")
    assert "more rows than the 1,200" in lines(job, output)[0]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_every_flipped_byte_of_a_text_is_found(job: Path, tmp_path: Path, suffix: str) -> None:
    """Whatever a byte of the file is changed to, verification says so."""
    content = job.with_name(f"out{suffix}").read_bytes()
    output = tmp_path / f"out{suffix}"
    for at in range(len(content) // 20, len(content), len(content) // 10):
        output.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        assert verified(job, output).differences


@pytest.mark.slow
def test_every_flipped_byte_of_a_parquet_file_is_found_or_means_nothing(tmp_path: Path) -> None:
    """In pages, their headers and the footer: a file that passes is one that polars reads, with the right values."""
    texts = [f"{TEXTS[number % len(TEXTS)]} #{number}" for number in range(12)]
    tags = [None if number % 3 == 0 else ["a", str(number)] for number in range(12)]
    pl.DataFrame({"text": texts, "tags": tags}).write_parquet(tmp_path / "rows.parquet")
    job = write_job(tmp_path, input={"path": "rows.parquet"})
    assert batchchat("run", job, "--quiet").code == 0
    output = tmp_path / "out.parquet"
    content, right = output.read_bytes(), pl.read_parquet(output)
    plan = prepare(load_job(job), is_read_only=True)
    assert verifying.verify(plan).differences == []
    passed = 0
    for number, at in enumerate(range(0, len(content), 37)):
        mask = (1, 4, 64, 128, 255)[number % 5]
        output.write_bytes(content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :])
        if not verifying.verify(plan).differences:
            passed += 1
            assert pl.read_parquet(output).equals(right), f"byte {at}"
    assert passed < len(content) / 37 / 2  # most bytes mean something


def test_text_that_another_program_has_written_anew_is_not_verified(job: Path, tmp_path: Path) -> None:
    """Quotes that need not be there and blanks in JSON change no value, and are not what batchchat writes."""
    for suffix, old, new in ((".csv", "\nT-7,", '\n"T-7",'), (".jsonl", '{"id":"T-7"', '{"id": "T-7"')):
        content = job.with_name(f"out{suffix}").read_text()
        assert content.count(old) == 1
        output = tmp_path / f"out{suffix}"
        output.write_text(content.replace(old, new))
        assert lines(job, output)[0] == "row T-7: has the right values, but not as batchchat writes them"


@pytest.mark.parametrize(
    ("suffix", "old", "new"),
    [
        (".csv", "\nT-7,", '\n"T-7,'),
        (".csv", "\nT-7,", '\nT-"7,'),
        (".jsonl", '{"id":"T-7"', '["id":"T-7"'),
        (".jsonl", '{"id":"T-7"', "7\n"),
        (".jsonl", '{"id":"T-7"', '{"id":"T-7","id":"T-7"'),
    ],
)
def test_row_that_cannot_be_read_is_found(job: Path, tmp_path: Path, suffix: str, old: str, new: str) -> None:
    """A quote that is never closed, or a line that is no object: the row is named."""
    output = tmp_path / f"out{suffix}"
    output.write_text(job.with_name(output.name).read_text().replace(old, new))
    assert lines(job, output)[0].startswith("row T-7: ")


def test_answers_of_another_prompt_are_found(job: Path) -> None:
    """An output from before the prompt was changed has answers to other requests."""
    said = lines(job, job.with_name("out.parquet"), "request.messages.0.content=Count: {{ text }}")
    assert said[0].startswith("row T-0: is neither answered nor failed in the checkpoint")
    assert len(said) == 2


def test_changed_input_is_found(job: Path, tmp_path: Path) -> None:
    """A row that is another since the run has another request, and other values."""
    for path in job.parent.iterdir():
        if path.is_dir():
            shutil.copytree(path, tmp_path / path.name)
        else:
            shutil.copy(path, tmp_path)
    changed = tmp_path / "rows.csv"
    changed.write_text(changed.read_text().replace("plain #1,", "plainer #1,", 1))
    said = lines(tmp_path / "job.yaml", tmp_path / "out.parquet")
    assert said[0].startswith("row T-1: is neither answered nor failed")


def test_stale_output_of_an_earlier_run_is_found(job: Path, tmp_path: Path) -> None:
    """An answer in the checkpoint that is not the file's own is told from it."""
    checkpoint = next(job.parent.rglob("*.sqlite"))
    copy = tmp_path / "c.sqlite"
    shutil.copy(checkpoint, copy)
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("UPDATE answers SET checksum = x'00' WHERE rowid = 1")
        connection.commit()
    said = lines(job, job.with_name("out.parquet"), f"checkpoint.path={copy}")
    assert "is neither answered nor failed in the checkpoint" in said[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ["output.keep=[id]", "output.prefix=llm_"],
        ["output.keep=[]", "output.columns={completion: said}", "output.raw=true"],
        ["input.where=price > 100", "input.limit=300"],
        ["output.spreadsheet_safe=true"],
    ],
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_settings_of_the_output_are_honoured(job: Path, tmp_path: Path, settings: list[str], suffix: str) -> None:
    """What the job writes with its settings passes with the same, and is another table without."""
    output = tmp_path / f"out{suffix}"
    export(prepare(load_job(job, settings=settings, overrides={("output", "path"): output})))
    assert verified(job, output, *settings).differences == []
    if suffix == ".csv" or "spreadsheet" not in settings[0]:
        assert verified(job, output).differences


def test_command_says_it_in_a_line_or_in_the_first_differences(job: Path, tmp_path: Path) -> None:
    """Exit 0 with one line; exit 1 with the differences; the object of `--json` has them too."""
    ended = batchchat("verify", job, "--output", job.with_name("out.csv"))
    assert (ended.code, ended.stdout, ended.stderr.count("\n")) == (0, "", 1)
    assert ended.stderr.startswith("job: verified 1,200 rows: 1,200 answered, 0 failed")
    output = tmp_path / "out.parquet"
    rewritten(job.with_name("out.parquet"), output, lambda frame: with_cell(frame, 1, completion="\x1b[31mred"))
    ended = batchchat("verify", job, "--output", output)
    assert (ended.code, ended.stdout) == (1, "")
    assert ended.stderr.startswith("row T-1: completion: expected [stand-in] Repeat: plain #1")
    assert "found \\x1b[31mred\n" in ended.stderr
    ended = batchchat("verify", job, "--output", output, "--json")
    assert (ended.code, ended.summary["verified"]) == (1, False)
    assert ended.summary["differences"][0]["row"] == "T-1"


def test_nothing_to_verify_is_an_error(job: Path, tmp_path: Path) -> None:
    """Without an output there is nothing to look at, without a checkpoint nothing to compare it with."""
    ended = batchchat("verify", job, "--output", tmp_path / "none.csv")
    assert (ended.code, "there is no output to verify" in ended.stderr) == (2, True)
    ended = batchchat("verify", job, "--set", f"checkpoint.path={tmp_path / 'none.sqlite'}")
    assert (ended.code, "there is no checkpoint" in ended.stderr) == (3, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_unfinished_run_leaves_rows_unasked(tmp_path: Path) -> None:
    """What `export` writes of a job that was stopped is right too: the rows that were not asked are counted."""
    (tmp_path / "rows.csv").write_text("id,text\n1,a\n2,b\n3,c\n")
    job = write_job(tmp_path)
    assert batchchat("run", job, "--limit", "2", "--quiet").code == 0
    with closing(sqlite3.connect(next(tmp_path.rglob("*.sqlite")))) as connection:
        connection.execute("DELETE FROM runs")
        connection.commit()
    loaded = load_job(job)
    assert lines(job, tmp_path / "out.parquet")[0].startswith("row 3: is neither answered nor failed")
    with open_checkpoint(next(tmp_path.rglob("*.sqlite"))) as checkpoint:
        checkpoint.start_run(3)
        checkpoint.end_run("stopped by SIGTERM")
    export(prepare(loaded))
    found = verified(job, tmp_path / "out.parquet")
    assert (found.differences, found.rows_answered, found.rows_unasked) == ([], 2, 1)
    assert "1 not asked yet: the last run did not come to its end (stopped by SIGTERM)" in verifying.as_lines(found)[0]


@pytest.mark.slow
def test_rows_that_cannot_be_asked_have_their_reason(tmp_path: Path) -> None:
    """A failure that no checkpoint keeps, of a row that makes no request, is made again and compared."""
    (tmp_path / "rows.csv").write_text("id,text\n1,a\n2,\n")
    request = {"model": "stand-in", "messages": [{"role": "user", "content": "{{ (text or (1 / 0)) }}"}]}
    job = write_job(tmp_path, request=request, output={"path": "out.jsonl"})
    ended = batchchat("run", job, "--quiet")
    assert ended.code == 1, ended.stderr
    found = verified(job, tmp_path / "out.jsonl")
    assert (found.differences, found.rows_answered, found.rows_failed) == ([], 1, 1)
    text = (tmp_path / "out.jsonl").read_text()
    (tmp_path / "out.jsonl").write_text(text.replace('"error_kind":"template"', '"error_kind":"media"'))
    (said, _) = lines(job, tmp_path / "out.jsonl")
    assert said == 'row 2: error_kind: expected "template", found "media"'
    assert json.loads(text.splitlines()[1])["error_kind"] == "template"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_part_of_a_file_is_compared_alone(job: Path, suffix: str) -> None:
    """Rows that stand before those to be compared are skipped, and no others."""
    plan = prepare(load_job(job))
    output = job.with_name(f"out{suffix}")
    first, last = plan.source.batches(values_of=plan.prompt.template.columns)
    with (
        open_checkpoint(plan.checkpoint_path, is_read_only=True) as checkpoint,
        Comparison(output, plan.output, plan.source.schema) as comparison,
    ):
        answers = answer_columns(outcomes_of(plan, checkpoint, last, SharedCost()), plan.output)
        assert comparison.begin() is None
        comparison.skip(first.frame.height)
        assert comparison.compare(last, answers) is None
        assert comparison.finish() is None
    with Comparison(output, plan.output, plan.source.schema) as comparison:
        assert comparison.begin() is None
        comparison.skip(first.frame.height - 1)
        assert comparison.compare(last, answers) is not None
