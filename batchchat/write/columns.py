"""Outcomes as the new columns of the output: their names, dtypes and nulls (the output contract)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from operator import attrgetter
from typing import Any

import polars as pl

from batchchat.errors import OutputError
from batchchat.records import Answer, Completion, FailedRow, Outcome, ToolCall
from batchchat.write.parsed_column import Shape, series_of, shape_of, storable

_TOOL_CALL = {"id": pl.String(), "name": pl.String(), "arguments": pl.String()}

_EVERY_COLUMN: Mapping[str, pl.DataType] = {
    "completion": pl.String(),
    "completions": pl.List(pl.String()),
    "parsed": pl.String(),
    "tool_calls": pl.List(pl.Struct(_TOOL_CALL)),
    "reasoning": pl.String(),
    "refusal": pl.String(),
    "finish_reason": pl.String(),
    "logprobs": pl.String(),
    "prompt_tokens": pl.Int64(),
    "completion_tokens": pl.Int64(),
    "total_tokens": pl.Int64(),
    "cached_tokens": pl.Int64(),
    "reasoning_tokens": pl.Int64(),
    "cost_usd": pl.Float64(),
    "model": pl.String(),
    "response_id": pl.String(),
    "latency_s": pl.Float64(),
    "first_token_s": pl.Float64(),
    "attempts": pl.Int32(),
    "error_kind": pl.String(),
    "error": pl.String(),
    "error_status": pl.Int32(),
    "raw": pl.String(),
}

OPTIONAL_COLUMNS: Mapping[str, str] = {
    "completions": "`request.n` to 2 or more",
    "logprobs": "`request.logprobs: true`",
    "raw": "`output.raw: true`",
}
"""The new columns that a job has only where it asks for them, each with what to set."""

COLUMNS: Mapping[str, pl.DataType] = {
    column: dtype for column, dtype in _EVERY_COLUMN.items() if column not in OPTIONAL_COLUMNS
}
"""The new columns of a job without a schema, in output order: dtype by standard name."""


@dataclass(frozen=True)
class OutputPlan:
    """What is written: the input columns kept, in input order, then the job's new columns under their output names.

    `columns` has the new ones in output order, dtype by standard name; `names` their output names. `shape` is that of
    `parsed`, None for a job without a schema. With `spreadsheet_safe`, CSV has nothing that a spreadsheet evaluates.
    """

    keep: tuple[str, ...]
    names: Mapping[str, str]
    columns: Mapping[str, pl.DataType]
    shape: Shape | None = None
    spreadsheet_safe: bool = False


def plan_output(
    input_columns: Sequence[str],
    *,
    keep: Sequence[str] | None,
    rename: Mapping[str, str],
    prefix: str,
    schema: Any | None = None,
    extra: Collection[str] = (),
) -> OutputPlan:
    """Return which input columns are written, what the new ones are, and what they are called.

    `keep` chooses among the input columns (None: all of them), `rename` gives new columns a name of their own, and
    `prefix` goes before the names of all others. `schema` is the JSON Schema of the answers, which gives `parsed` its
    dtype, and `extra` has those of `OPTIONAL_COLUMNS` that the job asks for.

    Raises:
        OutputError: a name is unknown, listed twice, or given to two columns; its message lists every such problem.

    """
    shape = None if schema is None else shape_of(schema)
    columns = {name: dtype for name, dtype in _EVERY_COLUMN.items() if name in COLUMNS or name in extra}
    if shape is not None:
        columns["parsed"] = shape.dtype
    kept = tuple(column for column in input_columns if keep is None or column in keep)
    names = {column: rename.get(column, prefix + column) for column in columns}
    problems = [
        *_rename_problems(rename, columns),
        *_keep_problems(input_columns, keep or ()),
        *_name_problems(names, kept),
    ]
    if problems:
        raise OutputError("\n".join(problems))
    return OutputPlan(kept, names, columns, shape)


def _rename_problems(rename: Mapping[str, str], columns: Collection[str]) -> Iterator[str]:
    """Yield a sentence for every name in `output.columns` that is no new column of this job."""
    for name in rename:
        if name in columns:
            continue
        if name in OPTIONAL_COLUMNS:
            yield f"output.columns: this job has no column `{name}`; set {OPTIONAL_COLUMNS[name]} to have it"
        else:
            hint = _nearest(name, columns)
            yield f"output.columns: there is no new column `{name}`{hint}; there are {_list(columns)}"


def _keep_problems(input_columns: Sequence[str], keep: Sequence[str]) -> Iterator[str]:
    """Yield a sentence for every name in `output.keep` that the input lacks, or that is there more than once."""
    for name, count in Counter(keep).items():
        if name not in input_columns:
            hint = _nearest(name, input_columns)
            yield f"output.keep: the input has no column `{name}`{hint}; it has {_list(input_columns)}"
        if count > 1:
            yield f"output.keep: `{name}` is listed {count} times; list it once"


def _name_problems(names: Mapping[str, str], kept: Sequence[str]) -> Iterator[str]:
    """Yield a sentence for every output name that two new columns, or a new and an input column, would share."""
    standard: dict[str, list[str]] = {}
    for column, name in names.items():
        standard.setdefault(name, []).append(column)
    for name, columns in standard.items():
        if len(columns) > 1:
            yield f"output.columns: {_list(columns)} would all be named `{name}`; give each a name of its own"
    taken = [name for name in standard if name in kept]
    if taken:
        yield (
            f"the input already has {_list(taken)}, as the output would name new columns; set output.prefix (such as"
            " `llm_`), rename them with output.columns, or leave the input's out with output.keep"
        )


def _nearest(name: str, allowed: Iterable[str]) -> str:
    """Return ` (did you mean ...?)` with the allowed name most like `name`, or nothing where none is like it."""
    near = get_close_matches(name, allowed, n=1)
    return f" (did you mean `{near[0]}`?)" if near else ""


def _list(names: Iterable[str]) -> str:
    """Return the names in backticks with commas between them."""
    return ", ".join(f"`{name}`" for name in names)


def empty_output(plan: OutputPlan, schema: pl.Schema) -> pl.DataFrame:
    """Return the output's columns without rows; `schema` is that of the input."""
    kept = {column: schema[column] for column in plan.keep}
    return pl.DataFrame(schema={**kept, **{plan.names[column]: dtype for column, dtype in plan.columns.items()}})


def answer_columns(outcomes: Sequence[Outcome | None], plan: OutputPlan) -> pl.DataFrame:
    """Return the new columns under their output names, one row per outcome, in order.

    None (nobody was asked, or no answer yet) gives nulls; an answer everything but the error; a failed row its latency,
    attempts and error, and what the model said where it did answer, with `parsed` null. The dtypes are those of the
    plan whatever the outcomes, none included. An integer that its column cannot hold is null; half of a surrogate pair,
    which no file can hold, becomes U+FFFD.
    """
    values = {**_completion_values(outcomes, plan.columns), **_outcome_values(outcomes, plan)}
    return pl.DataFrame([_series(column, values[column], plan) for column in plan.columns])


# Stands in where there is no answer, so that every column is one plain pass over attributes: this is the path of a
# million rows, and building them as dicts takes several times as long.
_NO_COMPLETION = Completion(content=None)


def _contents(completion: Completion) -> tuple[str | None, ...]:
    """Return the content of every choice, nothing where there is no completion."""
    return () if completion is _NO_COMPLETION else completion.completions or (completion.content,)


_COMPLETION_FIELDS: Mapping[str, Callable[[Completion], Any]] = {
    "completion": attrgetter("content"),
    "completions": _contents,
    "tool_calls": attrgetter("tool_calls"),
    "reasoning": attrgetter("reasoning"),
    "refusal": attrgetter("refusal"),
    "finish_reason": attrgetter("finish_reason"),
    "logprobs": attrgetter("logprobs"),
    "model": attrgetter("model"),
    "response_id": attrgetter("response_id"),
}
_USAGE_FIELDS = (
    *("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens"),
    "cost_usd",
)


def _completion_values(outcomes: Sequence[Outcome | None], columns: Collection[str]) -> dict[str, list[Any]]:
    """Return the values of the columns that come from the model, by standard name."""
    completions = [(outcome.completion if outcome else None) or _NO_COMPLETION for outcome in outcomes]
    usages = list(map(attrgetter("usage"), completions))
    return {
        **{column: list(map(value, completions)) for column, value in _COMPLETION_FIELDS.items() if column in columns},
        **{column: list(map(attrgetter(column), usages)) for column in _USAGE_FIELDS},
    }


def _outcome_values(outcomes: Sequence[Outcome | None], plan: OutputPlan) -> dict[str, Sequence[Any]]:
    """Return the values of the columns that say how the asking went, by standard name."""
    answers = [outcome if isinstance(outcome, Answer) else None for outcome in outcomes]
    failures = [outcome.failure if isinstance(outcome, FailedRow) else None for outcome in outcomes]
    values: dict[str, Sequence[Any]] = {
        "parsed": [answer.completion.parsed if answer and plan.shape else None for answer in answers],
        "latency_s": [outcome.latency_s if outcome else None for outcome in outcomes],
        "first_token_s": [answer.first_token_s if answer else None for answer in answers],
        "attempts": [(outcome.attempts or None) if outcome else None for outcome in outcomes],
        "error_kind": [failure.kind if failure else None for failure in failures],
        "error": [failure.message if failure else None for failure in failures],
        "error_status": [failure.status if failure else None for failure in failures],
    }
    if "raw" in plan.columns:
        replies = [outcome.reply if outcome else b"" for outcome in outcomes]
        values["raw"] = [reply.decode("utf-8", "replace") if reply else None for reply in replies]
    return values


def _series(column: str, values: Sequence[Any], plan: OutputPlan) -> pl.Series:
    """Return a column's values under its output name, as exactly the plan's dtype."""
    name, dtype = plan.names[column], plan.columns[column]
    if column == "parsed" and plan.shape:
        return series_of(name, values, plan.shape)
    if column == "tool_calls":
        return _tool_call_series(name, values)
    if column == "completions":
        return _completions_series(name, values)
    if isinstance(dtype, pl.String):
        return _string_series(name, values)
    return pl.Series(name, values, dtype=dtype, strict=False)


def _string_series(name: str, texts: Sequence[str | None]) -> pl.Series:
    """Return the texts as a column, lone surrogates replaced."""
    try:
        return pl.Series(name, texts, dtype=pl.String)
    except UnicodeEncodeError:
        return pl.Series(name, [text if text is None else storable(text) for text in texts], dtype=pl.String)


def _tool_call_series(name: str, rows: Sequence[Sequence[ToolCall]]) -> pl.Series:
    """Return the rows' tool calls as a column of lists, null for a row without any."""
    # As one flat table that is grouped by row: as dicts they take thirty times as long.
    calls = [call for row in rows for call in row]
    fields = [_string_series(field, list(map(attrgetter(field), calls))) for field in _TOOL_CALL]
    return _by_row(name, rows, pl.DataFrame(fields).to_struct())


def _completions_series(name: str, rows: Sequence[Sequence[str | None]]) -> pl.Series:
    """Return the contents of the rows' choices as a column of lists, null for a row without any."""
    return _by_row(name, rows, _string_series("", [text for row in rows for text in row]))


def _by_row(name: str, rows: Sequence[Sequence[Any]], values: pl.Series) -> pl.Series:
    """Return the values of all rows, one after the other, as a column of each row's list, null where it has none."""
    if values.is_empty():
        return pl.Series(name, [None] * len(rows), dtype=pl.List(values.dtype))
    owners = pl.Series("row", [number for number, row in enumerate(rows) for _ in row], dtype=pl.Int64)
    flat = pl.DataFrame([owners, values.alias("values")])
    lists = flat.group_by("row", maintain_order=True).agg("values")
    every_row = pl.DataFrame({"row": pl.Series(range(len(rows)), dtype=pl.Int64)})
    return every_row.join(lists, on="row", how="left", maintain_order="left")["values"].alias(name)
