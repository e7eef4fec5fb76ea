"""The commands that look at a job before it runs: `check`, `preview` and `estimate`."""

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
@options.of_job("limit", "output", "endpoint", needs_output=True)
def check(load: Callable[[], LoadedJob]) -> None:
    """Check everything about JOB that needs no request.

    That is its file, columns, output, key, and what every row would send. Exits with 1 when there are rows that cannot
    be turned into a request; they would fail.
    """
    from batchchat.commands.plan import prepare, unaskable_rows
    from batchchat.engines.budget_of import known_prices
    from batchchat.job.api_key import api_key, key_note
    from batchchat.show.estimate import price_line

    let_signals_raise()
    loaded = load()
    plan = prepare(loaded)
    key = api_key(loaded)
    prices = known_prices(plan.job, key)
    failures = 0
    for row, failure in unaskable_rows(plan):
        failures += 1
        if failures <= 10:
            complain(f"row {row.name}: {failure.message}")
    columns, rows = len(plan.source.columns), plan.source.total_rows
    preset = plan.job.endpoint.preset
    if (note := key_note(plan.job.endpoint, key)) and (preset is None or preset.api_key_env):  # else it needs none
        say_line(note)
    if prices.one is not None or not plan.job.endpoint.is_embedded:  # which costs nothing
        say_line(price_line(prices.one))
    say_line(f"{plan.job.name}: {rows:,} rows, {columns:,} columns; {failures:,} rows cannot be asked")
    sys.exit(EXIT_ROWS_FAILED if failures else EXIT_ANSWERED)


@main.command()
@options.of_job("endpoint")
@click.option("-n", "count", type=click.IntRange(min=1), default=3, show_default=True, help="Rows to show.")
@click.option("--send", is_flag=True, help="Send them too, and keep the answers.")
def preview(load: Callable[[], LoadedJob], count: int, send: bool) -> None:
    """Print the exact requests of the first rows of JOB.

    Each is one JSON object.
    """
    from batchchat.commands import preview as previewing

    let_signals_raise()
    shown = previewing.preview(load(), count, sends=send)
    for row in shown:
        print_object(row, indent=True)
    sys.exit(EXIT_ROWS_FAILED if any("error" in row for row in shown) else EXIT_ANSWERED)


@main.command()
@options.of_job("limit", "endpoint")
@click.option("--sample", "sample_count", type=click.IntRange(min=3), metavar="N", help="Ask N rows, and keep them.")
@options.json
def estimate(load: Callable[[], LoadedJob], sample_count: int | None, is_json: bool) -> None:
    """Say what JOB has still to ask, and what that costs.

    In requests, tokens, dollars and minutes, each with where the figure comes from. With --sample it asks N rows first,
    spread over those that no run has asked, and says how sure the figures are.
    """
    from batchchat.commands import estimate as estimating
    from batchchat.commands.plan import prepare
    from batchchat.job.api_key import api_key, key_if_any
    from batchchat.show import estimate as show

    let_signals_raise()
    loaded = load()
    plan = prepare(loaded)
    if sample_count is None:
        found = estimating.estimate(plan, key_if_any(loaded))
    else:
        found = estimating.sampled(plan, api_key(loaded), sample_count)
    if is_json:
        print_object(show.as_object(found))
    else:
        print_text(show.as_text(found))
    sys.exit(EXIT_ROWS_FAILED if found.sample and found.sample.failed else EXIT_ANSWERED)
