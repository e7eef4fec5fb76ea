"""`batchchat schedule`: print what a scheduler reads; it installs nothing."""

from __future__ import annotations

import os
from pathlib import Path

import click

from batchchat.cli import options
from batchchat.cli.console import print_text, say_line
from batchchat.cli.group import main


@main.command()
@options.JOB
@click.option("--at", required=True, metavar="HH:MM", help="When to run it, every day.")
@click.option("--systemd", "is_systemd", is_flag=True, help="A service and a timer of systemd.")
def schedule(job: Path, at: str, is_systemd: bool) -> None:
    """Print a crontab line, or systemd's units, to run JOB every day."""
    from batchchat.commands.schedule import Nightly, crontab_lines, systemd_units
    from batchchat.job.types import time_of_day

    time = time_of_day(at)
    if time is None:
        raise click.BadParameter(f"{at!r} is no time of day; write one such as 02:00 or 23:30", param_hint="--at")
    loaded = options.load(job)
    key_variable = loaded.job.endpoint.resolved_api_key_env
    path = Path(os.path.abspath(job))  # noqa: PTH100 -- pathlib's would follow links, which may lead elsewhere some night
    nightly = Nightly(path, loaded.job.name, time, key_variable)
    if is_systemd:
        print_text("\n".join(f"# {name}\n{text}" for name, text in systemd_units(nightly).items()).rstrip("\n"))
    else:
        print_text(crontab_lines(nightly).rstrip("\n"))
    if key_variable and not nightly.environment.exists():
        say_line(f"its key is read from {nightly.environment}, which is not there: write {key_variable}=... into it")
