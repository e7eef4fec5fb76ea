"""Runs a job like the command does, with a heart that beats in its event loop; prints how late the beats were.

`python -m tests.lagging job.yaml` prints one JSON object. A beat is late because something held the loop, or the lock
that all Python code needs; or because the machine was busy with other processes. The last is taken out: the time that
threads of this process, which may hold the lock, were ready to run and had no processor (the scheduler counts it); and
all beyond what the process had of one.
"""

import asyncio
import gc
import json
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from batchchat.commands.plan import prepare
from batchchat.commands.run import RunOptions, run
from batchchat.engines.in_process import StopSwitch
from batchchat.job.file import load_job
from batchchat.send.scheduler.scheduler import Scheduler

BEAT_S = 0.005
SHOWN_FROM_S = 0.01
COLLECTED_AT_BEAT = 15
"""When Python looks for garbage among everything, as it does now and then by itself, in long runs."""


class Clocks(NamedTuple):
    """Seconds: the wall's, those of this process on a processor, and those that its threads waited for one."""

    wall_s: float
    process_s: float
    waited_s: float


class Heart(StopSwitch):
    """A switch that is told when the loop begins and ends, as all are, and lets a heart beat in it until then."""

    def __init__(self) -> None:
        super().__init__()
        self.beats = 0
        self.worst_s = 0.0
        self.where: list[str] = []
        self.longest_collection_s = 0.0
        self._collection_began = 0.0
        self._handle: asyncio.TimerHandle | None = None

    def connect(self, schedule: Scheduler | None) -> None:
        """Begin to beat, or end."""
        super().connect(schedule)
        if schedule is not None:
            gc.callbacks.append(self._on_collection)
            self._beat(None)
        elif self._handle is not None:
            gc.callbacks.remove(self._on_collection)
            self._handle.cancel()

    def _beat(self, before: Clocks | None) -> None:
        now = clocks()
        if before is not None:
            self.beats += 1
            late_s = now.wall_s - before.wall_s - BEAT_S - max(0.0, now.waited_s - before.waited_s)
            lag_s = min(late_s, now.process_s - before.process_s)
            if lag_s > self.worst_s:
                self.worst_s, self.where = lag_s, threads() if lag_s > SHOWN_FROM_S else []
        self._handle = asyncio.get_running_loop().call_later(BEAT_S, self._beat, now)
        if self.beats == COLLECTED_AT_BEAT:
            gc.collect()

    def _on_collection(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._collection_began = time.perf_counter()
        else:
            self.longest_collection_s = max(self.longest_collection_s, time.perf_counter() - self._collection_began)


def clocks() -> Clocks:
    """Return the clocks of this moment; where the scheduler does not tell, nothing was waited for."""
    waited_ns = 0
    for path in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError):  # the thread has ended
            waited_ns += int(path.read_text().split()[1])
    return Clocks(time.perf_counter(), time.process_time(), waited_ns / 1e9)


def threads() -> list[str]:
    """Return where every other thread is: the one that held the lock until now has hardly moved."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = ((ident, frame) for ident, frame in sys._current_frames().items() if ident != threading.get_ident())
    return sorted(f"{names.get(ident, '?')}: {place(frame)}" for ident, frame in frames)


def place(frame: FrameType | None) -> str:
    """Return the innermost lines of a stack, the package's own among them."""
    lines: list[str] = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if not lines or "batchchat" in path.parts:
            lines.append(f"{path.parent.name}/{path.name}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(lines[:4])


def measured(job: Path) -> dict[str, Any]:
    """Run a job and return how its loop fared."""
    heart = Heart()
    summary = run(prepare(load_job(job)), os.environ.get("LAG_KEY"), RunOptions(is_quiet=True, stop_switch=heart))
    return {
        "outcome": summary.outcome,
        "rows": summary.progress.rows_answered,
        "beats": heart.beats,
        "worst_ms": round(1_000 * heart.worst_s, 1),
        "longest_collection_ms": round(1_000 * heart.longest_collection_s, 1),
        "where": heart.where,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measured(Path(sys.argv[1]))))
