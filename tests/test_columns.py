"""The output contract: names, dtypes and nulls of the new columns."""

from __future__ import annotations

import io
from dataclasses import astuple
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.errors import OutputError
from batchchat.records import Answer, Completion, FailedRow, Failure, Outcome, ToolCall, Usage
from batchchat.write.columns import COLUMNS, OutputPlan, answer_columns, plan_output

PLAN = plan_output([], keep=None, rename={}, prefix="")
ANSWER = Answer(
    Completion(
        content="yes",
        tool_calls=(ToolCall("c1", "look", '{"x": 1}'), ToolCall(None, "go", "{broken")),
        reasoning="because",
        refusal="no",
        finish_reason="stop",
        usage=Usage(10, 2, 12, 4, 1),
        model="m-1",
        response_id="r-1",
    ),
    reply=b"{}",
    latency_s=0.25,
    attempts=2,
)
FAILED = FailedRow(Failure("server", "broke", status=503), is_transient=True, latency_s=1.5, attempts=6)
NOTHING: dict[str, Any] = dict.fromkeys(COLUMNS)


def one_row(outcome: Outcome | None) -> dict[str, Any]:
    """Return the new columns of one outcome."""
    return answer_columns([outcome], PLAN).row(0, named=True)


def test_answer_fills_all_but_errors() -> None:
    """An answer gives every column but the error's."""
    assert one_row(ANSWER) == {
        "completion": "yes",
        "tool_calls": [
            {"id": "c1", "name": "look", "arguments": '{"x": 1}'},
            {"id": None, "name": "go", "arguments": "{broken"},
        ],
        "reasoning": "because",
        "refusal": "no",
        "finish_reason": "stop",
        "prompt_tokens": 10,
        "completion_tokens": 2,
        "total_tokens": 12,
        "cached_tokens": 4,
        "reasoning_tokens": 1,
        "model": "m-1",
        "response_id": "r-1",
        "latency_s": 0.25,
        "attempts": 2,
        "error_kind": None,
        "error": None,
        "error_status": None,
    }


def test_failed_row_fills_only_errors() -> None:
    """A failed row gives what was tried and why it failed, nothing else."""
    expected = {"latency_s": 1.5, "attempts": 6, "error_kind": "server", "error": "broke", "error_status": 503}
    assert one_row(FAILED) == NOTHING | expected


def test_row_never_asked_has_null_attempts() -> None:
    """A row that failed before any request has no attempts and no latency."""
    failed = FailedRow(Failure("template", "no such key"), is_transient=False, latency_s=None, attempts=0)
    assert one_row(failed) == NOTHING | {"error_kind": "template", "error": "no such key"}


def test_unanswered_row_is_all_null() -> None:
    """Where nothing is known, every new column is null."""
    assert one_row(None) == NOTHING


@pytest.mark.parametrize("outcomes", [[], [None], [FAILED], [ANSWER], [None, FAILED, ANSWER]])
def test_dtypes_are_the_same_whatever_happened(outcomes: list[Outcome | None]) -> None:
    """Names, order and dtypes do not depend on the outcomes, and there is a row for each."""
    frame = answer_columns(outcomes, PLAN)
    assert frame.schema == pl.Schema(COLUMNS)
    assert frame.height == len(outcomes)


def test_rows_keep_their_order() -> None:
    """Each outcome stands in its own row."""
    frame = answer_columns([FAILED, None, ANSWER], PLAN)
    assert frame["completion"].to_list() == [None, None, "yes"]
    assert frame["tool_calls"].list.len().to_list() == [None, None, 2]
    assert frame["error_kind"].to_list() == ["server", None, None]


def test_empty_completion_is_not_null() -> None:
    """An empty answer is an answer."""
    assert one_row(Answer(Completion(""), b"", 0.0, 1))["completion"] == ""


def test_lone_surrogates_become_u_fffd() -> None:
    """Half a surrogate pair is replaced, a whole pair becomes its character, the rest of the column stays."""
    calls = (ToolCall("\udc00", "n", "a\ud800b"),)
    odd = Answer(Completion("\ud83d\ude00 \ud800", tool_calls=calls), b"", 0.0, 1)
    frame = answer_columns([odd, ANSWER], PLAN)
    assert frame["completion"].to_list() == ["\U0001f600 \ufffd", "yes"]
    assert frame["tool_calls"].to_list()[0] == [{"id": "\ufffd", "name": "n", "arguments": "a\ufffdb"}]


def test_usage_beyond_int64_is_null() -> None:
    """A count that no column can hold is null, and its neighbours stay."""
    usage = Usage(prompt_tokens=2**63, completion_tokens=2**63 - 1, total_tokens=10**40)
    row = one_row(Answer(Completion("x", usage=usage), b"", 0.0, 1))
    assert (row["prompt_tokens"], row["completion_tokens"], row["total_tokens"]) == (None, 2**63 - 1, None)


def test_plan_names_go_to_the_frame() -> None:
    """Renamed columns have their new name, the others the prefix, in the same order."""
    plan = plan_output(["id"], keep=None, rename={"completion": "label"}, prefix="llm_")
    expected = ["label", *(f"llm_{column}" for column in list(COLUMNS)[1:])]
    assert answer_columns([], plan).columns == expected


def test_plan_keeps_all_columns_by_default() -> None:
    """Without `keep`, every input column is written."""
    names = {column: column for column in COLUMNS}
    assert plan_output(["b", "a"], keep=None, rename={}, prefix="") == OutputPlan(("b", "a"), names)


def test_plan_keeps_input_order() -> None:
    """Chosen columns come in input order; an empty list keeps none."""
    assert plan_output(["a", "b", "c"], keep=["c", "a"], rename={}, prefix="").keep == ("a", "c")
    assert plan_output(["a"], keep=[], rename={}, prefix="").keep == ()


def test_column_not_kept_frees_its_name() -> None:
    """An input column that is not written does not stand in a new one's way."""
    assert plan_output(["id", "model"], keep=["id"], rename={}, prefix="").keep == ("id",)


def problems(input_columns: list[str], **wishes: Any) -> list[str]:
    """Return the problems that a plan raises, one per line."""
    with pytest.raises(OutputError) as caught:
        plan_output(input_columns, **{"keep": None, "rename": {}, "prefix": "", **wishes})
    return str(caught.value).split("\n")


ALL = ", ".join(f"`{column}`" for column in COLUMNS)


def test_unknown_rename_names_the_nearest() -> None:
    """A misspelt standard name is an error with the nearest and all the allowed ones."""
    assert problems(["id"], rename={"completon": "x"}) == [
        f"output.columns: there is no new column `completon` (did you mean `completion`?); there are {ALL}"
    ]


def test_unknown_rename_without_nearest() -> None:
    """Where nothing is like the name, only the allowed ones are named."""
    assert problems(["id"], rename={"zzz": "x"}) == [f"output.columns: there is no new column `zzz`; there are {ALL}"]


def test_unknown_keep_names_the_nearest() -> None:
    """A misspelt input column is an error with the nearest and all there are."""
    assert problems(["text", "id"], keep=["txt"]) == [
        "output.keep: the input has no column `txt` (did you mean `text`?); it has `text`, `id`"
    ]


def test_duplicate_keep_is_an_error() -> None:
    """A column listed more than once is an error."""
    assert problems(["id"], keep=["id", "id"]) == ["output.keep: `id` is listed 2 times; list it once"]


def test_two_new_columns_of_one_name_is_an_error() -> None:
    """Two outputs of one name are an error, also when one of them is not renamed."""
    assert problems(["id"], rename={"completion": "model"}) == [
        "output.columns: `completion`, `model` would all be named `model`; give each a name of its own"
    ]


def test_name_of_the_input_is_an_error_with_the_fix() -> None:
    """New columns that the input already has are named in one sentence with the three ways out."""
    (problem,) = problems(["model", "id", "error"])
    assert problem == (
        "the input already has `model`, `error`, as the output would name new columns; set output.prefix (such as"
        " `llm_`), rename them with output.columns, or leave the input's out with output.keep"
    )


def test_all_problems_are_in_one_message() -> None:
    """Every problem is reported at once, in the order of the keys."""
    found = problems(["id"], rename={"zzz": "x", "refusal": "id"}, keep=["id", "id", "q"])
    assert [line.split(":")[0] for line in found[:3]] == ["output.columns", "output.keep", "output.keep"]
    assert found[3].startswith("the input already has `id`")


texts = st.none() | st.text(st.characters(codec=None), max_size=20)
counts = st.none() | st.integers(-(2**70), 2**70)
tool_calls = st.lists(st.builds(ToolCall, texts, texts, texts), max_size=3).map(tuple)
completions = st.builds(
    Completion,
    texts,
    tool_calls,
    texts,
    texts,
    texts,
    st.builds(Usage, counts, counts, counts, counts, counts),
    texts,
    texts,
)
latencies = st.floats(0, 1e6)
attempts = st.integers(0, 100)
answers = st.builds(Answer, completions, st.just(b""), latencies, attempts)
failures = st.builds(
    Failure, st.sampled_from(["server", "timeout"]), st.text(max_size=9), st.none() | st.integers(100, 599)
)
failed_rows = st.builds(FailedRow, failures, st.booleans(), st.none() | latencies, attempts)


def stored(text: str | None) -> str | None:
    """Return the text as a file can hold it, by another way than the code's."""
    return None if text is None else text.encode("utf-16-be", "surrogatepass").decode("utf-16-be", "replace")


def held(count: int | None) -> int | None:
    """Return the count if int64 can hold it."""
    return count if count is not None and -(2**63) <= count < 2**63 else None


def expected_row(outcome: Outcome | None) -> tuple[Any, ...]:
    """Return the row that the contract's table asks for."""
    if outcome is None:
        return (None,) * len(COLUMNS)
    asked = (outcome.latency_s, outcome.attempts or None)
    if isinstance(outcome, FailedRow):
        failure = outcome.failure
        return (*(None,) * 12, *asked, failure.kind, stored(failure.message), failure.status)
    made = outcome.completion
    calls = [
        dict(zip(("id", "name", "arguments"), map(stored, astuple(call)), strict=True)) for call in made.tool_calls
    ]
    said = (stored(made.reasoning), stored(made.refusal), stored(made.finish_reason))
    usage = map(held, astuple(made.usage))
    served = (stored(made.model), stored(made.response_id))
    return (stored(made.content), calls or None, *said, *usage, *served, *asked, None, None, None)


@given(st.lists(st.none() | answers | failed_rows, max_size=8))
def test_outcomes_come_back_from_parquet(outcomes: list[Outcome | None]) -> None:
    """Any outcomes give the contract's rows and dtypes, and Parquet keeps them."""
    frame = answer_columns(outcomes, PLAN)
    assert frame.schema == pl.Schema(COLUMNS)
    assert frame.rows() == [expected_row(outcome) for outcome in outcomes]
    file = io.BytesIO()
    pq.write_table(frame.to_arrow(), file)
    back = pl.read_parquet(file.getvalue())
    assert back.schema == frame.schema
    assert back.equals(frame)
