"""A system that has no room: a message with the path and what to do, exit 3, and nothing is lost or paid for twice."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from batchchat.serve.server import EmbeddedEndpoint
from batchchat.serve.settings import ServeSettings
from tests.running import ROOT, Ended, batchchat, ledger, write_csv, write_job

pytestmark = pytest.mark.slow

ROWS = 200

LIMITED = """
import resource, sys
from batchchat.__main__ import main

resource.setrlimit(getattr(resource, sys.argv[1]), (int(sys.argv[2]), int(sys.argv[2])))
sys.argv[:3] = ["batchchat"]
main()
"""


def limited(limit: str, value: int, *arguments: str | Path, stderr: Path | None = None) -> Ended:
    """Run the command under one of the system's limits."""
    command = [sys.executable, "-c", LIMITED, limit, str(value), *map(str, arguments)]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if stderr is None else os.open(stderr, os.O_WRONLY),
        text=True,
        timeout=300,
        check=False,
    )
    assert "Traceback" not in (done.stderr or "")
    return Ended(done.returncode, done.stdout, done.stderr or "")


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Path]:
    """Return a job whose checkpoint and output take some hundred kilobytes."""
    with EmbeddedEndpoint(ServeSettings(log_path=tmp_path / "ledger.jsonl")) as endpoint:
        write_csv(tmp_path / "rows.csv", [f"parcel {number} " * 100 for number in range(ROWS)])
        yield write_job(
            tmp_path,
            endpoint={"base_url": endpoint.base_url, "name": "stand-in"},
            output={"path": "out.jsonl"},
            limits={"concurrency": 4},
        )


def test_no_room_for_answers_ends_the_run_and_the_next_asks_the_rest(job: Path) -> None:
    """Answers that are stored when the disk is full are never asked again; those in flight may be."""
    checkpoint = job.parent / ".batchchat" / "job.sqlite"
    ended = limited("RLIMIT_FSIZE", 150_000, "run", job, "--json")
    assert ended.code == 3
    assert f"{checkpoint}: the checkpoint cannot be used: disk I/O error" in ended.stderr
    assert "the space on it" in ended.stderr
    asked, kept = len(ledger(job.parent / "ledger.jsonl")), batchchat("status", job, "--json").summary["answers_stored"]
    assert 0 < kept < ROWS
    assert asked - kept <= 2 * 4
    assert not (job.parent / "out.jsonl").exists()

    resumed = batchchat("run", job, "--json")
    assert (resumed.code, resumed.summary["rows_reused"]) == (0, kept)
    assert len(ledger(job.parent / "ledger.jsonl")) == asked + ROWS - kept


def test_no_room_for_the_output_costs_only_another_try(job: Path) -> None:
    """Everything is answered and stored; when there is room, the same command writes the output, and asks nothing."""
    assert batchchat("run", job).code == 0
    expected = (job.parent / "out.jsonl").read_bytes()
    (job.parent / "out.jsonl").unlink()
    ended = limited("RLIMIT_FSIZE", 120_000, "run", job)
    assert ended.code == 3
    assert f"{job.parent}/out.jsonl: cannot be written: File too large; raise the limit" in ended.stderr
    assert not (job.parent / "out.jsonl").exists()
    assert not list(job.parent.glob(".batchchat-*"))
    assert batchchat("run", job).code == 0
    assert (job.parent / "out.jsonl").read_bytes() == expected
    assert len(ledger(job.parent / "ledger.jsonl")) == ROWS


def test_no_room_for_the_checkpoint_says_so_before_anything_is_asked(job: Path) -> None:
    """A checkpoint that cannot even be made ends the run at its start."""
    ended = limited("RLIMIT_FSIZE", 3000, "run", job)
    assert ended.code == 3
    assert "job.sqlite: the checkpoint cannot be used: disk I/O error" in ended.stderr
    assert ledger(job.parent / "ledger.jsonl") == []
    assert batchchat("run", job, "--quiet").code == 0


def test_full_standard_error_changes_nothing(job: Path) -> None:
    """A log on a full disk is no reason to end otherwise."""
    if not Path("/dev/full").exists():
        pytest.skip("the system has no full device")
    unlimited = resource.getrlimit(resource.RLIMIT_CORE)[0]
    assert limited("RLIMIT_CORE", max(unlimited, 0), "run", job, stderr=Path("/dev/full")).code == 0
    assert pl.read_ndjson(job.parent / "out.jsonl").height == ROWS
