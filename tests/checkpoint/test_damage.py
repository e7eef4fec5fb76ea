"""Damaged checkpoints: no wrong answer in anything that is read, what can be read is kept, and no run is stopped."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from batchchat.checkpoint.files import set_aside
from batchchat.checkpoint.salvage import open_whole, salvaged_copy
from batchchat.checkpoint.store import open_checkpoint
from batchchat.checkpoint.tables import with_checksum
from batchchat.commands.export import export
from batchchat.commands.plan import prepare
from batchchat.errors import CheckpointDamagedError, CheckpointError, CheckpointForeignError, CheckpointNewerError
from batchchat.job.file import load_job
from batchchat.records import Answer, Completion, FailedRow, Failure, Outcome, Progress, Settled
from batchchat.serve.server import EmbeddedEndpoint
from batchchat.serve.settings import ServeSettings
from tests.running import ROOT, batchchat, ledger, write_csv, write_job

PAGE_BYTES = 4096
FRAME_BYTES = 24 + PAGE_BYTES
FLIPS = 60
COUNT = 200


def outcome(number: int) -> Outcome:
    """Return a row's outcome: some are long enough for several pages, some are failures of either kind."""
    if number % 10 == 3:
        return FailedRow(Failure("bad_request", f"no {number}", 400), number % 20 == 3, 0.5, 1)
    reply = random.Random(number).randbytes(9000 if number % 50 == 0 else 50)
    return Answer(Completion(f"text {number} " * 40), reply, float(number), 1)


TRUTH = {f"{number * 7919 % 100003:032d}".encode(): outcome(number) for number in range(COUNT)}
KEYS = list(TRUTH)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a whole checkpoint of `TRUTH`, whose run has ended."""
    path = tmp_path_factory.mktemp("whole") / "c.sqlite"
    with open_checkpoint(path) as checkpoint:
        checkpoint.start_run(COUNT)
        for start in range(0, COUNT, 16):
            checkpoint.commit([(key, TRUTH[key]) for key in KEYS[start : start + 16]], Progress(rows_read=start))
        checkpoint.end_run("stopped by SIGINT")
    return path.read_bytes()


def right(outcomes: list[Outcome | None]) -> int:
    """Return how many outcomes there are, every one of which is that of its key."""
    for key, found in zip(KEYS, outcomes, strict=True):
        assert found is None or found == TRUTH[key]
    return sum(found is not None for found in outcomes)


def read(path: Path) -> int:
    """Read all that can be read, as an export does, and return how many outcomes that is."""
    try:
        with open_checkpoint(path, is_read_only=True) as checkpoint:
            checkpoint.last_run()
            checkpoint.failure_groups(10)
            return right(checkpoint.outcomes(KEYS, with_replies=True))
    except CheckpointDamagedError as damage:
        with salvaged_copy(path, damage) as copy, open_checkpoint(copy, is_read_only=True) as checkpoint:
            return right(checkpoint.outcomes(KEYS, with_replies=True))


def run(path: Path) -> int:
    """Ask what has no outcome, as a run does, and as often as that takes; return how many answers were asked again."""
    asked = 0
    for _ in range(2):
        try:
            with open_whole(path) as checkpoint:
                checkpoint.start_run(COUNT)
                found = checkpoint.find(KEYS)
                missing = [key for key in KEYS if found.get(key) is None]
                asked += sum(isinstance(TRUTH[key], Answer) for key in missing)
                checkpoint.commit([(key, TRUTH[key]) for key in missing], Progress())
                assert right(checkpoint.outcomes(KEYS, with_replies=True)) == COUNT
                checkpoint.end_run("finished")
                return asked
        except CheckpointDamagedError:
            continue  # the run after it knows
    pytest.fail("two runs did not get over the damage")


@pytest.mark.slow
def test_flipped_bits_never_give_a_wrong_outcome(content: bytes, tmp_path: Path) -> None:
    """Whichever bit is flipped: what is read is what was stored, the next run completes it, and asks little again."""
    chance = random.Random(4)
    refused = asked = 0
    for number in range(FLIPS):
        path = tmp_path / f"{number}.sqlite"
        flipped = bytearray(content)
        bit = chance.randrange(8 * (100 if number % 10 == 0 else len(content)))  # the header has its own dangers
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            assert read(path) > COUNT * 0.8
            asked += run(path)
        except CheckpointNewerError:
            refused += 1  # the bit is in the version
    assert refused <= 2
    assert asked <= 2 * FLIPS


@pytest.mark.parametrize("kept_share", [0.3, 0.5, 0.9])
def test_truncated_file_keeps_what_is_left(content: bytes, kept_share: float, tmp_path: Path) -> None:
    """What stands before the cut is saved; the damaged file is kept, private as it was."""
    path = tmp_path / "c.sqlite"
    left = content[: int(len(content) * kept_share)]
    path.write_bytes(left)
    path.chmod(0o600)
    assert run(path) < COUNT * (1 - kept_share) + 50  # the tables themselves come first
    (aside,) = tmp_path.glob("c.damaged-*.sqlite")
    assert aside.read_bytes() == left
    assert {stat.S_IMODE(one.stat().st_mode) for one in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize("length", [1, 99, 100, 512, 4095, 4096, 10_000])
def test_file_of_which_nothing_is_left_is_refused(content: bytes, length: int, tmp_path: Path) -> None:
    """Before everything is paid for again, its owner may have a backup."""
    path = tmp_path / "c.sqlite"
    path.write_bytes(content[:length])
    with pytest.raises(CheckpointForeignError, match=r"nothing of one can be read.* Restore it from a backup"):
        run(path)
    assert path.read_bytes() == content[:length]


@pytest.mark.slow
def test_zeroed_page_costs_its_own_rows(content: bytes, tmp_path: Path) -> None:
    """Whichever page is lost, the first with the schema too, nothing that stands on the others is asked again."""
    for page in range(0, len(content) // PAGE_BYTES, 4):
        path = tmp_path / f"{page}.sqlite"
        path.write_bytes(content[: page * PAGE_BYTES] + bytes(PAGE_BYTES) + content[(page + 1) * PAGE_BYTES :])
        assert read(path) > COUNT * 0.8
        assert run(path) <= 10


def test_garbage_behind_the_end_costs_nothing(content: bytes, tmp_path: Path) -> None:
    """What somebody appended is not looked at."""
    path = tmp_path / "c.sqlite"
    path.write_bytes(content + random.Random(1).randbytes(10_000))
    assert read(path) == COUNT
    assert run(path) == 0


def test_log_of_another_file_gives_no_wrong_outcome(content: bytes, tmp_path: Path) -> None:
    """A checkpoint from a backup, put under the WAL of another, keeps its own answers and those of the WAL."""
    other = tmp_path / "other.sqlite"
    key, more = b"of the other", Answer(Completion("more"), b"{}", 1.0, 1)
    with open_checkpoint(other) as checkpoint:
        checkpoint.start_run(1)
        checkpoint.commit([(key, more)], Progress())
        log = other.with_name("other.sqlite-wal").read_bytes()
    path = tmp_path / "c.sqlite"
    path.write_bytes(content)
    path.with_name("c.sqlite-wal").write_bytes(log)
    assert run(path) <= 10
    with open_checkpoint(path, is_read_only=True) as checkpoint:
        assert checkpoint.outcomes([key]) == [replace(more, reply=b"")]


def test_note_says_what_was_saved_and_where_the_damaged_file_is(content: bytes, tmp_path: Path) -> None:
    """The run that saves a checkpoint says so, once; the next has nothing to say."""
    path = tmp_path / "c.sqlite"
    path.write_bytes(content[: len(content) // 2])
    with open_whole(path) as checkpoint:
        (note,) = checkpoint.notes
        saved = checkpoint.answer_count()
    (aside,) = tmp_path.glob("c.damaged-*.sqlite")
    assert note.startswith(f"the checkpoint was damaged: {saved} answers could be read and are kept")
    assert note.endswith(f"the damaged file is now {aside}")
    with open_whole(path) as checkpoint:
        assert checkpoint.notes == ()


def test_failures_are_not_saved(content: bytes, tmp_path: Path) -> None:
    """One that an answer had replaced would never be asked again; a refusal costs nothing to ask for twice."""
    path = tmp_path / "c.sqlite"
    path.write_bytes(content[:-PAGE_BYTES])
    with open_whole(path) as checkpoint:
        found = checkpoint.find(KEYS)
    assert not [key for key, row in TRUTH.items() if isinstance(row, FailedRow) and key in found]


ANSWERED = [key for key, row in TRUTH.items() if isinstance(row, Answer)]


def write_killed(path: Path, numbers: Sequence[int], *, content: bytes = b"", reason: str | None = None) -> None:
    """Write what a process leaves that is killed after a commit for each number; `content` is what it began with."""
    alive = path.with_name("alive.sqlite")
    if content:
        alive.write_bytes(content)
    with open_checkpoint(alive) as checkpoint:
        checkpoint.start_run(COUNT)
        for number in numbers:
            checkpoint.commit([(ANSWERED[number], TRUTH[ANSWERED[number]])], Progress(rows_answered=number))
        if reason is not None:
            checkpoint.end_run(reason)
        for suffix in ("", "-wal"):
            path.with_name(path.name + suffix).write_bytes(alive.with_name(alive.name + suffix).read_bytes())
    alive.unlink()


def flip(path: Path, at: int) -> None:
    """Flip a bit of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


def saved(path: Path) -> bool:
    """Open a checkpoint for writing, and return whether it had to be saved."""
    with open_whole(path) as checkpoint:
        return bool(checkpoint.notes)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.95])
def test_bit_flipped_in_the_log_of_a_killed_run_costs_no_more_than_its_row(share: float, tmp_path: Path) -> None:
    """SQLite ends the log at the first frame that is not whole, and finds nothing amiss."""
    path, log = tmp_path / "c.sqlite", tmp_path / "c.sqlite-wal"
    write_killed(path, range(40))
    flip(log, int(log.stat().st_size * share) + 20)
    with open_whole(path) as checkpoint:
        assert len(checkpoint.notes) == 1
        assert sum(found is not None for found in checkpoint.outcomes(ANSWERED[:40])) >= 39


@pytest.mark.parametrize("at", [0, 3, 9, 18, 26])
def test_bit_flipped_in_the_head_of_the_log_costs_nothing(at: int, tmp_path: Path) -> None:
    """SQLite takes none of such a log."""
    path = tmp_path / "c.sqlite"
    write_killed(path, range(10))
    flip(tmp_path / "c.sqlite-wal", at)
    with open_whole(path) as checkpoint:
        assert None not in checkpoint.outcomes(ANSWERED[:10])


def test_salts_flipped_in_the_last_frames_are_noticed(tmp_path: Path) -> None:
    """One bit changes one of the two salts by which the frames of the last writer are known."""
    path, log = tmp_path / "c.sqlite", tmp_path / "c.sqlite-wal"
    write_killed(path, range(40))
    frames = (log.stat().st_size - 32) // FRAME_BYTES
    for frame in range(frames - 8, frames):
        flip(log, 32 + frame * FRAME_BYTES + 9)
    with open_whole(path) as checkpoint:
        assert None not in checkpoint.outcomes(ANSWERED[:40])


def test_answers_behind_a_flipped_bit_are_set_aside_with_the_log(tmp_path: Path) -> None:
    """To fold the log into the file would drop what is to be kept."""
    path, log = tmp_path / "c.sqlite", tmp_path / "c.sqlite-wal"
    write_killed(path, range(40))
    flip(log, log.stat().st_size // 2)
    before = log.read_bytes()
    aside = set_aside(path)
    assert aside is not None
    assert aside.with_name(f"{aside.name}-wal").read_bytes() == before


def test_log_that_a_kill_tore_is_no_damage(tmp_path: Path) -> None:
    """Half a frame, or whole ones of what is already stored, are what a kill leaves, and no reason for alarm."""
    path, log = tmp_path / "c.sqlite", tmp_path / "c.sqlite-wal"
    write_killed(path, range(40))
    written = log.read_bytes()
    again = written[-4 * FRAME_BYTES :]  # not in their place, so that their checksums do not hold
    log.write_bytes(written + again + again[: PAGE_BYTES // 2])
    with open_whole(path) as checkpoint:
        assert checkpoint.notes == ()
        assert None not in checkpoint.outcomes(ANSWERED[:40])


def test_log_left_by_a_run_that_finished_has_its_file_searched(content: bytes, tmp_path: Path) -> None:
    """It was not closed: whatever stopped the process may have stopped a write to the file too."""
    path = tmp_path / "c.sqlite"
    write_killed(path, [], content=content, reason="finished")
    damaged = path.read_bytes()
    path.write_bytes(damaged[: 12 * PAGE_BYTES] + bytes(PAGE_BYTES) + damaged[13 * PAGE_BYTES :])
    assert saved(path)


def test_run_that_ended_by_damage_has_its_checkpoint_saved(content: bytes, tmp_path: Path) -> None:
    """What SQLite does not see in a search, a run has come upon."""
    path = tmp_path / "c.sqlite"
    for reason, is_expected in [("stopped by SIGINT", False), (f"{path} is damaged: SQLite says: no", True)]:
        path.write_bytes(content)
        with open_checkpoint(path) as checkpoint:
            checkpoint.start_run(COUNT)
            checkpoint.end_run(reason)
        assert saved(path) is is_expected


@pytest.mark.parametrize("at", [18, 19])
def test_header_of_a_newer_file_format_is_damage(content: bytes, at: int, tmp_path: Path) -> None:
    """SQLite takes such a file for one that may only be read, or for none; ours never have it."""
    path = tmp_path / "c.sqlite"
    path.write_bytes(content)
    flip(path, at)
    assert saved(path)


def test_newest_state_of_a_run_is_saved(tmp_path: Path) -> None:
    """A state of a moment before, which is met later, does not take its place."""
    path = tmp_path / "c.sqlite"
    with open_checkpoint(path) as checkpoint:
        checkpoint.start_run(COUNT)
        checkpoint.commit([], Progress(rows_answered=5))
        log = path.with_name("c.sqlite-wal").read_bytes()
        checkpoint.commit([(ANSWERED[0], TRUTH[ANSWERED[0]])], Progress(rows_answered=7))
    flip(path, 18)
    path.with_name("c.sqlite-wal").write_bytes(log)
    assert saved(path)
    with open_checkpoint(path, is_read_only=True) as checkpoint:
        run = checkpoint.last_run()
        assert run is not None
        assert run.progress.rows_answered == 7


def test_newest_settled_values_are_saved(tmp_path: Path) -> None:
    """A run after the damage starts where the last one before it was, with each endpoint and model."""
    path = tmp_path / "c.sqlite"
    with open_checkpoint(path) as checkpoint:
        checkpoint.start_run(COUNT)
        checkpoint.remember("https://one", "a", Settled(8, bytes_per_token=3.5))
        checkpoint.remember("https://one", "b", Settled(16))
    with open_checkpoint(path) as checkpoint:
        checkpoint.remember("https://one", "a", Settled(64, bytes_per_token=3.6))
        log = path.with_name("c.sqlite-wal").read_bytes()
    flip(path, 18)
    path.with_name("c.sqlite-wal").write_bytes(log)
    assert saved(path)
    with open_checkpoint(path, is_read_only=True) as checkpoint:
        assert checkpoint.remembered("https://one", "a") == Settled(64, bytes_per_token=3.6)
        assert checkpoint.remembered("https://one", "b") == Settled(16)


def test_answer_that_has_changed_is_not_saved(content: bytes, tmp_path: Path) -> None:
    """The note counts what can be used."""
    path = tmp_path / "c.sqlite"
    path.write_bytes(content)
    flip(path, content.index(b"text 17 ") + 5)
    flip(path, 18)
    with open_whole(path) as checkpoint:
        assert checkpoint.answer_count() == len(ANSWERED) - 1


@pytest.mark.slow
def test_long_answers_go_on_where_they_went_on(content: bytes, tmp_path: Path) -> None:
    """An answer's further pages are looked for in the log, and where that has others of their number, in the file."""
    path = tmp_path / "c.sqlite"
    write_killed(path, range(60))
    flip(path, 18)
    with open_whole(path) as checkpoint:
        assert None not in checkpoint.outcomes(ANSWERED[:60])
    other = tmp_path / "other.sqlite"
    write_killed(other, list(reversed(range(40, len(ANSWERED)))))
    path.write_bytes(content)
    other.with_name("other.sqlite-wal").rename(path.with_name("c.sqlite-wal"))
    flip(path, 18)
    with open_whole(path) as checkpoint:
        assert None not in checkpoint.outcomes(ANSWERED)


OTHERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_bytes(b"id,text\n1,hello\n" * 5000),
    "zeros": lambda path: path.write_bytes(bytes(100_000)),
    "noise": lambda path: path.write_bytes(random.Random(1).randbytes(100_000)),
    "another program's": lambda path: _database(path, "CREATE TABLE notes (text)"),
}


def _database(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)


@pytest.mark.parametrize("kind", OTHERS)
def test_file_that_is_no_checkpoint_is_refused_and_left_alone(kind: str, tmp_path: Path) -> None:
    """Nothing is put in the place of a file in which there is nothing of a checkpoint."""
    path = tmp_path / "c.sqlite"
    OTHERS[kind](path)
    before = path.read_bytes()
    with pytest.raises(CheckpointForeignError, match=r"not a checkpoint.* name another") as caught, open_whole(path):
        pass
    assert (caught.value.exit_code, caught.value.is_resumable) == (3, False)
    assert [(one, one.read_bytes()) for one in tmp_path.iterdir()] == [(path, before)]


def test_empty_file_is_a_new_checkpoint(tmp_path: Path) -> None:
    """There is nothing to save, and nothing in the way."""
    (tmp_path / "c.sqlite").touch()
    assert run(tmp_path / "c.sqlite") == sum(isinstance(one, Answer) for one in TRUTH.values())


SALVAGING = """
import sys
from pathlib import Path
from batchchat.checkpoint.salvage import open_whole

with open_whole(Path(sys.argv[1])) as checkpoint:
    print(checkpoint.answer_count())
"""


@pytest.mark.slow
@pytest.mark.parametrize("point", ["in-salvage", "after-salvage", "before-replacement", "after-replacement"])
def test_kill_while_saving_loses_nothing(content: bytes, point: str, tmp_path: Path) -> None:
    """Wherever the process dies, the next one has every answer, and one copy of the damaged file, with its WAL."""
    path = tmp_path / "c.sqlite"
    damaged = bytes(PAGE_BYTES) + content[PAGE_BYTES:]
    path.write_bytes(damaged)
    path.with_name("c.sqlite-wal").write_bytes(b"what is left of it")
    command = [sys.executable, "-c", SALVAGING, str(path)]
    environment = {**os.environ, "BATCHCHAT_CRASH_AT": point}
    assert subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == -signal.SIGKILL
    assert run(path) <= 10
    (aside,) = tmp_path.glob("c.damaged-*.sqlite")
    assert aside.read_bytes() == damaged
    assert sorted(tmp_path.iterdir()) == sorted([path, aside, aside.with_name(f"{aside.name}-wal")])


@pytest.mark.slow
def test_damage_while_a_fresh_start_is_wished_brings_no_old_answer_back(content: bytes, tmp_path: Path) -> None:
    """A new checkpoint that a kill kept from its place goes aside too; every answer is in one of the two files."""
    path = tmp_path / "c.sqlite"
    path.write_bytes(bytes(PAGE_BYTES) + content[PAGE_BYTES:])
    command = [sys.executable, "-c", SALVAGING, str(path)]
    environment = {**os.environ, "BATCHCHAT_CRASH_AT": "after-salvage"}
    assert subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == -signal.SIGKILL
    aside = set_aside(path)
    assert aside is not None
    with open_whole(path) as checkpoint:
        assert (checkpoint.find(KEYS), checkpoint.notes) == ({}, ())
    with open_checkpoint(aside, is_read_only=True) as checkpoint:
        assert checkpoint.answer_count() > len(ANSWERED) * 0.9
    assert len(list(tmp_path.glob("c.damaged-*.sqlite"))) == 1


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Path]:
    """Return a job that has been run once, and whose endpoint is still there."""
    with EmbeddedEndpoint(ServeSettings(log_path=tmp_path / "ledger.jsonl")) as endpoint:
        write_csv(tmp_path / "rows.csv", [f"parcel number {number}" for number in range(100)])
        job = write_job(tmp_path, endpoint={"base_url": endpoint.base_url, "name": "stand-in"})
        assert batchchat("run", job).code == 0
        yield job


def exported(job: Path, output: Path) -> list[str]:
    """Export to a file, and return what is said about the checkpoint."""
    return list(export(prepare(load_job(job, overrides={("output", "path"): output}))))


@pytest.mark.slow
def test_damaged_checkpoint_is_told_read_and_repaired(job: Path) -> None:
    """Status and export say that it is damaged, and give what can be read; a run saves that, and asks the rest."""
    checkpoint = job.parent / ".batchchat" / "job.sqlite"
    before = pl.read_parquet(job.parent / "out.parquet")
    damaged = bytearray(checkpoint.read_bytes())
    for start in (0, len(damaged) // 2):
        damaged[start : start + PAGE_BYTES] = bytes(PAGE_BYTES)
    checkpoint.write_bytes(damaged)

    status = batchchat("status", job)
    assert status.code == 0
    assert "job: damaged: 100 rows" in status.stdout
    notes = exported(job, job.parent / "partial.parquet")
    assert notes[0].startswith(f"{checkpoint} is damaged: ")
    assert "the next run saves that, and asks the rest again" in notes[1]
    partial = pl.read_parquet(job.parent / "partial.parquet").filter(pl.col("completion").is_not_null())
    assert 50 < partial.height <= 100
    assert partial.equals(before.filter(pl.col("id").is_in(partial["id"].to_list())))
    assert checkpoint.read_bytes() == damaged

    again = batchchat("run", job, "--json")
    if again.code == 3:
        again = batchchat("run", job, "--json")
    assert (again.code, again.summary["rows_answered"]) == (0, 100)
    assert len(ledger(job.parent / "ledger.jsonl")) == 100 + 100 - partial.height
    assert "the checkpoint was damaged" in again.summary["notes"][0]
    assert pl.read_parquet(job.parent / "out.parquet")["completion"].equals(before["completion"])


@pytest.mark.slow
def test_changed_answer_is_a_null_in_an_export_and_asked_again_by_a_run(job: Path) -> None:
    """Where only an answer is not what was stored, its row alone is affected, and the run says so."""
    checkpoint = job.parent / ".batchchat" / "job.sqlite"
    with closing(sqlite3.connect(checkpoint)) as connection:
        connection.execute("UPDATE answers SET fields = replace(fields, 'parcel', 'pardel') WHERE rowid IN (3, 4)")
        connection.commit()
    (note,) = exported(job, job.parent / "out.parquet")
    assert note == f"{checkpoint} is damaged: 2 outcomes cannot be read; the next run asks their rows again"
    assert pl.read_parquet(job.parent / "out.parquet")["completion"].null_count() == 2
    again = batchchat("run", job, "--json")
    assert again.code == 0
    assert again.summary["notes"][0] == "2 stored outcomes were damaged; their rows were asked again"
    assert len(ledger(job.parent / "ledger.jsonl")) == 102


def test_file_that_may_not_be_written_is_told(content: bytes, tmp_path: Path) -> None:
    """The message says what to do; nothing is changed."""
    if os.geteuid() == 0:
        pytest.skip("root may write anything")
    path = tmp_path / "c.sqlite"
    path.write_bytes(content)
    path.chmod(0o400)
    with pytest.raises(CheckpointError, match="make the file and its folder writable"), open_whole(path) as checkpoint:
        checkpoint.start_run(1)


def test_segments_of_an_output_are_saved(content: bytes, tmp_path: Path) -> None:
    """Where earlier inputs stand in an output that is appended to cannot be found out again."""
    path = tmp_path / "c.sqlite"
    path.write_bytes(content)
    segments = [
        with_checksum("segments", (f"out-{number}.csv", b"file", b"digest", 0, 7 * number)) for number in range(3)
    ]
    with closing(sqlite3.connect(path)) as connection:
        connection.executemany("INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?)", segments)
        connection.commit()
    whole = path.read_bytes()
    path.write_bytes(bytes(PAGE_BYTES) + whole[PAGE_BYTES:])
    with open_whole(path) as checkpoint:
        assert checkpoint.answer_count() > 0
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT * FROM segments ORDER BY output").fetchall() == segments
