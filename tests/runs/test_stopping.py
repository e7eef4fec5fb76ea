"""Signals at awkward moments: a command ends by them, tidies up, and takes no part of it for damage."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from batchchat.commands.plan import opened, prepare, prepared_rows
from batchchat.job.file import load_job
from batchchat.records import Answer, ChatRequest, Completion, Progress
from tests.running import ROOT, Ended, batchchat, write_csv, write_job

pytestmark = pytest.mark.slow

ROWS = 20

# Runs a command, and sends itself signals: each at the call of a function, or at what Python tells its auditors of.
SIGNALLED = """
import os, sys
from batchchat.__main__ import main

class Swallowing:
    def __init__(self, number):
        self.number = number

    def __del__(self):
        os.kill(os.getpid(), self.number)
        sum(range(10))

def reach(name):
    if moments and name == moments[0][0]:
        _, number, how = moments.pop(0)
        if how == "swallowed":
            Swallowing(int(number))
        else:
            os.kill(os.getpid(), int(number))
            sum(range(10))

moments = [one.split(":") for one in sys.argv.pop(1).split(",")]
sys.addaudithook(lambda event, _: reach(event))
sys.setprofile(lambda frame, event, _: reach(frame.f_code.co_name if event == "call" else None))
main()
"""


def signalled(moments: str, *arguments: str | Path) -> Ended:
    """Run a command that gets signals at some moments."""
    command = [sys.executable, "-c", SIGNALLED, moments, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """Return a job all of whose rows are answered, and whose endpoint is not there."""
    write_csv(tmp_path / "rows.csv", [f"parcel number {number}" for number in range(ROWS)])
    job = write_job(tmp_path, endpoint={"base_url": "http://127.0.0.1:9/v1", "name": "gone"})
    plan = prepare(load_job(job))
    with opened(plan) as checkpoint:
        checkpoint.start_run(ROWS)
        answers = [
            (made.key, Answer(Completion("yes"), b"{}", 1.0, 1))
            for _, made in prepared_rows(plan)
            if isinstance(made, ChatRequest)
        ]
        checkpoint.commit(answers, Progress(rows_answered=ROWS))
        checkpoint.end_run("finished")
    return job


def test_signal_that_was_swallowed_leaves_the_next_one_its_effect(job: Path) -> None:
    """Python ignores what is raised in a finalizer; a process that then ignored all signals could only be killed."""
    ended = signalled(f"prepare:{signal.SIGINT:d}:swallowed,opened:{signal.SIGTERM:d}:raised", "run", job, "--quiet")
    assert ended.code == 128 + signal.SIGTERM
    assert ended.stderr.endswith("batchchat: interrupted\n")


def test_second_signal_does_not_interrupt_the_tidying_up(job: Path) -> None:
    """The temporary file of an export goes, although another signal comes when it is about to be removed."""
    before = set(job.parent.iterdir())
    ended = signalled(f"os.rename:{signal.SIGINT:d}:raised,os.remove:{signal.SIGTERM:d}:raised", "export", job)
    assert (ended.code, ended.stderr) == (128 + signal.SIGINT, "batchchat: interrupted\n")
    assert set(job.parent.iterdir()) == before


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_leaves_the_record_of_a_stopped_run_whole(job: Path, second: int) -> None:
    """The first one stops the writing of the output; the other comes when the checkpoint is told so."""
    moments = f"os.rename:{signal.SIGTERM:d}:raised,end_run:{second:d}:raised"
    ended = signalled(moments, "run", job, "--json", "--quiet")
    assert ended.code == 128 + signal.SIGTERM
    assert (ended.summary["exit_code"], ended.summary["rows_total"]) == (ended.code, ROWS)
    assert "stopped by SIGTERM" in batchchat("status", job).stdout
