"""`wire` and `wire512`: everyone over an endpoint without latency, by turns, and how they compare to batchchat."""

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.asking import Task
from tests.bench.contestants import (
    BARE_DURABLE,
    BATCHCHAT_ITSELF,
    EVERYONE,
    OPENAI,
    SATURATE,
    Contestant,
    run_contestant,
)
from tests.bench.endpoint import Behaviour, running_endpoint
from tests.bench.report import Bars, Report, Table, Target
from tests.bench.rows import rows_file
from tests.bench.runs import Run, RunError
from tests.bench.stage import Stage

ROWS = 20_000
SLOW_ROWS = 3_000
ROUNDS, LEAST_ROUNDS = 5, 2

LEAST_TIMES = {OPENAI.name: 12.0, SATURATE.name: 10.0}
"""How many times their rows/s batchchat is to have, at least."""
LEAST_OF_DURABLE = 0.4
"""The part of the rows/s of the bare protocol to SQLite that batchchat is to have, at least."""
MOST_CPU = 0.1
"""The part of their CPU per row that batchchat is to take, at most."""


@dataclass(frozen=True)
class Rounds:
    """Everyone's runs by turns, and why some have none; within a turn, the machine's drift is the same for all."""

    runs: Mapping[str, Sequence[Run]]
    failures: Mapping[str, str]

    def median(self, name: str, measure: Callable[[Run], float]) -> float:
        """Return the median of a measure over a contestant's runs."""
        return statistics.median(measure(run) for run in self.runs[name])

    def ratio(self, name: str, measure: Callable[[Run], float]) -> float:
        """Return the median over the rounds of batchchat's measure divided by a contestant's in the same round."""
        pairs = zip(self.runs[BATCHCHAT_ITSELF.name], self.runs[name], strict=True)
        return statistics.median(measure(own) / measure(other) for own, other in pairs)

    def least_times(self, name: str) -> float:
        """Return how many times a contestant's rows/s batchchat has, of the process or active: the lesser."""
        return min(self.ratio(name, _whole), self.ratio(name, _active))


def _whole(run: Run) -> float:
    return run.rows_per_s


def _active(run: Run) -> float:
    return run.active_rows_per_s


def _cpu(run: Run) -> float:
    return run.cpu_s_per_1000


def _peak(run: Run) -> float:
    return run.process.peak_mb


def _first(run: Run) -> float:
    return run.first_request_s


def measure_side_by_side(stage: Stage, *, name: str, concurrency: int) -> Report:
    """Run everyone by turns at a concurrency."""
    count = stage.sized(ROUNDS, LEAST_ROUNDS)
    rounds = run_rounds(stage, EVERYONE, concurrency, count)
    what = (
        f"An endpoint without latency, {concurrency} requests in flight, rows of 1 KB; medians of {count} rounds in "
        "which all take turns, ratios of the same round. A whole process: its start, reading Parquet, asking, and what "
        "it writes. Active: first request to last answer. CPU and memory are those of the process."
    )
    if not stage.is_full:
        what += " Those with fewer rows have their start spread over fewer; `--full` gives all the same."
    return Report(name, what, [compare(rounds)], judge(rounds), _plots(rounds, concurrency))


def run_rounds(stage: Stage, contestants: Sequence[Contestant], concurrency: int, count: int) -> Rounds:
    """Run the contestants by turns, so many times; who fails once is left out.

    Raises:
        RunError: batchchat failed.
    """
    runs: dict[str, list[Run]] = {one.name: [] for one in contestants}
    failures: dict[str, str] = {}
    with running_endpoint(stage.folder, Behaviour(), stage.cores.endpoint) as endpoint:
        for number in range(count):
            for one in contestants:
                if one.name in failures:
                    continue
                rows = stage.sized(SLOW_ROWS if one.is_slow and not stage.is_full else ROWS, 2 * concurrency)
                with stage.new_folder() as folder:
                    task = Task(rows_file(stage.folder, rows), rows, endpoint.base_url, concurrency, folder)
                    try:
                        run = run_contestant(one, endpoint, task, stage.cores.client)
                    except RunError as error:
                        if one is BATCHCHAT_ITSELF:
                            raise
                        failures[one.name] = str(error)
                        continue
                runs[one.name].append(run)
                sys.stderr.write(f"  round {number + 1}: {one.name}: {run.rows_per_s:,.0f} rows/s\n")
    return Rounds({name: found for name, found in runs.items() if name not in failures}, failures)


def compare(rounds: Rounds) -> Table:
    """Return everyone's measures; the ratios say what batchchat has of each."""
    headings = (
        "", "rows", "rows/s", "rows/s active", "CPU s per 1,000 rows", "peak MB", "first request s", "durable",
        "batchchat: times the rows/s (active)", "of the CPU",
    )  # fmt: skip
    durable = {one.name: one.durable for one in EVERYONE}
    lines = [
        (
            name,
            f"{runs[0].rows:,}",
            f"{rounds.median(name, _whole):,.0f}",
            f"{rounds.median(name, _active):,.0f}",
            f"{rounds.median(name, _cpu):.3f}",
            f"{rounds.median(name, _peak):.0f}",
            f"{rounds.median(name, _first):.2f}",
            durable[name],
            f"{rounds.ratio(name, _whole):.2f} ({rounds.ratio(name, _active):.2f})",
            f"{rounds.ratio(name, _cpu):.2f}",
        )
        for name, runs in rounds.runs.items()
    ]
    failed = [(name, f"failed: {why}", *[""] * (len(headings) - 2)) for name, why in rounds.failures.items()]
    return Table(headings, [*lines, *failed])


def judge(rounds: Rounds) -> list[Target]:
    """Return the targets, of those contestants that ran; of two ratios the lesser counts."""
    found = []
    for name, least in LEAST_TIMES.items():
        if name in rounds.runs:
            times = rounds.least_times(name)
            found.append(
                Target(f"rows/s, times those of {name}", f"{times:.1f}", f"at least {least:g}", times >= least)
            )
    if BARE_DURABLE.name in rounds.runs:
        part = rounds.least_times(BARE_DURABLE.name)
        what, target = f"rows/s, of {BARE_DURABLE.name}", f"at least {LEAST_OF_DURABLE:.0%}"
        found.append(Target(what, f"{part:.0%}", target, part >= LEAST_OF_DURABLE))
    for name in LEAST_TIMES:
        if name in rounds.runs:
            part = rounds.ratio(name, _cpu)
            found.append(Target(f"CPU per row, of {name}", f"{part:.3f}", f"at most {MOST_CPU:g}", part <= MOST_CPU))
    return found


def _plots(rounds: Rounds, concurrency: int) -> list[Bars]:
    active = {name: rounds.median(name, _active) for name in rounds.runs}
    cpu = {name: rounds.median(name, _cpu) for name in rounds.runs}
    return [
        Bars(f"rows/s from first request to last answer, {concurrency} in flight", active),
        Bars("CPU seconds per 1,000 rows, whole process", cpu),
    ]
