"""What replies cost: from the reply to the column and the totals, through corrections, kills and changes of price."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchchat.checkpoint.shared_cost import SharedCost
from batchchat.checkpoint.store import open_checkpoint
from batchchat.checkpoint.tables import COLUMNS, Stored, answer_of
from batchchat.errors import InterruptedRunError
from batchchat.records import NO_USAGE, Answer, ChatRequest, Completion, FailedRow, Failure, Price, Progress, Usage
from batchchat.send.budget.cost import MOST_NAMED, Costs, cost_usd
from batchchat.send.http.transport import Reply
from batchchat.send.limits.concurrency import Concurrency
from batchchat.send.reply.completion import completion_of
from batchchat.send.structured.judge import Structure
from tests.echoing import Echoing, Sent, completion
from tests.running import batchchat, batchchat_process, ledger, write_csv, write_job
from tests.scheduled import schedule_over
from tests.send.scheduler.test_scheduler import HANG_S, MemoryStore
from tests.send.scheduler.test_turns import FITS, MISFIT, SCHEMA, requests, said
from tests.torture import embedded

PRICE = Price(2.0, 8.0, 0.5)
LONG = Price(2.0, 8.0, None, longer=((100, Price(4.0, 16.0)), (1_000, Price(40.0, 160.0))))
GIVEN = {"input": 2.0, "cached_input": 0.5, "output": 8.0}
EACH_SAID = (7 * 2.0 + 3 * 8.0) / 1e6
"""Dollars for a reply of `said`."""


@pytest.mark.parametrize(
    ("price", "usage", "expected"),
    [
        (PRICE, Usage(1_000, 100), 2_800.0),
        (PRICE, Usage(1_000, 100, cached_tokens=400), 2_200.0),
        (PRICE, Usage(1_000, 0, cached_tokens=4_000), 500.0),
        (Price(2.0, 8.0), Usage(1_000, 100, cached_tokens=400), 2_800.0),
        (LONG, Usage(100, 1), 208.0),
        (LONG, Usage(101, 1), 420.0),
        (LONG, Usage(1_001, 1), 40_200.0),
        (Price(0.0, 0.0), Usage(1_000, 100), 0.0),
        (PRICE, Usage(1_000, 100, cost_usd=0.5), 500_000.0),
        (None, Usage(1_000, 100, cost_usd=0.5), 500_000.0),
        (None, Usage(1_000, 100), None),
        (PRICE, Usage(1_000), None),
        (PRICE, Usage(None, 100), None),
        (PRICE, Usage(0, 0), None),
    ],
)
def test_cost_is_the_replys_word_or_its_tokens_at_the_price(
    price: Price | None, usage: Usage, expected: float | None
) -> None:
    """In millionths of a dollar: cached tokens at their price, long prompts at theirs; None where anything lacks."""
    assert cost_usd(price, usage) == (None if expected is None else pytest.approx(expected / 1e6))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"cost": 0.25}, 0.25),
        ({"cost": 0}, 0.0),
        ({"cost": "0.25"}, 0.25),
        ({"cost": 0.25, "is_byok": False, "cost_details": {"upstream_inference_cost": 3}}, 0.25),
        ({"cost": 0.25, "is_byok": True, "cost_details": {"upstream_inference_cost": 3}}, 3.25),
        ({"cost": 0.25, "is_byok": True, "cost_details": None}, None),
        ({"cost": None}, None),
        ({"cost": True}, None),
        ({"cost": -0.25}, None),
        ({"cost": "nan"}, None),
        ({"cost": "inf"}, None),
        ({"cost": 10**400}, None),
        ({"cost": "much"}, None),
        ({"cost": {"total": 1}}, None),
    ],
)
def test_cost_that_a_reply_reports_is_read(said: Mapping[str, Any], expected: float | None) -> None:
    """Dollars as a number; with a key of one's own also what the provider takes; nonsense is no cost."""
    found = completion_of({"choices": [], "usage": {"prompt_tokens": 3, **said}})
    assert found.usage == Usage(3, cost_usd=expected)


def body(model: str) -> bytes:
    """Return a request for a model."""
    return json.dumps({"model": model}).encode()


def test_each_row_is_priced_by_its_model() -> None:
    """Where rows name the model, each reply costs what its own does; the others are named once each, and only a few."""
    costs = Costs({"a": Price(1.0, 0.0), "b": Price(2.0, 0.0)}.get, None)
    read = Completion("yes", usage=Usage(1_000_000, 0))
    found = [costs.priced(read, body(name)).usage.cost_usd for name in ("a", "b", "c", "a")]
    assert found == [1.0, 2.0, None, 1.0]
    (note,) = costs.notes
    assert note.startswith("no price is known for c, so cost_usd is null; add `price: {input: ..")
    for number in range(2 * MOST_NAMED):
        costs.priced(read, body(f"m{number}"))
    assert costs.notes[0] == note
    assert [one[: one.index(",")].rsplit(" ", 1)[1] for one in costs.notes] == ["c", "m0", "m1"]


def test_reply_that_says_its_cost_needs_no_price() -> None:
    """Nobody is told of a price that was never missed."""
    costs = Costs(model="m")
    read = Completion("yes", usage=Usage(1, 1, cost_usd=0.5))
    assert costs.priced(read, b"") is read
    unbilled = Failure("server", "broke")
    assert costs.priced(unbilled, b"") is unbilled
    assert costs.notes == ()
    assert costs.priced(Completion("yes"), b"").usage is NO_USAGE


def test_billed_failure_is_priced() -> None:
    """A reply that is no answer was paid for all the same."""
    empty = Failure("empty_reply", "the model answered nothing", usage=Usage(10, 1))
    assert Costs({"m": PRICE}.get, "m").priced(empty, b"").usage.cost_usd == pytest.approx(28e-6)


def test_outcomes_have_their_cost_exactly_once() -> None:
    """Whatever their numbers, and whether they are met again at once or later; those without a cost stay without."""
    answer = Answer(Completion("yes", usage=Usage(1, cost_usd=0.5)), b"", 1.0, 1)
    free = Answer(Completion("yes", usage=Usage(1, cost_usd=0.0)), b"", 1.0, 1)
    unpriced = Answer(Completion("yes", usage=Usage(1)), b"", 1.0, 1)
    failed = FailedRow(Failure("server", "broke"), True, 1.0, 1)
    numbers = [*range(40), 2**15 - 1, 2**15, 2**15 + 1, 2**40, 2**62, -1]
    stored = [Stored(table, number) for number in numbers for table in ("answers", "failures")]
    keys = [b"%d" % number for number in range(len(stored))]
    place, billed = dict[bytes | None, Stored](zip(keys, stored, strict=True)), SharedCost()
    for number, key in enumerate(keys):
        nobody = [None, b"unknown"]
        shared = billed.shared_out([*nobody, key, key, key], {key: answer}, place)
        assert shared == [None, None, answer, free, free]
        earlier = keys[: number + 1]
        assert billed.shared_out(earlier, dict.fromkeys(earlier, answer), place) == [free] * len(earlier)
    more = SharedCost()
    for _ in range(2):
        assert more.shared_out([b"1", b"2", b"1"], {b"1": unpriced, b"2": failed}, place) == [
            unpriced,
            failed,
            unpriced,
        ]


# The schedule


def scheduled(replies: dict[str, list[Reply | Failure]], stop_after: int | None = None) -> tuple[MemoryStore, Progress]:
    """Run rows one by one against replies by row name; stop when so many were sent."""
    store, sent, last = MemoryStore(), 0, Progress()
    chunk = requests(len(replies))

    def observe(progress: Progress) -> None:
        nonlocal last
        last = progress

    async def send(request: ChatRequest, _: bytes, __: bool) -> Reply | Failure:
        nonlocal sent
        sent += 1
        if sent == stop_after:
            schedule.stop(InterruptedRunError(15))
        return replies[request.row_name].pop(0)

    costs = Costs({"m": PRICE}.get, "m")
    endpoint = {"costs": costs, "structure": Structure(SCHEMA)}
    schedule = schedule_over(
        [chunk],
        store,
        send,
        Concurrency(1, 0.0),
        observe=observe,
        endpoint=endpoint,
        max_attempts=6,
        grace_s=HANG_S,
    )
    try:
        asyncio.run(asyncio.wait_for(schedule.run(), HANG_S))
    except InterruptedRunError:
        assert stop_after is not None
    return store, last


def cost_of(store: MemoryStore, name: str) -> float | None:
    """Return what a row with a completion cost."""
    said = store.by_name()[name].completion
    assert said is not None
    return said.usage.cost_usd


@pytest.mark.slow
def test_row_costs_what_all_its_replies_do() -> None:
    """An empty reply, a misfit and its correction are three replies, in the row's cost and in the run's."""
    empty = said(None)
    store, progress = scheduled({"0": [empty, said(MISFIT), said(FITS)], "1": [said(FITS)]})
    assert cost_of(store, "0") == pytest.approx(3 * EACH_SAID)
    assert cost_of(store, "1") == pytest.approx(EACH_SAID)
    assert progress.cost_usd == pytest.approx(4 * EACH_SAID)
    assert (progress.prompt_tokens, progress.completion_tokens, progress.requests_unpriced) == (28, 12, 0)


def test_row_with_a_reply_of_unknown_cost_has_none() -> None:
    """A sum with an unknown part is not known: both replies count as without a price."""
    uncounted = Reply(200, {}, b'{"choices":[{"message":{"content":"no"}}]}', 0.5)
    store, progress = scheduled({"0": [uncounted, said(FITS)], "1": [said(MISFIT), uncounted], "2": [said(FITS)]})
    assert cost_of(store, "0") is cost_of(store, "1") is None
    assert cost_of(store, "2") == pytest.approx(EACH_SAID)
    assert progress.cost_usd == pytest.approx(EACH_SAID)
    assert progress.requests_unpriced == 4


def test_row_that_is_given_up_keeps_what_it_cost() -> None:
    """A row that fails after replies that were paid for has their cost beside its error."""
    store, progress = scheduled({"0": [said(MISFIT), said("no")], "1": [Failure("bad_request", "no", 400)] * 3})
    assert cost_of(store, "0") == pytest.approx(2 * EACH_SAID)
    assert store.by_name()["1"].completion is None
    assert progress.cost_usd == pytest.approx(2 * EACH_SAID)
    assert progress.requests_unpriced == 0


def test_row_that_a_stop_leaves_on_its_way_is_in_the_runs_cost() -> None:
    """No outcome is stored for it, and its first reply was paid for all the same."""
    store, progress = scheduled({"0": [said(FITS)], "1": [said(MISFIT), said(FITS)]}, stop_after=2)
    assert list(store.by_name()) == ["0"]
    assert progress.cost_usd == pytest.approx(2 * EACH_SAID)
    assert (progress.prompt_tokens, progress.completion_tokens) == (14, 6)


# Whole runs


def costs_of(path: Path) -> pl.DataFrame:
    """Return what an output says of tokens and costs."""
    return pl.read_parquet(path).select("text", "prompt_tokens", "completion_tokens", "cost_usd")


@pytest.mark.slow
def test_costs_of_identical_rows_sum_to_what_was_billed(tmp_path: Path) -> None:
    """Each answer's cost stands once, at the first of its rows; column, summary and the endpoint's ledger agree."""
    write_csv(tmp_path / "rows.csv", [f"text {number % 17}" for number in range(600)])
    with embedded.endpoint(tmp_path) as base_url:
        job = write_job(tmp_path, endpoint={"base_url": base_url}, price=GIVEN)
        ended = batchchat("run", job, "--json")
    written = (tmp_path / "out.parquet").read_bytes()
    batchchat("export", job)
    assert (tmp_path / "out.parquet").read_bytes() == written
    billed = sum(2.0 * one["prompt_tokens"] + 8.0 * one["completion_tokens"] for one in _billed(tmp_path)) / 1e6
    frame = costs_of(tmp_path / "out.parquet")
    assert frame["cost_usd"].sum() == pytest.approx(billed)
    assert frame["cost_usd"].to_list()[17:] == [0.0] * 583
    assert all(cost > 0 for cost in frame["cost_usd"][:17])
    assert ended.summary["cost_usd"] == pytest.approx(billed)
    assert (ended.summary["requests_unpriced"], ended.summary["notes"]) == (0, [])


def _billed(folder: Path) -> list[dict[str, Any]]:
    return [one for one in ledger(folder / "ledger.jsonl") if one["status"] == 200]


@pytest.mark.slow
def test_later_price_changes_nothing_that_was_billed(tmp_path: Path) -> None:
    """An answer keeps what it cost when it came; only new rows have the new price."""
    write_csv(tmp_path / "rows.csv", ["old"])
    first = batchchat("run", write_job(tmp_path, price=GIVEN), "--json")
    write_csv(tmp_path / "rows.csv", ["old", "new"])
    second = batchchat("run", write_job(tmp_path, price={"input": 200.0, "output": 800.0}), "--json")
    old, new = costs_of(tmp_path / "out.parquet").rows(named=True)
    assert old["cost_usd"] == pytest.approx(first.summary["cost_usd"])
    assert new["cost_usd"] == pytest.approx(second.summary["cost_usd"])
    assert new["cost_usd"] == pytest.approx((200.0 * new["prompt_tokens"] + 800.0 * new["completion_tokens"]) / 1e6)


@pytest.mark.slow
def test_unknown_price_is_null_and_said_once(tmp_path: Path) -> None:
    """The cost column is null, with its type; one note names the model and what to add."""
    write_csv(tmp_path / "rows.csv", [f"text {number}" for number in range(30)])
    with embedded.endpoint(tmp_path) as base_url:
        job = write_job(tmp_path, endpoint={"base_url": base_url})
        summary = batchchat("run", job, "--json").summary
        again = batchchat("run", job, "--fresh")
    (note,) = summary["notes"]
    assert again.stderr.count("no price is known") == 1
    assert note.startswith("no price is known for stand-in, so cost_usd is null; add `price: {input: ..")
    assert (summary["cost_usd"], summary["requests_unpriced"]) == (None, 30)
    frame = costs_of(tmp_path / "out.parquet")
    assert (frame.schema["cost_usd"], frame["cost_usd"].null_count()) == (pl.Float64(), 30)


def test_embedded_endpoint_is_free_and_nobody_is_told() -> None:
    """Trying a job on the stand-in needs no price."""
    costs = Costs(model="stand-in", is_free=True)
    assert costs.priced(Completion("yes", usage=Usage(1, 1)), b"").usage == Usage(1, 1)
    assert costs.notes == ()


@pytest.mark.parametrize(("price", "dollars"), [(None, 0.0625), (GIVEN, None)])
def test_reported_cost_counts_where_the_job_gives_no_price(
    tmp_path: Path, price: dict[str, float] | None, dollars: float | None
) -> None:
    """What the endpoint says that it billed is what is written and shown; a price in the job wins over it."""
    write_csv(tmp_path / "rows.csv", ["a", "b"])
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "cost": 0.0625}
    each = dollars or (9 * GIVEN["input"] + GIVEN["output"]) / 1e6
    with Echoing(lambda *_: Sent(200, completion("yes", usage=usage))) as there:
        job = write_job(tmp_path, endpoint={"base_url": there.base_url}, **({"price": price} if price else {}))
        summary = batchchat("run", job, "--json").summary
    assert costs_of(tmp_path / "out.parquet")["cost_usd"].to_list() == pytest.approx([each, each])
    assert summary["cost_usd"] == pytest.approx(2 * each)


def stored(path: Path) -> tuple[int, float]:
    """Return the tokens and dollars of all answers that a checkpoint keeps."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(f"SELECT {', '.join(COLUMNS['answers'])} FROM answers").fetchall()
    usages = [answer_of(row, with_reply=False).completion.usage for row in rows]
    tokens = sum((one.prompt_tokens or 0) + (one.completion_tokens or 0) for one in usages)
    return tokens, sum(one.cost_usd or 0.0 for one in usages)


@pytest.mark.slow
def test_totals_of_killed_runs_are_those_of_what_is_stored(tmp_path: Path) -> None:
    """Killed in the middle of a commit or right behind it: the runs' tokens and dollars are the answers'."""
    write_csv(tmp_path / "rows.csv", [f"text {number}" for number in range(300)])
    checkpoint_path = tmp_path / ".batchchat" / "job.sqlite"
    tokens, dollars = 0, 0.0
    with embedded.endpoint(tmp_path, "--latency", "0.01") as base_url:
        job = write_job(tmp_path, endpoint={"base_url": base_url}, price=GIVEN, limits={"concurrency": 8})
        for place in ("in-commit:4", "after-commit:3"):
            ended = batchchat_process("run", job, "--quiet", env={"BATCHCHAT_CRASH_AT": place})
            assert ended.code == -signal.SIGKILL
            with open_checkpoint(checkpoint_path, is_read_only=True) as checkpoint:
                run = checkpoint.last_run()
            assert run is not None
            tokens += run.progress.prompt_tokens + run.progress.completion_tokens
            dollars += run.progress.cost_usd
            kept_tokens, kept_dollars = stored(checkpoint_path)
            assert tokens == kept_tokens > 0
            assert dollars == pytest.approx(kept_dollars)
        finished = batchchat("run", job, "--json").summary
    frame = costs_of(tmp_path / "out.parquet")
    assert frame["cost_usd"].sum() == pytest.approx(dollars + finished["cost_usd"])
    tokens += finished["prompt_tokens"] + finished["completion_tokens"]
    assert frame.select(pl.sum("prompt_tokens") + pl.sum("completion_tokens")).item() == tokens
