"""What the contestants' scripts share: their arguments, the rows, the request of a row, and the answers as Parquet."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

MODEL = "bench-model"
MAX_TOKENS = 50


@dataclass(frozen=True)
class Task:
    """What a script is to do: ask about all rows, with so many requests in flight, and write to a folder."""

    rows: Path
    count: int
    base_url: str
    concurrency: int
    folder: Path
    variant: str = ""

    def as_arguments(self) -> list[str]:
        """Return the task as the arguments of a script."""
        return [str(value) for value in vars(self).values()]


def given_task() -> Task:
    """Return the task that the command line gives."""
    rows, count, base_url, concurrency, folder, variant = sys.argv[1:]
    return Task(Path(rows), int(count), base_url, int(concurrency), Path(folder), variant)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows in their order, a batch in memory at a time."""
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


def request_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of a row's request."""
    return {"model": MODEL, "messages": [{"role": "user", "content": row["text"]}], "max_tokens": MAX_TOKENS}


def write_answers(path: Path, rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> None:
    """Write the rows with their answers."""
    table = pa.Table.from_pylist([dict(row) for row in rows])
    parquet.write_table(table.append_column("completion", pa.array(completions, pa.string())), path)


def check_complete(answered: int, task: Task) -> None:
    """End the script with a message unless every row was answered."""
    if answered != task.count:
        sys.exit(f"{answered} of {task.count} rows have an answer")
