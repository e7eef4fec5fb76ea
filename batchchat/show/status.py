"""A job's status as a few lines, or as one JSON object."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from batchchat.runs import FailureGroup, JobStatus
from batchchat.show.printable import on_one_line, one_line

_DAMAGED = "the checkpoint is damaged; the next run saves what can be read, and asks the rest again"


def as_object(status: JobStatus) -> dict[str, Any]:
    """Return the status as plain values; times are unix seconds."""
    return asdict(status)


def as_text(status: JobStatus) -> str:
    """Return the status for people."""
    if status.run is None and status.state == "damaged":
        lines = [f"{status.job}: {_DAMAGED}", f"checkpoint: {status.checkpoint}, {status.answers_stored:,} answers"]
        return "\n".join(on_one_line(line) for line in lines)
    if status.run is None:
        return on_one_line(f"{status.job}: not started")
    progress, total = status.run.progress, status.run.rows_total
    unasked = total - progress.rows_answered - progress.rows_failed
    answered = f"{progress.rows_answered:,} answered, {progress.rows_failed:,} failed, {unasked:,} not yet asked"
    lines = [
        f"{status.job}: {status.state}: {total:,} rows: {answered}",
        f"run {status.run.run}: pid {status.run.pid} on {status.run.host}, last heard of {_at(status.run.updated_at)}",
        f"checkpoint: {status.checkpoint}, {status.answers_stored:,} answers",
    ]
    if status.state == "damaged":
        lines.append(_DAMAGED)
    if status.state == "stopped":
        lines.append(f"stopped: {status.run.end_reason}")
    if status.state == "killed":
        lines.append(
            f"killed with at most {status.run.lost_in_flight:,} requests in flight; run the job again to go on"
        )
    lines += [_failed(group) for group in status.failures]
    # What cannot be asked is in no checkpoint: each run finds it anew.
    others = progress.rows_failed - sum(group.count for group in status.failures)
    if status.state == "finished" and others > 0:
        lines.append(
            f"failed: {others:,} rows more: they cannot be asked (`batchchat check` names them),"
            " ask the same as others, or failed otherwise"
        )
    return "\n".join(on_one_line(line) for line in lines)


def _failed(group: FailureGroup) -> str:
    names = [one_line(name, 40) for name in group.rows]
    more = ", ..." if names and group.count > len(names) else ""
    rows = f" ({'row' if group.count == 1 else 'rows'} {', '.join(names)}{more})" if names else ""
    return f"failed: {group.count:,} x {group.kind}: {one_line(group.message, 120)}{rows}"


def _at(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_s))
