"""Outcomes as the new columns of the output: their names, dtypes and nulls (the output contract).

What passes in is one outcome per row (an answer, a failed row, or None where nothing is known) and the job's wishes for
names; what comes out is a polars frame with one row per outcome, of the same dtypes whatever happened. It does not know
files, formats, the input's values, or how an outcome came to be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from operator import attrgetter
from types import MappingProxyType
from typing import Any

import polars as pl

from batchchat.errors import OutputError
from batchchat.records import Answer, Completion, FailedRow, Outcome, ToolCall

_TOOL_CALL = {"id": pl.String(), "name": pl.String(), "arguments": pl.String()}

COLUMNS: Mapping[str, pl.DataType] = MappingProxyType(
    {
        "completion": pl.String(),
        "tool_calls": pl.List(pl.Struct(_TOOL_CALL)),
        "reasoning": pl.String(),
        "refusal": pl.String(),
        "finish_reason": pl.String(),
        "prompt_tokens": pl.Int64(),
        "completion_tokens": pl.Int64(),
        "total_tokens": pl.Int64(),
        "cached_tokens": pl.Int64(),
        "reasoning_tokens": pl.Int64(),
        "model": pl.String(),
        "response_id": pl.String(),
        "latency_s": pl.Float64(),
        "attempts": pl.Int32(),
        "error_kind": pl.String(),
        "error": pl.String(),
        "error_status": pl.Int32(),
    }
)
"""The new columns in output order: dtype by standard name."""


@dataclass(frozen=True)
class OutputPlan:
    """What is written: the input columns kept, in input order, then every standard column under its output name."""

    keep: tuple[str, ...]
    names: Mapping[str, str]


def plan_output(
    input_columns: Sequence[str], *, keep: Sequence[str] | None, rename: Mapping[str, str], prefix: str
) -> OutputPlan:
    """Return which input columns are written and what the new ones are called.

    `keep` chooses among the input columns (None: all of them), `rename` gives standard columns a name of their own, and
    `prefix` goes before the names of all others.

    Raises:
        OutputError: a name is unknown, listed twice, or given to two columns; its message lists every such problem.

    """
    kept = tuple(column for column in input_columns if keep is None or column in keep)
    names = {column: rename.get(column, prefix + column) for column in COLUMNS}
    problems = [
        *_rename_problems(rename),
        *_keep_problems(input_columns, keep or ()),
        *_name_problems(names, kept),
    ]
    if problems:
        raise OutputError("\n".join(problems))
    return OutputPlan(keep=kept, names=MappingProxyType(names))


def _rename_problems(rename: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for every name in `output.columns` that is no new column."""
    for name in rename:
        if name not in COLUMNS:
            hint = _nearest(name, COLUMNS)
            yield f"output.columns: there is no new column `{name}`{hint}; there are {_list(COLUMNS)}"


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
    return pl.DataFrame(schema={**kept, **{plan.names[column]: dtype for column, dtype in COLUMNS.items()}})


def answer_columns(outcomes: Sequence[Outcome | None], plan: OutputPlan) -> pl.DataFrame:
    """Return the new columns under their output names, one row per outcome, in order.

    None (nobody was asked, or no answer yet) gives nulls; a failed row gives its latency, attempts and error; an answer
    everything else. The dtypes are those of `COLUMNS` whatever the outcomes, none included. An integer that its column
    cannot hold is null; half of a surrogate pair, which no file can hold, becomes U+FFFD.
    """
    values = {**_completion_values(outcomes), **_outcome_values(outcomes)}
    return pl.DataFrame([_series(plan.names[column], values[column], dtype) for column, dtype in COLUMNS.items()])


# Stands in where there is no answer, so that every column is one plain pass over attributes: this is the path of a
# million rows, and building them as dicts takes several times as long.
_NO_COMPLETION = Completion(content=None)

_COMPLETION_FIELDS: Mapping[str, Callable[[Completion], Any]] = MappingProxyType(
    {
        "completion": attrgetter("content"),
        "tool_calls": attrgetter("tool_calls"),
        "reasoning": attrgetter("reasoning"),
        "refusal": attrgetter("refusal"),
        "finish_reason": attrgetter("finish_reason"),
        "prompt_tokens": attrgetter("usage.prompt_tokens"),
        "completion_tokens": attrgetter("usage.completion_tokens"),
        "total_tokens": attrgetter("usage.total_tokens"),
        "cached_tokens": attrgetter("usage.cached_tokens"),
        "reasoning_tokens": attrgetter("usage.reasoning_tokens"),
        "model": attrgetter("model"),
        "response_id": attrgetter("response_id"),
    }
)


def _completion_values(outcomes: Sequence[Outcome | None]) -> dict[str, list[Any]]:
    """Return the values of the columns that come from the model, by standard name."""
    completions = [outcome.completion if isinstance(outcome, Answer) else _NO_COMPLETION for outcome in outcomes]
    return {column: list(map(value, completions)) for column, value in _COMPLETION_FIELDS.items()}


def _outcome_values(outcomes: Sequence[Outcome | None]) -> dict[str, list[Any]]:
    """Return the values of the columns that say how the asking went, by standard name."""
    failures = [outcome.failure if isinstance(outcome, FailedRow) else None for outcome in outcomes]
    return {
        "latency_s": [outcome.latency_s if outcome else None for outcome in outcomes],
        "attempts": [(outcome.attempts or None) if outcome else None for outcome in outcomes],
        "error_kind": [failure.kind if failure else None for failure in failures],
        "error": [failure.message if failure else None for failure in failures],
        "error_status": [failure.status if failure else None for failure in failures],
    }


def _series(name: str, values: Sequence[Any], dtype: pl.DataType) -> pl.Series:
    """Return the values as a column of exactly `dtype`."""
    if isinstance(dtype, pl.List):
        return _tool_call_series(name, values)
    if isinstance(dtype, pl.String):
        return _string_series(name, values)
    return pl.Series(name, values, dtype=dtype, strict=False)


def _string_series(name: str, texts: Sequence[str | None]) -> pl.Series:
    """Return the texts as a column, lone surrogates replaced."""
    try:
        return pl.Series(name, texts, dtype=pl.String)
    except UnicodeEncodeError:
        return pl.Series(name, [text if text is None else _storable(text) for text in texts], dtype=pl.String)


def _storable(text: str) -> str:
    """Return the text with its surrogate pairs joined and U+FFFD for every surrogate that has no partner."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _tool_call_series(name: str, rows: Sequence[Sequence[ToolCall]]) -> pl.Series:
    """Return the rows' tool calls as a column of lists, null for a row without any."""
    # All calls as one flat table that is grouped by row: as dicts they take thirty times as long, and polars 1.36
    # garbles the strings of `pl.Series(<Arrow list of structs>)`.
    calls = [call for row in rows for call in row]
    owners = [number for number, row in enumerate(rows) for _ in row]
    fields = [_string_series(field, list(map(attrgetter(field), calls))) for field in _TOOL_CALL]
    flat = pl.DataFrame([pl.Series("row", owners, dtype=pl.Int64), *fields])
    lists = flat.group_by("row", maintain_order=True).agg(pl.struct(*_TOOL_CALL).alias("calls"))
    every_row = pl.DataFrame({"row": pl.Series(range(len(rows)), dtype=pl.Int64)})
    return every_row.join(lists, on="row", how="left", maintain_order="left")["calls"].alias(name)
