"""`--retry-errors`, whose value may be left out: which failures a run asks again."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path

import click

_OPTION = "--retry-errors"
_EVERY = "all"
_WORDS = re.compile("[a-z_]+(,[a-z_]+)*")


class RetryingCommand(click.Command):
    """A command with `--retry-errors [KIND,...]`.

    What follows the option is its value when it can be one, words with commas between them, and is no file's name or
    path that is there: `--retry-errors job.yaml` names the job.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Name all kinds after an option without a value, or click would take whatever is next."""
        end = args.index("--") if "--" in args else len(args)
        for index, arg in enumerate(args[:end]):
            if arg == _OPTION and not (index + 1 < end and _is_value(args[index + 1])):
                args[index] = f"{_OPTION}={_EVERY}"
        return super().parse_args(ctx, args)


def _is_value(text: str) -> bool:
    from batchchat.send.reply.failures import KINDS

    is_known = all(word in {*KINDS, _EVERY} for word in text.split(","))
    return is_known or (_WORDS.fullmatch(text) is not None and not Path(text).exists())


def kinds_to_retry(values: tuple[str, ...]) -> bool | frozenset[str]:
    """Return the kinds that the option's values name; True for all, False where it is not given.

    Raises:
        click.BadParameter: a value is no kind.
    """
    if not values:
        return False
    from batchchat.send.reply.failures import KINDS

    words = [word.strip() for value in values for word in value.split(",")]
    for word in words:
        if word not in {*KINDS, _EVERY}:
            near = get_close_matches(word, KINDS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            message = f"'{word}' is no kind of failure{hint} There are {', '.join(KINDS)}, and {_EVERY}."
            raise click.BadParameter(message, param_hint=_OPTION)
    return _EVERY in words or frozenset(words)
