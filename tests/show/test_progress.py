"""Progress: a bar for a terminal, plain lines for a log, nothing when quiet."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import termios
from collections.abc import Callable

import pytest

from batchchat.records import Progress
from batchchat.show.progress import LINE_INTERVAL_S, Lines, duration, shown
from tests.running import ROOT

# Shows a run of a hundred rows on standard error; the interval of the plain lines is that of the first argument.
SHOW = """
import sys
from batchchat.records import Progress
from batchchat.show import progress

progress.LINE_INTERVAL_S = float(sys.argv[1])
with progress.shown("job", 100, is_quiet=False) as observe:
    for rows in range(0, 101, 10):
        observe(Progress(rows_answered=rows, rows_failed=0, in_flight=3, prompt_tokens=rows * 20))
"""


def on_a_terminal(script: str, *arguments: str, size: tuple[int, int] = (24, 100)) -> str:
    """Run a script with standard error on a terminal of so many lines and columns, and return what it wrote there."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, size)
    command = [sys.executable, "-c", script, *arguments]
    with subprocess.Popen(command, cwd=ROOT, stderr=theirs) as process:
        os.close(theirs)
        written = b""
        while chunk := _read(ours):
            written += chunk
    os.close(ours)
    assert process.returncode == 0
    return written.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says EIO when the other side is closed
        return b""


def on_a_pipe(script: str, *arguments: str) -> str:
    """Run a script with standard error on a pipe, and return what it wrote there."""
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=True, timeout=300)
    return done.stderr


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.04, "0.0 s"),
        (4.2, "4.2 s"),
        (59.9, "59.9 s"),
        (60, "1 min 0 s"),
        (200.9, "3 min 21 s"),
        (3599.9, "1 h 0 min"),
        (3600, "1 h 0 min"),
        (18_720, "5 h 12 min"),
        (360_000, "100 h 0 min"),
        (59.96, "1 min 0 s"),
    ],
)
def test_duration_is_written_as_people_do(seconds: float, text: str) -> None:
    """Seconds have a decimal below a minute; above, the two largest units count, rounded down."""
    assert duration(seconds) == text


def test_line_says_rows_rate_and_time_left() -> None:
    """A line has the rows done, their rate without the reused ones, and the time that this rate gives."""
    lines = Lines("triage", 200_000, io.StringIO())
    progress = Progress(
        rows_answered=11_000,
        rows_reused=1_000,
        rows_failed=500,
        in_flight=64,
        prompt_tokens=1_234_000,
        completion_tokens=567,
    )
    assert lines.line(progress, 100.0) == (
        "triage: 11,500/200,000 rows, 105.0 rows/s, 64 in flight, 500 failed, 1,234,567 tokens, 29 min 55 s left"
    )


def test_line_says_the_limit_and_what_it_is_bound_by() -> None:
    """Requests in flight stand beside the limit on them, and what keeps the run from more."""
    lines = Lines("triage", 50, io.StringIO())
    progress = Progress(rows_answered=20, in_flight=60, concurrency=64, bound_by="endpoint")
    assert ", 60 of 64 in flight, bound by endpoint, 0 failed, " in lines.line(progress, 10.0)


def test_line_before_any_answer_gives_no_time() -> None:
    """Without a row of this run there is no rate to tell the rest by, reused rows or not."""
    lines = Lines("triage", 50, io.StringIO())
    progress = Progress(rows_answered=20, rows_reused=20, in_flight=4)
    assert lines.line(progress, 30.0) == "triage: 20/50 rows, 0.0 rows/s, 4 in flight, 0 failed, 0 tokens"


def test_lines_are_no_more_than_their_interval() -> None:
    """What is told within the first 30 s writes nothing to a log, however often it is told."""
    stream = io.StringIO()
    with shown("job", 100, is_quiet=False, stream=stream) as observe:
        for rows in range(100):
            observe(Progress(rows_answered=rows))
    assert LINE_INTERVAL_S == 30.0
    assert stream.getvalue() == ""


@pytest.mark.slow
def test_quiet_shows_nothing_on_a_terminal() -> None:
    """With --quiet there is neither bar nor line."""
    assert on_a_terminal(SHOW.replace("is_quiet=False", "is_quiet=True"), "0") == ""


@pytest.mark.slow
def test_terminal_gets_a_bar() -> None:
    """On a terminal the bar moves on its line, and ends with all rows, those in flight, failures and tokens."""
    written = on_a_terminal(SHOW, "30")
    assert written.startswith("\r")
    last = written.rstrip("\r\n").rpartition("\r")[2]
    assert last.startswith("job: 100%|")
    assert " 100/100 [" in last
    assert "row/s, 3 in flight, 0 failed, 2,000 tokens]" in last


@pytest.mark.slow
def test_terminal_without_a_size_gets_a_bar() -> None:
    """Under `script` or some CI the terminal says that it has no columns; the bar shows all the same."""
    assert "job: 100%|" in on_a_terminal(SHOW, "30", size=(0, 0))


@pytest.mark.slow
def test_bar_stands_while_rows_are_asked() -> None:
    """Rows that are in flight leave the bar where it is."""
    last = on_a_terminal(SHOW.replace("range(0, 101, 10)", "[0]"), "30").rstrip("\r\n").rpartition("\r")[2]
    assert last.startswith("job:   0%|")
    assert " 0/100 [" in last
    assert "3 in flight" in last


@pytest.mark.slow
def test_empty_table_has_a_bar_too() -> None:
    """A job without rows shows that it has none."""
    written = on_a_terminal(SHOW.replace('"job", 100', '"job", 0').replace("range(0, 101, 10)", "[0]"), "30")
    assert "job: 0row [" in written


NASTY = SHOW.replace('"job", 100', r'"j\x1b]0;x\x07o\nb\x9b2J\u202e", 100').replace(
    "in_flight=3", r"notes=('a note\nbatchchat: fine\x1b[2J\u202e',), in_flight=3"
)


@pytest.mark.slow
@pytest.mark.parametrize("place", [on_a_terminal, on_a_pipe])
def test_names_and_notes_neither_steer_nor_forge(place: Callable[..., str]) -> None:
    """A job's name and an endpoint's words, of which notes are made, stay on their lines, on a bar and in a log."""
    written = place(NASTY, "0")
    assert "jo b: 100" in written
    assert "a note batchchat: fine" in written
    left = written.replace("\x1b[A", "").replace("\r", "").replace("\n", "")
    assert [character for character in left if not character.isprintable()] == []


@pytest.mark.slow
def test_pipe_gets_plain_lines() -> None:
    """Elsewhere every line stands for itself: no carriage return, no escape sequence, no other control character."""
    written = on_a_pipe(SHOW, "0")
    lines = written.splitlines()
    assert len(lines) == 11
    assert lines[0] == "job: 0/100 rows, 0.0 rows/s, 3 in flight, 0 failed, 0 tokens"
    assert lines[-1].startswith("job: 100/100 rows, ")
    assert lines[-1].endswith(" rows/s, 3 in flight, 0 failed, 2,000 tokens, 0.0 s left")
    assert [character for character in written if not character.isprintable() and character != "\n"] == []
