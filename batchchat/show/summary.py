"""How a run ended, in a few lines or as one JSON object, and the first rows of its output as a small table."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from batchchat.errors import BatchchatError
from batchchat.records import RunSummary
from batchchat.show.printable import on_one_line, one_line
from batchchat.show.progress import duration

CELL_WIDTH = 32


def as_object(summary: RunSummary, exit_code: int) -> dict[str, Any]:
    """Return the summary as the object that `--json` prints; keys are only ever added."""
    fields = asdict(summary)
    progress = fields.pop("progress")
    fields.pop("first_rows")
    waiting = summary.rows_total - summary.progress.rows_answered - summary.progress.rows_failed
    for internal in ("in_flight", "in_flight_bound", "concurrency", "reached"):
        progress.pop(internal)
    return {**fields, **progress, "rows_unasked": waiting, "exit_code": exit_code}


def failed_object(error: BatchchatError) -> dict[str, Any]:
    """Return what `--json` prints for a run that an error ended; before it began there is only the reason."""
    if error.summary is None:
        return {"outcome": error.outcome, "reason": str(error), "exit_code": error.exit_code}
    return as_object(error.summary, error.exit_code)


def as_text(summary: RunSummary) -> str:
    """Return the summary for people: one line of rows, then what else they need to know."""
    progress = summary.progress
    unasked = summary.rows_total - progress.rows_answered - progress.rows_failed
    rows = [f"{progress.rows_answered:,} answered", f"{progress.rows_failed:,} failed"]
    if unasked:
        rows.append(f"{unasked:,} not yet asked")
    tokens = progress.prompt_tokens + progress.completion_tokens
    cost = f", {dollars(progress.cost_usd)}" if progress.cost_usd else ""
    spent = f"{progress.requests_sent:,} requests, {tokens:,} tokens{cost} · {duration(summary.duration_s)}"
    first = f"{summary.job}: {summary.rows_total:,} rows: {', '.join(rows)} · {spent}"
    return "\n".join(on_one_line(line) for line in (first, *_notes(summary)) if line)


def dollars(usd: float) -> str:
    """Return dollars as people write them, with the digits that matter of small sums: `$12.34`, `$0.0123`."""
    if usd >= 1:
        return f"${usd:,.2f}"
    return f"${usd:.4f}" if usd >= 0.0001 or not usd else "under $0.0001"


def _notes(summary: RunSummary) -> list[str]:
    progress = summary.progress
    return [
        f"bound by {progress.bound}" if progress.bound else "",
        f"{progress.rows_reused:,} rows had their answer already" if progress.rows_reused else "",
        *progress.notes,
        f"{progress.rate_limited:,} requests were turned away by a rate limit and sent again"
        if progress.rate_limited
        else "",
        f"{progress.possibly_billed:,} requests had an unknown outcome; they may have been billed and asked again"
        if progress.possibly_billed
        else "",
        f"the run before was killed: up to {summary.lost_in_flight:,} requests in flight may be billed twice"
        if summary.lost_in_flight
        else "",
        f"output: {_from_here(summary.output)}" if summary.output else "",
    ]


def _from_here(path: str) -> str:
    """Return a path as one would type it here, if it is in the current folder."""
    try:
        here = Path.cwd()
    except OSError:  # it was removed
        return path
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def table(rows: Sequence[Mapping[str, Any]], width: int) -> str:
    """Return rows as a table of cut, printable cells; columns without any value, or beyond `width`, are left out."""
    columns = [_column(name, rows) for name in (rows[0] if rows else ()) if any(row[name] is not None for row in rows)]
    while len(columns) > 1 and sum(len(column[0]) + 2 for column in columns) > width + 2:
        columns.pop()
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def _column(name: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    cells = [one_line(text, CELL_WIDTH) for text in (name, *(_cell(row[name]) for row in rows))]
    longest = max(len(cell) for cell in cells)
    return [cell.ljust(longest) for cell in (cells[0], "-" * longest, *cells[1:])]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (dict, list)):
        return orjson.dumps(value, default=str).decode()
    return f"{value:.3f}" if isinstance(value, float) else str(value)
