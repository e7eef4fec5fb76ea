"""Outcomes, runs, digests and settled values as rows of the checkpoint's tables.

Each row has a checksum over its key and all its columns. Reading, the key is the one that was asked for: a row that a
damaged index leads to in place of the right one has the wrong checksum.
"""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, NamedTuple

import orjson

from batchchat.records import Answer, Completion, FailedRow, Failure, Progress, Settled, ToolCall, Usage
from batchchat.runs import RunRecord

COLUMNS = {
    "answers": ("key", "run", "latency_s", "attempts", "fields", "reply", "first_token_s", "checksum"),
    "failures": (
        *("key", "run", "is_transient", "latency_s", "attempts", "kind", "message", "status", "code", "request_id"),
        *("fields", "reply", "row_name", "checksum"),
    ),
    "runs": (
        *("run", "started_at", "updated_at", "ended_at", "end_reason", "pid", "host", "rows_total", "progress"),
        "checksum",
    ),
    "media": ("path", "size_bytes", "mtime_ns", "digest", "mime_type", "checksum"),
    "settled": ("endpoint", "model", "fields", "checksum"),
    "segments": ("output", "file", "input", "first_row", "row_count", "checksum"),
}
"""The columns of each table, in the order of its rows; the checksum is the last."""

CHECKSUM_BYTES = 8
_COMPRESSION = 1
_WINDOW_BITS, _MEMORY_LEVEL = 13, 6
"""64 KB of memory, for the same size: the 260 KB of zlib's defaults go back to the system each time, at many times the
cost of the compression itself, wherever they happen to lie at the end of the heap."""
_LEAST_COMPRESSED_BYTES = 1024
"""Bytes of a body below which compression costs as much time as all else of a row, and saves little."""
_STORED = b"\x78\x01\x01"
"""How a zlib stream begins that is one block as it stands (RFC 1950, section 2.2; RFC 1951, section 3.2.4)."""

Row = tuple[Any, ...]


class Stored(NamedTuple):
    """Where an outcome stands: SQLite's number of its row, in the table of answers or of failures."""

    table: str
    rowid: int


def with_checksum(table: str, row: Row) -> Row:
    """Return a row of a table with its checksum."""
    return (*row, checksum(table, row))


def is_whole(table: str, row: Sequence[Any]) -> bool:
    """Whether a row has the checksum that its columns ask for."""
    try:
        return bool(row[-1] == checksum(table, row[:-1]))
    except TypeError:  # damage has made a column one of a type that was never stored
        return False


def checksum(table: str, columns: Sequence[Any]) -> bytes:
    """Return the checksum of a row's columns."""
    if table == "answers":
        key, run, latency_s, attempts, fields, reply, first_token_s = columns
        # The lengths say where each of the values ends that stand behind one another.
        head = ("answers", run, latency_s, attempts, first_token_s, len(key), len(fields), len(reply))
        content = b"".join((repr(head).encode(), key, fields, reply))
    else:
        content = b"".join(_parts(table, columns))
    # Processors compute SHA-256 themselves, which makes it the fastest good one; each answer comes by here in each run.
    return sha256(content).digest()[:CHECKSUM_BYTES]


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
    fields, reply = _fields(answer.completion), packed(answer.reply)
    row = (key, run, float(answer.latency_s), int(answer.attempts), fields, reply, _real(answer.first_token_s))
    return with_checksum("answers", row)


def failure_row(key: bytes, run: int, row: FailedRow) -> Row:
    """Return the row that keeps why a key was given up."""
    failure = row.failure
    how = (int(row.is_transient), _real(row.latency_s), int(row.attempts))
    status = None if failure.status is None else int(failure.status)
    reason = (_text(failure.kind), _text(failure.message), status, _text(failure.code), _text(failure.request_id))
    fields = None if row.completion is None else _fields(row.completion)
    reply = packed(row.reply) if row.reply else None
    return with_checksum("failures", (key, run, *how, *reason, fields, reply, _text(row.row_name)))


def run_row(record: RunRecord) -> Row:
    """Return the row that keeps a run."""
    times = (record.started_at, record.updated_at, record.ended_at, _text(record.end_reason))
    where = (record.pid, record.host, record.rows_total)
    return with_checksum("runs", (record.run, *times, *where, orjson.dumps(record.progress)))


def settled_row(endpoint: str, model: str, settled: Settled) -> Row:
    """Return the row that keeps what was learned of an endpoint and model."""
    return with_checksum("settled", (*settled_key(endpoint, model), orjson.dumps(settled)))


def settled_key(endpoint: str, model: str) -> tuple[str, str]:
    """Return endpoint and model as they stand in the row."""
    return _storable(endpoint), _storable(model)


def _real(seconds: float | None) -> float | None:
    return None if seconds is None else float(seconds)


def _text(value: str | None) -> str | None:
    return None if value is None else _storable(value)


def _storable(text: str) -> str:
    """Return a text as SQLite gives it back: without half characters, which have no UTF-8."""
    return str(text).encode("utf-8", "replace").decode()


def answer_of(row: Sequence[Any], *, with_reply: bool) -> Answer:
    """Return the answer that a whole row keeps."""
    _, _, latency_s, attempts, fields, reply, first_token_s, _ = row
    return Answer(_completion(fields), unpacked(reply) if with_reply else b"", latency_s, attempts, first_token_s)


def failed_row_of(row: Sequence[Any], *, with_reply: bool) -> FailedRow:
    """Return the failure that a whole row keeps."""
    _, _, is_transient, latency_s, attempts, kind, message, status, code, request_id, fields, reply, row_name, _ = row
    return FailedRow(
        failure=Failure(kind, message, status, code, request_id=request_id),
        is_transient=bool(is_transient),
        latency_s=latency_s,
        attempts=attempts,
        completion=None if fields is None else _completion(fields),
        reply=unpacked(reply) if with_reply else b"",
        row_name=row_name,
    )


def run_of(row: Row) -> RunRecord:
    """Return the run that a whole row keeps."""
    fields = orjson.loads(row[8])
    progress = replace(Progress(), **{**fields, "notes": tuple(fields.get("notes", ()))})
    columns = dict(zip(COLUMNS["runs"], row[:8], strict=False))
    return RunRecord(**columns, progress=progress)


def settled_of(row: Row) -> Settled:
    """Return the values that a whole row keeps."""
    return Settled(**orjson.loads(row[2]))


def packed(reply: bytes) -> bytes:
    """Return the body of a reply as it is kept: as zlib, a short one uncompressed within."""
    size = len(reply)
    if size >= _LEAST_COMPRESSED_BYTES:
        compressor = zlib.compressobj(_COMPRESSION, zlib.DEFLATED, _WINDOW_BITS, _MEMORY_LEVEL)
        return compressor.compress(reply) + compressor.flush()
    lengths = size | (0xFFFF - size) << 16
    return b"".join((_STORED, lengths.to_bytes(4, "little"), reply, zlib.adler32(reply).to_bytes(4)))


def unpacked(reply: bytes | None) -> bytes:
    """Return the body of a reply as received."""
    return b"" if reply is None else zlib.decompress(reply)


# A list, in this order: with the fields' names, of which most are empty, it would be twice as long and take four times
# as long to write. A new field goes to the end.
def _fields(one: Completion) -> bytes:
    usage = one.usage
    counts = (
        *(usage.prompt_tokens, usage.completion_tokens, usage.total_tokens),
        *(usage.cached_tokens, usage.reasoning_tokens, usage.cost_usd),
    )
    said = (one.content, one.tool_calls, one.reasoning, one.refusal, one.finish_reason)
    return orjson.dumps((*said, counts, one.model, one.response_id, one.parsed, one.completions, one.logprobs))


def _completion(fields: bytes) -> Completion:
    data = orjson.loads(fields)
    content, calls, reasoning, refusal, finish_reason, counts, model, response_id, parsed, contents, logprobs = data
    tool_calls = tuple([ToolCall(**call) for call in calls]) if calls else ()
    return Completion(
        content=content,
        tool_calls=tool_calls,
        reasoning=reasoning,
        refusal=refusal,
        finish_reason=finish_reason,
        usage=Usage(*counts),
        model=model,
        response_id=response_id,
        parsed=parsed,
        completions=tuple(contents),
        logprobs=logprobs,
    )
