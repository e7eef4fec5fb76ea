"""Summaries and status: exact lines for people, stable keys for scripts, nothing that steers a terminal."""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.commands.summary import ended_object
from batchchat.errors import (
    BatchchatError,
    CheckpointError,
    EndpointRefusedError,
    InterruptedRunError,
    JobError,
    LimitReachedError,
    Problem,
    StopSignal,
)
from batchchat.records import Progress, Settled
from batchchat.runs import FailureGroup, JobStatus, JobTotals, RunRecord, RunSummary
from batchchat.show import status as show_status
from batchchat.show import summary as show_summary

PROGRESS = Progress(
    rows_read=1_200,
    rows_answered=1_190,
    rows_reused=1_000,
    rows_failed=10,
    requests_sent=215,
    rate_limited=12,
    possibly_billed=3,
    in_flight=1,
    in_flight_bound=2,
    concurrency=64,
    prompt_tokens=9_000,
    completion_tokens=1_000,
    cached_tokens=500,
    cost_usd=0.0123,
    rows_failed_before=4,
)
TOTALS = JobTotals(runs=3, requests_sent=1_215, prompt_tokens=50_000, completion_tokens=10_000, cost_usd=1.5)
SUMMARY = RunSummary(
    job="triage",
    outcome="finished",
    reason=None,
    progress=PROGRESS,
    rows_total=1_200,
    duration_s=200.0,
    output="out/tickets.parquet",
    checkpoint="jobs/.batchchat/triage.sqlite",
    lost_in_flight=8,
    run_id="20231114T221320Z-3",
    started_at=1_700_000_000.0,
    limits=Settled(64, 600.0, None, 4.2, 80.0),
    totals=TOTALS,
    answers_gone=7,
    first_rows=[{"id": 1}],
)
RUN = RunRecord(3, 1_700_000_000.0, 1_700_000_060.0, None, None, 4711, "host", 1_300, PROGRESS)
STATUS = JobStatus("triage", "c.sqlite", "running", RUN, 2_500, ())


def test_summary_of_a_quiet_run_is_two_lines() -> None:
    """A run without anything unusual has its rows, its cost in requests, tokens and time, and its output."""
    progress = Progress(rows_answered=200, requests_sent=200, prompt_tokens=1_500, completion_tokens=500)
    summary = RunSummary("triage", "finished", None, progress, 200, 4.24, "out/t.csv", "c.sqlite")
    assert show_summary.as_text(summary).splitlines() == [
        "triage: 200 rows: 200 answered, 0 failed · 200 requests, 2,000 tokens · 4.2 s",
        "output: out/t.csv",
    ]


def test_summary_notes_whatever_was_unusual() -> None:
    """Reused answers, rate limits, unknown outcomes and what a killed run lost have a line each."""
    kept = "196 asked, 1,000 reused, 4 had failed before, 7 gone"
    assert show_summary.as_text(SUMMARY).splitlines() == [
        f"triage: 1,200 rows: 1,190 answered, 10 failed · {kept} · 215 requests, 10,000 tokens, $0.0123 · 3 min 20 s",
        "12 requests were turned away by a rate limit and sent again",
        "3 requests had an unknown outcome; they may have been billed and asked again",
        "the run before was killed: up to 8 requests in flight may be billed twice",
        "all 3 runs of this checkpoint: 1,215 requests, 60,000 tokens, $1.50",
        "output: out/tickets.parquet",
    ]


def test_summary_says_what_kept_the_run_from_going_faster() -> None:
    """Whoever wants more rows a second reads which limit to look at; nothing is said where nothing is known."""
    progress = replace(PROGRESS, bound_by="rate limit", bound="the endpoint's 600 requests/min")
    assert "bound by the endpoint's 600 requests/min" in show_summary.as_text(replace(SUMMARY, progress=progress))
    assert "bound by" not in show_summary.as_text(SUMMARY)


def test_summary_of_a_stopped_run_counts_the_unasked() -> None:
    """Rows that were neither answered nor given up are said to be not yet asked, and no output is named."""
    stopped = replace(SUMMARY, rows_total=5_000, output=None, progress=Progress(rows_answered=1, rows_failed=2))
    stopped = replace(stopped, lost_in_flight=0, totals=JobTotals(runs=1), answers_gone=0)
    assert show_summary.as_text(stopped) == (
        "triage: 5,000 rows: 1 answered, 2 failed, 4,997 not yet asked · 0 requests, 0 tokens · 3 min 20 s"
    )


def test_summary_object_has_exactly_these_keys() -> None:
    """Scripts read these keys: none is renamed or removed; what only the program needs is not among them."""
    assert show_summary.as_object(SUMMARY, 1) == {
        "version": 1,
        "job": "triage",
        "run_id": "20231114T221320Z-3",
        "outcome": "finished",
        "reason": None,
        "exit_code": 1,
        "started_at": "2023-11-14T22:13:20.000Z",
        "ended_at": "2023-11-14T22:16:40.000Z",
        "duration_s": 200.0,
        "rows_total": 1_200,
        "rows_read": 1_200,
        "rows_answered": 1_190,
        "rows_reused": 1_000,
        "rows_failed": 10,
        "rows_failed_before": 4,
        "rows_asked": 196,
        "rows_unasked": 0,
        "answers_gone": 7,
        "requests_sent": 215,
        "rate_limited": 12,
        "possibly_billed": 3,
        "lost_in_flight": 8,
        "prompt_tokens": 9_000,
        "completion_tokens": 1_000,
        "cached_tokens": 500,
        "cost_usd": 0.0123,
        "requests_unpriced": 0,
        "held_usd": 0.0,
        "held_tokens": 0,
        "rows_per_s": 0.98,
        "requests_per_s": 1.075,
        "tokens_per_minute": 3_000.0,
        "limits": {"concurrency": 64, "requests_per_minute": 600.0, "tokens_per_minute": None},
        "bound_by": "",
        "bound": "",
        "notes": (),
        "output": "out/tickets.parquet",
        "checkpoint": "jobs/.batchchat/triage.sqlite",
        "totals": {
            "runs": 3,
            "requests_sent": 1_215,
            "rate_limited": 0,
            "possibly_billed": 0,
            "prompt_tokens": 50_000,
            "completion_tokens": 10_000,
            "cached_tokens": 0,
            "cost_usd": 1.5,
            "requests_unpriced": 0,
            "held_usd": 0.0,
            "held_tokens": 0,
        },
    }


TYPES = {"int": int, "float": float, "string": str, "object": dict, "list": tuple}


def test_every_key_of_the_object_is_documented_with_its_type() -> None:
    """The list of keys in the documentation is that of the object, each with the type it has."""
    found = show_summary.as_object(replace(SUMMARY, reason="no credits"), 4)
    documentation = inspect.getdoc(show_summary.as_object) or ""
    documented = dict(re.findall(r"^ {4}(\w+) +(int|float|string|object|list) ", documentation, re.MULTILINE))
    assert set(documented) == set(found)
    assert {key: TYPES[kind] for key, kind in documented.items()} == {key: type(value) for key, value in found.items()}
    assert set(re.findall(r"`(\w+)`", documentation.partition("totals ")[2])) == set(found["totals"])


def test_cost_without_a_known_price_is_null() -> None:
    """What nobody knows is not 0; where some prices are known, the count of the others stands beside their sum."""
    unpriced = replace(PROGRESS, cost_usd=0.0, requests_unpriced=5)
    totals = replace(TOTALS, requests_unpriced=5)
    found = show_summary.as_object(replace(SUMMARY, progress=unpriced, totals=totals), 0)
    assert (found["cost_usd"], found["requests_unpriced"]) == (None, 5)
    assert (found["totals"]["cost_usd"], found["totals"]["requests_unpriced"]) == (1.5, 5)
    assert show_summary.as_object(replace(SUMMARY, progress=Progress()), 0)["cost_usd"] == 0.0


@pytest.mark.parametrize(
    ("usd", "said"),
    [
        (0.0, ""),
        (0.00001, ", less than $0.0001"),
        (0.0123, ", $0.0123"),
        (0.99996, ", $1.0000"),
        (1234.5, ", $1,234.50"),
    ],
)
def test_dollars_are_written_as_people_read_them(usd: float, said: str) -> None:
    """Cents and less have four decimals, dollars two; what cost nothing, or has no price, is not mentioned."""
    text = show_summary.headline(replace(SUMMARY, progress=replace(PROGRESS, cost_usd=usd)))
    assert f" tokens{said} · " in text


def test_summary_object_does_not_change_the_summary() -> None:
    """Making the object takes nothing away from the values it is made of."""
    before = replace(SUMMARY)
    show_summary.as_object(SUMMARY, 0)
    assert before == SUMMARY


def test_error_before_the_run_has_only_its_reason() -> None:
    """A job that could not begin has an outcome, a reason and an exit code, and the time, as in a log of nights."""
    found = ended_object(JobError([Problem("job.yaml:3", "limits.concurrency", "is 0")]), None)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found.pop("ended_at"))
    assert found == {
        "version": 1,
        "job": None,
        "outcome": "failed",
        "reason": "job.yaml:3: limits.concurrency: is 0",
        "exit_code": 2,
    }
    assert found.keys() < show_summary.as_object(SUMMARY, 0).keys()
    assert ended_object(CheckpointError("locked"), "triage")["exit_code"] == 3


@pytest.mark.parametrize(
    ("error", "outcome", "exit_code"),
    [
        (EndpointRefusedError("no credits"), "refused", 4),
        (LimitReachedError("budget_usd", "the budget is spent"), "stopped", 5),
        (InterruptedRunError(15), "interrupted", 143),
    ],
)
def test_error_in_the_run_has_the_whole_summary(error: BatchchatError, outcome: str, exit_code: int) -> None:
    """A run that an error ended has the same keys as one that finished, with the error's outcome and exit code."""
    error.summary = replace(SUMMARY, outcome=outcome, reason=str(error), output=None)
    found = ended_object(error, "triage")
    assert found.keys() == show_summary.as_object(SUMMARY, 0).keys()
    assert (found["outcome"], found["reason"], found["exit_code"]) == (outcome, str(error), exit_code)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (StopSignal(15), ("interrupted", "stopped by SIGTERM", 143)),
        (KeyboardInterrupt(), ("interrupted", "stopped by SIGINT", 130)),
        (ValueError("a bug with sk-proj-abcdefghijklmnopqrstuvwx123456"), ("failed", "ValueError: a bug with ", 70)),
    ],
)
def test_whatever_else_ends_a_run_has_its_object_too(error: BaseException, expected: tuple[str, str, int]) -> None:
    """A signal before the run began, and even a bug, end in an object, without what looks like a key."""
    found = ended_object(error, "triage")
    assert (found["outcome"], found["reason"][: len(expected[1])], found["exit_code"]) == expected
    assert "abcdefghijklmnop" not in found["reason"]


def test_table_has_cut_aligned_cells() -> None:
    """Columns are as wide as their longest cell, at most 32 characters; numbers have three decimals; null is blank."""
    rows = [
        {"id": 1, "body": "two\nlines", "label": None, "score": 0.12345},
        {"id": 22, "body": "x" * 40, "label": "bug", "score": None},
    ]
    assert show_summary.table(rows, 80).splitlines() == [
        "id  body                              label  score",
        "--  --------------------------------  -----  -----",
        "1   two lines                                0.123",
        f"22  {'x' * 31}…  bug",
    ]


def test_table_leaves_out_columns_without_values() -> None:
    """A column of nulls takes no room."""
    assert show_summary.table([{"a": None, "b": 1}, {"a": None, "b": None}], 80) == "b\n-\n1\n"


@pytest.mark.parametrize(("width", "columns"), [(8, 3), (7, 2), (5, 2), (4, 1), (0, 1)])
def test_table_drops_the_last_columns_to_fit(width: int, columns: int) -> None:
    """A narrow terminal sees the first columns whole; one is always shown."""
    lines = show_summary.table([{"aa": 1, "b": 2, "c": 3}], width).splitlines()
    assert lines[0] == "  ".join(["aa", "b", "c"][:columns])


@pytest.mark.parametrize("rows", [[], [{}], [{"a": None}]])
def test_table_without_values_is_empty(rows: list[Mapping[str, Any]]) -> None:
    """An output without rows or values has no table."""
    assert show_summary.table(rows, 80) == ""


def test_status_of_a_job_that_never_ran() -> None:
    """Without a run there is one thing to say."""
    status = JobStatus("triage", "c.sqlite", "not started", None, 0, ())
    assert show_status.as_text(status) == "triage: not started"


def test_status_of_a_live_run() -> None:
    """A live run has its rows, its process, when it was last heard of, and where its answers are."""
    heard = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1_700_000_060))
    assert show_status.as_text(STATUS).splitlines() == [
        "triage: running: 1,300 rows: 1,190 answered, 10 failed, 100 not yet asked",
        f"run 3: pid 4711 on host, last heard of {heard}",
        "checkpoint: c.sqlite, 2,500 answers",
    ]


def test_status_of_a_killed_run_says_what_it_may_cost() -> None:
    """A killed run says how many requests may have been lost, and how to go on."""
    lines = show_status.as_text(replace(STATUS, state="killed")).splitlines()
    assert lines[3:] == ["killed with at most 2 requests in flight; run the job again to go on"]


def test_status_of_a_stopped_run_says_why() -> None:
    """A run that stopped by itself has its reason."""
    ended = replace(RUN, ended_at=1_700_000_060.0, end_reason="no credits")
    lines = show_status.as_text(replace(STATUS, state="stopped", run=ended)).splitlines()
    assert lines[3:] == ["stopped: no credits"]


def test_status_lists_failures_one_a_line() -> None:
    """The most frequent failures stand one to a line, cut to 120 characters."""
    rows = ("T-1", "T\n9\x1b[2J", "y" * 50)
    failures = (
        FailureGroup("timeout", "no reply\nin 120 s", 1_500, rows),
        FailureGroup("server", "x" * 200, 1, ("7",)),
    )
    assert show_status.as_text(replace(STATUS, failures=failures)).splitlines()[3:] == [
        f"failed: 1,500 x timeout: no reply in 120 s (rows T-1, T 9, {'y' * 39}…, ...)",
        f"failed: 1 x server: {'x' * 119}… (row 7)",
    ]


def test_status_says_where_rows_are_named_that_cannot_be_asked() -> None:
    """Of 10 failed rows, 4 have a request whose failure is known; once it has finished, the rest are accounted for."""
    status = replace(STATUS, failures=(FailureGroup("timeout", "no reply", 4),))
    assert "rows more" not in show_status.as_text(status)
    last = show_status.as_text(replace(status, state="finished")).splitlines()[-1]
    assert last.startswith("failed: 6 rows more: they cannot be asked (`batchchat check` names them)")


def test_status_object_is_plain_json() -> None:
    """The object has the run, its progress and the failures as plain values."""
    failures = (FailureGroup("timeout", "no reply", 2, ("T-1", "T-9")),)
    found = orjson.loads(orjson.dumps(show_status.as_object(replace(STATUS, failures=failures))))
    assert found.keys() == {"job", "checkpoint", "state", "run", "answers_stored", "failures"}
    assert found["failures"] == [{"kind": "timeout", "message": "no reply", "count": 2, "rows": ["T-1", "T-9"]}]
    assert found["run"]["progress"]["rows_answered"] == 1_190
    assert found["run"]["ended_at"] is None


@given(text=st.text(st.characters() | st.sampled_from("\x1b\x9b\x07[]m")))
def test_nothing_shown_steers_a_terminal(text: str) -> None:
    """Whatever a model, a provider or a file name says, neither ESC nor a C1 control is printed."""
    ended = replace(RUN, host=text, end_reason=text)
    status = replace(
        STATUS, job=text, state="stopped", run=ended, checkpoint=text, failures=(FailureGroup(text, text, 1, (text,)),)
    )
    summary = replace(SUMMARY, job=text, output=text)
    shown = show_status.as_text(status) + show_summary.as_text(summary) + show_summary.table([{text: text}], 80)
    assert [character for character in shown if character == "\x1b" or "\x80" <= character <= "\x9f"] == []


def test_names_and_notes_stay_on_their_lines() -> None:
    """A line end in the name of a file, or in an endpoint's words, does not make a line of the summary."""
    progress = replace(PROGRESS, notes=("a\nnote",))
    text = show_summary.as_text(replace(SUMMARY, job="a\u2028b", output="o\nx: 5 rows", progress=progress))
    assert len(text.splitlines()) == len(show_summary.as_text(SUMMARY).splitlines()) + 1
    assert "output: o x: 5 rows" in text
    assert "a note" in text
    assert "a note" not in show_summary.as_text(replace(SUMMARY, progress=progress, told={"a\nnote"}))


def test_nested_cells_are_json() -> None:
    """A struct or a list is shown as what it is in every other place."""
    assert (
        show_summary.table([{"parsed": {"a": [1, None]}, "b": ["x"]}], 80).splitlines()[-1] == '{"a":[1,null]}  ["x"]'
    )
