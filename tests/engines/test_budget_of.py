"""Whole runs that stop by themselves: at their budget, at their deadline, past their error rate."""

from __future__ import annotations

import socket
from datetime import datetime, time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from batchchat.checkpoint.store import open_checkpoint
from batchchat.engines.budget_of import spending_of
from batchchat.job.deadline import in_words, seconds_until
from batchchat.records import Price, Progress
from batchchat.runs import JobTotals, RunRecord
from batchchat.send.state.row_cost import NOTHING, Amount
from batchchat.serve.server import EmbeddedEndpoint
from batchchat.serve.settings import ServeSettings
from tests.odd_replies import respond
from tests.running import Ended, batchchat, ledger, write_csv, write_job

REQUEST = {"model": "stand-in", "max_tokens": 60, "messages": [{"role": "user", "content": "Repeat: {{ text }}"}]}
NO_LIMIT = {**REQUEST, "max_tokens": None}
PRICE = {"input": 10.0, "output": 30.0}


def texts(count: int) -> list[str]:
    """Return so many different texts."""
    return [f"row {number} of words that are to be repeated" for number in range(count)]


def tokens_served(folder: Path) -> int:
    """Return the tokens that the endpoint says it served."""
    entries = [entry for entry in ledger(folder / "ledger.jsonl") if entry["status"] == 200]
    return sum(entry["prompt_tokens"] + entry["completion_tokens"] for entry in entries)


def run_over(folder: Path, base_url: str, limits: dict[str, Any], *arguments: str, **sections: Any) -> Ended:
    """Run a job against an endpoint under these limits."""
    endpoint = {"base_url": base_url, "name": "stand-in"}
    job = write_job(folder, endpoint=endpoint, limits=limits, **{"request": REQUEST, **sections})
    return batchchat("run", job, "--json", *arguments)


# Budgets


@pytest.mark.slow
def test_budget_stops_the_run_and_the_next_one_goes_on_with_more(tmp_path: Path) -> None:
    """Exit 5, the output as it was, 95 % used and no token over; again: nothing is sent; raised: it goes on."""
    write_csv(tmp_path / "rows.csv", texts(600))
    (tmp_path / "out.parquet").write_bytes(b"as it was")
    budget = {"concurrency": 16, "budget_tokens": 12_000}
    with EmbeddedEndpoint(ServeSettings(log_path=tmp_path / "ledger.jsonl")) as endpoint:
        first = run_over(tmp_path, endpoint.base_url, budget)
        served = tokens_served(tmp_path)
        again = run_over(tmp_path, endpoint.base_url, budget)
        assert tokens_served(tmp_path) == served
        more = run_over(tmp_path, endpoint.base_url, {**budget, "budget_tokens": 20_000})
        served_more = tokens_served(tmp_path)
        assert (tmp_path / "out.parquet").read_bytes() == b"as it was"
        last = run_over(tmp_path, endpoint.base_url, {"concurrency": 16})
    assert [first.code, again.code, more.code, last.code] == [5, 5, 5, 0]
    assert (first.summary["outcome"], first.summary["output"]) == ("stopped", None)
    assert first.summary["reason"].startswith("limits.budget_tokens: ")
    assert 0.95 * 12_000 <= served <= 12_000
    assert 0.9 * 20_000 <= served_more <= 20_000
    assert again.summary["requests_sent"] == 0
    assert len(pl.read_parquet(tmp_path / "out.parquet")) == 600


@pytest.mark.slow
def test_budget_for_each_run_forgets_the_runs_before(tmp_path: Path) -> None:
    """With `budget_scope: run`, the second run spends as much again, in dollars by the job's price."""
    write_csv(tmp_path / "rows.csv", texts(600))
    budget = {"concurrency": 8, "budget_usd": 0.14, "budget_scope": "run"}
    with EmbeddedEndpoint(ServeSettings(log_path=tmp_path / "ledger.jsonl")) as endpoint:
        runs = [run_over(tmp_path, endpoint.base_url, budget, price=PRICE) for _ in range(2)]
    entries = ledger(tmp_path / "ledger.jsonl")
    usd = sum(entry["prompt_tokens"] * 10.0 + entry["completion_tokens"] * 30.0 for entry in entries) / 1e6
    assert [run.code for run in runs] == [5, 5]
    assert 2 * 0.95 * 0.14 <= usd <= 2 * 0.14


@pytest.mark.slow
def test_budget_larger_than_the_work_changes_nothing(tmp_path: Path) -> None:
    """Every row is answered, and afterwards nothing is held."""
    write_csv(tmp_path / "rows.csv", texts(40))
    with EmbeddedEndpoint(ServeSettings(log_path=tmp_path / "ledger.jsonl")) as endpoint:
        ended = run_over(tmp_path, endpoint.base_url, {"budget_tokens": 10_000_000})
    assert ended.code == 0
    assert ended.summary["held_tokens"] == 0
    assert ended.summary["prompt_tokens"] + ended.summary["completion_tokens"] == tokens_served(tmp_path)


@pytest.mark.parametrize(
    ("command", "sections", "wanted"),
    [
        ("run", {"limits": {"budget_usd": 5}}, "add what it costs, in USD per million tokens, as price: "),
        ("check", {"limits": {"budget_usd": 5}}, "or use limits.budget_tokens"),
        ("check", {"limits": {"budget_usd": 5}, "price": PRICE, "request": NO_LIMIT}, "max_tokens: 500"),
        ("run", {"limits": {"budget_tokens": 5}, "request": NO_LIMIT}, "add the most tokens that one"),
    ],
)
def test_budget_that_cannot_be_kept_is_refused_with_what_to_add(
    tmp_path: Path, command: str, sections: dict[str, Any], wanted: str
) -> None:
    """A budget needs a price and a limit on completions; nothing is sent, and no checkpoint is left behind."""
    write_csv(tmp_path / "rows.csv", texts(2))
    ended = batchchat(command, write_job(tmp_path, **{"request": {**REQUEST, "model": "of no price"}, **sections}))
    assert ended.code == 2
    assert "limits.budget_" in ended.stderr
    assert wanted in ended.stderr
    assert not (tmp_path / ".batchchat").exists()


@pytest.mark.slow
def test_row_without_its_own_limit_fails_alone_under_a_budget(tmp_path: Path) -> None:
    """Rows may fill in `max_tokens`; one that leaves it empty is not sent, and is asked when there is no budget."""
    (tmp_path / "rows.csv").write_text("text,most\nfirst,50\nsecond,\nthird,50\n")
    request = {**REQUEST, "max_tokens": "{{ most }}"}
    job = write_job(tmp_path, request=request, limits={"budget_tokens": 100_000})
    ended = batchchat("run", job, "--json")
    table = pl.read_parquet(tmp_path / "out.parquet")
    assert ended.code == 1
    assert table["error_kind"].to_list() == [None, "template", None]
    assert "limits.budget_tokens" in table["error"][1]


def test_tokens_of_runs_without_a_price_count_at_the_present_one() -> None:
    """What an earlier run could not price is not free; what a budget held is not counted twice."""
    progress = [
        Progress(prompt_tokens=1_000, completion_tokens=100, cost_usd=0.5),
        Progress(prompt_tokens=1_000, completion_tokens=100, requests_unpriced=3),
        Progress(prompt_tokens=1_000, completion_tokens=100, requests_unpriced=3, held_usd=0.25, held_tokens=70),
    ]
    runs = [RunRecord(number, 0.0, 0.0, None, None, 1, "host", 5, one) for number, one in enumerate(progress)]
    price = Price(10.0, 30.0, cached_input=20.0)
    job = job_of(budget_usd=5.0)
    spending = spending_of(job, lambda _: price, price, runs, has_schema=False)
    assert spending.budget is not None
    assert spending.budget.before == Amount(0.5 + 0.023 + 0.25, 3 * 1_100.0 + 70)
    fresh = spending_of(job_of(budget_usd=5.0, budget_scope="run"), lambda _: price, price, runs, has_schema=False)
    assert fresh.budget is not None
    assert fresh.budget.before == NOTHING
    assert spending_of(job_of(), lambda _: price, price, runs, has_schema=False).budget is None


def job_of(**limits: Any) -> Any:
    """Return a job under these limits."""
    from batchchat.job.job import Job

    return Job.model_validate({"request": REQUEST, "limits": limits})


def test_totals_are_the_sums_of_all_runs_and_of_what_kills_lost(tmp_path: Path) -> None:
    """A run that did not end was killed, and its requests in flight may have been billed."""
    path = tmp_path / "a.sqlite"
    progress = Progress(requests_sent=10, prompt_tokens=100, cost_usd=0.5, in_flight_bound=7, possibly_billed=1)
    for reason in (None, "finished", None):
        with open_checkpoint(path) as checkpoint:
            checkpoint.start_run(5)
            checkpoint.commit([], progress)
            if reason:
                checkpoint.end_run(reason)
    with open_checkpoint(path, is_read_only=True) as checkpoint:
        totals = checkpoint.totals()
    assert totals == JobTotals(3, requests_sent=30, prompt_tokens=300, cost_usd=1.5, possibly_billed=3 + 7 + 7)


# Deadlines


@pytest.mark.slow
def test_deadline_stops_the_run_and_the_next_one_goes_on(tmp_path: Path) -> None:
    """Exit 5 soon after the time is over, with the answers that were in flight; nothing is lost."""
    write_csv(tmp_path / "rows.csv", texts(60))
    with EmbeddedEndpoint(ServeSettings(latency_s=0.2)) as endpoint:
        stopped = run_over(tmp_path, endpoint.base_url, {"concurrency": 4, "deadline": "1s"})
        answered = stopped.summary["rows_answered"]
        done = run_over(tmp_path, endpoint.base_url, {"concurrency": 64})
    assert (stopped.code, stopped.summary["outcome"]) == (5, "stopped")
    assert stopped.summary["reason"] == "limits.deadline: 1 s are over; the same command goes on"
    assert 8 <= answered < 30
    assert stopped.summary["possibly_billed"] == 0
    assert (done.code, done.summary["rows_reused"]) == (0, answered)


@pytest.mark.slow
def test_deadline_stops_a_run_that_waits_for_its_endpoint(tmp_path: Path) -> None:
    """Nothing is there, and the run would wait for an hour: at the deadline it does not."""
    write_csv(tmp_path / "rows.csv", texts(5))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        ended = run_over(tmp_path, base_url, {"max_outage": "1h", "deadline": "1.5s"})
    assert ended.code == 5
    assert "limits.deadline" in ended.summary["reason"]


BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("now", "deadline", "hours"),
    [
        (datetime(2026, 5, 4, 22, 0, tzinfo=BERLIN), time(6, 30), 8.5),
        (datetime(2026, 5, 4, 2, 0, tzinfo=BERLIN), time(6, 30), 4.5),
        (datetime(2026, 5, 4, 6, 30, tzinfo=BERLIN), time(6, 30), 24.0),
        (datetime(2026, 3, 28, 22, 0, tzinfo=BERLIN), time(6, 30), 7.5),
        (datetime(2026, 10, 24, 22, 0, tzinfo=BERLIN), time(6, 30), 9.5),
        (datetime(2026, 10, 24, 22, 0, tzinfo=BERLIN), 5_400.0, 1.5),
    ],
)
def test_time_of_day_is_the_next_such_moment(now: datetime, deadline: float | time, hours: float) -> None:
    """Tonight, tomorrow, and through the nights in which the clocks change."""
    assert seconds_until(deadline, now) == hours * 3600


def test_time_of_day_is_local_and_ahead() -> None:
    """Without a moment given it is this one: whatever the time is, the next such is within a day."""
    for hour in (0, 6, 12, 18):
        assert 0 < seconds_until(time(hour)) <= 25 * 3600


@pytest.mark.parametrize(
    ("deadline", "words"),
    [(time(6, 30), "it is 06:30"), (5_400.0, "1 h 30 min are over"), (90.0, "1 min 30 s are over")],
)
def test_deadline_is_said_as_it_was_given(deadline: float | time, words: str) -> None:
    """The message that ends a run names it."""
    assert in_words(deadline) == words


# Error rates


def write_models(folder: Path, count: int, *, failing: range) -> dict[str, Any]:
    """Write rows that name their model, some of which get a refusal; return the request for them."""
    models = ["odd/context-length" if number in failing else "stand-in" for number in range(count)]
    lines = [f"{text},{model}" for text, model in zip(texts(count), models, strict=True)]
    (folder / "rows.csv").write_text("\n".join(["text,which", *lines]))
    return {**REQUEST, "model": "{{ which }}"}


@pytest.mark.slow
def test_run_with_too_many_failed_rows_stops(tmp_path: Path) -> None:
    """Every second row is refused: past a quarter the run stops, and says for what; where more may fail, it ends."""
    request = write_models(tmp_path, 200, failing=range(1, 200, 2))
    with EmbeddedEndpoint(ServeSettings(latency_s=0.01), respond=respond) as endpoint:
        limits = {"concurrency": 4, "max_error_rate": 0.25}
        stopped = run_over(tmp_path, endpoint.base_url, limits, request=request)
        allowed = run_over(tmp_path, endpoint.base_url, {**limits, "max_error_rate": 0.6}, request=request)
    failed = stopped.summary["rows_failed"]
    assert (stopped.code, stopped.summary["outcome"]) == (5, "stopped")
    assert 13 <= failed <= 13 + 2 * 4
    assert stopped.summary["reason"].startswith("limits.max_error_rate: ")
    assert "most often for context_length (" in stopped.summary["reason"]
    assert (allowed.code, allowed.summary["rows_failed"]) == (1, 100)


@pytest.mark.slow
def test_failures_that_stand_do_not_count_again(tmp_path: Path) -> None:
    """An earlier run gave rows up: they are in the output, and stop no later run; one that finds them does."""
    request = write_models(tmp_path, 60, failing=range(40))
    with EmbeddedEndpoint(ServeSettings(), respond=respond) as endpoint:
        first = run_over(tmp_path, endpoint.base_url, {"max_error_rate": 0.5, "concurrency": 64}, request=request)
        again = run_over(tmp_path, endpoint.base_url, {"max_error_rate": 0.5, "concurrency": 64}, request=request)
    assert (first.code, again.code) == (5, 1)
    assert (again.summary["rows_failed"], again.summary["rows_failed_before"]) == (40, 40)
    assert again.summary["requests_sent"] == 60 - first.summary["requests_sent"]


# What is asked aside of the job's runs


@pytest.mark.slow
def test_what_is_asked_to_look_at_counts_in_the_totals_and_against_the_budget(tmp_path: Path) -> None:
    """A preview and a sample are no runs of the job, but their money is spent: the next run knows of it."""
    write_csv(tmp_path / "rows.csv", texts(30))
    with EmbeddedEndpoint(ServeSettings(log_path=tmp_path / "ledger.jsonl")) as there:
        job = write_job(tmp_path, endpoint={"base_url": there.base_url}, price=PRICE, request=REQUEST)
        assert batchchat("preview", job, "-n", "5", "--send").code == 0
        assert batchchat("estimate", job, "--sample", "5").code == 0
        assert "not started" in batchchat("status", job).stdout
        refused = batchchat("run", job, "--json", "--set", "limits.budget_usd=0.004")
        assert (refused.code, refused.summary["requests_sent"]) == (5, 0)
        summary = batchchat("run", job, "--json").summary
    totals = summary["totals"]
    assert totals["prompt_tokens"] + totals["completion_tokens"] == tokens_served(tmp_path)
    assert summary["requests_sent"] <= 25 < totals["requests_sent"] == 30
