"""What a command says: data on standard output, everything else, on harmless lines, on standard error."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import click

from batchchat.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Sequence

LOG_FORMAT = "batchchat.log_format"
"""Where the context of a command keeps how it logs."""


def print_object(value: Any, *, indent: bool = False) -> None:
    """Write a value to standard output as JSON, on one line unless `indent` is set."""
    from batchchat.show.json_lines import json_text
    from batchchat.show.printable import printable, shortened

    text = json_text(value, indent=indent)
    print_text(printable(shortened(text)) if sys.stdout is not None and sys.stdout.isatty() else text)


def print_text(text: str) -> None:
    """Write to standard output, as UTF-8 whatever the locale says: it is data."""
    try:
        click.echo(text.encode())
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"standard output cannot be written: {error.strerror}") from error


def log_as(log_format: str) -> None:
    """Say everything from here on as `text`, or as lines of `json`, one object each."""
    click.get_current_context().meta[LOG_FORMAT] = log_format


def logs_json() -> bool:
    """Whether what is said is for machines."""
    context = click.get_current_context(silent=True)
    return context is not None and context.meta.get(LOG_FORMAT) == "json"


def say(text: str, *, level: str = "info", event: str = "message", **fields: Any) -> None:
    """Write to standard error; one that is full or gone must not change how a run ends.

    `level`, `event` and its `fields` are for a structured log.
    """
    from batchchat.show.json_lines import log_line
    from batchchat.show.printable import printable

    line = log_line(level, event, text, **fields) if logs_json() else printable(text)
    with contextlib.suppress(OSError):
        click.echo(line.encode("utf-8", "replace") if logs_json() else line, err=True)


def say_line(text: str) -> None:
    """Write one line to standard error: a line end in a file's name must not begin another."""
    from batchchat.show.printable import on_one_line

    say(on_one_line(text))


def complain(text: str, problems: Sequence[object] = (), *, level: str = "error", **fields: Any) -> None:
    """Write what is wrong: each problem on its line, or a text of which only the first line is not indented."""
    from batchchat.show.printable import indented, on_one_line

    if logs_json():
        for words in problems or [text]:
            say(str(words), level=level, event=level, **fields)
        return
    lines = "\n".join(on_one_line(str(problem)) for problem in problems) or indented(text)
    say(f"batchchat: {lines}")


def harmless(words: str) -> str:
    """Return words of a library, on one line: file names may be in them, or a key that was typed as an argument."""
    from batchchat.show.printable import on_one_line

    return on_one_line(keyless(words))


def keyless(words: str) -> str:
    """Return words without what looks like a key."""
    from batchchat.redaction import without_keys

    return without_keys(words)
