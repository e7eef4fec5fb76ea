"""How a run ended, in a few lines or as one JSON object, and the first rows of its output as a small table."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from batchchat.records import Progress
from batchchat.runs import JobTotals, RunSummary
from batchchat.show.printable import dollars, on_one_line, one_line
from batchchat.show.progress import duration

CELL_WIDTH = 32
VERSION = 1
"""That of the object."""
_LIMITS = ("concurrency", "requests_per_minute", "tokens_per_minute")


def as_object(summary: RunSummary, exit_code: int) -> dict[str, Any]:
    """Return the summary as the object that `--json` prints and `notify` posts.

    These are all its keys; they are only ever added to. Those of a run that never began are in `unbegun_object`.

        version             int     of this object, 1; another one is for keys that mean something else
        job                 string  the job's name; null when its file could not be read
        run_id              string  tells the run from any other
        outcome             string  finished, refused, interrupted, stopped or failed
        reason              string  why it is not finished; null when it is
        exit_code           int     that of the command
        started_at          string  when it began, ISO 8601 in UTC
        ended_at            string  when it ended, likewise
        duration_s          float   seconds in between
        rows_total          int     rows of the input
        rows_read           int     of them, those that were read
        rows_answered       int     of them, those that have their answer
        rows_reused         int     of the answered, those without a request: of an earlier run, or of a row like them
        rows_failed         int     of the rows read, those that were given up
        rows_failed_before  int     of the failed, likewise
        rows_asked          int     rows that got their answer, or were given up, by requests of this run
        rows_unasked        int     rows that have neither yet
        answers_gone        int     answers of the last finished run's output that no row asks for any more
        requests_sent       int     requests of this run, with those that were sent again
        rate_limited        int     of them, those that a rate limit turned away
        possibly_billed     int     of them, those without a known outcome, which may have been billed
        lost_in_flight      int     requests of the run before, which was killed, that may have been billed
        prompt_tokens       int     of this run's replies
        completion_tokens   int     of this run's replies
        cached_tokens       int     of the prompt tokens, those that the endpoint had in its cache
        cost_usd            float   dollars for this run's replies; null when the price of none is known
        requests_unpriced   int     replies that are not in `cost_usd`, as their price is not known
        held_usd            float   under a budget: the most that requests without a known outcome have cost beside it
        held_tokens         int     under a budget: the most tokens that they took
        rows_per_s          float   `rows_asked` by `duration_s`
        requests_per_s      float   `requests_sent` by `duration_s`
        tokens_per_minute   float   prompt and completion tokens by `duration_s`
        limits              object  what is known of the endpoint: `concurrency`, `requests_per_minute` and
                                    `tokens_per_minute`; null where nothing is
        bound_by            string  what kept the run from going faster: endpoint, rate limit, input or cpu; or empty
        bound               string  the same in words
        notes               list    sentences on what the run found out and went on with
        output              string  the file or folder that was written; null when none was
        checkpoint          string  where the answers are
        totals              object  of all runs of this checkpoint, this one included: `runs`, and the sums of
                                    `requests_sent`, `rate_limited`, `possibly_billed` (with what was in flight as runs
                                    were killed), `prompt_tokens`, `completion_tokens`, `cached_tokens`, `cost_usd`,
                                    `requests_unpriced`, `held_usd` and `held_tokens`
    """
    progress = summary.progress
    asked = progress.rows_answered - progress.rows_reused + progress.rows_failed - progress.rows_failed_before
    per_s = 1 / summary.duration_s if summary.duration_s > 0 else 0.0
    counts = asdict(progress)
    for internal in ("in_flight", "in_flight_bound", "concurrency", "reached"):
        counts.pop(internal)
    return {
        "version": VERSION,
        "job": summary.job,
        "run_id": summary.run_id,
        "outcome": summary.outcome,
        "reason": summary.reason,
        "exit_code": exit_code,
        "started_at": _iso(summary.started_at),
        "ended_at": _iso(summary.started_at + summary.duration_s),
        "duration_s": summary.duration_s,
        "rows_total": summary.rows_total,
        **counts,
        "cost_usd": _cost(progress),
        "rows_asked": asked,
        "rows_unasked": _unasked(summary),
        "answers_gone": summary.answers_gone,
        "lost_in_flight": summary.lost_in_flight,
        "rows_per_s": asked * per_s,
        "requests_per_s": progress.requests_sent * per_s,
        "tokens_per_minute": (progress.prompt_tokens + progress.completion_tokens) * 60 * per_s,
        "limits": {name: getattr(summary.limits, name) for name in _LIMITS},
        "output": summary.output,
        "checkpoint": summary.checkpoint,
        "totals": {**asdict(summary.totals), "cost_usd": _cost(summary.totals)},
    }


def unbegun_object(job: str | None, outcome: str, reason: str, exit_code: int) -> dict[str, Any]:
    """Return what `--json` prints for a run that ended before it began: these keys of the others, and no more."""
    said = {"job": job, "outcome": outcome, "reason": reason, "exit_code": exit_code}
    return {"version": VERSION, **said, "ended_at": _iso(time.time())}


def _iso(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _cost(spent: Progress | JobTotals) -> float | None:
    return None if spent.requests_unpriced and not spent.cost_usd else spent.cost_usd


def _unasked(summary: RunSummary) -> int:
    return summary.rows_total - summary.progress.rows_answered - summary.progress.rows_failed


def as_text(summary: RunSummary) -> str:
    """Return the summary for people: one line of rows, then what else they need to know."""
    return "\n".join(on_one_line(line) for line in (headline(summary), *_notes(summary)) if line)


def headline(summary: RunSummary) -> str:
    """Return the one line that says how the run ended: rows, what they took, and how long."""
    progress = summary.progress
    rows = [f"{progress.rows_answered:,} answered", f"{progress.rows_failed:,} failed"]
    if unasked := _unasked(summary):
        rows.append(f"{unasked:,} not yet asked")
    spent = [_spent(progress)]
    if progress.rows_reused or progress.rows_failed_before or summary.answers_gone:
        reused, failed_before = progress.rows_reused, progress.rows_failed_before
        asked = progress.rows_answered - reused + progress.rows_failed - failed_before
        kept = [f"{asked:,} asked", f"{reused:,} reused"]
        kept += [f"{failed_before:,} had failed before"] if failed_before else []
        spent.insert(0, ", ".join([*kept, f"{summary.answers_gone:,} gone"]))
    parts = (", ".join(rows), *spent, duration(summary.duration_s))
    return on_one_line(f"{summary.job}: {summary.rows_total:,} rows: {' · '.join(parts)}")


def _spent(spent: Progress | JobTotals) -> str:
    tokens = spent.prompt_tokens + spent.completion_tokens
    cost = f", {dollars(spent.cost_usd)}" if spent.cost_usd else ""
    return f"{spent.requests_sent:,} requests, {tokens:,} tokens{cost}"


def _notes(summary: RunSummary) -> list[str]:
    progress = summary.progress
    return [
        f"bound by {progress.bound}" if progress.bound else "",
        *(note for note in progress.notes if note not in summary.told),
        f"{progress.rate_limited:,} requests were turned away by a rate limit and sent again"
        if progress.rate_limited
        else "",
        f"{progress.possibly_billed:,} requests had an unknown outcome; they may have been billed and asked again"
        if progress.possibly_billed
        else "",
        f"the run before was killed: up to {summary.lost_in_flight:,} requests in flight may be billed twice"
        if summary.lost_in_flight
        else "",
        f"all {runs:,} runs of this checkpoint: {_spent(summary.totals)}" if (runs := summary.totals.runs) > 1 else "",
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
