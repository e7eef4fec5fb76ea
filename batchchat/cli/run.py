"""`batchchat run`."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import click

from batchchat.cli import options
from batchchat.cli.confirming import confirm
from batchchat.cli.console import complain, logs_json, print_object, say, say_line
from batchchat.cli.group import main
from batchchat.cli.options import require_output
from batchchat.cli.process import let_signals_raise
from batchchat.cli.retrying import RetryingCommand, kinds_to_retry
from batchchat.errors import BatchchatError, OutputError
from batchchat.runtime import importing

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchchat.commands.plan import Plan
    from batchchat.commands.run import RunOptions
    from batchchat.job.file import LoadedJob
    from batchchat.runs import RunSummary
    from batchchat.show.progress import LogFormat


@main.command(cls=RetryingCommand)
@options.of_job("limit", "output", "endpoint")
@click.option(
    "--retry-errors",
    "retried",
    multiple=True,
    metavar="[KIND,...]",
    help="Ask rows again that failed for good: all of them, or those of these kinds.",
)
@click.option("--fresh", is_flag=True, help="Set the old answers aside and ask everything again.")
@options.wait_lock
@options.json
@options.log_format
@click.option("--quiet", is_flag=True, help="No progress, no summary; errors only.")
def run(
    load: Callable[[], LoadedJob],
    retried: tuple[str, ...],
    fresh: bool,
    wait_lock_s: float,
    is_json: bool,
    log_format: LogFormat,
    quiet: bool,
) -> None:
    """Run or resume JOB, and write its output.

    Asks every row that has no answer.
    """
    with importing():
        from batchchat.commands.plan import prepare
        from batchchat.commands.run import RunOptions
        from batchchat.commands.run import run as run_plan
        from batchchat.job.api_key import api_key

    let_signals_raise()
    options = RunOptions(kinds_to_retry(retried), fresh, quiet, log_format, wait_lock_s)
    loaded: LoadedJob | None = None
    try:
        loaded = load()
        require_output(loaded)
        plan = prepare(loaded)
        key = api_key(loaded)
        confirm(plan, key, options)
        _say_what_is_waited_for(plan, options)
        summary = run_plan(plan, key, options)
    except (SystemExit, click.exceptions.Exit, click.Abort):
        raise
    except BaseException as error:
        with contextlib.suppress(BrokenPipeError, OutputError):  # the run's own exit code says more
            _tell(error, loaded, is_json=is_json, is_quiet=quiet)
        raise
    sys.exit(_tell(summary, loaded, is_json=is_json, is_quiet=quiet))


def _say_what_is_waited_for(plan: Plan, options: RunOptions) -> None:
    from batchchat.checkpoint.lock import is_locked

    if options.wait_lock_s and not options.is_quiet and is_locked(plan.checkpoint_path):
        say_line(f"{plan.checkpoint_path} is in use by a live run; waiting for its end")


def _tell(ended: RunSummary | BaseException, loaded: LoadedJob | None, *, is_json: bool, is_quiet: bool) -> int:
    """Tell how a run ended, to everybody who wants to know; return the exit code."""
    from batchchat.commands.summary import ended_object, notify

    found = ended_object(ended, loaded.job.name if loaded else None)
    summary = ended.summary if isinstance(ended, BatchchatError) else ended
    if not is_quiet and not isinstance(summary, BaseException | None):
        _say_summary(summary, found, is_json=is_json)
    try:
        if is_json:
            print_object(found)
    finally:
        if loaded and (problem := notify(loaded.job, found)):
            complain(problem, level="warning")
    return int(found["exit_code"])


def _say_summary(summary: RunSummary, found: dict[str, Any], *, is_json: bool) -> None:
    import shutil  # which costs 10 ms, for its compressors

    from batchchat.show import summary as show

    if logs_json():
        level = "error" if summary.reason else "warning" if found["exit_code"] else "info"
        say(show.headline(summary), level=level, event="end", summary=found)
    elif not is_json:
        say(show.as_text(summary))
        if summary.first_rows:
            say(f"\n{show.table(summary.first_rows, shutil.get_terminal_size((120, 24)).columns)}")
