"""A run's progress on standard error: a bar on a terminal, a line every 30 s elsewhere, plain or as a JSON object."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal, NoReturn, TextIO

from tqdm import tqdm

from batchchat.records import Progress
from batchchat.show.json_lines import log_line
from batchchat.show.printable import on_one_line

LINE_INTERVAL_S = 30.0
UNKNOWN_WIDTH, UNKNOWN_HEIGHT = 120, 24

Observer = Callable[[Progress], None]
LogFormat = Literal["text", "json"]


@contextmanager
def shown(
    name: str,
    rows_total: int,
    log_format: LogFormat = "text",
    *,
    is_quiet: bool,
    stream: TextIO | None = None,
    told: set[str] | None = None,
) -> Iterator[Observer]:
    """Yield what a run tells its progress to; rows count as done when answered or failed.

    The run's notes are written as they come, each once; `told` gets them.
    """
    stream, told = stream or sys.stderr, set() if told is None else told
    if is_quiet or stream is None:  # standard error may be closed
        yield lambda _: None
    elif log_format == "json":
        objects = _Objects(on_one_line(name), rows_total, stream)
        yield _with_notes(objects, lambda note: objects.write(log_line("warning", "note", note, job=name)), told)
    elif stream.isatty():
        with _bar(on_one_line(name), rows_total, stream) as bar:
            yield _with_notes(lambda progress: _move(bar, progress), lambda note: bar.write(note, file=stream), told)
    else:
        lines = Lines(on_one_line(name), rows_total, stream)
        yield _with_notes(lines, lines.write, told)


def _with_notes(observe: Observer, write: Callable[[str], object], told: set[str]) -> Observer:
    """Return an observer that also writes each of the run's notes, as soon as there is one."""

    def observed(progress: Progress) -> None:
        for note in progress.notes:
            if note not in told:
                told.add(note)
                write(on_one_line(note))
        observe(progress)

    return observed


def _bar(name: str, rows_total: int, stream: TextIO) -> "tqdm[NoReturn]":
    # A terminal that does not know its size, as under `script` or some CI, says 0 columns, and tqdm would show nothing.
    has_width = os.get_terminal_size(stream.fileno()).columns > 0
    return tqdm(
        total=rows_total,
        desc=name,
        unit="row",
        file=stream,
        dynamic_ncols=has_width,
        ncols=None if has_width else UNKNOWN_WIDTH,
        nrows=None if has_width else UNKNOWN_HEIGHT,
        mininterval=0.2,
    )


def _move(bar: "tqdm[NoReturn]", progress: Progress) -> None:
    bar.set_postfix_str(_details(progress), refresh=False)
    bar.update(_done(progress) - bar.n)


class Lines:
    """Prints a line when the last is 30 s old; what it is told more often only updates what the next will say."""

    def __init__(self, name: str, rows_total: int, stream: TextIO) -> None:
        self._name = name
        self._rows_total = rows_total
        self._stream = stream
        self._started_at = self._printed_at = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Take the progress; print a line when one is due."""
        now = time.monotonic()
        if now - self._printed_at >= LINE_INTERVAL_S:
            self._printed_at = now
            self.write(self.line(progress, now - self._started_at))

    def write(self, line: str) -> None:
        """Write a line; a full disk under the log must not stop the run."""
        with suppress(OSError):
            self._stream.write(f"{line}\n")
            self._stream.flush()

    def line(self, progress: Progress, elapsed_s: float) -> str:
        """Return the line for a progress after so many seconds."""
        done, total = _done(progress), self._rows_total
        rate, left_s = self._pace(progress, elapsed_s)
        left = "" if left_s is None else f", {duration(left_s)} left"
        return f"{self._name}: {done:,}/{total:,} rows, {rate:.1f} rows/s, {_details(progress)}{left}"

    def _pace(self, progress: Progress, elapsed_s: float) -> tuple[float, float | None]:
        """Return the rows per second without the reused ones, and the seconds that the rest takes at that rate."""
        done = _done(progress)
        rate = (done - progress.rows_reused) / elapsed_s
        return rate, (self._rows_total - done) / rate if rate > 0 else None


class _Objects(Lines):
    """Prints the same lines, each as the message of an object with its figures."""

    def line(self, progress: Progress, elapsed_s: float) -> str:
        """Return the line for a progress after so many seconds."""
        rate, left_s = self._pace(progress, elapsed_s)
        return log_line(
            "info",
            "progress",
            super().line(progress, elapsed_s),
            job=self._name,
            rows_total=self._rows_total,
            rows_answered=progress.rows_answered,
            rows_failed=progress.rows_failed,
            rows_per_s=rate,
            left_s=left_s,
            requests_sent=progress.requests_sent,
            in_flight=progress.in_flight,
            concurrency=progress.concurrency,
            prompt_tokens=progress.prompt_tokens,
            completion_tokens=progress.completion_tokens,
            cost_usd=progress.cost_usd,
            bound_by=progress.bound_by,
        )


def _done(progress: Progress) -> int:
    return progress.rows_answered + progress.rows_failed


def _details(progress: Progress) -> str:
    tokens = progress.prompt_tokens + progress.completion_tokens
    limit = f" of {progress.concurrency:,}" if progress.concurrency else ""
    bound_by = f", bound by {progress.bound_by}" if progress.bound_by else ""
    return f"{progress.in_flight:,}{limit} in flight{bound_by}, {progress.rows_failed:,} failed, {tokens:,} tokens"


def duration(seconds: float) -> str:
    """Return seconds as people write them: `4.2 s`, `3 min 20 s`, `5 h 12 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
