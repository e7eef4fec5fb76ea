"""What every scenario stands on: the scripted server, a job over many rows, and the command in a process of its own."""

import csv
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from batchchat.commands.status import job_status
from batchchat.job.file import load_job
from batchchat.runs import JobStatus
from tests.running import BATCHCHAT, ROOT
from tests.torture.answers import MODEL
from tests.torture.ledger import Entry, read_ledger

WORDS = ["refund", "parcel", "crash", "password", "invoice", "delivery", "error", "login", "hello", "question"]
LONGEST_RUN_S = 900.0


@dataclass(frozen=True)
class Server:
    """The scripted server: where it is, and its ledger; `say` gives it a command of its script."""

    base_url: str
    ledger_path: Path
    _process: subprocess.Popen[str]

    def say(self, command: str) -> str:
        """Give the server a line; return the line that it prints."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def counts(self) -> tuple[int, int]:
        """Return how many requests arrived, and how many answers were delivered."""
        arrived, delivered = self.say("count").split()
        return int(arrived), int(delivered)

    def ledger(self) -> list[Entry]:
        """Return what the server noted so far."""
        self.say("flush")
        return list(read_ledger(self.ledger_path))


@contextmanager
def scripted_server(folder: Path, *script: str) -> Iterator[Server]:
    """Run the scripted server in a process of its own, with these commands given; its ledger is in `folder`."""
    ledger_path = folder / "ledger.jsonl"
    command = [sys.executable, "-m", "tests.torture.server", "--ledger", str(ledger_path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment()
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            server = Server(process.stdout.readline().strip(), ledger_path, process)
            for line in script:
                server.say(line)
            yield server
        finally:
            process.stdin.close()
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()


def write_texts(path: Path, texts: Iterator[str]) -> None:
    """Write a CSV with a number and a text in each row."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        writer.writerows(enumerate(texts))


def different_texts(count: int) -> Iterator[str]:
    """Yield so many different texts."""
    chance = random.Random(count)
    for number in range(count):
        yield f"row {number} {' '.join(chance.choices(WORDS, k=6))}"


def write_job(
    folder: Path,
    base_url: str,
    limits: Mapping[str, Any],
    *,
    name: str = "torture",
    price: Mapping[str, float] | None = None,
    **request: Any,
) -> Path:
    """Write a job over `rows.csv` whose rows' texts are the messages; `request` adds to what is sent."""
    job = {
        "name": name,
        "input": {"path": "rows.csv", "id": "id"},
        "output": {"path": f"{name}.parquet"},
        "endpoint": {"base_url": base_url, "name": "scripted"},
        "limits": dict(limits),
        **({"price": dict(price)} if price else {}),
        "request": {"model": MODEL, "messages": [{"role": "user", "content": "{{ text }}"}], **request},
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(job))
    return path


@dataclass(frozen=True)
class Ended:
    """How a command ended; `peak_mb` is its peak resident memory."""

    code: int
    stdout: str
    stderr: str
    peak_mb: float
    seconds: float

    @property
    def summary(self) -> dict[str, Any]:
        """The object that `--json` printed."""
        found: dict[str, Any] = json.loads(self.stdout)
        return found


@contextmanager
def started(
    *arguments: str | Path,
    stdout: IO[bytes] | int = subprocess.DEVNULL,
    stderr: IO[bytes] | int = subprocess.DEVNULL,
    before: Callable[[], None] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start the command; at the block's end it is killed, if it still lives. `before` is called in its process."""
    command = [*BATCHCHAT, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=stdout, stderr=stderr, env=_environment(), preexec_fn=before)  # noqa: PLW1509
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def command(*arguments: str | Path, folder: Path, before: Callable[[], None] | None = None) -> Ended:
    """Run the command to its end; what it prints passes through files in `folder`.

    Raises:
        TimeoutError: it did not come to its end; it was killed.
    """
    started_at = time.monotonic()
    stdout_path, stderr_path = folder / "stdout.txt", folder / "stderr.txt"
    with (
        stdout_path.open("wb") as stdout,
        stderr_path.open("wb") as stderr,
        started(*arguments, stdout=stdout, stderr=stderr, before=before) as process,
    ):
        code, peak_mb = waited(process, LONGEST_RUN_S)
    seconds = time.monotonic() - started_at
    return Ended(code, stdout_path.read_text(), stderr_path.read_text(), peak_mb, seconds)


def waited(process: subprocess.Popen[bytes], longest_s: float) -> tuple[int, float]:
    """Wait for a process; return its exit code and its peak resident memory in MB.

    Raises:
        TimeoutError: it lives still.
    """
    deadline = time.monotonic() + longest_s
    peak_mb = 0.0
    while True:
        peak_mb = max(peak_mb, _high_water_mb(process.pid))
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            # Elsewhere the system's own figure must do; on Linux that may be the one of the process which started it.
            return process.returncode, peak_mb or usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        if time.monotonic() > deadline:
            message = f"pid {process.pid} did not end within {longest_s:g} s"
            raise TimeoutError(message)
        time.sleep(0.005)


def _high_water_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM:")), 0.0)


def status_of(job: Path) -> JobStatus:
    """Return what `batchchat status` knows of a job."""
    return job_status(load_job(job))


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}
