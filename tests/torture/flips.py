"""Single bits flipped in checkpoints: whatever is damaged is refused, null or asked again, and never a wrong answer.

Each flip is in a copy of its own, and is exported, or run on, in a worker process that imports batchchat.
"""

import multiprocessing
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from batchchat.commands.export import export
from batchchat.commands.plan import Plan, prepare
from batchchat.commands.run import RunOptions
from batchchat.commands.run import run as run_plan
from batchchat.errors import BatchchatError
from batchchat.job.file import load_job
from tests.torture.answers import digest_of_text, said
from tests.torture.checker import answer_of, row_answer
from tests.torture.figures import Line
from tests.torture.stage import Server, command, scripted_server, started, write_job, write_texts

WORKERS = 2
REFUSED_ROWS_EVERY = 25
"""One row of so many is refused by the server, so that failures are flipped too."""
LONGEST_FLIP_S = 60.0


@dataclass(frozen=True)
class FlipFigures:
    """What became of flips: `exported` and `went_on` count them by what was seen; `wrong` is the word that must not be.

    `unharmed`: the output is that of the whole checkpoint; `null`: some rows have no answer; `refused`: an error says
    that the file is damaged; `answered in full`: the run ended with every row's own answer; `crashed`: anything else
    that was raised.
    """

    rows: int
    exported: Counter[str]
    went_on: Counter[str]
    examples: tuple[str, ...]
    seconds: float

    def lines(self) -> list[Line]:
        """Return the lines of the table."""
        return [
            Line(what, f"{sum(found.values()):,} flips, {self.rows} rows", _worded(found))
            for what, found in (
                ("flipped bits in a checkpoint, exported", self.exported),
                ("flipped bits in a killed run's checkpoint, run on", self.went_on),
            )
        ]

    def broken(self) -> list[str]:
        """Return the promises that were not kept."""
        bad = ("wrong", "crashed")
        counts = [f"{found[word]} {word}" for found in (self.exported, self.went_on) for word in bad if found[word]]
        return [*counts, *(self.examples if counts else ())]


def _worded(found: Counter[str]) -> str:
    others = (f"{count} {word}" for word, count in sorted(found.items()) if word != "wrong")
    return ", ".join([f"{found['wrong']} wrong answers", *others])


def flip(folder: Path, *, rows: int, exported: int, went_on: int) -> FlipFigures:
    """Flip bits of a finished checkpoint and export it, and of an unfinished one and run it on."""
    started_at = time.monotonic()
    texts = [f"row {number}{' do:echo' if number % REFUSED_ROWS_EVERY == 7 else ''}" for number in range(rows)]
    write_texts(folder / "rows.csv", iter(texts))
    with scripted_server(folder, "latency 0.01 0.02") as server:
        job = write_job(folder, server.base_url, {"concurrency": 16})
        _kill_at_half(job, server, rows)
        shutil.copytree(folder / ".batchchat", folder / "unfinished")
        done = command("run", job, "--quiet", folder=folder)
        assert done.code == 1, f"exit code {done.code}: {done.stderr}"
        server.say("latency 0 0")
        reference = folder / "torture.parquet"
        with _workers() as pool:
            flips = _flips(folder, ".batchchat", exported)
            found = list(pool.map(partial(_export_flipped, job, reference), flips, timeout=LONGEST_FLIP_S * 10))
            flips = _flips(folder, "unfinished", went_on)
            further = list(pool.map(partial(_run_flipped, job), flips, timeout=LONGEST_FLIP_S * 10))
    examples = [f"{word}: {detail}" for word, detail in found + further if word in ("wrong", "crashed")]
    return FlipFigures(
        rows=rows,
        exported=Counter(word for word, _ in found),
        went_on=Counter(word for word, _ in further),
        examples=tuple(examples[:5]),
        seconds=time.monotonic() - started_at,
    )


def _workers() -> ProcessPoolExecutor:
    # Spawned: polars' threads do not survive a fork.
    return ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn"))


def _kill_at_half(job: Path, server: Server, rows: int) -> None:
    with started("run", job, "--quiet") as process:
        while server.counts()[1] < rows // 2:
            assert process.poll() is None
            time.sleep(0.005)
        process.kill()


@dataclass(frozen=True)
class Flip:
    """A bit of a file of a checkpoint's folder."""

    folder: Path
    file: str
    bit: int


def _flips(parent: Path, folder: str, count: int) -> Iterator[Flip]:
    """Yield bits at random places of a checkpoint and its log, by their sizes."""
    chance = random.Random(count)
    files = [path for path in sorted((parent / folder).iterdir()) if path.name.endswith((".sqlite", "-wal"))]
    sizes = [path.stat().st_size for path in files]
    for _ in range(count):
        (path,) = chance.choices(files, sizes)
        yield Flip(parent / folder, path.name, chance.randrange(path.stat().st_size * 8))


def _flipped(one: Flip, into: Path) -> Path:
    """Return the path of a copy of a checkpoint that has one bit flipped."""
    shutil.copytree(one.folder, into / "checkpoint")
    with (into / "checkpoint" / one.file).open("r+b") as file:
        file.seek(one.bit // 8)
        byte = file.read(1)[0]
        file.seek(one.bit // 8)
        file.write(bytes([byte ^ 1 << one.bit % 8]))
    return into / "checkpoint" / "torture.sqlite"


def _plan(job: Path, checkpoint: Path, output: Path) -> Plan:
    places: dict[tuple[str | int, ...], Any] = {("checkpoint", "path"): checkpoint, ("output", "path"): output}
    return prepare(load_job(job, overrides=places))


def _export_flipped(job: Path, reference: Path, one: Flip) -> tuple[str, str]:
    """Return what an export of a flipped checkpoint gives, and some words on it."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.parquet"
        try:
            export(_plan(job, _flipped(one, Path(folder)), output))
        except BatchchatError as error:
            return "refused", str(error)
        except Exception as error:
            return "crashed", f"{one}: {error!r}"
        if output.read_bytes() == reference.read_bytes():
            return "unharmed", ""
        return _compared(pl.read_parquet(output), pl.read_parquet(reference), one)


def _compared(table: pl.DataFrame, whole: pl.DataFrame, one: Flip) -> tuple[str, str]:
    """Tell an output with missing answers from one with wrong ones: a row is that of the whole, or says nothing."""
    if table.height != whole.height:
        return "wrong", f"{one}: {table.height} rows"
    for row, right in zip(table.iter_rows(named=True), whole.iter_rows(named=True), strict=True):
        said_nothing = all(value is None for name, value in row.items() if name not in ("id", "text"))
        if row != right and not said_nothing:
            changed = {name: (value, right[name]) for name, value in row.items() if value != right[name]}
            return "wrong", f"{one}: row {row['id']}: {changed}"
    return ("unharmed", "") if table.equals(whole) else ("null", "")


def _run_flipped(job: Path, one: Flip) -> tuple[str, str]:
    """Return what a run over a flipped checkpoint gives, and some words on it."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.parquet"
        try:
            plan = _plan(job, _flipped(one, Path(folder)), output)
            summary = run_plan(plan, None, RunOptions(is_quiet=True))
        except BatchchatError as error:
            return "refused", str(error)
        except Exception as error:
            return "crashed", f"{one}: {error!r}"
        wrong = [row for row in pl.read_parquet(output).iter_rows(named=True) if not _is_right(row)]
        if wrong:
            return "wrong", f"{one}: {wrong[0]}"
        return "answered in full", str(summary.progress.rows_reused)


def _is_right(row: dict[str, Any]) -> bool:
    if "do:" in row["text"]:
        return row["error_kind"] == "bad_request" and row["completion"] is None
    expected = said(digest_of_text(row["text"]))
    return row_answer(row) == answer_of(expected) and row["model"] == expected.model and row["error_kind"] is None
