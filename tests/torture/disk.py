"""A disk that is full when half of the rows are answered: the run says so, and goes on when there is room."""

import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tests.torture.answers import digest_of_text
from tests.torture.checker import Checked, answers_delivered, check_output
from tests.torture.figures import Line
from tests.torture.stage import Server, command, different_texts, scripted_server, write_job, write_texts

REPLY_BYTES = 6_000
ROOM_MB = 512
LOG_BYTES = 5 * 2**20
"""What SQLite's log takes beside the checkpoint before it is written back, on the small file system."""


@dataclass(frozen=True)
class Full:
    """How a full disk was taken: the run's exit code and words, rows stored by then, and what the next run did.

    `asked_twice` counts rows that were stored, and asked again all the same.
    """

    how: str
    code: int
    said: str
    stored: int
    resumed_code: int
    asked_twice: int
    checked: Checked


@dataclass(frozen=True)
class DiskFigures:
    """How every kind of full disk was taken."""

    full: tuple[Full, ...]
    seconds: float

    def lines(self) -> list[Line]:
        """Return the lines of the table."""
        return [
            Line(
                f"disk full ({one.how})",
                f"{one.checked.rows:,} rows, {one.stored:,} stored by then",
                f"exit {one.code}; resumed to the end, {one.asked_twice} asked again that were stored",
            )
            for one in self.full
        ]

    def broken(self) -> list[str]:
        """Return the promises that were not kept."""
        found = [f"{one.how}: exit code {one.code}: {one.said}" for one in self.full if one.code != 3]
        found += [f"{one.how}: {one.asked_twice} stored rows asked again" for one in self.full if one.asked_twice]
        for one in self.full:
            if one.resumed_code or any(one.checked.harm) or one.checked.failed:
                found.append(f"{one.how}: resumed with {one.resumed_code}: {one.checked}")
            if not 0 < one.stored < one.checked.rows:
                found.append(f"{one.how}: {one.stored} rows were stored: it was not full amid the run")
        return found


def fill(folder: Path, *, rows: int, mounts: bool = False) -> DiskFigures:
    """Let the disk be full amid a run, by a limit on files; with `mounts` also by a small file system, if it can be."""
    started_at = time.monotonic()
    write_texts(folder / "rows.csv", different_texts(rows))
    with scripted_server(folder, "latency 0.002 0.01", f"pad {REPLY_BYTES}") as server:
        needed = _bytes_needed(folder, server)
        full = [_filled(folder, server, "limit on a file", needed // 2)]
        if mounts:
            with mounted(folder / "small", needed // 2 + LOG_BYTES) as enlarge:
                full += [_filled(folder, server, "small file system", 0, enlarge)] if enlarge else []
    return DiskFigures(tuple(full), time.monotonic() - started_at)


def _bytes_needed(folder: Path, server: Server) -> int:
    """Return the size of the checkpoint that the whole job needs."""
    job = write_job(folder, server.base_url, {"concurrency": 16}, name="whole")
    assert command("run", job, "--quiet", folder=folder).code == 0
    return (folder / ".batchchat" / "whole.sqlite").stat().st_size


def _filled(
    folder: Path, server: Server, how: str, limit_bytes: int, enlarge: Callable[[], None] | None = None
) -> Full:
    name = "small" if enlarge else "limited"
    checkpoint = folder / "small" / "torture.sqlite" if enlarge else folder / f"{name}.sqlite"
    job = write_job(folder, server.base_url, {"concurrency": 16}, name=name)
    where = f"checkpoint.path={checkpoint}"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    stopped = command("run", job, "--quiet", "--set", where, folder=folder, before=None if enlarge else limit)
    arrived_before = len(server.ledger())
    if enlarge:
        enlarge()
    stored = _stored(folder, job, where)
    resumed = command("run", job, "--quiet", "--set", where, folder=folder)
    entries = server.ledger()
    again = answers_delivered(entries[arrived_before:])
    return Full(
        how=how,
        code=stopped.code,
        said=stopped.stderr.strip()[-400:],
        stored=len(stored),
        resumed_code=resumed.code,
        asked_twice=sum(digest in again for digest in stored),
        checked=check_output(folder / "rows.csv", folder / f"{name}.parquet"),
    )


def _stored(folder: Path, job: Path, where: str) -> list[str]:
    """Return the digests of the rows whose answers an export has."""
    partial = folder / "partial.parquet"
    assert command("export", job, "--set", where, "--output", partial, folder=folder).code == 0
    return [digest_of_text(row[0]) for row in pl.read_parquet(partial).select("text", "model").iter_rows() if row[1]]


@contextmanager
def mounted(folder: Path, size_bytes: int) -> Iterator[Callable[[], None] | None]:
    """Mount a small file system in memory; yield what gives it room, or None where this user may not mount."""
    folder.mkdir()
    small = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    larger = ["mount", "-o", f"remount,size={ROOM_MB}m", str(folder)]
    try:
        is_mounted = subprocess.run(small, capture_output=True, check=False, timeout=20).returncode == 0
    except OSError:
        is_mounted = False
    try:
        yield (lambda: _quietly(larger)) if is_mounted else None
    finally:
        if is_mounted:
            _quietly(["umount", str(folder)])


def _quietly(line: list[str]) -> None:
    subprocess.run(line, capture_output=True, check=True, timeout=20)
