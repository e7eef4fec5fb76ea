"""What `estimate` says before any money is spent, how right it is, and the question that `run` asks first."""

from __future__ import annotations

import json
import math
import os
import pty
import random
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchchat.commands import estimate as estimating
from batchchat.commands.plan import Plan, opened, prepare, prepared_rows
from batchchat.commands.run import RunOptions
from batchchat.commands.run import run as run_plan
from batchchat.commands.status import job_status
from batchchat.estimate.extrapolation import Others, fit, margin, student
from batchchat.estimate.figures import Known, Measured, figures
from batchchat.job.file import load_job
from batchchat.job.job import Job
from batchchat.records import Price
from batchchat.serve.server import EmbeddedEndpoint
from batchchat.serve.settings import ServeSettings
from batchchat.show.estimate import Estimate, as_object
from batchchat.show.printable import dollars
from tests.echoing import Echoing, Sent, completion
from tests.running import BATCHCHAT, ROOT, batchchat, ledger, write_csv, write_job

PRICE = {"input": 3, "output": 15}
WORDS = ("parcel", "late", "invoice", "a", "customer service", "refund", "the")


def prepared(folder: Path, settings: Sequence[str], limit: int | None) -> Plan:
    """Return the folder's job, prepared."""
    overrides: dict[tuple[str | int, ...], Any] = {("input", "limit"): limit} if limit else {}
    return prepare(load_job(folder / "job.yaml", settings=settings, overrides=overrides))


def estimated(folder: Path, *settings: str, limit: int | None = None, sample: int | None = None) -> dict[str, Any]:
    """Return what `estimate --json` prints, without the process."""
    plan = prepared(folder, settings, limit)
    found = estimating.sampled(plan, None, sample) if sample else estimating.estimate(plan, None)
    printed: dict[str, Any] = json.loads(json.dumps(as_object(found)))
    return printed


def run(folder: Path, *settings: str, limit: int | None = None) -> None:
    """Run the job, without a process of its own."""
    run_plan(prepared(folder, settings, limit), None, RunOptions(is_quiet=True))


def request(**parameters: Any) -> dict[str, Any]:
    """Return a request for each row's text."""
    return {"model": "stand-in", "messages": [{"role": "user", "content": "Repeat: {{ text }}"}], **parameters}


def texts(count: int, seed: int = 0) -> list[str]:
    """Return texts of different lengths."""
    chance = random.Random(seed)
    return [f"{n} {' '.join(chance.choices(WORDS, k=chance.randint(2, 80)))}" for n in range(count)]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Return a folder with a job of 300 rows of which ten are identical, and an endpoint that keeps a ledger."""
    with EmbeddedEndpoint(ServeSettings(log_path=tmp_path / "ledger.jsonl")) as endpoint:
        write_csv(tmp_path / "rows.csv", [*texts(290), *["twice"] * 10])
        write_job(
            tmp_path,
            endpoint={"base_url": endpoint.base_url, "name": "stand-in"},
            request=request(),
            price=PRICE,
            limits={"concurrency": 16},
        )
        yield tmp_path


def asked(folder: Path) -> int:
    """Return how many requests the endpoint has seen."""
    return len(ledger(folder / "ledger.jsonl"))


def billed(folder: Path, first: int) -> float:
    """Return what the endpoint's requests from one on cost."""
    entries = ledger(folder / "ledger.jsonl")[first:]
    tokens = [(entry["prompt_tokens"], entry["completion_tokens"]) for entry in entries]
    return dollars_for(tokens)


def dollars_for(tokens: Iterable[tuple[int, int]]) -> float:
    """Return what tokens of prompts and completions cost."""
    return math.fsum(spent * PRICE["input"] + said * PRICE["output"] for spent, said in tokens) / 1e6


# What is still to be asked


def test_nothing_asked_yet_is_guessed_and_said_so(place: Path) -> None:
    """Identical rows count once; what nobody can know is a guess; nothing is sent, nothing is left behind."""
    found = estimated(place)
    assert found["requests"] == {
        "value": 291, "source": "300 rows, 9 identical to another", "low": None, "high": None
    }  # fmt: skip
    assert found["input_tokens"]["source"] == "a guess of 4 bytes per token"
    assert "a guess" in found["output_tokens"]["source"]
    assert found["cost_usd"]["source"] == "price in the job"
    assert found["minutes"]["value"] is None
    assert asked(place) == 0
    assert not (place / ".batchchat").exists()


def test_max_tokens_bounds_what_is_not_known(place: Path) -> None:
    """Before any answer, output is at most what the request allows; a rate limit of the job's own gives the minutes."""
    found = estimated(place, "request.max_tokens=50", "limits.requests_per_minute=60")
    assert (found["output_tokens"]["value"], found["output_tokens"]["source"]) == (
        291 * 50, "at most max_tokens, 50 a request"
    )  # fmt: skip
    assert (found["minutes"]["value"], found["minutes"]["source"]) == (291 / 60, "limits.requests_per_minute 60")


def test_max_tokens_of_each_row_are_summed(place: Path) -> None:
    """A template for `max_tokens` is another limit for each row."""
    found = estimated(place, 'request.max_tokens="{{ id + 1 }}"', limit=10)
    assert found["output_tokens"]["value"] == sum(range(1, 11))


@pytest.mark.slow
def test_half_finished_job_is_estimated_from_its_own_answers(place: Path) -> None:
    """Answered rows are left out, and tell within 10 % what the others cost; another run would ask as many."""
    run(place, limit=150)
    before = asked(place)
    found = estimated(place)
    assert found["rows_answered"] == 150
    assert "answered already, 9 identical" in found["requests"]["source"]
    assert "150 rows of this job" in found["input_tokens"]["source"]
    assert "limits.concurrency: 16" in found["minutes"]["source"]
    run(place)
    assert asked(place) - before == found["requests"]["value"] == 141
    assert found["cost_usd"]["value"] == pytest.approx(billed(place, before), rel=0.1)
    assert estimated(place)["requests"]["value"] == 0


@pytest.mark.slow
def test_changed_prompt_is_estimated_from_what_the_checkpoint_knows(place: Path) -> None:
    """Every row is to be asked again, and answers of the old prompt tell how long answers are."""
    run(place, "limits.tokens_per_minute=1e9")
    changed = request(messages=[{"role": "user", "content": "Say again: {{ text }}"}])
    found = estimated(place, f"request={json.dumps(changed)}")
    assert (found["requests"]["value"], found["rows_answered"]) == (291, 0)
    assert "as an earlier run of this job found" in found["input_tokens"]["source"]
    assert "291 answers that are kept of other rows" in found["output_tokens"]["source"]
    assert found["cost_usd"]["value"] == pytest.approx(billed(place, 0), rel=0.25)


def test_failed_rows_count_as_run_would_ask_them(tmp_path: Path) -> None:
    """A final failure stands and is left out, a transient one is asked again, a row that makes no request is apart."""

    def script(number: int, headers: Mapping[str, str], body: bytes) -> Sent:
        if b"never" in body:
            return Sent(400, b'{"error": {"message": "no", "type": "invalid_request_error"}}')
        return Sent(500, b"{}") if b"later" in body else Sent(200, completion("yes"))

    write_csv(tmp_path / "rows.csv", ["fine", "never", "later", "broken", "good"])
    with Echoing(script) as endpoint:
        content = "{{ 1 / 0 if text == 'broken' else text }}"
        asking = {"model": "m", "messages": [{"role": "user", "content": content}]}
        write_job(
            tmp_path, endpoint={"base_url": endpoint.base_url}, request=asking, limits={"max_attempts": 1}, price=PRICE
        )
        run(tmp_path)
        found = estimated(tmp_path)
    assert found["requests"]["source"] == "5 rows, 2 answered already, 1 failed for good, 1 that cannot be asked"
    assert found["requests"]["value"] == 1


def test_no_key_and_no_price_are_no_obstacle(tmp_path: Path) -> None:
    """The tokens are estimated; what the dollars need is said."""
    write_csv(tmp_path / "rows.csv", ["a"])
    write_job(tmp_path, endpoint={"base_url": "https://models.invalid/v1", "api_key_env": "NO_SUCH_KEY"})
    found = estimated(tmp_path)
    assert found["requests"]["value"] == 1
    assert found["cost_usd"]["value"] is None
    assert "add price: {input, output}" in found["cost_usd"]["source"]
    ended = batchchat("estimate", "job.yaml", "--sample", "3", cwd=tmp_path)
    assert (ended.code, "NO_SUCH_KEY is not set" in ended.stderr) == (2, True)


@pytest.mark.slow
def test_live_run_can_be_estimated_but_not_sampled(tmp_path: Path) -> None:
    """To look needs no lock; to ask needs it, and says who has it."""
    write_csv(tmp_path / "rows.csv", texts(200))
    with EmbeddedEndpoint(ServeSettings(latency_s=0.1)) as endpoint:
        write_job(tmp_path, endpoint={"base_url": endpoint.base_url}, limits={"concurrency": 2}, price=PRICE)
        with subprocess.Popen(
            [*BATCHCHAT, "run", "job.yaml", "--quiet"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
        ) as running:
            until(
                lambda: (tmp_path / ".batchchat" / "job.sqlite").exists() and estimated(tmp_path)["rows_answered"] > 2
            )
            assert 0 < estimated(tmp_path)["requests"]["value"] < 198
            ended = batchchat("estimate", "job.yaml", "--sample", "3", cwd=tmp_path)
            running.terminate()
    assert (ended.code, "in use by a live run" in ended.stderr) == (3, True)


def until(is_so: Any) -> None:
    """Wait for something, at most 20 s."""
    end = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_fresh_run_is_estimated_as_asking_everything(place: Path) -> None:
    """`run --fresh` asks what was answered, and the old answers still tell what that takes."""
    run(place)
    plan = prepare(load_job(place / "job.yaml"))
    found = estimating.estimate(plan, None, is_fresh=True)
    assert found.requests.value == 291
    assert found.cost_usd.value == pytest.approx(billed(place, 0), rel=0.01)


# Samples


@pytest.mark.slow
def test_sample_is_asked_kept_and_not_asked_twice(place: Path) -> None:
    """Its answers are those of the next run; the same command again sends nothing and says the same."""
    found = estimated(place, sample=30)
    assert asked(place) == 30
    assert found["sample"] == {
        "rows": 30, "asked": 30, "failed": 0, "cost_usd": pytest.approx(billed(place, 0))
    }  # fmt: skip
    assert found["requests"]["value"] == 261
    cost = found["cost_usd"]
    assert 0 < cost["low"] < cost["value"] < cost["high"]
    again = estimated(place, sample=30)
    assert asked(place) == 30
    assert again["sample"] == {"rows": 30, "asked": 0, "failed": 0, "cost_usd": 0}
    assert again["cost_usd"] == cost
    ended = batchchat("estimate", "job.yaml", "--sample", "30", "--json", cwd=place)
    assert (ended.code, ended.summary["requests"]) == (0, again["requests"])
    assert job_status(load_job(place / "job.yaml")).state == "not started"
    run(place)
    assert asked(place) == 291


@pytest.mark.slow
def test_sample_is_spread_over_what_is_not_asked(place: Path) -> None:
    """Each tenth of the rows that are still to be asked has a tenth of the sample."""
    run(place, limit=90)
    before = asked(place)
    estimated(place, sample=20)
    plan = prepare(load_job(place / "job.yaml"))
    with opened(plan) as checkpoint:
        chosen = [
            row.number
            for row, made in prepared_rows(plan)
            if made.key in checkpoint.made_outside_runs([made.key])  # type: ignore[union-attr]
        ]
    assert asked(place) - before == len(chosen) == 20
    assert chosen[0] > 90
    tenths = [sum(1 for number in chosen if 90 + start < number <= 110 + start) for start in range(0, 200, 20)]
    assert all(1 <= count <= 3 for count in tenths), tenths


def test_sample_larger_than_the_rest_asks_the_rest(place: Path) -> None:
    """Then nothing is left to estimate, and both forms say so."""
    shown = batchchat("estimate", "job.yaml", "--limit", "5", "--sample", "50", cwd=place)
    assert (shown.code, asked(place)) == (0, 5)
    assert "job: nothing is left to ask\nrequests: 0: 5 rows, 5 answered already\nsample: 5 rows were asked for $" in (
        shown.stdout
    )


def test_refused_sample_ends_as_a_refused_run(place: Path) -> None:
    """An unknown model is the job's trouble: exit 4."""
    ended = batchchat("estimate", "job.yaml", "--sample", "3", "--set", "request.model=no-such-model", cwd=place)
    assert ended.code == 4
    assert ended.stdout == ""


@pytest.mark.slow
def test_intervals_of_samples_hold_the_truth(tmp_path: Path) -> None:
    """Of 20 tables with long-tailed sizes and completions, in 16 or more the true cost is within the 90 % interval.

    As many estimates are within 10 % of it.
    """
    held = near = 0
    with Echoing(billing_endpoint) as endpoint:
        for seed in range(20):
            found, truth = sampled_and_true(tmp_path / str(seed), endpoint.base_url, seed)
            cost = found.cost_usd
            assert cost.value is not None
            assert cost.low is not None
            assert cost.high is not None
            held += cost.low <= truth <= cost.high
            near += abs(cost.value / truth - 1) <= 0.1
            assert cost.high - cost.low < 0.6 * truth, "an interval that holds everything says nothing"
    assert held >= 16
    assert near >= 16


def billing_endpoint(number: int, headers: Mapping[str, str], body: bytes) -> Sent:
    """Answer with a usage that follows from the prompt."""
    prompt_tokens, completion_tokens = usage_of(json.loads(body)["messages"][0]["content"])
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return Sent(200, completion("yes", usage=usage))


def usage_of(content: str) -> tuple[int, int]:
    """Return tokens of a prompt, and of its completion: from 10 to some 300, a little longer for a longer prompt."""
    chance = random.Random(content)
    return 12 + len(content) * 10 // 43, round(chance.lognormvariate(3.6, 0.5) + len(content) / 60)


def sampled_and_true(folder: Path, base_url: str, seed: int) -> tuple[Estimate, float]:
    """Return the estimate of a table after a sample of 50 of its 400 rows, and what the other rows truly cost."""
    folder.mkdir()
    chance = random.Random(seed)
    rows = [f"{n} {'parcel ' * round(chance.lognormvariate(3, 0.9))}" for n in range(400)]
    write_csv(folder / "rows.csv", rows)
    asking = {"model": "m", "messages": [{"role": "user", "content": "{{ text }}"}]}
    # The rows of a sample depend on the endpoint's name, which otherwise is its address.
    endpoint = {"base_url": base_url, "name": "billing"}
    job = write_job(folder, endpoint=endpoint, request=asking, price=PRICE, limits={"concurrency": 4})
    plan = prepare(load_job(job))
    found = estimating.sampled(plan, None, 50)
    with opened(plan) as checkpoint:
        made = [(row, request) for row, request in prepared_rows(plan)]
        outcomes = checkpoint.outcomes([request.key for _, request in made])  # type: ignore[union-attr]
    left = [usage_of(row.values["text"]) for (row, _), one in zip(made, outcomes, strict=True) if one is None]
    assert len(left) == 350
    return found, dollars_for(left)


# Arithmetic


@pytest.mark.slow
def test_nine_of_ten_intervals_hold_the_truth() -> None:
    """Over 400 samples of 50 requests, of tables in which sizes and completions have long tails."""
    job = Job.model_validate({"request": request()})
    held = 0
    for seed in range(400):
        chance = random.Random(seed)
        sizes = [round(100 + chance.lognormvariate(5, 0.9)) for _ in range(1_000)]
        made = [measured(size, chance) for size in sizes]
        others = Others(950, sum(sizes[50:]))
        cost = figures(job, FLAT, others, None, Known(measured=tuple(made[:50]), is_sample=True)).cost_usd
        assert cost.low is not None
        assert cost.high is not None
        held += cost.low <= math.fsum(one.usd or 0.0 for one in made[50:]) <= cost.high
    assert 0.86 <= held / 400 <= 0.94


FLAT = Price(3.0, 15.0, source="a test")


def measured(size_bytes: int, chance: random.Random) -> Measured:
    """Return what a request took, in part by its size."""
    prompt_tokens, completion_tokens = size_bytes // 4, round(chance.lognormvariate(3.6, 0.6) + size_bytes / 50)
    return Measured(size_bytes, prompt_tokens, completion_tokens, (prompt_tokens * 3 + completion_tokens * 15) / 1e6)


def test_cached_tokens_lower_the_price_of_what_is_left() -> None:
    """Where the replies cost half of what the price says, so will the others, and the estimate says why."""
    job, chance = Job.model_validate({"request": request()}), random.Random(1)
    whole = [measured(size, chance) for size in range(100, 120)]
    half = [replace(one, usd=(one.usd or 0.0) / 2) for one in whole]
    costs = [figures(job, FLAT, Others(10, 1_000), None, Known(measured=tuple(one))).cost_usd for one in (whole, half)]
    assert costs[1].value == pytest.approx((costs[0].value or 0) / 2)
    assert (costs[0].source, costs[1].source.startswith("a test, times 0.50")) == ("a test", True)


def test_replies_that_name_their_cost_need_no_price() -> None:
    """What the measured requests cost by their own account is what the others will."""
    job, alike = Job.model_validate({"request": request()}), Measured(100, 25, 10, 0.002)
    cost = figures(job, None, Others(10, 1_000), None, Known(measured=(alike,) * 5)).cost_usd
    assert cost.value == pytest.approx(0.02)
    assert cost.source == "what its replies say that they cost"


def test_line_is_used_where_it_is_clear() -> None:
    """Prompts are a fixed part and a part by size; where sizes tell nothing, prompts are proportional."""
    sizes = [100.0, 200, 300, 400, 500, 600, 700, 800, 900, 1000]
    line = fit(sizes, [5 + size / 4 for size in sizes], is_proportional=True)
    assert line.total(Others(2, 5_000)) == pytest.approx(2 * 5 + 5_000 / 4)
    alike = fit([100.0] * 20, [25.0] * 20, is_proportional=True)
    assert alike.total(Others(10, 5_000)) == pytest.approx(1_250)
    unclear = fit(sizes, [7.0, 3, 8, 2, 7, 3, 8, 2, 7, 3], is_proportional=False)
    assert unclear.total(Others(10, 1)) == pytest.approx(50)


def test_intervals_are_those_of_student() -> None:
    """The quantiles of the textbook, and a margin that is 0 for nothing and None for too little."""
    textbook = {4: 2.132, 10: 1.812, 30: 1.697, 1_000: 1.646}
    assert {freedom: round(student(freedom), 3) for freedom in textbook} == pytest.approx(textbook, abs=0.003)
    line = fit([10.0, 10, 10], [1.0, 2, 3], is_proportional=False)
    assert margin([0.0], [fit([10.0], [1.0], is_proportional=False)], Others(5, 50)) is None
    assert margin([-1.0, 0, 1], [line], Others(0, 0)) == 0
    expected = student(2) * math.sqrt(6**2 / 3 + 6)  # of 9 in all: the sum of 6, from a mean of 3
    assert margin([-1.0, 0, 1], [line], Others(6, 60)) == pytest.approx(expected)


def test_dollars_are_written_as_people_do() -> None:
    """Cents from a dollar on, below it the digits that matter."""
    written = {0: "$0.00", 3.119: "$3.12", 0.0123: "$0.0123", 0.00004: "less than $0.0001", 12_345.6: "$12,345.60"}
    assert {value: dollars(value) for value in written} == written


# The question before a run


def on_a_terminal(folder: Path, reply: bytes, *options: str) -> tuple[int, str]:
    """Run the job on a terminal, reply to its question; return its exit code and what it wrote there."""
    ours, theirs = pty.openpty()
    written = b""
    with subprocess.Popen(
        [*BATCHCHAT, "run", "job.yaml", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        try:
            while chunk := os.read(ours, 65_536):
                written += chunk
                if b"go on? [y/N]" in chunk:
                    os.write(ours, reply)
        except OSError:  # what Linux says when the other side is closed
            pass
        os.close(ours)
    return process.returncode, written.decode()


@pytest.mark.slow
@pytest.mark.parametrize("reply", [b"n\n", b"\n", b"\x04"], ids=["no", "nothing", "Ctrl-D"])
def test_not_confirmed_sends_nothing(place: Path, reply: bytes) -> None:
    """Above the limit a terminal is asked; what is not yes ends with 130, even where nothing else is to be said."""
    code, written = on_a_terminal(place, reply, "--quiet", "--set", "limits.confirm_above_usd=0.01")
    assert "this will cost about $" in written
    assert "(price in the job), go on? [y/N]" in written
    assert (code, asked(place)) == (130, 0), written
    assert "nothing was sent" in written


@pytest.mark.slow
def test_confirmed_run_goes_on(place: Path) -> None:
    """Yes is all that it takes."""
    code, _ = on_a_terminal(place, b"y\n", "--set", "limits.confirm_above_usd=0.01")
    assert (code, asked(place)) == (0, 291)


@pytest.mark.slow
def test_cheap_or_unpriced_run_is_not_asked(place: Path) -> None:
    """Below the limit nothing is asked, nor where the price is not known, which is said."""
    code, written = on_a_terminal(place, b"n\n", "--limit", "3", "--set", "limits.confirm_above_usd=5")
    assert (code, asked(place)) == (0, 3)
    assert "go on?" not in written
    settings = ("limits.confirm_above_usd=0", "price=null", "checkpoint.path=other.sqlite")
    options = [word for setting in settings for word in ("--set", setting)]
    code, written = on_a_terminal(place, b"n\n", "--limit", "5", *options)
    assert (code, asked(place)) == (0, 8)
    assert "cannot be known" in written


@pytest.mark.slow
def test_script_is_never_asked(place: Path) -> None:
    """Without a terminal a run goes on, whatever it costs: the night's job must not wait for anybody."""
    ended = batchchat("run", "job.yaml", "--set", "limits.confirm_above_usd=0.01", cwd=place)
    assert (ended.code, asked(place)) == (0, 291)
    assert "go on?" not in ended.stderr


@pytest.mark.slow
def test_refused_question_is_told_as_json(place: Path) -> None:
    """`--json` has its object for this end too, and the question is not in it."""
    ours, theirs = pty.openpty()
    os.write(ours, b"n\n")
    done = subprocess.run(
        [*BATCHCHAT, "run", "job.yaml", "--json", "--set", "limits.confirm_above_usd=0.01"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        timeout=300,
        check=False,
    )
    os.close(theirs)
    os.close(ours)
    told = json.loads(done.stdout)
    assert (told["outcome"], told["exit_code"], done.returncode) == ("interrupted", 130, 130)


# The price in `check`


def test_check_says_the_price(place: Path) -> None:
    """What tokens cost and who says so, or what to add."""
    assert "price: $3 / $15 per million tokens (price in the job)" in batchchat("check", "job.yaml", cwd=place).stderr
    ended = batchchat("check", "job.yaml", "--set", "price.cached_input=0.3", cwd=place)
    assert "price: $3 ($0.3 from the cache) / $15 per million tokens" in ended.stderr
    ended = batchchat("check", "job.yaml", "--set", "price=null", cwd=place)
    assert "price: unknown; add price: {input, output}" in ended.stderr
    ended = batchchat("check", "job.yaml", "--set", "price=null", "--endpoint", "local", cwd=place)
    assert (ended.code, "price" in ended.stderr) == (0, False), "the embedded endpoint costs nothing"
