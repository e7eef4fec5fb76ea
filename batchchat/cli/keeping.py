"""The commands about what a job's runs have left: `status`, `export`, `verify` and `prune`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from batchchat.cli import options
from batchchat.cli.console import complain, print_object, print_text, say_line
from batchchat.cli.group import main
from batchchat.cli.options import load, require_output
from batchchat.cli.process import let_signals_raise
from batchchat.errors import EXIT_ANSWERED, EXIT_ROWS_FAILED


@main.command()
@options.job
@options.setting
@options.json
def status(job: Path, settings: tuple[str, ...], is_json: bool) -> None:
    """Say how far JOB is, from its checkpoint alone; works while another process runs it."""
    from batchchat.show import status as show
    from batchchat.status import job_status

    found = job_status(load(job, settings, None, None, None))
    if is_json:
        print_object(show.as_object(found))
    else:
        print_text(show.as_text(found))


@main.command()
@options.job
@options.limit
@options.output
@options.endpoint
@options.setting
def export(job: Path, limit: int | None, output: str | None, endpoint: str | None, settings: tuple[str, ...]) -> None:
    """Write the output of JOB from the answers that are there now; the other rows have nulls."""
    from batchchat import pipeline

    let_signals_raise()
    loaded = load(job, settings, endpoint, output, limit)
    require_output(loaded)
    plan = pipeline.prepare(loaded)
    for note in pipeline.export(plan):
        complain(note)
    say_line(f"{plan.job.name}: {plan.source.total_rows:,} rows written to {plan.job.output.path}")


@main.command()
@options.job
@options.limit
@options.output
@options.endpoint
@options.setting
@options.json
def verify(
    job: Path,
    limit: int | None,
    output: str | None,
    endpoint: str | None,
    settings: tuple[str, ...],
    is_json: bool,
) -> None:
    """Prove that the output of JOB is what its input and its checkpoint give, row by row and value by value.

    Exits with 1, and the first difference, when it is not.
    """
    from batchchat import pipeline, verifying

    let_signals_raise()
    loaded = load(job, settings, endpoint, output, limit)
    require_output(loaded)
    plan = pipeline.prepare(loaded, is_read_only=True)
    verification = verifying.verify(plan)
    if is_json:
        print_object(verifying.as_object(verification))
    else:
        for line in verifying.as_lines(verification):
            say_line(line if verification.differences else f"{plan.job.name}: {line}")
    sys.exit(EXIT_ROWS_FAILED if verification.differences else EXIT_ANSWERED)


@main.command()
@options.job
@click.option(
    "--older-than",
    "older_than_s",
    metavar="DURATION",
    required=True,
    callback=options.as_seconds,
    help="Such as 90d.",
)
@options.setting
def prune(job: Path, older_than_s: float, settings: tuple[str, ...]) -> None:
    """Remove the answers from JOB's checkpoint that no run of the last 90d (or so) made or used.

    What the output of the newest finished run has always stays.
    """
    from batchchat.pruning import prune_job

    let_signals_raise()
    loaded = load(job, settings, None, None, None)
    say_line(f"{loaded.job.name}: {prune_job(loaded, older_than_s)}")
