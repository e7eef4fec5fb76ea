"""`batchchat schedule`: print what a scheduler reads, and install it only when asked to."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchchat import __version__
from batchchat.cli import options
from batchchat.cli.console import print_text, say_line
from batchchat.cli.group import main
from batchchat.cli.options import load, require_output
from batchchat.errors import UsageError

if TYPE_CHECKING:
    from datetime import time

    from batchchat.jobfile import LoadedJob
    from batchchat.scheduling import Nightly


@main.command()
@options.job
@click.option("--at", required=True, metavar="HH:MM", help="When to run it, every day.")
@click.option("--systemd", "kind", flag_value="systemd", help="A service and a timer of systemd.")
@click.option("--github", "kind", flag_value="github", help="A workflow of GitHub Actions.")
@click.option("--install", is_flag=True, help="Put it in its place, instead of printing it.")
def schedule(job: Path, at: str, kind: str | None, install: bool) -> None:
    """Print a crontab line that runs JOB every night; nothing is installed without --install."""
    from batchchat.scheduling import Nightly

    loaded = load(job, (), None, None, None)
    require_output(loaded)
    key_variable = loaded.job.endpoint.resolved_api_key_env
    nightly = Nightly(_absolute(job), loaded.job.name, _time_of(at), key_variable)
    if kind == "systemd":
        _systemd(nightly, install=install)
    elif kind == "github":
        _github(nightly, loaded, install=install)
    else:
        _cron(nightly, install=install)
    if kind != "github" and key_variable and not nightly.environment.exists():
        say_line(f"its key is read from {nightly.environment}, which is not there: write {key_variable}=... into it")


def _absolute(path: Path) -> Path:
    """Return a path from the root, through the links that it goes through: they may lead elsewhere some night."""
    return Path(os.path.abspath(path))  # noqa: PTH100 -- pathlib's would follow them


def _time_of(text: str) -> time:
    from batchchat.jobtypes import time_of_day

    found = time_of_day(text)
    if found is None:
        message = f"{text!r} is no time of day; write one such as 02:00 or 23:30"
        raise click.BadParameter(message, param_hint="--at")
    return found


def _cron(nightly: Nightly, *, install: bool) -> None:
    from batchchat.scheduling import crontab_block, crontab_with

    if not install:
        print_text(crontab_block(nightly).rstrip("\n"))
        return
    listed = _run("crontab", "-l", may_fail=True)
    if listed.returncode != 0 and b"no crontab" not in listed.stderr:
        raise UsageError(f"the crontab cannot be read: {_words(listed)}")
    before = os.fsdecode(listed.stdout) if listed.returncode == 0 else ""
    _run("crontab", "-", text=os.fsencode(crontab_with(nightly, before)))
    say_line(f"installed in the crontab: {nightly.name}, every day at {nightly.at:%H:%M}")


def _systemd(nightly: Nightly, *, install: bool) -> None:
    from batchchat.scheduling import systemd_units

    units = systemd_units(nightly)
    if not install:
        print_text("\n".join(f"# {name}\n{text}" for name, text in units.items()).rstrip("\n"))
        return
    _run("systemctl", "--user", "--version")  # before anything is written
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"
    for name, text in units.items():
        _write(folder / name, text)
    _run("systemctl", "--user", "daemon-reload")
    _run("systemctl", "--user", "enable", "--now", f"{nightly.slug}.timer")
    say_line(f"installed as {nightly.slug}.timer: {nightly.name}, every day at {nightly.at:%H:%M}")


def _github(nightly: Nightly, loaded: LoadedJob, *, install: bool) -> None:
    from batchchat.scheduling import github_workflow, repository_of

    repository, checkpoint = repository_of(nightly.job), loaded.job.checkpoint.path
    assert checkpoint is not None
    text = github_workflow(nightly, repository, _absolute(checkpoint), loaded.job.output.path, __version__)
    if install:
        _write(repository / ".github" / "workflows" / f"{nightly.slug}.yml", text)
    else:
        print_text(text.rstrip("\n"))


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    say_line(f"wrote {path}")


def _run(*command: str, text: bytes = b"", may_fail: bool = False) -> subprocess.CompletedProcess[bytes]:
    try:
        done = subprocess.run(command, input=text, capture_output=True, env={**os.environ, "LC_ALL": "C"}, check=False)  # noqa: S603
    except OSError as error:
        raise UsageError(f"{command[0]} is needed to install it, and cannot be started: {error.strerror}") from error
    if done.returncode != 0 and not may_fail:
        raise UsageError(f"`{' '.join(command)}` failed: {_words(done)}")
    return done


def _words(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = os.fsdecode(done.stderr).strip().splitlines()
    return lines[0] if lines else f"exit code {done.returncode}"
