"""`notify`: the summary's object goes to a webhook however the run ends, and nothing of it changes the run's end."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import batchchat as package
from batchchat.errors import JobError
from batchchat.job.file import job_from_mapping, load_job
from batchchat.send.http.webhook import post
from tests.running import BATCHCHAT, batchchat, write_csv, write_job
from tests.torture import embedded

SECRET = "a-path-that-nobody-may-read"


class Webhook(ThreadingHTTPServer):
    """A server that notes what is posted to it, and answers with a status, after a while."""

    daemon_threads = True

    def __init__(self, status: int = 200, delay_s: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = status
        self.delay_s = delay_s
        self.bodies: list[Any] = []
        self.paths: list[str] = []

    @property
    def url(self) -> str:
        """Where to post to."""
        return f"http://127.0.0.1:{self.server_address[1]}/{SECRET}"


class Handler(BaseHTTPRequestHandler):
    """Notes one request, and answers it a byte at a time when it is slow."""

    server: Webhook

    def do_POST(self) -> None:
        """Answer as the server was told to."""
        self.server.paths.append(self.path)
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        ends_at = time.monotonic() + self.server.delay_s
        try:
            if self.server.delay_s:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nx-slow: ")
            while time.monotonic() < ends_at:
                self.wfile.write(b"a")
                self.wfile.flush()
                time.sleep(0.05)
            self.send_response(self.server.status)
            self.send_header("location", "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()
        except OSError:
            self.close_connection = True  # who asked has gone

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Print nothing."""


@contextmanager
def listening(status: int = 200, delay_s: float = 0.0) -> Iterator[Webhook]:
    """Serve a webhook for as long as the block lasts."""
    with Webhook(status, delay_s) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    """Serve a webhook that takes everything."""
    with listening() as server:
        yield server


@pytest.mark.slow
def test_finished_run_posts_the_object_that_it_prints(webhook: Webhook, tmp_path: Path) -> None:
    """What is posted is what `--json` prints, to the value; without `--json` it is posted too, under --quiet."""
    write_csv(tmp_path / "rows.csv", ["a"])
    job = write_job(tmp_path, notify=webhook.url)
    printed = batchchat("run", job, "--json")
    assert webhook.bodies == [printed.summary]
    assert webhook.paths == [f"/{SECRET}"]
    assert batchchat("run", job, "--quiet").code == 0
    assert [body["rows_reused"] for body in webhook.bodies] == [0, 1]


def test_job_that_cannot_begin_is_told_of_too(webhook: Webhook, tmp_path: Path) -> None:
    """A night without its input is what one wants to hear of; a job file that cannot be read has nobody to tell."""
    job = write_job(tmp_path, notify={"url": webhook.url, "timeout_s": 5})
    ended = batchchat("run", job, "--json")
    assert (ended.code, ended.summary["job"]) == (2, "job")
    assert webhook.bodies == [ended.summary]
    assert batchchat("run", job, "--set", "limits.concurrency=0").code == 2
    assert len(webhook.bodies) == 1


@pytest.mark.slow
def test_refused_and_locked_runs_post_their_exit_codes(webhook: Webhook, tmp_path: Path) -> None:
    """A run that the endpoint refused, and one that another run keeps from beginning."""
    write_csv(tmp_path / "rows.csv", ["a"])
    endpoint = {"base_url": "http://127.0.0.1:9/v1"}
    job = write_job(tmp_path, notify=webhook.url, endpoint=endpoint)
    assert batchchat("run", job).code == 4
    checkpoint = tmp_path / ".batchchat" / "job.sqlite"
    with subprocess.Popen(["flock", f"{checkpoint}.lock", "sleep", "100"]) as holder:
        time.sleep(0.2)
        assert batchchat("run", job).code == 3
        holder.terminate()
    assert [(body["exit_code"], body["outcome"]) for body in webhook.bodies] == [(4, "refused"), (3, "failed")]


@pytest.mark.slow
def test_stopped_run_posts_that_it_was(webhook: Webhook, tmp_path: Path) -> None:
    """SIGTERM ends the run with its whole summary, and the webhook has it before the process is gone."""
    write_csv(tmp_path / "rows.csv", [f"text {number}" for number in range(200)])
    with embedded.endpoint(tmp_path, "--latency", "0.2") as base_url:
        job = write_job(tmp_path, notify=webhook.url, endpoint={"base_url": base_url}, limits={"concurrency": 4})
        with subprocess.Popen([*BATCHCHAT, "run", str(job), "--json"], stdout=subprocess.PIPE) as process:
            while not (tmp_path / "ledger.jsonl").exists() or not (tmp_path / "ledger.jsonl").read_bytes():
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            printed, _ = process.communicate(timeout=300)
    assert process.returncode == 143
    assert webhook.bodies == [json.loads(printed)]
    assert (webhook.bodies[0]["outcome"], webhook.bodies[0]["reason"]) == ("interrupted", "stopped by SIGTERM")


@pytest.mark.slow
@pytest.mark.parametrize("status", [302, 404, 500])
def test_webhook_that_refuses_is_one_line_and_changes_nothing(status: int, tmp_path: Path) -> None:
    """The exit code stands; the line names the host and the status, and no more of the URL; no redirect is followed."""
    write_csv(tmp_path / "rows.csv", ["a"])
    with listening(status) as webhook:
        ended = batchchat("run", write_job(tmp_path, notify=webhook.url), "--json")
    assert (ended.code, ended.summary["outcome"]) == (0, "finished")
    (line,) = [line for line in ended.stderr.splitlines() if "notify" in line]
    assert line == f"batchchat: notify: 127.0.0.1 did not take the message: it answered with status {status}"
    assert webhook.paths == [f"/{SECRET}"]
    assert SECRET not in ended.stderr + ended.stdout


@pytest.mark.slow
def test_webhook_that_never_ends_is_left_in_time() -> None:
    """The time is for the whole of it: a byte now and then does not prolong it."""
    with listening(delay_s=20) as webhook:
        started = time.monotonic()
        assert post(webhook.url, b"{}", 0.5) == "127.0.0.1 did not answer within 0.5 s"
        assert 0.5 <= time.monotonic() - started < webhook.delay_s
        webhook.delay_s = 0


@pytest.mark.slow
def test_signal_ends_the_wait_and_not_the_exit_code(tmp_path: Path) -> None:
    """Whoever stops a run that waits for its webhook alone gets the exit code that the run had."""
    write_csv(tmp_path / "rows.csv", ["a"])
    with listening(delay_s=60) as webhook:
        job = write_job(tmp_path, notify={"url": webhook.url, "timeout_s": 60})
        command = [*BATCHCHAT, "run", str(job), "--quiet"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            while not webhook.bodies:
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=300)
        webhook.delay_s = 0
    assert process.returncode == 0
    assert said == "batchchat: notify: 127.0.0.1 had not answered when a signal came\n"


def test_webhook_that_is_not_there_is_said_without_its_path() -> None:
    """The words are of the connection."""
    said = post(f"http://127.0.0.1:9/{SECRET}", b"{}", 5)
    assert said is not None
    assert said.startswith("127.0.0.1 cannot be reached: ")
    assert SECRET not in said


def test_url_alone_is_the_short_form(tmp_path: Path) -> None:
    """`notify: URL` is `notify: {url: URL}`, also from an environment variable."""
    request = {"model": "m", "messages": "{{ m }}"}
    short = job_from_mapping({"request": request, "notify": "https://hooks.example/x"}, tmp_path).job.notify
    long = job_from_mapping({"request": request, "notify": {"url": "https://hooks.example/x"}}, tmp_path).job.notify
    assert short == long
    assert short is not None
    assert short.timeout_s == 10


@pytest.mark.parametrize(
    "url", [f"hooks.example/{SECRET}", f"ftp://h/{SECRET}", f"https://user:{SECRET}@hooks.example"]
)
@pytest.mark.parametrize("form", ["notify: {}\n", "notify:\n  url: {}\n"])
def test_wrong_url_is_not_shown(url: str, form: str, tmp_path: Path) -> None:
    """The error names the key and its line, and says nothing of the value: the URL of a webhook is a secret."""
    path = tmp_path / "job.yaml"
    path.write_text("request: {model: m, messages: '{{ m }}'}\n" + form.format(url))
    with pytest.raises(JobError, match=r"notify.*must ") as caught:
        load_job(path)
    assert SECRET not in str(caught.value)


def test_python_programs_post_too(webhook: Webhook, tmp_path: Path) -> None:
    """`batchchat.run` of a job with a webhook tells it, of its end as of its failure."""
    write_csv(tmp_path / "rows.csv", ["a"])
    job = write_job(tmp_path, notify=webhook.url)
    package.run(job)
    (tmp_path / "rows.csv").unlink()
    with pytest.raises(package.errors.InputError):
        package.run(job)
    assert [body["exit_code"] for body in webhook.bodies] == [0, 2]
