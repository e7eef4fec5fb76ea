"""`batchchat run`."""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path

import click

from batchchat.cli import options
from batchchat.cli.confirming import confirm
from batchchat.cli.console import print_object, say
from batchchat.cli.group import main
from batchchat.cli.options import load, require_output
from batchchat.cli.process import let_signals_raise, raise_file_limit
from batchchat.cli.retrying import RetryingCommand, kinds_to_retry
from batchchat.errors import EXIT_ANSWERED, EXIT_ROWS_FAILED, BatchchatError, OutputError
from batchchat.interpreter import importing


@main.command(cls=RetryingCommand)
@options.job
@options.limit
@options.output
@options.endpoint
@options.setting
@click.option(
    "--retry-errors",
    "retried",
    multiple=True,
    metavar="[KIND,...]",
    help="Ask rows again that failed for good: all of them, or those of these kinds.",
)
@click.option("--fresh", is_flag=True, help="Set the old answers aside and ask everything again.")
@options.json
@click.option("--quiet", is_flag=True, help="No progress, no summary; errors only.")
def run(
    job: Path,
    limit: int | None,
    output: str | None,
    endpoint: str | None,
    settings: tuple[str, ...],
    retried: tuple[str, ...],
    fresh: bool,
    is_json: bool,
    quiet: bool,
) -> None:
    """Run or resume JOB: ask every row that has no answer, then write the output."""
    with importing():
        from batchchat import pipeline
        from batchchat.apikey import api_key
        from batchchat.show import summary as show

    raise_file_limit()
    let_signals_raise()
    options = pipeline.RunOptions(kinds_to_retry(retried), fresh, is_quiet=quiet)
    try:
        loaded = load(job, settings, endpoint, output, limit)
        require_output(loaded)
        plan = pipeline.prepare(loaded)
        key = api_key(loaded)
        confirm(plan, key, options)
        summary = pipeline.run(plan, key, options)
    except BatchchatError as error:
        if is_json:
            with contextlib.suppress(BrokenPipeError, OutputError):  # the run's own exit code says more
                print_object(show.failed_object(error))
        elif error.summary is not None and not quiet:
            say(show.as_text(error.summary))
        raise
    exit_code = EXIT_ROWS_FAILED if summary.progress.rows_failed else EXIT_ANSWERED
    if is_json:
        print_object(show.as_object(summary, exit_code))
    elif not quiet:
        say(show.as_text(summary))
        width = shutil.get_terminal_size((120, 24)).columns
        if summary.first_rows:
            say(f"\n{show.table(summary.first_rows, width)}")
    sys.exit(exit_code)
