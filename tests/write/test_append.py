"""`output.mode: append`: what earlier inputs wrote stays, and no input's rows are there twice, whatever happens."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

import batchchat
from batchchat.commands import verify as verifying
from batchchat.commands.export import export
from batchchat.commands.plan import prepare
from batchchat.commands.run import RunOptions
from batchchat.commands.run import run as run_plan
from batchchat.errors import JobError, OutputError
from batchchat.job.file import load_job
from tests.running import ROOT, write_csv, write_job

SUFFIXES = (".csv", ".jsonl", ".parquet")
each_format = pytest.mark.parametrize("suffix", SUFFIXES)


class Place:
    """A folder with a job that appends what it reads to one file."""

    def __init__(self, folder: Path, base_url: str) -> None:
        self.folder = folder
        self.endpoint = {"base_url": base_url, "name": "stand-in"}

    def job(self, suffix: str, night: str = "night1.csv", **changes: Any) -> Path:
        """Write the job that appends the rows of a night."""
        output = {"path": f"out{suffix}", "mode": "append", **changes.pop("output", {})}
        return write_job(
            self.folder, input={"path": night, **changes}, output=output, endpoint=self.endpoint, name="appending"
        )

    def append(self, suffix: str, night: str = "night1.csv", **changes: Any) -> None:
        """Run the job, here: processes of their own would only take longer."""
        plan = prepare(load_job(self.job(suffix, night, **changes)))
        run_plan(plan, None, RunOptions(is_quiet=True))

    def export(self, suffix: str, night: str = "night1.csv") -> None:
        """Export the job."""
        export(prepare(load_job(self.job(suffix, night))))

    def night(self, number: int, *texts: str) -> None:
        """Write the input of a night."""
        write_csv(self.folder / f"night{number}.csv", texts)

    def output(self, suffix: str) -> Path:
        """Return the path of the output."""
        return self.folder / f"out{suffix}"

    def texts(self, suffix: str) -> list[str]:
        """Return the texts in the output; each stands beside its own answer."""
        rows = _rows(self.output(suffix))
        assert all(row["text"].split()[0] in row["completion"] for row in rows)
        return [row["text"] for row in rows]


def _rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        return pl.read_csv(path).to_dicts()
    return (pl.read_ndjson(path) if path.suffix == ".jsonl" else pl.read_parquet(path)).to_dicts()


@pytest.fixture
def place(tmp_path: Path, base_url: str) -> Place:
    """Return a folder with the inputs of three nights."""
    place = Place(tmp_path, base_url)
    place.night(1, "one", "two\n2", "three")
    place.night(2, "four", 'five "" 5')
    place.night(3, "six")
    return place


FIRST, SECOND, THIRD = ["one", "two\n2", "three"], ["four", 'five " 5'], ["six"]


@each_format
def test_rows_of_each_night_go_after_those_before(place: Place, suffix: str) -> None:
    """Three inputs, one after the other, are one table; what stood there is the same to the byte, or row."""
    place.append(suffix, "night1.csv")
    first = place.output(suffix).read_bytes()
    place.append(suffix, "night2.csv")
    if suffix != ".parquet":
        assert place.output(suffix).read_bytes().startswith(first)
    place.append(suffix, "night3.csv")
    assert place.texts(suffix) == FIRST + SECOND + THIRD


@each_format
def test_first_night_writes_what_replace_writes(place: Place, suffix: str) -> None:
    """A file that is not there yet is made; its bytes are those of a job that does not append."""
    place.append(suffix)
    appended = place.output(suffix).read_bytes()
    place.append(suffix, output={"mode": "replace"})
    assert place.output(suffix).read_bytes() == appended


@pytest.mark.slow
@each_format
@pytest.mark.parametrize("number", [1, 2, 3])
def test_input_that_comes_again_is_put_in_its_place(place: Place, suffix: str, number: int) -> None:
    """A rerun, an export and another name of the same content double no row, wherever the rows stand."""
    for night in (1, 2, 3):
        place.append(suffix, f"night{night}.csv")
    before = _rows(place.output(suffix))
    place.append(suffix, f"night{number}.csv")
    place.export(suffix, f"night{number}.csv")
    (place.folder / f"night{number}.csv").rename(place.folder / "renamed.csv")
    place.append(suffix, "renamed.csv")
    assert _rows(place.output(suffix)) == before


@each_format
def test_answers_of_a_later_prompt_take_the_place_of_the_earlier(place: Place, suffix: str) -> None:
    """The input is the same, so its rows are replaced where they stand, and those of the others are not touched."""
    place.append(suffix, "night1.csv")
    place.append(suffix, "night2.csv")
    job = json.loads(place.job(suffix, "night1.csv").read_text())
    job["request"]["messages"][0]["content"] = "Say again: {{ text }}"
    (place.folder / "job.yaml").write_text(json.dumps(job))
    before = _rows(place.output(suffix))
    run_plan(prepare(load_job(place.folder / "job.yaml")), None, RunOptions(is_quiet=True))
    after = _rows(place.output(suffix))
    assert place.texts(suffix) == FIRST + SECOND
    assert after[3:] == before[3:]
    assert all(new["response_id"] != old["response_id"] for new, old in zip(after[:3], before[:3], strict=True))


@each_format
def test_file_with_other_content_is_a_new_input(place: Place, suffix: str) -> None:
    """A name says nothing: what the file has decides, and with it `where` and `limit`."""
    place.append(suffix, "night1.csv")
    place.night(1, "another")
    place.append(suffix, "night1.csv")
    place.append(suffix, "night2.csv", where="id = 1")
    assert place.texts(suffix) == [*FIRST, "another", SECOND[1]]


@pytest.mark.slow
@each_format
def test_file_of_unknown_origin_keeps_its_rows_in_front(place: Place, suffix: str) -> None:
    """A file that was there before the checkpoint is not destroyed, and reruns leave its rows alone."""
    place.append(suffix, "night1.csv")
    (place.folder / ".batchchat" / "appending.sqlite").unlink()
    for night in ("night2.csv", "night3.csv", "night2.csv"):
        place.append(suffix, night)
    assert place.texts(suffix) == FIRST + SECOND + THIRD


@pytest.mark.slow
@each_format
def test_changed_file_takes_new_inputs_and_refuses_those_that_it_has(place: Place, suffix: str) -> None:
    """Where another program wrote, nobody knows whose rows are where: none is replaced, and none is doubled."""
    for night in ("night1.csv", "night2.csv"):
        place.append(suffix, night)
    _drop_first_row(place.output(suffix))
    changed = place.output(suffix).read_bytes()
    with pytest.raises(OutputError, match="changed by another program since it got the rows of this very input"):
        place.append(suffix, "night2.csv")
    assert place.output(suffix).read_bytes() == changed
    place.append(suffix, "night3.csv")
    place.append(suffix, "night3.csv")
    assert place.texts(suffix) == (FIRST + SECOND)[1:] + THIRD
    with pytest.raises(OutputError, match="changed by another program"):
        place.append(suffix, "night1.csv")


def _drop_first_row(path: Path) -> None:
    if path.suffix == ".parquet":
        pl.read_parquet(path).slice(1).write_parquet(path)
        return
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[1 if path.suffix == ".csv" else 0]
    path.write_bytes(b"".join(lines).rstrip(b"\n"))


def test_file_that_is_gone_is_begun_anew(place: Place) -> None:
    """Whoever moves the file away, each month say, gets a new one, in which any input may come again."""
    place.append(".csv", "night1.csv")
    place.output(".csv").rename(place.folder / "kept.csv")
    place.append(".csv", "night2.csv")
    place.append(".csv", "night1.csv")
    assert place.texts(".csv") == SECOND + FIRST


@each_format
def test_other_columns_are_refused_before_anything_is_asked(place: Place, suffix: str) -> None:
    """A new column would have no place in the rows that are there; the file stays as it is."""
    place.append(suffix, "night1.csv")
    before = place.output(suffix).read_bytes()
    with pytest.raises(
        OutputError, match=r"it lacks `label`; it also has `completion`.*Move it away to begin a new one"
    ):
        place.append(suffix, "night2.csv", output={"columns": {"completion": "label"}})
    assert place.output(suffix).read_bytes() == before


def test_other_dtype_is_refused_in_parquet(place: Place) -> None:
    """A number's column cannot take texts: the error names the column and both dtypes."""
    place.append(".parquet", "night1.csv")
    (place.folder / "night2.csv").write_text("id,text\nA-1,four\n")
    with pytest.raises(OutputError, match=r"its column `id` is Int64, and String in what would be appended"):
        place.append(".parquet", "night2.csv")


def test_column_without_values_fits_any_dtype(place: Place) -> None:
    """A small night whose column happens to be empty says nothing about its dtype."""
    place.append(".parquet", "night1.csv")
    (place.folder / "night2.csv").write_text("id,text\n,four\n")
    place.append(".parquet", "night2.csv")
    table = pl.read_parquet(place.output(".parquet"))
    assert (str(table.schema["id"]), table["id"].to_list()) == ("Int64", [0, 1, 2, None])


def test_cells_of_a_csv_stay_as_they_stand(place: Place) -> None:
    """Leading zeros, trailing zeros and quotes of both nights go through, and a file without a last line end too."""
    (place.folder / "night1.csv").write_text("id,text\n007,one\n1.10,two\n")
    (place.folder / "night2.csv").write_text('id,text\nA-1,""\n')
    place.append(".csv", "night1.csv")
    output = place.output(".csv")
    output.write_bytes(b"\xef\xbb\xbf" + output.read_bytes().rstrip(b"\n"))
    place.append(".csv", "night2.csv")
    lines = output.read_text(encoding="utf-8-sig").splitlines()
    assert [line[: line.index(",", 5)] for line in lines[1:]] == ["007,one", "1.10,two", 'A-1,""']


@pytest.mark.slow
def test_parquet_of_many_row_groups_keeps_every_row(place: Place) -> None:
    """Rows are cut out of the middle, and put back there, across the bounds of row groups."""
    front = pl.DataFrame({"id": range(10), "text": [f"old {number}" for number in range(10)]})
    place.append(".parquet", "night1.csv")
    empty = pl.read_parquet(place.output(".parquet")).clear()
    old = pl.concat([empty, front], how="diagonal").with_columns(completion=pl.col("text"))
    old.write_parquet(place.output(".parquet"), row_group_size=3)
    (place.folder / ".batchchat" / "appending.sqlite").unlink()
    for night in ("night1.csv", "night2.csv", "night1.csv"):
        place.append(".parquet", night)
    table = pl.read_parquet(place.output(".parquet"))
    assert table["text"].to_list() == [*front["text"], *FIRST, *SECOND]
    assert_frame_equal(table.head(10), old)
    assert pq.read_metadata(place.output(".parquet")).num_row_groups > 3


def test_export_before_the_run_ends_is_replaced_by_it(place: Place) -> None:
    """A partial export has the rows that were asked; the same input's next run fills in the rest, in place."""
    place.append(".jsonl", "night1.csv")
    assert batchchat.run(place.job(".jsonl", "night2.csv")).height == 2
    checkpoint = place.folder / ".batchchat" / "appending.sqlite"
    place.night(3, "six", "seven")
    place.export(".jsonl", "night3.csv")
    assert [row["completion"] for row in _rows(place.output(".jsonl"))][-2:] == [None, None]
    assert checkpoint.exists()
    place.append(".jsonl", "night3.csv")
    assert place.texts(".jsonl") == [*FIRST, *SECOND, "six", "seven"]


def test_frame_in_python_is_refused(place: Place) -> None:
    """Its rows have no file whose content says which input they are."""
    with pytest.raises(JobError, match=r"output\.mode: is append, which needs input\.path"):
        batchchat.run(place.job(".csv"), frame=pl.DataFrame({"text": ["one"]}))


KILLED = "import sys; from batchchat.__main__ import main; sys.argv[1:] = ['run', sys.argv[1], '--quiet']; main()"


@pytest.mark.slow
@pytest.mark.parametrize("point", ["after-record", "before-rename", "after-rename", "before-settle"])
def test_kill_while_the_file_is_replaced_doubles_no_row(place: Place, point: str) -> None:
    """Whichever of both files stands there after the kill, the next run knows it."""
    place.append(".csv", "night1.csv")
    job = place.job(".csv", "night2.csv")
    command = [sys.executable, "-c", KILLED, str(job)]
    environment = {"BATCHCHAT_CRASH_AT": point, "PYTHONPATH": str(ROOT), "PATH": ""}
    killed = subprocess.run(command, env=environment, check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert place.texts(".csv") in (FIRST, FIRST + SECOND)
    place.append(".csv", "night2.csv")
    place.append(".csv", "night1.csv")
    assert place.texts(".csv") == FIRST + SECOND
    assert [path.name for path in place.folder.glob(".batchchat-*")] == []


# verify


def problems(place: Place, suffix: str, night: str) -> list[str]:
    """Return what verification finds wrong with a night's rows."""
    plan = prepare(load_job(place.job(suffix, night)), is_read_only=True)
    return [one.problem for one in verifying.verify(plan).differences]


@pytest.mark.slow
@each_format
def test_rows_of_every_night_verify(place: Place, suffix: str) -> None:
    """Each input is compared with its own rows, wherever they stand in the file."""
    for night in ("night1.csv", "night2.csv", "night3.csv"):
        place.append(suffix, night)
    assert [problems(place, suffix, f"night{number}.csv") for number in (1, 2, 3)] == [[], [], []]
    place.night(4, "seven")
    assert "no rows of this input" in problems(place, suffix, "night4.csv")[0]


def test_file_that_another_program_changed_does_not_verify(place: Place) -> None:
    """Where the rows of an input stand is known only for what was written."""
    place.append(".csv")
    with place.output(".csv").open("a") as file:
        file.write("\n")
    assert "not as batchchat wrote it" in problems(place, ".csv", "night1.csv")[0]
