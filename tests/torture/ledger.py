"""What the scripted server notes about every request, one JSON line each: an `Entry`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

ANSWER = "answer"
GONE = "gone"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line.

    `arrived` is when the whole request was there and `replied` when its reply was written, or given up, in seconds of
    the machine's monotonic clock. `digest` is that of what was asked; `attempt` counts its requests from 1. `sent` is
    `answer`, the name of a fault, refusal or misbehaviour, or `gone`: the client left before the reply. `is_billed`
    says that the server worked on it, `is_delivered` that a whole answer was written to an open connection.
    """

    arrived: float
    replied: float
    digest: str
    attempt: int
    sent: str
    is_billed: bool
    is_delivered: bool
    response_id: str


class LedgerFile:
    """The ledger being written; lines are in the file after `flush`."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=2**20)

    def note(self, entry: Entry) -> None:
        """Append a line."""
        self._file.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))

    def flush(self) -> None:
        """Write everything to the file."""
        self._file.flush()

    def close(self) -> None:
        """Write everything, and close."""
        self._file.close()


def read_ledger(path: Path) -> Iterator[Entry]:
    """Yield the lines of a ledger, in the order of the replies."""
    with path.open("rb") as file:
        for line in file:
            yield Entry(**orjson.loads(line))
