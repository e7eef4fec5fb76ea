"""Runs that die at the most awkward moments, one after the other: nothing is lost, and nothing is paid for twice."""

import signal
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Self

import polars as pl
import pytest

from batchchat.serve.server import EmbeddedEndpoint
from batchchat.serve.settings import ServeSettings
from tests.running import ROOT, ledger, write_csv, write_job

pytestmark = pytest.mark.slow

ROWS = 60
CONCURRENCY = 8
VARIED = ("latency_s", "attempts", "response_id")
"""What may differ between two runs over the same rows."""

BEFORE_THE_REST = ["before-lock", "after-lock", "in-migration"]
WHILE_ASKING = ["before-commit:2", "in-commit:2", "after-commit:2", "in-commit"]
WHILE_WRITING = ["before-rename", "after-rename"]


# Runs a job once for each line of standard input, which names the point where it dies, and says how it ended: children
# of one process, which has imported everything once.
RUNS = """
import os, sys
import batchchat.commands.run, batchchat.show.summary
from batchchat.__main__ import main

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.environ["BATCHCHAT_CRASH_AT"] = line.strip()
        sys.argv[1:] = ["run", sys.argv[1], "--quiet"]
        main()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Runs:
    """A job that can be run again and again."""

    def __init__(self, job: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", RUNS, str(job)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()

    def run(self, dies_at: str = "") -> int:
        """Run the job, and return its exit code, or the signal that it died of, negative."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{dies_at}\n")
        return int(self._process.stdout.readline())


def stored(folder: Path) -> int:
    """Return how many answers are in the checkpoint."""
    path = folder / ".batchchat" / "job.sqlite"
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'answers'").fetchone():
            return 0
        return int(connection.execute("SELECT count(*) FROM answers").fetchone()[0])


def write_place(folder: Path, base_url: str) -> Path:
    """Write a job in a folder of its own."""
    folder.mkdir()
    write_csv(folder / "rows.csv", [f"parcel number {number}" for number in range(ROWS)])
    endpoint = {"base_url": base_url, "name": "stand-in"}
    return write_job(folder, endpoint=endpoint, limits={"concurrency": CONCURRENCY})


def test_kill_at_every_point_costs_no_more_than_what_was_in_flight(tmp_path: Path) -> None:
    """Each run dies at another point and the next goes on; the output is that of a run that nobody killed."""
    log = tmp_path / "ledger.jsonl"
    with ExitStack() as stack:
        endpoint = stack.enter_context(EmbeddedEndpoint(ServeSettings(log_path=log)))
        job = write_place(tmp_path / "killed", endpoint.base_url)
        billed = kept = 0
        runs = stack.enter_context(Runs(job))
        for point in [*BEFORE_THE_REST, *WHILE_ASKING, *WHILE_WRITING]:
            assert runs.run(dies_at=point) == -signal.SIGKILL, point
            lost = (len(ledger(log)) - billed) - (stored(job.parent) - kept)
            assert 0 <= lost <= CONCURRENCY, point
            billed, kept = len(ledger(log)), stored(job.parent)
        assert kept == ROWS
        assert runs.run() == 0
        assert len(ledger(log)) == billed
        whole = write_place(tmp_path / "whole", endpoint.base_url)
        assert stack.enter_context(Runs(whole)).run() == 0
    expected = pl.read_parquet(whole.parent / "out.parquet").drop(VARIED)
    assert pl.read_parquet(job.parent / "out.parquet").drop(VARIED).equals(expected)
    names = {one.name for one in job.parent.iterdir()} | {one.name for one in (job.parent / ".batchchat").iterdir()}
    assert names == {".batchchat", "job.yaml", "rows.csv", "out.parquet", "job.sqlite", "job.sqlite.lock"}
