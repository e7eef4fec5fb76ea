"""Outcomes, runs and digests as rows of the checkpoint's tables, each with a checksum over its key and all its columns.

What passes in and comes out are values and tuples in the order of the table's columns. Reading, the key is the one that
was asked for: a row that a damaged index leads to in place of the right one has the wrong checksum. It does not know
SQLite.
"""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

import orjson

from batchchat.records import Answer, Completion, FailedRow, Failure, Progress, RunRecord, ToolCall, Usage

COLUMNS = {
    "answers": ("key", "run", "latency_s", "attempts", "fields", "reply", "first_token_s", "checksum"),
    "failures": (
        *("key", "run", "is_transient", "latency_s", "attempts", "kind", "message", "status", "code", "request_id"),
        *("fields", "reply", "checksum"),
    ),
    "runs": (
        *("run", "started_at", "updated_at", "ended_at", "end_reason", "pid", "host", "rows_total", "progress"),
        "checksum",
    ),
    "media": ("path", "size_bytes", "mtime_ns", "digest", "mime_type", "checksum"),
}
"""The columns of each table, in the order of its rows; the checksum is the last."""

CHECKSUM_BYTES = 8
_COMPRESSION = 1

Row = tuple[Any, ...]


def with_checksum(table: str, row: Row) -> Row:
    """Return a row of a table with its checksum."""
    return (*row, checksum(table, *row))


def is_whole(table: str, row: Sequence[Any]) -> bool:
    """Whether a row has the checksum that its columns ask for."""
    expected = checksum(table, *row[:-1])
    return expected is not None and row[-1] == expected


def checksum(table: str, *columns: Any) -> bytes | None:
    """Return the checksum of a row's columns; None when a column has a type that was never stored."""
    try:
        parts = _answer_parts(*columns) if table == "answers" else _parts(table, columns)
    except TypeError:
        return None
    # Processors compute SHA-256 themselves, which makes it the fastest good one; each answer comes by here in each run.
    return sha256(b"".join(parts)).digest()[:CHECKSUM_BYTES]


# The lengths say where each of the values ends that stand behind one another.
def _answer_parts(
    key: bytes, run: int, latency_s: float, attempts: int, fields: bytes, reply: bytes, first_token_s: float | None
) -> tuple[bytes, ...]:
    head = ("answers", run, latency_s, attempts, first_token_s, len(key), len(fields), len(reply))
    return repr(head).encode(), key + fields, reply


def _parts(table: str, columns: Sequence[Any]) -> list[bytes]:
    # A text's `repr` changes with Python's Unicode tables, its UTF-8 does not.
    encoded = [column.encode("utf-8", "replace") if isinstance(column, str) else column for column in columns]
    head = [
        (type(column).__name__, len(data)) if isinstance(data, bytes) else data
        for column, data in zip(columns, encoded, strict=True)
    ]
    return [repr((table, head)).encode(), *(data for data in encoded if isinstance(data, bytes))]


def answer_row(key: bytes, run: int, answer: Answer) -> Row:
    """Return the row that keeps an answer."""
    fields, reply = orjson.dumps(answer.completion), zlib.compress(answer.reply, _COMPRESSION)
    row = (key, run, float(answer.latency_s), int(answer.attempts), fields, reply, _real(answer.first_token_s))
    return with_checksum("answers", row)


def failure_row(key: bytes, run: int, row: FailedRow) -> Row:
    """Return the row that keeps why a key was given up."""
    failure = row.failure
    how = (int(row.is_transient), _real(row.latency_s), int(row.attempts))
    status = None if failure.status is None else int(failure.status)
    reason = (_text(failure.kind), _text(failure.message), status, _text(failure.code), _text(failure.request_id))
    fields = None if row.completion is None else orjson.dumps(row.completion)
    reply = zlib.compress(row.reply, _COMPRESSION) if row.reply else None
    return with_checksum("failures", (key, run, *how, *reason, fields, reply))


def run_row(record: RunRecord) -> Row:
    """Return the row that keeps a run."""
    times = (record.started_at, record.updated_at, record.ended_at, _text(record.end_reason))
    where = (record.pid, record.host, record.rows_total)
    return with_checksum("runs", (record.run, *times, *where, orjson.dumps(record.progress)))


def _real(seconds: float | None) -> float | None:
    return None if seconds is None else float(seconds)


def _text(value: str | None) -> str | None:
    """Return a text as SQLite gives it back: without half characters, which have no UTF-8."""
    return None if value is None else str(value).encode("utf-8", "replace").decode()


def answer_of(row: Row, *, with_reply: bool) -> Answer:
    """Return the answer that a whole row keeps."""
    _, _, latency_s, attempts, fields, reply, first_token_s, _ = row
    return Answer(_completion(fields), unpacked(reply) if with_reply else b"", latency_s, attempts, first_token_s)


def failed_row_of(row: Row, *, with_reply: bool) -> FailedRow:
    """Return the failure that a whole row keeps."""
    _, _, is_transient, latency_s, attempts, kind, message, status, code, request_id, fields, reply, _ = row
    failure = Failure(kind, message, status, code, request_id=request_id)
    completion = None if fields is None else _completion(fields)
    return FailedRow(
        failure, bool(is_transient), latency_s, attempts, completion, unpacked(reply) if with_reply else b""
    )


def run_of(row: Row) -> RunRecord:
    """Return the run that a whole row keeps."""
    fields = orjson.loads(row[8])
    progress = replace(Progress(), **{**fields, "notes": tuple(fields.get("notes", ()))})
    run, started_at, updated_at, ended_at, end_reason, pid, host, rows_total, _, _ = row
    return RunRecord(run, started_at, updated_at, ended_at, end_reason, pid, host, rows_total, progress)


def unpacked(reply: bytes | None) -> bytes:
    """Return the body of a reply as received."""
    return b"" if reply is None else zlib.decompress(reply)


def _completion(fields: bytes) -> Completion:
    data = orjson.loads(fields)
    calls = tuple(ToolCall(**call) for call in data["tool_calls"])
    completions = tuple(data.get("completions", ()))
    return Completion(**{**data, "tool_calls": calls, "completions": completions, "usage": Usage(**data["usage"])})
