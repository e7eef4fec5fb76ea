"""The commands about what a job's runs have left: `status`, `export`, `verify` and `prune`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from batchchat.cli import options
from batchchat.cli.console import complain, print_object, print_text, say_line
from batchchat.cli.group import main
from batchchat.cli.process import let_signals_raise
from batchchat.errors import EXIT_ANSWERED, EXIT_ROWS_FAILED

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchchat.job.file import LoadedJob


@main.command()
@options.of_job()
@options.json
def status(load: Callable[[], LoadedJob], is_json: bool) -> None:
    """Say how far JOB is, also while it runs.

    Reads the checkpoint alone.
    """
    from batchchat.commands.status import job_status
    from batchchat.show import status as show

    found = job_status(load())
    if is_json:
        print_object(show.as_object(found))
    else:
        print_text(show.as_text(found))


@main.command()
@options.of_job("limit", "output", "endpoint", needs_output=True)
def export(load: Callable[[], LoadedJob]) -> None:
    """Write the output of JOB from the answers so far.

    The other rows have nulls.
    """
    from batchchat.commands.export import export
    from batchchat.commands.plan import prepare

    let_signals_raise()
    plan = prepare(load())
    for note in export(plan):
        complain(note)
    say_line(f"{plan.job.name}: {plan.source.total_rows:,} rows written to {plan.job.output.path}")


@main.command()
@options.of_job("limit", "output", "endpoint", needs_output=True)
@options.json
def verify(load: Callable[[], LoadedJob], is_json: bool) -> None:
    """Prove that the output of JOB is right.

    It must be what the input and the checkpoint give, row by row and value by value. Exits with 1, and the first
    difference, when it is not.
    """
    from batchchat.commands import verify as verifying
    from batchchat.commands.plan import prepare

    let_signals_raise()
    plan = prepare(load(), is_read_only=True)
    verification = verifying.verify(plan)
    if is_json:
        print_object(verifying.as_object(verification))
    else:
        for line in verifying.as_lines(verification):
            say_line(line if verification.differences else f"{plan.job.name}: {line}")
    sys.exit(EXIT_ROWS_FAILED if verification.differences else EXIT_ANSWERED)


@main.command()
@options.of_job()
@click.option(
    "--older-than",
    "older_than_s",
    metavar="DURATION",
    required=True,
    callback=options.as_seconds,
    help="Such as 90d.",
)
def prune(load: Callable[[], LoadedJob], older_than_s: float) -> None:
    """Remove old answers from the checkpoint of JOB.

    They are those that no run of the last 90d (or so) made or used. What the output of the newest finished run has
    always stays.
    """
    from batchchat.commands.prune import prune_job

    let_signals_raise()
    loaded = load()
    say_line(f"{loaded.job.name}: {prune_job(loaded, older_than_s)}")
