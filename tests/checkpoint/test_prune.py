"""`batchchat prune`: what no recent run made or used goes, and nothing else."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from batchchat.checkpoint.files import shrinking_mark
from batchchat.checkpoint.tables import COLUMNS, run_of, run_row
from batchchat.commands.plan import prepare
from batchchat.commands.run import RunOptions
from batchchat.commands.run import run as run_plan
from batchchat.job.file import load_job
from tests.running import Ended, batchchat, write_csv, write_job

DAY_S = 86_400


class Place:
    """A job whose runs can be made older than they are."""

    def __init__(self, folder: Path, base_url: str) -> None:
        self.folder = folder
        self.endpoint = {"base_url": base_url, "name": "stand-in"}
        self.checkpoint = folder / ".batchchat" / "job.sqlite"

    def run(self, *texts: str, days_ago: float = 0) -> int:
        """Run the job on rows, let that be so many days ago, and return how many requests it took."""
        write_csv(self.folder / "rows.csv", texts)
        job = write_job(self.folder, endpoint=self.endpoint)
        summary = run_plan(prepare(load_job(job)), None, RunOptions(is_quiet=True))
        self._let_the_last_run_be(days_ago)
        return summary.progress.requests_sent

    def _let_the_last_run_be(self, days_ago: float) -> None:
        with closing(sqlite3.connect(self.checkpoint)) as connection, connection:
            select = f"SELECT {', '.join(COLUMNS['runs'])} FROM runs ORDER BY run DESC LIMIT 1"
            run = run_of(connection.execute(select).fetchone())
            then = time.time() - days_ago * DAY_S
            row = list(run_row(run))
            row[1:4] = [then, then, then]
            rows = run_row(run_of(tuple(row)))
            connection.execute(f"INSERT OR REPLACE INTO runs VALUES ({', '.join('?' * len(rows))})", rows)

    def prune(self, age: str = "90d") -> Ended:
        """Prune."""
        return batchchat("prune", self.folder / "job.yaml", "--older-than", age)

    def answers(self) -> int:
        """Return how many answers there are."""
        with closing(sqlite3.connect(self.checkpoint)) as connection:
            return int(connection.execute("SELECT count(*) FROM answers").fetchone()[0])


@pytest.fixture
def place(tmp_path: Path, base_url: str) -> Place:
    """Return a job that has not run yet."""
    return Place(tmp_path, base_url)


def test_answers_that_no_recent_run_used_go(place: Place) -> None:
    """What was made long ago stays if a recent run used it; the rest is asked again when it comes back."""
    place.run("old", "kept", "older", days_ago=200)
    place.run("kept", "recent", days_ago=80)
    place.run("new")
    pruned = place.prune()
    assert (pruned.code, "job: 2 answers and 0 failures removed" in pruned.stderr) == (0, True)
    assert place.answers() == 3
    assert place.run("kept", "recent", "new") == 0
    assert place.run("old") == 1


def test_last_output_stays_however_old_it_is(place: Place) -> None:
    """A job that was not run for a year can still be exported; what only earlier runs used goes."""
    place.run("before", days_ago=400)
    place.run("last", days_ago=365)
    assert "1 answers and 0 failures removed" in place.prune().stderr
    assert place.run("last") == 0


def test_longer_age_after_a_shorter_one_still_prunes(place: Place) -> None:
    """What an earlier prune took the marks of is no run whose use is unknown; what it used besides still stays."""
    place.run("ancient", "used again", days_ago=200)
    place.run("used again", "old", days_ago=30)
    place.run("used again", days_ago=20)
    assert "2 answers and 0 failures removed" in place.prune("25d").stderr
    assert "0 answers and 0 failures removed" in place.prune("90d").stderr
    assert place.run("used again") == 0


@pytest.mark.slow
def test_file_shrinks_and_stays_whole(place: Place) -> None:
    """The space goes back to the system, rows keep their numbers, and a second time there is nothing left to do."""
    place.run(*(f"old {number} {'x' * 300}" for number in range(600)), days_ago=200)
    place.run("last", "old 7")
    before = place.checkpoint.stat().st_size
    pruned = place.prune()
    assert "600 answers and 0 failures removed; the checkpoint is" in pruned.stderr
    assert place.checkpoint.stat().st_size < before / 2
    with closing(sqlite3.connect(place.checkpoint)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert "0 answers and 0 failures removed; the checkpoint is 0 bytes smaller" in place.prune().stderr
    assert place.run("last", "old 7") == 0


def test_nothing_goes_where_no_run_has_finished(place: Place) -> None:
    """Nothing tells what is of use: no checkpoint, a run that was stopped, or one that did not say what it used."""
    write_csv(place.folder / "rows.csv", ["one"])
    write_job(place.folder, endpoint=place.endpoint)
    assert "there is no checkpoint yet; nothing was removed" in place.prune("1s").stderr
    assert not place.checkpoint.parent.exists()
    place.run("one", days_ago=200)
    place.run("two", days_ago=1)
    with closing(sqlite3.connect(place.checkpoint)) as connection, connection:
        connection.execute("DELETE FROM uses")
    assert "nothing was removed: which answers the run of" in place.prune().stderr
    with closing(sqlite3.connect(place.checkpoint)) as connection, connection:
        connection.execute("DELETE FROM runs")
    assert "nothing was removed: no run has finished" in place.prune().stderr
    assert place.answers() == 2


def test_damaged_uses_are_told_and_nothing_goes(place: Place) -> None:
    """A mark that is not what was stored must not cost an answer."""
    place.run("one", days_ago=200)
    place.run("one", "two")
    with closing(sqlite3.connect(place.checkpoint)) as connection, connection:
        connection.execute("UPDATE uses SET marks = CAST(substr(marks, 1, length(marks) - 1) || x'ff' AS BLOB)")
    pruned = place.prune()
    assert (pruned.code, "what the runs used cannot be read" in pruned.stderr) == (3, True)
    assert place.answers() == 2


@pytest.mark.slow
def test_kill_while_the_file_shrinks_is_no_damage(place: Place) -> None:
    """A file that is longer than its WAL says is one that was being made shorter, where its mark says so."""
    place.run(*(f"old {number} {'x' * 300}" for number in range(200)), days_ago=200)
    place.run("last")
    with closing(sqlite3.connect(place.checkpoint, isolation_level=None)) as connection:
        connection.execute("DELETE FROM answers WHERE run = 1")
        connection.executescript("PRAGMA incremental_vacuum")
        wal = place.checkpoint.with_name("job.sqlite-wal")
        killed = place.checkpoint.read_bytes(), wal.read_bytes()
    for path, content in zip((place.checkpoint, wal), killed, strict=True):
        path.write_bytes(content)
    shrinking_mark(place.checkpoint).touch()
    assert place.run("last") == 0
    assert [path.name for path in place.checkpoint.parent.iterdir() if "damaged" in path.name] == []


@pytest.mark.parametrize("age", ["soon", "", "90"])
def test_age_that_is_no_duration_is_refused(place: Place, age: str) -> None:
    """A number alone could be days or seconds."""
    ended = place.prune(age)
    assert (ended.code, "is no duration; write one such as" in ended.stderr) == (2, True)


def test_live_run_keeps_prune_away(place: Place) -> None:
    """Both write: the lock decides."""
    from batchchat.checkpoint.lock import locked

    place.run("one")
    with locked(place.checkpoint):
        ended = place.prune()
    assert (ended.code, "is in use by a live run" in ended.stderr) == (3, True)
