"""The output contract: names, dtypes and nulls of the new columns."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, astuple
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.errors import OutputError
from batchchat.records import Answer, Completion, FailedRow, Failure, Outcome, ToolCall, Usage
from batchchat.write.columns import COLUMNS, OPTIONAL_COLUMNS, OutputPlan, answer_columns, plan_output

PLAN = plan_output([], keep=None, rename={}, prefix="")
SCHEMA = {"type": "object", "properties": {"label": {"type": "string"}, "score": {"type": "integer"}}}
FULL = plan_output([], keep=None, rename={}, prefix="", schema=SCHEMA, extra=frozenset(OPTIONAL_COLUMNS))
ANSWER = Answer(
    Completion(
        content="yes",
        tool_calls=(ToolCall("c1", "look", '{"x": 1}'), ToolCall(None, "go", "{broken")),
        reasoning="because",
        refusal="no",
        finish_reason="stop",
        usage=Usage(10, 2, 12, 4, 1, 0.0125),
        model="m-1",
        response_id="r-1",
        parsed='{"label":"a","score":3}',
        completions=("yes", None),
        logprobs="[-0.5]",
    ),
    reply=b'{"id": "\xff"}',
    latency_s=0.25,
    attempts=2,
    first_token_s=0.125,
)
FAILED = FailedRow(Failure("server", "broke", status=503), is_transient=True, latency_s=1.5, attempts=6)
NOTHING: dict[str, Any] = dict.fromkeys(COLUMNS)


def one_row(outcome: Outcome | None, plan: OutputPlan = PLAN) -> dict[str, Any]:
    """Return the new columns of one outcome."""
    return answer_columns([outcome], plan).row(0, named=True)


def test_columns_are_the_contract() -> None:
    """The new columns of every kind of job have the contract's names and order."""
    assert list(FULL.columns) == [
        *("completion", "completions", "parsed", "tool_calls", "reasoning", "refusal", "finish_reason", "logprobs"),
        *("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens"),
        *(
            "cost_usd",
            "model",
            "response_id",
            "latency_s",
            "first_token_s",
            "attempts",
            "error_kind",
            "error",
            "error_status",
            "raw",
        ),
    ]
    assert dict(PLAN.columns) == dict(COLUMNS)
    assert [column for column in FULL.columns if column not in COLUMNS] == ["completions", "logprobs", "raw"]


def test_answer_fills_all_but_errors() -> None:
    """An answer gives every column but the error's."""
    assert one_row(ANSWER, FULL) == {
        "completion": "yes",
        "completions": ["yes", None],
        "parsed": {"label": "a", "score": 3},
        "tool_calls": [
            {"id": "c1", "name": "look", "arguments": '{"x": 1}'},
            {"id": None, "name": "go", "arguments": "{broken"},
        ],
        "reasoning": "because",
        "refusal": "no",
        "finish_reason": "stop",
        "logprobs": "[-0.5]",
        "prompt_tokens": 10,
        "completion_tokens": 2,
        "total_tokens": 12,
        "cached_tokens": 4,
        "reasoning_tokens": 1,
        "cost_usd": 0.0125,
        "model": "m-1",
        "response_id": "r-1",
        "latency_s": 0.25,
        "first_token_s": 0.125,
        "attempts": 2,
        "error_kind": None,
        "error": None,
        "error_status": None,
        "raw": '{"id": "\ufffd"}',
    }


def test_unasked_columns_are_absent() -> None:
    """Without a schema and extras, `parsed` is a null string, and the optional columns are not there."""
    row = one_row(ANSWER)
    assert list(row) == list(COLUMNS)
    assert row["parsed"] is None


def test_failed_row_fills_only_errors() -> None:
    """A failed row gives what was tried and why it failed, nothing else."""
    expected = {"latency_s": 1.5, "attempts": 6, "error_kind": "server", "error": "broke", "error_status": 503}
    assert one_row(FAILED) == NOTHING | expected


def test_failed_row_with_completion_keeps_it() -> None:
    """A row whose text did not fit the schema has what the model said, the error, and no `parsed`."""
    failure = Failure("schema", "the answer does not fit", status=200)
    failed = FailedRow(failure, False, latency_s=0.5, attempts=3, completion=ANSWER.completion, reply=ANSWER.reply)
    error = {"error_kind": "schema", "error": "the answer does not fit", "error_status": 200}
    asked = {"latency_s": 0.5, "first_token_s": None, "attempts": 3}
    assert one_row(failed, FULL) == one_row(ANSWER, FULL) | asked | error | {"parsed": None}


def test_single_choice_is_a_list_of_one() -> None:
    """Where `completions` is asked for, a reply with one choice has one element, its content, text or null."""
    outcomes = [Answer(Completion(text), b"", 0.0, 1) for text in ("a", None)]
    frame = answer_columns([outcomes[0], None, FAILED, outcomes[1]], FULL)
    assert frame["completions"].to_list() == [["a"], None, None, [None]]


@pytest.mark.parametrize(
    ("schema", "parsed", "dtype", "value"),
    [
        ({"type": "array", "items": {"type": "integer"}}, "[1, 2.0]", pl.List(pl.Int64), [1, 2]),
        ({"type": "boolean"}, "true", pl.Boolean(), True),
        (True, '"x"', pl.String(), '"x"'),
        ({"type": "string"}, '"x"', pl.String(), "x"),
    ],
)
def test_schema_gives_parsed_its_dtype(schema: Any, parsed: str, dtype: pl.DataType, value: Any) -> None:
    """`parsed` has the schema's dtype, a struct or not, in the plan and in the frame."""
    plan = plan_output([], keep=None, rename={"parsed": "p"}, prefix="", schema=schema)
    frame = answer_columns([Answer(Completion("x", parsed=parsed), b"", 0.0, 1), None], plan)
    assert plan.columns["parsed"] == frame.schema["p"] == dtype
    assert frame["p"].to_list() == [value, None]


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
    for plan in (PLAN, FULL):
        frame = answer_columns(outcomes, plan)
        assert frame.schema == pl.Schema(plan.columns)
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
    odd = Answer(Completion("\ud83d\ude00 \ud800", tool_calls=calls, completions=("\udfff",)), b"", 0.0, 1)
    frame = answer_columns([odd, ANSWER], FULL)
    assert frame["completions"].to_list() == [["\ufffd"], ["yes", None]]
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
    assert plan_output(["b", "a"], keep=None, rename={}, prefix="") == OutputPlan(("b", "a"), names, COLUMNS)


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


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("completions", "`request.n` to 2 or more"),
        ("logprobs", "`request.logprobs: true`"),
        ("raw", "`output.raw: true`"),
    ],
)
def test_rename_of_unasked_column_says_how_to_ask(name: str, remedy: str) -> None:
    """Renaming a column that the job does not ask for is an error that says what to set; asked for, it is renamed."""
    assert problems(["id"], rename={name: "x"}) == [
        f"output.columns: this job has no column `{name}`; set {remedy} to have it"
    ]
    assert plan_output(["id"], keep=None, rename={name: "x"}, prefix="", extra={name}).names[name] == "x"


def test_unasked_column_frees_its_name() -> None:
    """An input column called `raw` stands in the way only where the job asks for `raw`."""
    assert plan_output(["raw"], keep=None, rename={}, prefix="").keep == ("raw",)
    (problem,) = problems(["raw"], extra={"raw"})
    assert problem.startswith("the input already has `raw`")


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
    st.builds(Usage, counts, counts, counts, counts, counts, st.none() | st.floats(0, 1e6)),
    texts,
    texts,
    st.none() | st.builds('{{"score":{},"more":[]}}'.format, st.integers(-(2**63), 2**63 - 1)),
    st.lists(texts, max_size=3).map(tuple),
    texts,
)
latencies = st.floats(0, 1e6)
attempts = st.integers(0, 100)
replies = st.binary(max_size=9)
answers = st.builds(Answer, completions, replies, latencies, attempts, st.none() | latencies)
failures = st.builds(
    Failure, st.sampled_from(["server", "timeout"]), st.text(max_size=9), st.none() | st.integers(100, 599)
)
failed_rows = st.builds(
    FailedRow, failures, st.booleans(), st.none() | latencies, attempts, st.none() | completions, replies
)


def stored(text: str | None) -> str | None:
    """Return the text as a file can hold it, by another way than the code's."""
    return None if text is None else text.encode("utf-16-be", "surrogatepass").decode("utf-16-be", "replace")


def held(count: int | None) -> int | None:
    """Return the count if int64 can hold it."""
    return count if count is not None and -(2**63) <= count < 2**63 else None


def said(made: Completion) -> dict[str, Any]:
    """Return the columns that come from the model, as the contract's table asks for them."""
    calls = [
        dict(zip(("id", "name", "arguments"), map(stored, astuple(call)), strict=True)) for call in made.tool_calls
    ]
    plain = ("reasoning", "refusal", "finish_reason", "logprobs", "model", "response_id")
    return {
        "completion": stored(made.content),
        "completions": [stored(text) for text in made.completions or [made.content]],
        "tool_calls": calls or None,
        **{column: stored(getattr(made, column)) for column in plain},
        **{column: held(count) for column, count in asdict(made.usage).items()},
    }


def expected_row(outcome: Outcome | None) -> dict[str, Any]:
    """Return the row that the contract's table asks for."""
    row: dict[str, Any] = dict.fromkeys(FULL.columns)
    if outcome is None:
        return row
    row |= said(outcome.completion) if outcome.completion else {}
    row |= {"latency_s": outcome.latency_s, "attempts": outcome.attempts or None}
    row["raw"] = outcome.reply.decode(errors="replace") or None
    if isinstance(outcome, FailedRow):
        failure = outcome.failure
        return row | {"error_kind": failure.kind, "error": stored(failure.message), "error_status": failure.status}
    text = outcome.completion.parsed
    parsed = None if text is None else {"label": None, "score": json.loads(text)["score"]}
    return row | {"first_token_s": outcome.first_token_s, "parsed": parsed}


@pytest.mark.slow
@given(st.lists(st.none() | answers | failed_rows, max_size=8))
def test_outcomes_come_back_from_parquet(outcomes: list[Outcome | None]) -> None:
    """Any outcomes give the contract's rows and dtypes, and Parquet keeps them."""
    frame = answer_columns(outcomes, FULL)
    assert frame.schema == pl.Schema(FULL.columns)
    assert frame.rows(named=True) == [expected_row(outcome) for outcome in outcomes]
    assert answer_columns(outcomes, PLAN).drop("parsed").equals(frame.select(list(COLUMNS)).drop("parsed"))
    file = io.BytesIO()
    pq.write_table(frame.to_arrow(), file)
    back = pl.read_parquet(file.getvalue())
    assert back.schema == frame.schema
    assert back.equals(frame)
