"""Runs under budgets, with prices, faults, sizes and kills by chance, against what the server itself bills.

No run may let the server bill more than its budget; and as long as there is work left, the budget is used.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchchat.checkpoint.store import open_checkpoint
from batchchat.job.file import load_job
from tests.torture.answers import said
from tests.torture.figures import Line
from tests.torture.stage import WORDS, Server, command, scripted_server, started, write_job, write_texts

LEAST_USED = 0.95
FEWEST_WORDS, MOST_WORDS = 45, 120
"""Words of a row: no server makes more tokens of a text than it has bytes, and this one may make 275 of any."""
MEAN_TOKENS = 147 + 128
TURNS = 3
"""Requests that a row takes, about, whose answer must fit a schema: no answer of this server does."""
LONGEST_WAIT_S = 60.0
A_CENT = 1e-9
"""Dollars by which sums of floats may differ."""


@dataclass(frozen=True)
class Setting:
    """What one run of chance is like; `kills` come before its end."""

    budget: dict[str, float]
    price: dict[str, float]
    request: dict[str, Any]
    fault_rate: float
    concurrency: int
    latency_s: float
    kills: int


@dataclass(frozen=True)
class Spent:
    """How a run ended: what it charged, and what the server billed, as shares of the budget that binds."""

    setting: Setting
    code: int
    charged: float
    billed: float
    requests: int
    said: str


@dataclass(frozen=True)
class BudgetFigures:
    """All runs."""

    runs: tuple[Spent, ...]
    seconds: float

    def lines(self) -> list[Line]:
        """Return the lines of the table."""
        kills, requests = sum(run.setting.kills for run in self.runs), sum(run.requests for run in self.runs)
        largest = max(run.setting.concurrency for run in self.runs)
        size = f"{len(self.runs)} runs, {requests:,} requests, {kills} kills, concurrency up to {largest}"
        most, least = max(run.billed for run in self.runs), min(run.charged for run in self.runs)
        over = sum(run.billed > 1.0 + A_CENT for run in self.runs)
        figure = f"{over} over; billed at most {most:.2%} of it, charged at least {least:.2%}"
        return [Line("budgets against the server's bill", size, figure)]

    def broken(self) -> list[str]:
        """Return the promises that were not kept."""
        found = [f"{run.billed:.3%} were billed: {run.setting}" for run in self.runs if run.billed > 1.0 + A_CENT]
        found += [f"{run.charged:.3%} were charged: {run.setting}" for run in self.runs if run.charged > 1.0 + A_CENT]
        found += [f"only {run.charged:.2%} were used: {run.setting}" for run in self.runs if run.charged < LEAST_USED]
        found += [f"exit code {run.code}: {run.said}: {run.setting}" for run in self.runs if run.code != 5]
        return found


def keep_to_budgets(folder: Path, *, runs: int, rows: int, most_concurrency: int, seed: int = 1) -> BudgetFigures:
    """Run jobs under budgets by chance, each with its own server; every third one is killed on its way."""
    started_at = time.monotonic()
    chance = random.Random(seed)
    spent = []
    for number in range(runs):
        place = folder / f"run-{number}"
        place.mkdir()
        write_texts(place / "rows.csv", _texts(rows, chance))
        setting = _setting(chance, rows, most_concurrency, kills=chance.randint(1, 3) if number % 3 == 2 else 0)
        spent.append(_spend(place, setting, chance))
    return BudgetFigures(tuple(spent), time.monotonic() - started_at)


def _texts(count: int, chance: random.Random) -> Iterator[str]:
    for number in range(count):
        yield f"row {number} {' '.join(chance.choices(WORDS, k=chance.randint(FEWEST_WORDS, MOST_WORDS)))}"


def _setting(chance: random.Random, rows: int, most_concurrency: int, *, kills: int) -> Setting:
    price = {"input": chance.uniform(0.05, 15.0), "output": chance.uniform(0.1, 75.0)}
    price |= {"cached_input": chance.uniform(0.01, 20.0)} if chance.random() < 0.3 else {}
    has_schema = chance.random() < 0.3
    request: dict[str, Any] = {"max_tokens": chance.choice([256, 300, 600]), "stream": chance.random() < 0.3}
    request |= {"response_schema": {"words": "string"}} if has_schema else {}
    row_count = chance.uniform(0.3, 0.6) * rows * (TURNS if has_schema else 1)
    usd = row_count * (147 * price["input"] + 128 * price["output"]) / 1e6
    both = {"budget_usd": usd, "budget_tokens": round(row_count * MEAN_TOKENS)}
    names = chance.choice([["budget_usd"], ["budget_usd"], ["budget_tokens"], ["budget_usd", "budget_tokens"]])
    return Setting(
        budget={name: both[name] for name in names},
        price=price,
        request=request,
        fault_rate=chance.choice([0.0, 0.05, 0.15, 0.3]),
        concurrency=round(most_concurrency ** chance.uniform(0.3, 1.0)),
        latency_s=chance.choice([0.0, 0.005, 0.05]),
        kills=kills,
    )


def _spend(folder: Path, setting: Setting, chance: random.Random) -> Spent:
    script = (f"faults {setting.fault_rate}", f"latency {setting.latency_s / 2} {setting.latency_s}")
    with scripted_server(folder, *script) as server:
        limits = {**setting.budget, "concurrency": setting.concurrency, "timeout_s": 1.5}
        job = write_job(folder, server.base_url, limits, price=setting.price, **setting.request)
        for _ in range(setting.kills):
            _kill(server, job, chance.randint(1, 200))
        ended = command("run", job, "--json", folder=folder)
        entries = server.ledger()
    billed_usd = billed_tokens = 0.0
    for entry in entries:
        if entry.is_billed:
            answer = said(entry.digest)
            prompt_usd = answer.prompt_tokens * setting.price["input"]  # none of it is from its cache
            billed_usd += (prompt_usd + answer.completion_tokens * setting.price["output"]) / 1e6
            billed_tokens += answer.prompt_tokens + answer.completion_tokens
    charged_usd, charged_tokens = _charged(job)
    return Spent(
        setting,
        ended.code,
        charged=_share(setting, charged_usd, charged_tokens),
        billed=_share(setting, billed_usd, billed_tokens),
        requests=len(entries),
        said=ended.stderr.strip()[-300:],
    )


def _share(setting: Setting, usd: float, tokens: float) -> float:
    amounts = {"budget_usd": usd, "budget_tokens": tokens}
    return max(amounts[name] / most for name, most in setting.budget.items())


def _kill(server: Server, job: Path, answers: int) -> None:
    """Kill a run when the server has delivered so many more answers, unless it ends before."""
    wanted, deadline = server.counts()[1] + answers, time.monotonic() + LONGEST_WAIT_S
    with started("run", job, "--quiet") as process:
        while server.counts()[1] < wanted and process.poll() is None:
            assert time.monotonic() < deadline, "the run does not get on"
            time.sleep(0.002)
        process.kill()


def _charged(job: Path) -> tuple[float, float]:
    """Return the dollars and tokens that the checkpoint takes for gone."""
    path = load_job(job).job.checkpoint.path
    assert path is not None
    with open_checkpoint(path, is_read_only=True) as checkpoint:
        totals = checkpoint.totals()
    tokens = totals.prompt_tokens + totals.completion_tokens + totals.held_tokens
    return totals.cost_usd + totals.held_usd, tokens
