"""A template that never ends: Ctrl-C and SIGTERM end every command that renders it, and what was answered is kept."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from batchchat.checkpoint.store import open_checkpoint
from batchchat.commands.plan import opened, prepare
from batchchat.job.file import load_job
from batchchat.serve.server import EmbeddedEndpoint
from batchchat.serve.settings import ServeSettings
from tests.running import ROOT, batchchat, write_csv, write_job

pytestmark = pytest.mark.slow

ROUNDS = "{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}"
ENDLESS = f"{{% if text == 'endless' %}}{ROUNDS}{'{% endfor %}' * 3}{{% endif %}}Repeat: {{{{ text }}}}"
IN_ONE_CHUNK = 256

# Runs a command that says on standard output which row is rendered, when the run is stopped, and what is stored.
ANNOUNCING = """
import os
from batchchat.__main__ import main
from batchchat.checkpoint.store import Checkpoint
from batchchat.prompt.request import Prompt
from batchchat.send.scheduler.scheduler import Scheduler
from batchchat.send.http.transport import Transport

def announce(owner, name, words):
    method = getattr(owner, name)
    def announced(self, *args, **kwargs):
        result = method(self, *args, **kwargs) if name == "commit" else None
        os.write(1, f"{words(*args)}\\n".encode())
        return result if name == "commit" else method(self, *args, **kwargs)
    setattr(owner, name, announced)

announce(Prompt, "request", lambda row: f"renders {row.values['text']}")
announce(Scheduler, "stop", lambda reason: "stops")
announce(Transport, "send", lambda body: "sends")
announce(Checkpoint, "commit", lambda outcomes, progress: f"has {progress.rows_answered}")
"""
COMMAND = f"{ANNOUNCING}main()"
PROGRAM = f"{ANNOUNCING}import batchchat, sys\nbatchchat.run(sys.argv[1])"


@contextmanager
def announcing(*arguments: str | Path, code: str = COMMAND) -> Iterator[subprocess.Popen[str]]:
    """Run a command; leave none behind."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: subprocess.Popen[str], *lines: str) -> None:
    """Read what the command says until it has said all of these lines."""
    assert process.stdout is not None
    missing = set(lines)
    for line in process.stdout:
        missing.discard(line.rstrip())
        if not missing:
            return
    raise AssertionError(missing)


def write_endless(folder: Path, answered: int = 0, **changes: object) -> Path:
    """Write a job over so many rows and one whose template never ends."""
    write_csv(folder / "rows.csv", [*(f"text {number}" for number in range(answered)), "endless"])
    request = {"model": "stand-in", "messages": [{"role": "user", "content": ENDLESS}]}
    return write_job(folder, request=request, **changes)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["check", "preview", "estimate", "export"])
def test_signal_ends_a_command_whose_template_never_ends(tmp_path: Path, command: str, number: int) -> None:
    """At once: nothing is in flight. The temporary file of an export goes."""
    job = write_endless(tmp_path)
    with opened(prepare(load_job(job))):
        pass
    before = set(tmp_path.iterdir())
    with announcing(command, job) as process:
        wait_for(process, "renders endless")
        process.send_signal(number)
        assert process.wait(300) == 128 + number
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("answered", [0, IN_ONE_CHUNK])
def test_second_ctrl_c_ends_a_run_whose_template_never_ends(tmp_path: Path, answered: int) -> None:
    """Also with no request in flight; what was answered is in the checkpoint."""
    job = write_endless(tmp_path, answered, limits={"grace_s": 3600})
    with announcing("run", job) as process:
        wait_for(process, "renders endless", *([f"has {answered}"] if answered else []))
        process.send_signal(signal.SIGINT)
        wait_for(process, "stops")
        process.send_signal(signal.SIGINT)
        assert process.wait(300) == 130
    check_kept(tmp_path, job, answered)


@pytest.mark.parametrize("answered", [0, IN_ONE_CHUNK])
def test_sigterm_ends_a_run_whose_template_never_ends(tmp_path: Path, answered: int) -> None:
    """After its grace, one signal is enough."""
    job = write_endless(tmp_path, answered, limits={"grace_s": 0.1})
    with announcing("run", job) as process:
        wait_for(process, "renders endless", *([f"has {answered}"] if answered else []))
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 143
    check_kept(tmp_path, job, answered)


def test_second_ctrl_c_ends_a_template_and_the_requests_in_flight(tmp_path: Path) -> None:
    """One waits for a reply, the other is never made."""
    with EmbeddedEndpoint(ServeSettings(latency_s=3600)) as endpoint:
        limits = {"grace_s": 3600, "concurrency": IN_ONE_CHUNK}
        job = write_endless(tmp_path, IN_ONE_CHUNK, limits=limits, endpoint={"base_url": endpoint.base_url})
        with announcing("run", job) as process:
            wait_for(process, "sends", "renders endless")
            process.send_signal(signal.SIGINT)
            wait_for(process, "stops")
            process.send_signal(signal.SIGINT)
            assert process.wait(300) == 130


def test_second_ctrl_c_ends_a_python_program_too(tmp_path: Path) -> None:
    """Python would wait for the thread of the template at its own end."""
    job = write_endless(tmp_path, limits={"grace_s": 3600})
    with announcing(job, code=PROGRAM) as process:
        wait_for(process, "renders endless")
        process.send_signal(signal.SIGINT)
        wait_for(process, "stops")
        process.send_signal(signal.SIGINT)
        assert process.wait(300) == 1


def check_kept(folder: Path, job: Path, answered: int) -> None:
    """Check that the checkpoint is whole and free, and that the next run asks only what has no answer."""
    with open_checkpoint(folder / ".batchchat" / "job.sqlite") as checkpoint:
        assert checkpoint.answer_count() == answered
    rows = folder / "rows.csv"
    rows.write_text(rows.read_text().replace("endless", "at last"))
    summary = batchchat("run", job, "--json").summary
    assert (summary["exit_code"], summary["rows_reused"], summary["requests_sent"]) == (0, answered, 1)
