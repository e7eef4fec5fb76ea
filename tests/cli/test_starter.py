"""The starter job: both files as they are packaged, or nothing at all."""

from __future__ import annotations

import csv
from importlib.resources import files
from pathlib import Path

import pytest

from batchchat.errors import OutputError
from batchchat.job.file import load_job
from batchchat.starter import write_starter

JOB = (files("batchchat.starter") / "job.yaml").read_bytes()
TICKETS = (files("batchchat.starter") / "tickets.csv").read_bytes()


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file under a folder by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_starter_files_are_the_packaged_ones(tmp_path: Path) -> None:
    """The job under the name asked for, its table beside it, byte for byte, and nothing else."""
    path = tmp_path / "mine.yaml"
    assert write_starter(path) == [path, tmp_path / "tickets.csv"]
    assert contents(tmp_path) == {"mine.yaml": JOB, "tickets.csv": TICKETS}


def test_starter_makes_the_folders_that_it_needs(tmp_path: Path) -> None:
    """A folder that is not there is made."""
    write_starter(tmp_path / "new" / "folder" / "job.yaml")
    assert contents(tmp_path) == {"new/folder/job.yaml": JOB, "new/folder/tickets.csv": TICKETS}


def test_starter_job_fits_its_table(tmp_path: Path) -> None:
    """The job is valid, reads the table beside it, needs no key, and names one of the table's columns as the id."""
    job = load_job(write_starter(tmp_path / "job.yaml")[0]).job
    with (tmp_path / "tickets.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert job.input.path == tmp_path / "tickets.csv"
    assert job.input.id in rows[0]
    assert job.endpoint.is_embedded
    assert job.endpoint.resolved_api_key_env is None
    assert len(rows) >= 5


@pytest.mark.parametrize("name", ["job.yaml", "tickets.csv"])
def test_file_that_is_there_stays_and_is_alone(tmp_path: Path, name: str) -> None:
    """If one of the files is there, neither is written; the message names it and the way out."""
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(OutputError, match=rf"{name} is there already; name another path"):
        write_starter(tmp_path / "job.yaml")
    assert contents(tmp_path) == {name: b"precious"}


def test_second_starter_changes_nothing(tmp_path: Path) -> None:
    """Written twice to one place, the first stays; the second may go to a folder of its own."""
    path = tmp_path / "job.yaml"
    write_starter(path)
    path.write_text("edited")
    with pytest.raises(OutputError):
        write_starter(path)
    assert contents(tmp_path) == {"job.yaml": b"edited", "tickets.csv": TICKETS}
    write_starter(tmp_path / "other" / "job.yaml")


def test_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """A file where a folder should be is an error with the path, and stays."""
    (tmp_path / "file").write_bytes(b"precious")
    with pytest.raises(OutputError, match=r"file/job\.yaml: cannot be written"):
        write_starter(tmp_path / "file" / "job.yaml")
    assert contents(tmp_path) == {"file": b"precious"}


def test_table_that_cannot_be_written_leaves_no_job(tmp_path: Path) -> None:
    """If the second file cannot be written, the first is not left behind."""
    (tmp_path / "tickets.csv").symlink_to(tmp_path / "none" / "tickets.csv")
    with pytest.raises(OutputError):
        write_starter(tmp_path / "job.yaml")
    assert contents(tmp_path) == {}


def test_job_named_like_its_table_is_refused(tmp_path: Path) -> None:
    """`init tickets.csv` would write two files to one path."""
    with pytest.raises(OutputError):
        write_starter(tmp_path / "tickets.csv")
    assert contents(tmp_path) == {}
