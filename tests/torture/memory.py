"""What whole runs take of memory: by rows, and by the bytes of pictures that are in flight."""

import base64
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tests.torture.embedded import endpoint, write_job, write_rows
from tests.torture.figures import Line
from tests.torture.stage import command

PICTURES_JOB = """
name: pictures
input: {{path: rows.csv, id: id}}
output: {{path: out.parquet}}
endpoint: {{base_url: "{base_url}", name: stand-in}}
limits: {{concurrency: {concurrency}, in_flight_bytes: {in_flight_bytes}}}
request:
  model: stand-in
  messages:
    - role: user
      content:
        - {{type: image_url, image_url: {{url: "pictures/{{{{ id }}}}.png"}}}}
        - {{type: text, text: "What is this?"}}
"""
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
CONCURRENCY = 64
MOST_GROWTH = 1.3
"""Memory at most of a long table, of that of the shortest."""


@dataclass(frozen=True)
class MemoryFigures:
    """Peak memory in MB: by the rows of a table, and, for `pictures` of 1 MB, by `in_flight_bytes` in MB."""

    by_rows: Mapping[int, float]
    pictures: int
    by_in_flight_mb: Mapping[int, float]
    seconds: float

    def lines(self) -> list[Line]:
        """Return the lines of the table."""
        rows = ", ".join(f"{peak:.0f} MB" for peak in self.by_rows.values())
        bounds = ", ".join(f"{peak:.0f} MB" for peak in self.by_in_flight_mb.values())
        return [
            Line("peak memory by rows of 1 KB", f"{_listed(self.by_rows)} rows, concurrency {CONCURRENCY}", rows),
            Line(
                "peak memory by in_flight_bytes",
                f"{self.pictures:,} pictures of 1 MB, {_listed(self.by_in_flight_mb)} MB",
                bounds,
            ),
        ]

    def broken(self) -> list[str]:
        """Return the promises that were not kept."""
        growth = self.by_rows[max(self.by_rows)] / self.by_rows[min(self.by_rows)]
        return [f"memory grew with the table: {growth:.2f}"] if growth > MOST_GROWTH else []


def _listed(sizes: Mapping[int, float]) -> str:
    return ", ".join(f"{size:,}" for size in sizes)


def memory(folder: Path, *, rows: tuple[int, ...], pictures: int, in_flight_mb: tuple[int, ...]) -> MemoryFigures:
    """Measure the peak memory of runs over tables of so many rows, and over pictures under such bounds."""
    started_at = time.monotonic()
    by_rows = {count: peak_memory_mb(_folder(folder, f"rows{count}"), rows=count, concurrency=64) for count in rows}
    by_bytes = {
        size: peak_memory_with_pictures_mb(
            _folder(folder, f"pictures{size}"), rows=pictures, concurrency=CONCURRENCY, in_flight_bytes=size * 2**20
        )
        for size in in_flight_mb
    }
    return MemoryFigures(by_rows, pictures, by_bytes, time.monotonic() - started_at)


def _folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder


def peak_memory_mb(folder: Path, *, rows: int, concurrency: int) -> float:
    """Return the peak resident memory of one run over `rows` rows of 1 KB each, in MB."""
    write_rows(folder / "rows.csv", rows, extra_bytes=850)
    with endpoint(folder) as base_url:
        return _peak_memory_mb(write_job(folder, base_url, concurrency))


def peak_memory_with_pictures_mb(folder: Path, *, rows: int, concurrency: int, in_flight_bytes: int) -> float:
    """Return the peak resident memory of one run over `rows` pictures of 1 MB each, in MB; all must be answered."""
    write_rows(folder / "rows.csv", rows)
    (folder / "pictures").mkdir()
    chance = random.Random(rows)
    for number in range(rows):
        (folder / "pictures" / f"{number}.png").write_bytes(PICTURE + chance.randbytes(2**20))
    with endpoint(folder, "--latency", "0.2") as base_url:
        job = folder / "job.yaml"
        filled = PICTURES_JOB.format(base_url=base_url, concurrency=concurrency, in_flight_bytes=in_flight_bytes)
        job.write_text(filled)
        peak = _peak_memory_mb(job)
    assert pl.read_parquet(folder / "out.parquet")["completion"].str.contains("image/png").all()
    return peak


def _peak_memory_mb(job: Path) -> float:
    done = command("run", job, "--quiet", folder=job.parent)
    assert done.code == 0, done.stderr
    return done.peak_mb
