"""`latency`, `auto500`, `queue64`: batchchat alone, over endpoints that take their time or work at so many at once."""

import sys
from dataclasses import dataclass
from typing import Literal

import pyarrow.compute as pc
from pyarrow import parquet

from tests.bench.contestants import batchchat_command, check_output, write_job
from tests.bench.endpoint import Behaviour, running_endpoint
from tests.bench.report import Bars, Lines, Report, Table, Target
from tests.bench.rows import rows_file
from tests.bench.runs import Launch, Run, run_against
from tests.bench.stage import Stage

IDEAL_ROWS_PER_S = 500.0
LEAST_AT_LATENCY = 0.98
LEAST_WITH_AUTO = 0.9
LEAST_OF_BEST_FIXED = 0.95
MOST_OF_UNLOADED_LATENCY = 1.5

SLOTS, SLOT_S = 64, 0.5
FIXED = (32, 64, 96, 128)
FIXED_SECONDS, AUTO_SECONDS = 20, 60
"""How long these take where all slots work; `auto` takes longer because it has to find the number."""

Concurrency = int | Literal["auto"]


@dataclass(frozen=True)
class Paced:
    """A run of batchchat, and the median of its output's `latency_s`."""

    run: Run
    latency_s: float


def run_paced(stage: Stage, behaviour: Behaviour, rows: int, concurrency: Concurrency) -> Paced:
    """Run batchchat over so many rows at a concurrency.

    Raises:
        RunError: it did not end well, or a row has no answer.
    """
    with stage.new_folder() as folder, running_endpoint(folder, behaviour, stage.cores.endpoint) as endpoint:
        job = write_job(folder, rows_file(stage.folder, rows), endpoint.base_url, {"concurrency": concurrency})
        run = run_against(endpoint, "batchchat", batchchat_command(job), rows, folder, Launch(stage.cores.client))
        output = folder / "answers.parquet"
        check_output(output, rows)
        latencies = parquet.read_table(output, columns=["latency_s"])["latency_s"]
        latency_s = pc.approximate_median(latencies).as_py()
    sys.stderr.write(f"  concurrency {concurrency}: {run.active_rows_per_s:,.0f} rows/s\n")
    return Paced(run, latency_s)


def measure_latency(stage: Stage) -> Report:
    """Ask an endpoint that takes 1 s for each request, 500 at a time."""
    rows = stage.sized(20_000, 500)
    paced = run_paced(stage, Behaviour(latency_s=1.0), rows, 500)
    what = f"An endpoint that takes 1 s, concurrency 500, {rows:,} rows: {IDEAL_ROWS_PER_S:g} rows/s are ideal."
    return _report("latency", what, "500", paced, LEAST_AT_LATENCY)


def measure_auto(stage: Stage) -> Report:
    """Ask an endpoint that works at 500 requests for 1 s each and queues the others, with concurrency `auto`."""
    rows = stage.sized(30_000, 500)
    paced = run_paced(stage, Behaviour(latency_s=1.0, slots=500), rows, "auto")
    what = (
        f"An endpoint with 500 slots of 1 s and a queue, concurrency auto, {rows:,} rows, ramp included: "
        f"{IDEAL_ROWS_PER_S:g} rows/s are ideal."
    )
    return _report("auto500", what, "auto", paced, LEAST_WITH_AUTO)


def _report(name: str, what: str, concurrency: str, paced: Paced, least: float) -> Report:
    run = paced.run
    share = run.active_rows_per_s / IDEAL_ROWS_PER_S
    targets = [Target("rows/s active, of the ideal", f"{share:.1%}", f"at least {least:.0%}", share >= least)]
    plot = Lines("answers in each second", {"batchchat": run.stats.answers}, IDEAL_ROWS_PER_S)
    return Report(name, what, [_table({concurrency: paced})], targets, [plot])


def _table(found: dict[str, Paced]) -> Table:
    headings = (
        "concurrency", "rows", "rows/s active", "rows/s", "median latency s", "in flight at most",
        "CPU s per 1,000 rows", "peak MB",
    )  # fmt: skip
    lines = [
        (
            name,
            f"{paced.run.rows:,}",
            f"{paced.run.active_rows_per_s:,.1f}",
            f"{paced.run.rows_per_s:,.1f}",
            f"{paced.latency_s:.3f}",
            f"{paced.run.stats.most_in_flight:,}",
            f"{paced.run.cpu_s_per_1000:.3f}",
            f"{paced.run.process.peak_mb:.0f}",
        )
        for name, paced in found.items()
    ]
    return Table(headings, lines)


def measure_queue(stage: Stage) -> Report:
    """Ask an endpoint that works at 64 requests for 0.5 s each and queues the others: `auto` against fixed numbers."""
    behaviour = Behaviour(latency_s=SLOT_S, slots=SLOTS)
    ideal = SLOTS / SLOT_S
    fixed_rows = stage.sized(FIXED_SECONDS * ideal, 4 * SLOTS)
    auto = run_paced(stage, behaviour, stage.sized(AUTO_SECONDS * ideal, 4 * SLOTS), "auto")
    fixed = {number: run_paced(stage, behaviour, fixed_rows, number) for number in FIXED}
    best = max(paced.run.active_rows_per_s for paced in fixed.values())
    share = auto.run.active_rows_per_s / best
    times = auto.latency_s / fixed[FIXED[0]].latency_s
    found = {"auto": auto, **{str(number): paced for number, paced in fixed.items()}}
    targets = [
        Target(
            "rows/s active with auto, of the best number's",
            f"{share:.1%}",
            f"at least {LEAST_OF_BEST_FIXED:.0%}",
            share >= LEAST_OF_BEST_FIXED,
        ),
        Target(
            "median latency with auto, times the unloaded",
            f"{times:.2f}",
            f"at most {MOST_OF_UNLOADED_LATENCY:g}",
            times <= MOST_OF_UNLOADED_LATENCY,
        ),
    ]
    plots: list[Bars | Lines] = [
        Bars("rows/s active", {name: paced.run.active_rows_per_s for name, paced in found.items()}),
        Bars("median latency, s", {name: paced.latency_s for name, paced in found.items()}),
        Lines("answers in each second", {"auto": auto.run.stats.answers}, ideal),
    ]
    what = (
        f"An endpoint with {SLOTS} slots of {SLOT_S:g} s and a queue: {ideal:g} rows/s at most. Concurrency auto "
        f"against fixed numbers; the latency at {FIXED[0]} is the unloaded one."
    )
    return Report("queue64", what, [_table(found)], targets, plots)
