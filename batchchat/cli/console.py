"""What a command says: data on standard output, everything else, on harmless lines, on standard error."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from batchchat.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Sequence


def print_object(value: Any, *, indent: bool = False) -> None:
    """Write a value to standard output as JSON, on one line unless `indent` is set."""
    import orjson

    from batchchat.show.printable import printable, shortened

    try:
        text = orjson.dumps(value, option=orjson.OPT_INDENT_2 if indent else None, default=str).decode()
    except TypeError:  # a path that is not UTF-8, which escapes alone can say
        text = json.dumps(value, indent=2 if indent else None, default=str)
    print_text(printable(shortened(text)) if sys.stdout is not None and sys.stdout.isatty() else text)


def print_text(text: str) -> None:
    """Write to standard output, as UTF-8 whatever the locale says: it is data."""
    try:
        click.echo(text.encode())
    except BrokenPipeError:
        raise
    except OSError as error:
        message = f"standard output cannot be written: {error.strerror}"
        raise OutputError(message) from error


def say(text: str) -> None:
    """Write to standard error; one that is full or gone must not change how a run ends."""
    from batchchat.show.printable import printable

    with contextlib.suppress(OSError):
        click.echo(printable(text), err=True)


def say_line(text: str) -> None:
    """Write one line to standard error: a line end in a file's name must not begin another."""
    from batchchat.show.printable import on_one_line

    say(on_one_line(text))


def complain(text: str, problems: Sequence[object] = ()) -> None:
    """Write what is wrong: each problem on its line, or a text of which only the first line is not indented."""
    from batchchat.show.printable import indented, on_one_line

    lines = "\n".join(on_one_line(str(problem)) for problem in problems) or indented(text)
    say(f"batchchat: {lines}")


def harmless(words: str) -> str:
    """Return words of a library, on one line: file names may be in them, or a key that was typed as an argument."""
    from batchchat.show.printable import on_one_line

    return on_one_line(keyless(words))


def keyless(words: str) -> str:
    """Return words without what looks like a key."""
    from batchchat.send.redaction import without_keys

    return without_keys(words)
