"""A run: a command as a whole process, what it cost, and what the endpoint saw of it."""

import compileall
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.endpoint import Endpoint, Stats
from tests.running import ROOT

LAUNCH = Path(__file__).parent / "launch.py"


_groups: set[int] = set()
"""The process groups of the runs that are going on; several threads may have one each."""


class RunError(Exception):
    """A run ended otherwise than it should; the message says who, how, and its last words."""


@dataclass(frozen=True)
class Process:
    """What a process cost: seconds from its start to its end, CPU of user and system, peak resident memory."""

    code: int
    started_at: float
    seconds: float
    cpu_s: float
    peak_mb: float


@dataclass(frozen=True)
class Run:
    """A run over so many rows; the endpoint was reset before it."""

    rows: int
    process: Process
    stats: Stats

    @property
    def rows_per_s(self) -> float:
        """Rows in a second of the whole process, from its start to its end."""
        return self.rows / self.process.seconds

    @property
    def active_s(self) -> float:
        """Seconds from the first request to the last answer."""
        return max(self.stats.last_at - self.stats.first_at, 0.001)

    @property
    def active_rows_per_s(self) -> float:
        """Answers in a second, from the first request to the last answer."""
        return self.stats.answered / self.active_s

    @property
    def cpu_s_per_1000(self) -> float:
        """Seconds of CPU for 1,000 rows, the process's start and end among them."""
        return 1000 * self.process.cpu_s / self.rows

    @property
    def first_request_s(self) -> float:
        """Seconds from the start of the process to its first request."""
        return self.stats.first_at - self.process.started_at


@dataclass(frozen=True)
class Launch:
    """How a command is run: its core, when it is to end if not by itself, and how long it is waited for."""

    core: int | None = None
    end_after_s: float = 0.0
    longest_s: float = 1_200.0


def compile_checkout() -> None:
    """Compile what is run from the checkout, as installing does: otherwise each start would, where no cache is kept."""
    for folder in ("batchchat", "tests/bench"):
        compileall.compile_dir(ROOT / folder, quiet=1)


def end_all_runs() -> None:
    """End whatever is running, at once."""
    for group in tuple(_groups):
        os.killpg(group, signal.SIGKILL)


def run_process(
    name: str, command: Sequence[str], folder: Path, launch: Launch, codes: Iterable[int] = (0,)
) -> Process:
    """Run a command to its end, on its core; what it prints goes into `folder`.

    Raises:
        RunError: it ended with another code than these, or did not end.
    """
    result, said = folder / "process.json", folder / "said.txt"
    core = "-" if launch.core is None else str(launch.core)
    starter = [sys.executable, "-I", "-S", str(LAUNCH), str(result), core, str(launch.end_after_s)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result.unlink(missing_ok=True)
    with said.open("wb") as words:
        process = subprocess.Popen(
            [*starter, *command], stdout=words, stderr=words, env=environment, start_new_session=True
        )
        _groups.add(process.pid)
        try:
            process.wait(launch.longest_s)
        except subprocess.TimeoutExpired:
            message = f"{name} did not end within {launch.longest_s:g} s"
            raise RunError(message) from None
        finally:
            _groups.discard(process.pid)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if not result.exists():
        message = f"{name} was ended"
        raise RunError(message)
    found = Process(**json.loads(result.read_text()))
    if found.code not in codes:
        last_words = said.read_text(errors="replace").strip().splitlines()[-3:]
        message = f"{name} ended with {found.code}: {' / '.join(last_words) or 'it said nothing'}"
        raise RunError(message)
    return found


def run_against(
    endpoint: Endpoint,
    name: str,
    command: Sequence[str],
    rows: int,
    folder: Path,
    launch: Launch,
    codes: Iterable[int] = (0,),
) -> Run:
    """Run a command to its end against an endpoint that is reset before.

    Raises:
        RunError: it did not end well.
    """
    endpoint.reset()
    process = run_process(name, command, folder, launch, codes)
    return Run(rows, process, endpoint.stats())
