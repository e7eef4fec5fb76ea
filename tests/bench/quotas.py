"""`rpm` and `tpm`: batchchat within limits that the job tells it, that headers tell it, or that nobody tells it.

The three run at the same time, each against an endpoint of its own: they take little of the cores.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

from tests.bench.contestants import batchchat_command, write_job
from tests.bench.endpoint import Behaviour, running_endpoint
from tests.bench.report import Lines, Report, Table, Target
from tests.bench.rows import rows_file
from tests.bench.runs import Launch, Run, run_against
from tests.bench.stage import Stage

LATENCY_S = 0.5
MOST_REFUSED = 0.01
SECONDS, SETTLING_SECONDS = 150, 30
LEAST_SECONDS, LEAST_SETTLING_SECONDS = 16, 6
ENDED_BY_SIGTERM = (0, 143)
TOLD, BY_HEADERS, UNTOLD = "told in the job", "told by headers", "not told"


@dataclass(frozen=True)
class Quota:
    """A limit a minute, and the part of it that is to be delivered; `tokens_each` is what a request takes at least."""

    name: str
    unit: Literal["requests", "tokens"]
    per_minute: int
    least: float
    tokens_each: int = 1

    @property
    def per_s(self) -> float:
        """What a second allows."""
        return self.per_minute / 60

    @property
    def limits(self) -> dict[str, int]:
        """The limit as the job and the endpoint have it."""
        return {f"{self.unit}_per_minute": self.per_minute}


REQUESTS = Quota("rpm", "requests", 3_000, 0.95)
TOKENS = Quota("tpm", "tokens", 200_000, 0.92, tokens_each=250)


@dataclass(frozen=True)
class Delivered:
    """A run: what was delivered in each second, and what of the allowance that is after it has settled."""

    run: Run
    each_second: Sequence[int]
    share: float

    @property
    def refused(self) -> float:
        """The part of all replies that were 429."""
        stats = self.run.stats
        return stats.refused / max(stats.refused + stats.answered, 1)


def measure_quota(stage: Stage, *, quota: Quota) -> Report:
    """Ask an endpoint with a limit for some minutes: told, told by headers, and not told."""
    behaviour = Behaviour(
        latency_s=LATENCY_S,
        requests_per_minute=quota.limits.get("requests_per_minute", 0),
        tokens_per_minute=quota.limits.get("tokens_per_minute", 0),
    )
    rows_file(stage.folder, _rows(stage, quota))  # before they all want it
    with ThreadPoolExecutor() as threads:
        runs = {
            TOLD: threads.submit(_deliver, stage, quota, behaviour, quota.limits),
            BY_HEADERS: threads.submit(_deliver, stage, quota, replace(behaviour, says_limits=True), {}),
            UNTOLD: threads.submit(_deliver, stage, quota, behaviour, {}),
        }
        found = {name: future.result() for name, future in runs.items()}
    what = (
        f"An endpoint that takes {LATENCY_S:g} s and lets in {quota.per_minute:,} {quota.unit} a minute, evenly, and "
        f"{behaviour.burst_s:g} s of them at once; concurrency auto, {_seconds(stage)} s, of which the first "
        f"{_settling(stage)} do not count for the share."
    )
    plot = Lines(
        f"{quota.unit} delivered in each second", {name: one.each_second for name, one in found.items()}, quota.per_s
    )
    return Report(quota.name, what, [_table(found)], judge(quota, found), [plot])


def _seconds(stage: Stage) -> int:
    return stage.sized(SECONDS, LEAST_SECONDS)


def _settling(stage: Stage) -> int:
    return stage.sized(SETTLING_SECONDS, LEAST_SETTLING_SECONDS)


def _rows(stage: Stage, quota: Quota) -> int:
    """More rows than the limit lets in, so that the run does not come to its end."""
    return int(1.5 * quota.per_s / quota.tokens_each * _seconds(stage))


def _deliver(stage: Stage, quota: Quota, behaviour: Behaviour, limits: Mapping[str, int]) -> Delivered:
    rows = _rows(stage, quota)
    launch = Launch(stage.cores.client, end_after_s=_seconds(stage))
    with stage.new_folder() as folder, running_endpoint(folder, behaviour, stage.cores.endpoint) as endpoint:
        job = write_job(folder, rows_file(stage.folder, rows), endpoint.base_url, limits)
        run = run_against(endpoint, "batchchat", batchchat_command(job), rows, folder, launch, ENDED_BY_SIGTERM)
    each_second = run.stats.answers if quota.unit == "requests" else run.stats.tokens
    return Delivered(run, each_second, settled_share(each_second, quota.per_s, _settling(stage), _last(stage, run)))


def _last(stage: Stage, run: Run) -> int:
    """Return the whole seconds from the first request to the signal that ends the run."""
    return int(_seconds(stage) - run.first_request_s)


def settled_share(each_second: Sequence[int], per_s: float, first: int, last: int) -> float:
    """Return what was delivered from a second up to another, of what was allowed in that time."""
    return sum(each_second[first:last]) / (per_s * max(last - first, 1))


def judge(quota: Quota, found: Mapping[str, Delivered]) -> list[Target]:
    """Return the targets: what is to be delivered, what may be refused: of requests, none where the limit is told."""
    targets = []
    for name, one in found.items():
        target = f"at least {quota.least:.0%}"
        targets.append(Target(f"allowance delivered, {name}", f"{one.share:.1%}", target, one.share >= quota.least))
        if quota is REQUESTS and name != UNTOLD:
            refused = one.run.stats.refused
            targets.append(Target(f"replies 429, {name}", f"{refused}", "none", refused == 0))
        else:
            is_met = one.refused <= MOST_REFUSED
            targets.append(Target(f"replies 429, {name}", f"{one.refused:.2%}", f"at most {MOST_REFUSED:.0%}", is_met))
    return targets


def _table(found: Mapping[str, Delivered]) -> Table:
    headings = ("limit", "of the allowance", "answered", "429", "429 of all replies", "in flight at most", "CPU s")
    lines = [
        (
            name,
            f"{one.share:.1%}",
            f"{one.run.stats.answered:,}",
            f"{one.run.stats.refused:,}",
            f"{one.refused:.2%}",
            f"{one.run.stats.most_in_flight:,}",
            f"{one.run.process.cpu_s:.1f}",
        )
        for name, one in found.items()
    ]
    return Table(headings, lines)
