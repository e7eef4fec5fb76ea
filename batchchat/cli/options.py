"""The arguments and options that several commands share, and the job that they name."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchchat.cli.console import log_as
from batchchat.errors import JobError, Problem

if TYPE_CHECKING:
    from batchchat.job.file import LoadedJob

_OVERRIDES = {
    "limit": click.option("--limit", type=click.IntRange(min=1), help="Read at most this many rows."),
    "output": click.option("--output", type=click.Path(), help="Replace output.path."),
    "endpoint": click.option(
        "--endpoint", metavar="PROVIDER|URL", help="Replace the job's endpoint: a provider or a base URL."
    ),
}
_SETTING = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a field, such as limits.concurrency=8."
)
JOB = click.argument("job", type=click.Path(path_type=Path))
json = click.option("--json", "is_json", is_flag=True, help="Print one JSON object on standard output.")


def as_seconds(_: click.Context, __: click.Parameter, text: str | None) -> float:
    """Return the seconds of an option that is a duration; 0 where it is not given."""
    from batchchat.job.types import duration_s

    try:
        return 0.0 if text is None else duration_s(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _logging(_: click.Context, __: click.Parameter, log_format: str) -> str:
    log_as(log_format)
    return log_format


wait_lock = click.option(
    "--wait-lock",
    "wait_lock_s",
    metavar="DURATION",
    callback=as_seconds,
    help="Wait so long, such as 10m, for another run of the job to end.",
)
log_format = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    is_eager=True,
    callback=_logging,
    help="json: standard error is one JSON object a line.",
)


def of_job(*overrides: str, needs_output: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command JOB, `--set` and the options of these names, and call it with what loads the job."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_job(job: Path, settings: tuple[str, ...], **values: Any) -> None:
            given = {name: values.pop(name) for name in overrides}
            command(lambda: load(job, settings, needs_output=needs_output, **given), **values)

        decorated = _SETTING(with_job)
        for name in reversed(overrides):
            decorated = _OVERRIDES[name](decorated)
        return JOB(decorated)

    return decorate


def load(
    job: Path,
    settings: tuple[str, ...] = (),
    *,
    limit: int | None = None,
    output: str | None = None,
    endpoint: str | None = None,
    needs_output: bool = True,
) -> LoadedJob:
    """Return the job of a file, with what the options change in it.

    Raises:
        JobError: it is wrong, or `needs_output` and it does not say where to write.
    """
    from batchchat.job.file import load_job

    overrides: dict[tuple[str | int, ...], Any] = {}
    if output is not None:
        overrides["output", "path"] = os.path.join(Path.cwd(), output)  # noqa: PTH118 - a slash at its end names a folder
    if limit is not None:
        overrides["input", "limit"] = limit
    loaded = load_job(job, settings=settings, endpoint=endpoint, overrides=overrides)
    if needs_output:
        require_output(loaded)
    return loaded


def require_output(loaded: LoadedJob) -> None:
    """Refuse a job that does not say where to write."""
    if loaded.job.output.path is None:
        problem = Problem(loaded.label, "output.path", "is required: the file to write (.parquet, .csv, .jsonl)")
        raise JobError([problem])
