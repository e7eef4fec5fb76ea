"""A folder as output: one file for each input file, and what is the same is left alone."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

import batchchat
from batchchat.commands import verify as verifying
from batchchat.commands.plan import prepare
from batchchat.commands.run import RunOptions
from batchchat.commands.run import run as run_plan
from batchchat.errors import JobError, OutputError
from batchchat.job.file import load_job
from batchchat.runs import RunSummary
from tests.running import batchchat as command
from tests.running import write_csv, write_job


class Place:
    """A folder with a job that reads the folder `in` and writes the folder `out`."""

    def __init__(self, folder: Path, base_url: str) -> None:
        self.folder = folder
        self.endpoint = {"base_url": base_url, "name": "stand-in"}
        (folder / "in" / "mon" / "day").mkdir(parents=True)
        self.put("a.csv", "one", "two")
        self.put("mon/b.csv", "three")
        self.put("mon/day/c.csv", "four", "five")

    def put(self, name: str, *texts: str) -> None:
        """Write an input file."""
        write_csv(self.folder / "in" / name, texts)

    def job(self, *, output: str = "out/", mode: str = "replace", **changes: Any) -> Path:
        """Write the job."""
        changes = {"path": "in", **changes}
        return write_job(
            self.folder, name="parts", input=changes, output={"path": output, "mode": mode}, endpoint=self.endpoint
        )

    def run(self, **changes: Any) -> RunSummary:
        """Run the job."""
        plan = prepare(load_job(self.job(**changes)))
        return run_plan(plan, None, RunOptions(is_quiet=True))

    def written(self, folder: str = "out") -> dict[str, list[str]]:
        """Return the texts in each output file; each stands beside its own answer."""
        root = self.folder / folder
        tables = {str(path.relative_to(root)): pl.read_csv(path) for path in sorted(root.rglob("*.csv"))}
        for table in tables.values():
            assert all(text in answer for text, answer in table.select("text", "completion").iter_rows())
        return {name: table["text"].to_list() for name, table in tables.items()}


@pytest.fixture
def place(tmp_path: Path, base_url: str) -> Place:
    """Return a folder with three input files."""
    return Place(tmp_path, base_url)


PARTS = {"a.csv": ["one", "two"], "mon/b.csv": ["three"], "mon/day/c.csv": ["four", "five"]}


def test_each_input_file_has_its_output_at_the_same_place(place: Place) -> None:
    """The folder and those within it are made; rows do not mix."""
    summary = place.run()
    assert place.written() == PARTS
    assert summary.output == str(place.folder / "out")


def test_file_that_would_be_the_same_is_not_rewritten(place: Place) -> None:
    """One changed row rewrites one file; a new file is added; the others keep their time of change."""
    place.run()
    before = _versions(place.folder / "out")
    place.put("mon/b.csv", "changed")
    place.put("mon/new.csv", "six")
    summary = place.run()
    assert place.written() == {**PARTS, "mon/b.csv": ["changed"], "mon/new.csv": ["six"]}
    after = _versions(place.folder / "out")
    assert {name for name in after if before.get(name) != after[name]} == {"mon/b.csv", "mon/new.csv"}
    assert summary.progress.requests_sent == 2


def _versions(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*.csv")
    }


def test_output_of_an_input_that_is_gone_stays_and_is_told(place: Place) -> None:
    """Nothing is removed; the summary and `export` say how many such files there are."""
    place.run()
    (place.folder / "in" / "mon" / "b.csv").unlink()
    note = "1 file is in the output folder whose input is not there any more; left as they were"
    assert note in place.run().progress.notes
    assert place.written() == PARTS
    exported = command("export", place.job())
    assert (exported.code, note in exported.stderr) == (0, True)


def test_files_without_rows_that_count_have_an_output_without_rows(place: Place) -> None:
    """`where` and `limit` go over all files as one table; every input file has an output all the same."""
    place.run(where="text <> 'three'", limit=3)
    assert place.written() == {"a.csv": ["one", "two"], "mon/b.csv": [], "mon/day/c.csv": ["four"]}


def test_existing_folder_needs_no_slash_and_a_glob_counts_from_its_fixed_part(place: Place) -> None:
    """`in/mon/**/*.csv` has its files below `in/mon`."""
    (place.folder / "there").mkdir()
    place.run(output="there", path="in/mon/**/*.csv")
    assert place.written("there") == {"b.csv": ["three"], "day/c.csv": ["four", "five"]}


def test_option_names_a_folder_by_its_slash(place: Place) -> None:
    """`--output parts/` is taken as the job file would take it."""
    ended = command("run", place.job(), "--output", "parts/", "--quiet", cwd=place.folder)
    assert (ended.code, place.written("parts")) == (0, PARTS)


@pytest.mark.parametrize(
    ("suffix", "expected"), [(".jsonl", ".jsonl"), (".parquet", ".parquet"), (".arrow", ".parquet")]
)
def test_output_is_in_the_format_of_the_input(place: Place, suffix: str, expected: str) -> None:
    """Only Arrow files, which are not written, come out as another format."""
    folder = place.folder / "others"
    folder.mkdir()
    frame = pl.DataFrame({"text": ["one", "two"]})
    write = {".jsonl": "write_ndjson", ".parquet": "write_parquet", ".arrow": "write_ipc"}[suffix]
    getattr(frame, write)(folder / f"x{suffix}")
    place.run(path="others")
    assert [path.name for path in (place.folder / "out").iterdir()] == [f"x{expected}"]


def test_compressed_input_has_an_output_without_the_suffix_for_it(place: Place) -> None:
    """`b.csv.gz` gives `b.csv`; beside a `b.csv` that is refused before anything is asked."""
    import gzip

    source = place.folder / "in" / "mon" / "b.csv"
    packed = source.with_name("b.csv.gz")
    packed.write_bytes(gzip.compress(source.read_bytes()))
    with pytest.raises(OutputError, match=r"b\.csv: is the output of both .*b\.csv and .*b\.csv\.gz"):
        place.run()
    source.unlink()
    place.run()
    assert place.written() == PARTS


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("in/out/", "is among the files that input.path names"),
        ("in", "is the input file"),
        ("missing/out/", "does not exist; create it with"),
        ("in/a.csv/", "is the input file"),
    ],
)
def test_folder_where_nothing_may_be_written_is_refused(place: Place, output: str, message: str) -> None:
    """In the input, in a folder that is not there, or in the place of a file: nothing is asked, nothing is made."""
    with pytest.raises(OutputError, match=message):
        place.run(output=output)
    assert not (place.folder / ".batchchat").exists()


def test_append_and_frames_have_no_folder(place: Place) -> None:
    """A folder has one file per input file, which rows of a frame are not in, and nothing is appended to."""
    with pytest.raises(JobError, match=r"output\.mode: is append, which needs a file"):
        place.run(mode="append")
    with pytest.raises(JobError, match=r"output\.path: .* is a folder, for one file per input file"):
        batchchat.run(place.job(), frame=pl.DataFrame({"text": ["one"]}))


def test_folder_verifies_until_one_of_its_files_is_changed(place: Place) -> None:
    """Every file is compared with its own input; the difference names the file."""
    place.run()
    plan = prepare(load_job(place.job()), is_read_only=True)
    whole = verifying.verify(plan)
    assert (whole.differences, whole.rows_answered) == ([], 5)
    changed = place.folder / "out" / "mon" / "b.csv"
    content = changed.read_text()
    changed.write_text(content.replace("three", "thrice"))
    assert [one.row for one in verifying.verify(plan).differences] == ["3 of b.csv"]
    changed.write_text(content)
    (place.folder / "out" / "mon" / "day" / "c.csv").write_text("id,text\n")
    (found,) = verifying.verify(plan).differences
    assert found.problem.startswith("c.csv: the column")


def test_missing_file_of_a_folder_is_a_difference_and_a_folder_without_any_is_an_error(place: Place) -> None:
    """One that went is told beside what the others have; where none is, there is nothing to compare."""
    place.run()
    plan = prepare(load_job(place.job()), is_read_only=True)
    gone = place.folder / "out" / "mon" / "b.csv"
    gone.unlink()
    (found,) = verifying.verify(plan).differences
    assert found.problem == f"{gone}: is missing, and others of the input's files have theirs"
    ended = command("verify", place.job(), cwd=place.folder)
    assert (ended.code, "b.csv: is missing" in ended.stderr) == (1, True)
    for output in plan.outputs:
        output.unlink(missing_ok=True)
    with pytest.raises(OutputError, match="there is no output to verify"):
        verifying.verify(plan)
