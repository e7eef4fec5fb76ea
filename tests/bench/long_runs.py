"""`million` and `resume`: memory over a long table, and how fast what is answered is passed over and written."""

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.contestants import batchchat_command, check_output, write_job
from tests.bench.endpoint import Behaviour, Endpoint, running_endpoint
from tests.bench.report import Bars, Report, Table, Target
from tests.bench.rows import rows_file
from tests.bench.runs import Launch, Process, Run, RunError, run_against, run_process
from tests.bench.stage import Stage

SIZES = (100_000, 1_000_000)
MOST_GROWTH = 1.15
MOST_FIRST_REQUEST_S = 1.0
LONGEST_MILLION_S = 7_200.0

ANSWERED_ROWS = 100_000
RESUME_ROUNDS = 3
LEAST_RESUMED_ROWS_PER_S = 30_000


def measure_million(stage: Stage) -> Report:
    """Ask about ten times as many rows as before, and compare the memory."""
    found = {size: _ask_all(stage, size) for size in (stage.sized(size) for size in SIZES)}
    small, large = found.values()
    growth = large.process.peak_mb / small.process.peak_mb
    first_s = max(run.first_request_s for run in found.values())
    targets = [
        Target(
            "peak memory, times that of a tenth of the rows",
            f"{growth:.2f}",
            f"at most {MOST_GROWTH}",
            growth <= MOST_GROWTH,
        ),
        Target(
            "first request", f"{first_s:.2f} s", f"within {MOST_FIRST_REQUEST_S:g} s", first_s <= MOST_FIRST_REQUEST_S
        ),
    ]
    lines = [
        (
            f"{size:,}",
            f"{run.process.peak_mb:.0f}",
            f"{run.first_request_s:.2f}",
            f"{run.active_rows_per_s:,.0f}",
            f"{run.rows_per_s:,.0f}",
            f"{run.cpu_s_per_1000:.3f}",
        )
        for size, run in found.items()
    ]
    headings = ("rows", "peak MB", "first request s", "rows/s active", "rows/s", "CPU s per 1,000 rows")
    plots = [Bars("peak memory, MB", {f"{size:,} rows": run.process.peak_mb for size, run in found.items()})]
    what = "Rows of 1 KB from Parquet, an endpoint without latency, concurrency auto."
    return Report("million", what, [Table(headings, lines)], targets, plots)


def _ask_all(stage: Stage, size: int) -> Run:
    rows = rows_file(stage.folder, size)
    launch = Launch(stage.cores.client, longest_s=LONGEST_MILLION_S)
    with stage.new_folder() as folder, running_endpoint(folder, Behaviour(), stage.cores.endpoint) as endpoint:
        job = write_job(folder, rows, endpoint.base_url, {})
        run = run_against(endpoint, "batchchat", batchchat_command(job), size, folder, launch)
        check_output(folder / "answers.parquet", size)
    rows.unlink()
    return run


@dataclass(frozen=True)
class Resumed:
    """A round: a run with nothing left to ask, one with a row left at its end, an export; a run and export of a row."""

    finished: Process
    nearly: Run
    export: Process
    row_alone: Run
    row_export: Process


def measure_resume(stage: Stage) -> Report:
    """Run a finished run again, one with a single row left at its end, and export it."""
    rows = stage.sized(ANSWERED_ROWS)
    with stage.new_folder() as folder, running_endpoint(folder, Behaviour(), stage.cores.endpoint) as endpoint:
        table = rows_file(stage.folder, rows + RESUME_ROUNDS)
        _run(stage, folder, endpoint, table, rows)
        found = [_resume(stage, folder, endpoint, table, rows + number) for number in range(RESUME_ROUNDS)]
    rates = {
        "answered rows passed over": rows
        / _more([one.nearly.first_request_s for one in found], [one.row_alone.first_request_s for one in found]),
        "exported": rows / _more([one.export.seconds for one in found], [one.row_export.seconds for one in found]),
    }
    targets = [
        Target(
            f"{name}, rows/s",
            f"{rate:,.0f}",
            f"at least {LEAST_RESUMED_ROWS_PER_S:,}",
            rate >= LEAST_RESUMED_ROWS_PER_S,
        )
        for name, rate in rates.items()
    ]
    what = (
        f"{rows:,} answered rows of 1 KB from Parquet; medians of {RESUME_ROUNDS} rounds. Passing over: by how much "
        "later the first request of a run comes that has one row left, at its end, than that of a run of one row; "
        "exported: likewise, by how much longer it takes than for one row. A finished run again passes over all rows "
        "and writes the output. The table has whole processes."
    )
    return Report("resume", what, [_costs(found, rows)], targets, [Bars("rows/s, without the start", rates)])


def _resume(stage: Stage, folder: Path, endpoint: Endpoint, table: Path, answered: int) -> Resumed:
    finished = _run(stage, folder, endpoint, table, answered)
    nearly = _run(stage, folder, endpoint, table, answered + 1)
    if (finished.stats.received, nearly.stats.received) != (0, 1):
        message = f"answered rows were asked again: {finished.stats.received} and {nearly.stats.received - 1}"
        raise RunError(message)
    command = batchchat_command(folder / "job.yaml", "export")
    export = run_process("batchchat export", command, folder, Launch(stage.cores.client))
    check_output(folder / "answers.parquet", answered + 1)
    with stage.new_folder() as other:
        row_alone = _run(stage, other, endpoint, table, 1)
        command = batchchat_command(other / "job.yaml", "export")
        row_export = run_process("batchchat export", command, other, Launch(stage.cores.client))
    sys.stderr.write(f"  finished {finished.process.seconds:.2f} s, export {export.seconds:.2f} s\n")
    return Resumed(finished.process, nearly, export, row_alone, row_export)


def _run(stage: Stage, folder: Path, endpoint: Endpoint, table: Path, limit: int) -> Run:
    """Run the first `limit` rows; the checkpoint in the folder has the answers of the runs before."""
    job = write_job(folder, table, endpoint.base_url, {}, limit=limit)
    return run_against(endpoint, "batchchat", batchchat_command(job), limit, folder, Launch(stage.cores.client))


def _more(seconds: Sequence[float], than: Sequence[float]) -> float:
    """Return by how many seconds the median of some is above that of others."""
    return max(statistics.median(seconds) - statistics.median(than), 0.001)


def _costs(found: Sequence[Resumed], rows: int) -> Table:
    processes: Mapping[str, list[Process]] = {
        "finished run again": [one.finished for one in found],
        "run with one row left": [one.nearly.process for one in found],
        "export": [one.export for one in found],
        "run of one row": [one.row_alone.process for one in found],
        "export of one row": [one.row_export for one in found],
    }
    headings = ("", "seconds", "rows/s", "CPU µs per row", "peak MB")
    lines = []
    for name, these in processes.items():
        seconds, cpu_s = (statistics.median(getattr(one, field) for one in these) for field in ("seconds", "cpu_s"))
        count = 1 if "of one row" in name else rows
        peak_mb = statistics.median(one.peak_mb for one in these)
        lines.append(
            (name, f"{seconds:.2f}", f"{count / seconds:,.0f}", f"{cpu_s / count * 1e6:,.1f}", f"{peak_mb:.0f}")
        )
    return Table(headings, lines)
