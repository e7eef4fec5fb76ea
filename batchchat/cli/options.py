"""The arguments and options that several commands share, and the job that they name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchchat.errors import JobError, Problem

if TYPE_CHECKING:
    from batchchat.jobfile import LoadedJob

job = click.argument("job", type=click.Path(path_type=Path))
setting = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a field, such as limits.concurrency=8."
)
endpoint = click.option(
    "--endpoint", metavar="PROVIDER|URL", help="Replace the job's endpoint: a provider or a base URL."
)
output = click.option("--output", type=click.Path(), help="Replace output.path.")
limit = click.option("--limit", type=click.IntRange(min=1), help="Read at most this many rows.")
json = click.option("--json", "is_json", is_flag=True, help="Print one JSON object on standard output.")


def load(
    job: Path, settings: tuple[str, ...], endpoint: str | None, output: str | None, limit: int | None
) -> LoadedJob:
    """Return the job of a file, with what the options change in it."""
    from batchchat.jobfile import load_job

    overrides: dict[tuple[str | int, ...], Any] = {}
    if output is not None:
        overrides["output", "path"] = os.path.join(Path.cwd(), output)  # noqa: PTH118 - a slash at its end names a folder
    if limit is not None:
        overrides["input", "limit"] = limit
    return load_job(job, settings=settings, endpoint=endpoint, overrides=overrides)


def require_output(loaded: LoadedJob) -> None:
    """Refuse a job that does not say where to write."""
    if loaded.job.output.path is None:
        raise JobError(
            [Problem(loaded.label, "output.path", "is required: the file to write (.parquet, .csv, .jsonl)")]
        )
