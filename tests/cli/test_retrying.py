"""`--retry-errors`: with or without kinds, before or after the job."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from batchchat.cli.retrying import RetryingCommand, kinds_to_retry


@click.command(cls=RetryingCommand)
@click.argument("job")
@click.option("--retry-errors", "retried", multiple=True)
@click.option("--quiet", is_flag=True)
def asked(job: str, retried: tuple[str, ...], quiet: bool) -> None:
    """Say what was understood."""
    kinds = kinds_to_retry(retried)
    click.echo(f"{job} {kinds if isinstance(kinds, bool) else sorted(kinds)} {quiet}")


def understood(*arguments: str) -> str:
    """Return what a command line means, or what is said against it."""
    return CliRunner().invoke(asked, arguments).output.strip()


@pytest.mark.parametrize(
    ("arguments", "meaning"),
    [
        ("job.yaml", "job.yaml False False"),
        ("job.yaml --retry-errors", "job.yaml True False"),
        ("--retry-errors job.yaml", "job.yaml True False"),
        ("--retry-errors nights/job", "nights/job True False"),
        ("--retry-errors --quiet job.yaml", "job.yaml True True"),
        ("--retry-errors all job.yaml", "job.yaml True False"),
        ("--retry-errors schema job.yaml", "job.yaml ['schema'] False"),
        ("job.yaml --retry-errors schema,bad_request", "job.yaml ['bad_request', 'schema'] False"),
        ("job.yaml --retry-errors=schema --retry-errors media", "job.yaml ['media', 'schema'] False"),
        ("job.yaml --retry-errors --retry-errors schema", "job.yaml True False"),
        ("--retry-errors -- schema", "schema True False"),
    ],
)
def test_value_may_be_left_out(arguments: str, meaning: str) -> None:
    """What follows the option is its value only if it can be one; the job is never taken for it."""
    assert understood(*arguments.split()) == meaning


@pytest.mark.parametrize("arguments", ["job.yaml --retry-errors shema", "--retry-errors=shema job.yaml"])
def test_unknown_kind_is_refused_with_those_there_are(arguments: str) -> None:
    """The error has the word that was given, the nearest that is right, and all others."""
    said = " ".join(understood(*arguments.split()).split())
    assert "'shema' is no kind of failure; did you mean schema?" in said
    assert "bad_request, connect, content_filter" in said


def test_word_that_is_a_file_is_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job file without a suffix is not taken for an unknown kind."""
    monkeypatch.chdir(tmp_path)
    assert "no kind of failure" in understood("--retry-errors", "nightly", "job.yaml")
    (tmp_path / "nightly").touch()
    assert understood("--retry-errors", "nightly") == "nightly True False"
