"""Write the embedded endpoint's own log: one JSON line for each request.

With it a test can compare what was answered with what batchchat kept. A line is written when the reply is complete and
just before it is sent: whoever holds an answer finds it in the ledger.

    at                 unix seconds at which the request was let in, or refused
    status             the HTTP status; 0 when the connection was closed before a reply
    fault              the injected fault's name, or null
    delivered          whether a whole answer was sent: status 200 and no fault but `slow`
    response_id        the answer's id; null when none was made
    request_sha256     hex digest of the request's bytes
    prompt_tokens, completion_tokens    as in the answer's usage; null when none was made
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from batchchat.errors import UsageError


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger; the fields are in the module's docstring."""

    at: float
    status: int
    fault: str | None
    delivered: bool
    response_id: str | None
    request_sha256: str
    prompt_tokens: int | None
    completion_tokens: int | None


WriteEntry = Callable[[Entry], None]


def forget_entry(entry: Entry) -> None:
    """Keep no ledger."""


@contextmanager
def opened_ledger(path: Path | None) -> Iterator[WriteEntry]:
    """Append to the file at this path, which is made when it is not there. Raises UsageError when it cannot be."""
    if path is None:
        yield forget_entry
        return
    try:
        # Unbuffered: a line is one write, whole in the file even when the server is killed right after it.
        file = path.open("ab", buffering=0)
    except OSError as error:
        raise UsageError(
            f"the log {path} cannot be written ({error.strerror}); choose a file in a writable folder"
        ) from error
    with file:

        def write(entry: Entry) -> None:
            file.write(orjson.dumps(asdict(entry), option=orjson.OPT_APPEND_NEWLINE))

        yield write
