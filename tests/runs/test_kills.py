"""Kills, faults and signals from outside, over the embedded endpoint; `test_torture.py` has those at random moments."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from batchchat.serve.server import EmbeddedEndpoint
from batchchat.serve.settings import ServeSettings
from tests.echoing import Echoing, Sent, completion
from tests.odd_replies import respond
from tests.running import BATCHCHAT, batchchat, ledger, write_csv, write_job
from tests.torture import embedded

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("is_streamed", [False, True], ids=["plain", "streamed"])
def test_kill_9_in_the_middle_of_corrections_costs_what_the_runs_say(is_streamed: bool, tmp_path: Path) -> None:
    """Every row needs two replies; what was paid for beyond them is no more than the bounds that killed runs report."""
    rows = 200
    write_csv(tmp_path / "rows.csv", [f"row number {number}" for number in range(rows)])
    request = {
        "model": "odd/wrong-json",
        "stream": is_streamed,
        "messages": [{"role": "user", "content": "{{ text }}"}],
        "response_schema": {"mood": ["angry", "calm"], "number": "integer"},
    }
    bound = 0
    settings = ServeSettings(latency_s=0.1, log_path=tmp_path / "ledger.jsonl")
    with EmbeddedEndpoint(settings, respond=respond) as there:
        job = write_job(tmp_path, endpoint={"base_url": there.base_url}, request=request, limits={"concurrency": 16})
        for requests in (40, 150, 260):
            with subprocess.Popen([*BATCHCHAT, "run", str(job), "--quiet"]) as process:
                _wait_for(lambda: len(ledger(tmp_path / "ledger.jsonl")) >= requests)  # noqa: B023
                process.kill()
            bound += embedded.in_flight_bound(job)
        finished = batchchat("run", job, "--json")
    assert (finished.code, finished.summary["rows_answered"]) == (0, rows)
    assert set(pl.read_parquet(tmp_path / "out.parquet")["attempts"]) == {2}
    assert 0 < len(ledger(tmp_path / "ledger.jsonl")) - 2 * rows <= bound <= 3 * 2 * 16


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_keeps_what_was_in_flight_and_the_next_run_goes_on(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    """A polite stop loses nothing: every answer that was paid for is kept, and the output is left alone."""
    write_csv(tmp_path / "rows.csv", [f"text {number}" for number in range(300)])
    log = tmp_path / "ledger.jsonl"
    with embedded.endpoint(tmp_path, "--latency", "0.2") as base_url:
        job = write_job(tmp_path, endpoint={"base_url": base_url}, limits={"concurrency": 8})
        with subprocess.Popen([*BATCHCHAT, "run", str(job)], stderr=subprocess.PIPE, text=True) as process:
            _wait_for(lambda: len(ledger(log)) >= 8)
            process.send_signal(number)
            _, stderr = process.communicate(timeout=300)
        assert process.returncode == code
        assert "run the same command to go on" in stderr
        assert not (tmp_path / "out.parquet").exists()
        resumed = batchchat("run", job, "--json")
        assert resumed.code == 0
        assert len(ledger(log)) == 300
        assert resumed.summary["rows_reused"] + resumed.summary["requests_sent"] == 300
    assert pl.read_parquet(tmp_path / "out.parquet")["completion"].null_count() == 0


def test_run_under_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    """Where SIGHUP is ignored, as `nohup` has it, it stays ignored: at a log-out the run goes on."""
    write_csv(tmp_path / "rows.csv", [f"text {number}" for number in range(40)])
    with embedded.endpoint(tmp_path, "--latency", "0.2") as base_url:
        job = write_job(tmp_path, endpoint={"base_url": base_url}, limits={"concurrency": 8})
        with subprocess.Popen(["nohup", *BATCHCHAT, "run", str(job), "--quiet"], stdin=subprocess.DEVNULL) as process:
            _wait_for(lambda: len(ledger(tmp_path / "ledger.jsonl")) >= 8)
            process.send_signal(signal.SIGHUP)
            assert process.wait(300) == 0
    assert pl.read_parquet(tmp_path / "out.parquet")["completion"].null_count() == 0


def test_few_open_files_are_few_requests_at_once(tmp_path: Path) -> None:
    """A limit on open files below the concurrency is obeyed and named, and no row meets it."""
    write_csv(tmp_path / "rows.csv", [f"text {number}" for number in range(200)])
    limited = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128));"
    limited += "os.execv(sys.argv[1], sys.argv[1:])"
    with embedded.endpoint(tmp_path, "--latency", "0.05") as base_url:
        job = write_job(tmp_path, endpoint={"base_url": base_url}, limits={"concurrency": 500})
        command = [sys.executable, "-c", limited, *BATCHCHAT, "run", str(job)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert (
        "limits.concurrency is 500, but the system allows only 32 connections (ulimit -n); going on with 32"
        in done.stderr
    )
    assert "200 answered" in done.stderr


def test_too_few_open_files_are_told(tmp_path: Path) -> None:
    """Libraries abort where a process may open hardly any file; the run says so before, and nothing is lost."""
    write_csv(tmp_path / "rows.csv", ["a"])
    limited = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (18, 18));"
    limited += "os.execv(sys.argv[1], sys.argv[1:])"
    job = write_job(tmp_path, endpoint={"base_url": "http://127.0.0.1:9"})
    command = [sys.executable, "-c", limited, *BATCHCHAT, "run", str(job)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 3
    assert "the system allows only 18 open files" in done.stderr
    assert "Traceback" not in done.stderr


def test_second_interrupt_leaves_at_once(tmp_path: Path) -> None:
    """The first Ctrl-C waits for replies, the second does not."""
    write_csv(tmp_path / "rows.csv", ["a", "b", "c"])
    release = threading.Event()

    def late(*_: object) -> Sent:
        release.wait(300)
        return Sent(200, completion("late"))

    with Echoing(late) as endpoint:
        job = write_job(tmp_path, endpoint={"base_url": endpoint.base_url})
        with subprocess.Popen([*BATCHCHAT, "run", str(job), "--quiet"]) as process:
            _wait_for(lambda: len(endpoint.seen) == 3)
            process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1.0)
            process.send_signal(signal.SIGINT)
            assert process.wait(5.0) == 130
        release.set()


def test_faulty_endpoint_answers_every_row(tmp_path: Path) -> None:
    """A fifth of all requests meet a fault, and every row is answered beside itself."""
    embedded.write_rows(tmp_path / "rows.csv", 400)
    with embedded.endpoint(tmp_path, "--fault-rate", "0.2") as base_url:
        job = embedded.write_job(tmp_path, base_url, 32)
        assert batchchat("run", job, "--quiet").code == 0
    assert embedded.compare(tmp_path / "out.parquet", embedded.ledger(tmp_path)) == (0, 0)


def test_second_run_of_the_same_job_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    """One live run per checkpoint: the other exits 3 and names the owner; status and export still work."""
    write_csv(tmp_path / "rows.csv", [f"text {number}" for number in range(50)])
    with embedded.endpoint(tmp_path, "--latency", "0.3") as base_url:
        job = write_job(tmp_path, endpoint={"base_url": base_url}, limits={"concurrency": 2})
        with subprocess.Popen([*BATCHCHAT, "run", str(job), "--quiet"]) as process:
            _wait_for(lambda: len(ledger(tmp_path / "ledger.jsonl")) >= 4)
            refused = batchchat("run", job)
            assert refused.code == 3
            assert f"pid {process.pid} on" in refused.stderr
            assert "running: 50 rows" in batchchat("status", job).stdout
            assert batchchat("export", job, "--output", tmp_path / "partial.csv").code == 0
            process.kill()
        table = pl.read_csv(tmp_path / "partial.csv")
        assert table.height == 50
        assert 0 < table["completion"].null_count() < 50
        assert "killed with at most 2 requests in flight" in batchchat("status", job).stdout
        done = batchchat("run", job, "--json", "--set", "limits.concurrency=32")
        assert (done.code, done.summary["lost_in_flight"]) == (0, 2)


def _wait_for(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
