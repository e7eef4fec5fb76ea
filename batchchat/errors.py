"""The exceptions that end a job, and the exit code of each.

A row's problem is never an exception: it is a `batchchat.records.Failure` and a value in the output.

    BatchchatError
     ├─ UsageError            2    the job file, the arguments or the data are wrong
     │   ├─ JobError               the job file: every problem in it, each with its line
     │   ├─ TemplateError          a template in `request` cannot be compiled or names no column
     │   ├─ InputError             the input cannot be found or read
     │   └─ OutputError            the output cannot be written, or would overwrite something
     ├─ CheckpointError       3    the checkpoint cannot be used
     │   ├─ CheckpointMissingError there is none to read
     │   ├─ CheckpointLockedError  a live run holds it
     │   ├─ CheckpointDamagedError it is not what was written; the next run saves what can be read
     │   ├─ CheckpointForeignError the file is no checkpoint, or nothing of one can be read
     │   ├─ CheckpointNewerError   a newer batchchat wrote it
     │   └─ CheckpointOlderError   a development version wrote it that is read no more
     ├─ StorageError          3    the system has no space, no open files or no whole disk for the output or the run
     ├─ EndpointRefusedError  4    the endpoint refuses the whole job
     ├─ LimitReachedError     5    the run met its budget, its deadline or its error rate
     ├─ NotConfirmedError     130   somebody at the terminal said no; nothing was sent
     └─ InterruptedRunError   130 (SIGINT), 143 (SIGTERM), 129 (SIGHUP)

Exit 0: every row answered. Exit 1: finished, some rows failed. After 3, 4, 5,
129, 130 and 143 the same command resumes.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchchat.runs import RunSummary

EXIT_ANSWERED = 0
EXIT_ROWS_FAILED = 1
EXIT_INTERNAL = 70


STOPPING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What stops a run: everything answered is kept, and the same command goes on."""


class BatchchatError(Exception):
    """Base of every error that batchchat raises on purpose; `exit_code` is what the command returns.

    `outcome` is the word for it in a summary, `is_resumable` whether the same command goes on from there, and `summary`
    how far the run was, when one had begun.
    """

    exit_code = 2
    outcome = "failed"
    is_resumable = False
    summary: RunSummary | None = None


class UsageError(BatchchatError):
    """The job file, the arguments or the data are wrong; nothing was sent."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a job file.

    `where` is `file:line` (or the option that set the value), `field` the dotted path of the key, `text` what was
    wrong, the value found, what is allowed and what to do.
    """

    where: str
    field: str
    text: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.field, self.text) if part)


class JobError(UsageError):
    """The job file is wrong; `problems` lists everything that is, in file order."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class TemplateError(UsageError):
    """A template in `request` is wrong before any row is read.

    `path` leads to the value within `request` (keys and list positions), `line` is the 1-based line within that value.
    """

    def __init__(self, path: tuple[str | int, ...], line: int, text: str) -> None:
        self.path = path
        self.line = line
        self.text = text
        super().__init__(f"{'.'.join(str(part) for part in path)}: {text}")


class InputError(UsageError):
    """The input cannot be found, read, or understood."""


class OutputError(UsageError):
    """The output cannot be written, or writing it would overwrite something."""


class CheckpointError(BatchchatError):
    """The checkpoint cannot be used."""

    exit_code = 3
    is_resumable = True


class CheckpointMissingError(CheckpointError):
    """There is no checkpoint to read."""

    is_resumable = False


class CheckpointLockedError(CheckpointError):
    """Another live run holds the checkpoint."""

    is_resumable = False


class CheckpointDamagedError(CheckpointError):
    """The file is not what was written; the next run saves what can be read, and asks the rest again."""


class CheckpointForeignError(CheckpointError):
    """The file is not a checkpoint, or nothing of one can be read."""

    is_resumable = False


class CheckpointNewerError(CheckpointError):
    """The checkpoint was written by a newer batchchat."""

    is_resumable = False


class CheckpointOlderError(CheckpointError):
    """The checkpoint was written by a development version that is not read any more."""

    is_resumable = False


class StorageError(BatchchatError):
    """The system lacks what the output or the run needs; when it has that again, the same command goes on."""

    exit_code = 3
    is_resumable = True


_REMEDIES = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some space there, or have your quota raised",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EIO: "see to the disk, or to the way to it",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs: the system has no open files left",
    errno.EROFS: "make the file system writable",
}


def is_of_the_system(error: OSError) -> bool:
    """Whether an error is about the state of the system, which may change, and not about what was asked of it."""
    return error.errno in _REMEDIES


def remedy(error: OSError) -> str:
    """Return what to do about a state of the system, as the end of a sentence; nothing for other errors."""
    return f"; {_REMEDIES[error.errno]}" if error.errno in _REMEDIES else ""


class EndpointRefusedError(BatchchatError):
    """The endpoint refuses the whole job: key, credits, model, route, or nothing is there."""

    exit_code = 4
    outcome = "refused"
    is_resumable = True


class LimitReachedError(BatchchatError):
    """The run met a limit of its own: budget, deadline or error rate; `limit` is the key of it in `limits`."""

    exit_code = 5
    outcome = "stopped"
    is_resumable = True

    def __init__(self, limit: str, message: str) -> None:
        super().__init__(message)
        self.limit = limit


class NotConfirmedError(BatchchatError):
    """Somebody was asked whether to spend so much, and did not say yes; nothing was sent."""

    exit_code = 128 + signal.SIGINT
    outcome = "interrupted"


class StopSignal(BaseException):
    """Raised by a signal's handler, wherever the program is just then; `except Exception` must let it through."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number)


class InterruptedRunError(BatchchatError):
    """A signal stopped the run; everything answered is kept."""

    outcome = "interrupted"
    is_resumable = True

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number
