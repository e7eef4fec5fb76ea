"""A long run at a high concurrency: its memory and open files, sampled every second from outside."""

import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from tests.torture.checker import Checked, check_output
from tests.torture.figures import Line
from tests.torture.stage import different_texts, scripted_server, started, write_job, write_texts

MOST_GROWTH = 1.10
"""Memory at most, of its median, once a quarter of the run is over."""
SPARE_FILES = 64
"""Open files at most beside a connection for each request in flight."""
LONGEST_RUN_S = 600.0


@dataclass(frozen=True)
class Sample:
    """A moment of a run, by which so many answers had been delivered."""

    at_s: float
    answers: int
    rss_mb: float
    files: int


@dataclass(frozen=True)
class SoakFigures:
    """A run's samples, from its start to its end."""

    rows: int
    concurrency: int
    code: int
    checked: Checked
    samples: tuple[Sample, ...]
    seconds: float

    @property
    def settled(self) -> tuple[Sample, ...]:
        """The samples after the first quarter of the answers, up to the last: writing the output is another thing."""
        asking = [sample for sample in self.samples if self.rows // 4 <= sample.answers < self.rows]
        return tuple(asking) or self.samples

    @property
    def growth(self) -> float:
        """Largest memory of the settled samples, of their median."""
        memory = [sample.rss_mb for sample in self.settled]
        return max(memory) / statistics.median(memory)

    @property
    def slope_mb_per_minute(self) -> float:
        """How fast memory grows over the settled samples, by least squares."""
        if len(self.settled) < 2:
            return 0.0
        times, memory = [sample.at_s for sample in self.settled], [sample.rss_mb for sample in self.settled]
        return 60 * statistics.linear_regression(times, memory).slope

    @property
    def most_files(self) -> int:
        """Open files at most."""
        return max(sample.files for sample in self.samples)

    def lines(self) -> list[Line]:
        """Return the lines of the table."""
        size = f"{self.rows:,} rows, concurrency {self.concurrency:,}, {self.samples[-1].at_s:.0f} s"
        memory = [sample.rss_mb for sample in self.settled]
        quarters = [self.settled[len(self.settled) * part // 4] for part in range(4)]
        series = ", ".join(f"{sample.rss_mb:.0f}" for sample in (*quarters, self.settled[-1]))
        return [
            Line(
                "memory after the first quarter",
                size,
                f"median {statistics.median(memory):.0f} MB, most {self.growth:.2f} of it, "
                f"{self.slope_mb_per_minute:+.1f} MB a minute (at each quarter: {series}); "
                f"{max(sample.rss_mb for sample in self.samples):.0f} MB while the output is written",
            ),
            Line(
                "open files",
                size,
                f"median {statistics.median(sample.files for sample in self.settled):.0f}, most {self.most_files}",
            ),
        ]

    def broken(self) -> list[str]:
        """Return the promises that were not kept."""
        found = []
        if self.code or any(self.checked.harm) or self.checked.failed:
            found.append(f"the run ended with {self.code}: {self.checked}")
        if self.growth > MOST_GROWTH:
            found.append(f"memory grew to {self.growth:.2f} of its median")
        if self.most_files > self.concurrency + SPARE_FILES:
            found.append(f"{self.most_files} files were open at concurrency {self.concurrency}")
        return found


def soak(folder: Path, *, rows: int, concurrency: int, latency_s: float, every_s: float = 1.0) -> SoakFigures:
    """Run to the end, and look at the process every so many seconds."""
    started_at = time.monotonic()
    write_texts(folder / "rows.csv", different_texts(rows))
    samples: list[Sample] = []
    with scripted_server(folder, f"latency {0.5 * latency_s} {1.5 * latency_s}") as server:
        job = write_job(folder, server.base_url, {"concurrency": concurrency})
        with started("run", job, "--quiet") as process:
            began_at = time.monotonic()
            while process.poll() is None:
                assert time.monotonic() < began_at + LONGEST_RUN_S, "the run does not end"
                samples += _sample(process.pid, time.monotonic() - began_at, server.counts()[1])
                time.sleep(every_s)
    output = folder / "torture.parquet"
    checked = check_output(folder / "rows.csv", output)
    return SoakFigures(rows, concurrency, process.returncode, checked, tuple(samples), time.monotonic() - started_at)


def _sample(pid: int, at_s: float, answers: int) -> list[Sample]:
    """Return a look at a process; none where it has just ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        files = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
    except (OSError, IndexError):
        return []
    return [Sample(at_s, answers, pages * os.sysconf("SC_PAGE_SIZE") / 2**20, files)]
