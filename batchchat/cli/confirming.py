"""The question before a run that may cost much: only where somebody sits who can answer it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from batchchat.cli.console import say_line
from batchchat.errors import NotConfirmedError

if TYPE_CHECKING:
    from batchchat.commands.plan import Plan
    from batchchat.commands.run import RunOptions


def confirm(plan: Plan, api_key: str | None, options: RunOptions) -> None:
    """Ask before a run that is estimated at more than `limits.confirm_above_usd`, on a terminal; elsewhere never.

    `--quiet` and `--json` are asked too: they are about what is printed, not about what is spent.

    Raises:
        NotConfirmedError: the answer is no, or there is none.
    """
    limit = plan.job.limits.confirm_above_usd
    if limit is None or not _is_on_a_terminal():
        return
    from batchchat.commands import estimate as estimating
    from batchchat.show.estimate import ADD_A_PRICE
    from batchchat.show.printable import dollars, on_one_line

    cost = estimating.estimate(plan, api_key, retries_errors=options.retries_errors, is_fresh=options.is_fresh).cost_usd
    if cost.value is None:
        say_line(f"whether this costs more than limits.confirm_above_usd cannot be known; {ADD_A_PRICE}")
        return
    if cost.value <= limit:
        return
    try:
        question = on_one_line(f"this will cost about {dollars(cost.value)} ({cost.source}), go on?")
        is_wanted = click.confirm(question, err=True)
    except click.Abort:  # the terminal was closed, or Ctrl-D
        is_wanted = False
    if not is_wanted:
        raise NotConfirmedError("not confirmed: nothing was sent; limits.confirm_above_usd says from where on to ask")


def _is_on_a_terminal() -> bool:
    """Whether somebody can read the question and answer it; a stream that is closed is None."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))
