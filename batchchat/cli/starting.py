"""The commands that need no job: `init`, `schema` and `serve`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from batchchat.cli.console import print_object, print_text, say_line
from batchchat.cli.group import main


@main.command()
@click.argument("path", type=click.Path(path_type=Path), default=Path("job.yaml"))
def init(path: Path) -> None:
    """Write a commented starter job, and a small table.

    The job goes to PATH (job.yaml), and the table that it reads beside it.
    """
    from batchchat.starter import write_starter

    for written in write_starter(path):
        say_line(f"wrote {written}")
    say_line(f"try it: batchchat run {path}")


@main.command()
def schema() -> None:
    """Print the job file's JSON Schema, for editors and validators."""
    from batchchat.job.json_schema import json_schema

    print_object(json_schema(), indent=True)


@main.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8391, show_default=True, help="0: any free port.")
@click.option("--latency", "latency_s", type=click.FloatRange(min=0), default=0.0, help="Seconds before each answer.")
@click.option("--rpm", type=click.FloatRange(min=0, min_open=True), help="Requests a minute before 429.")
@click.option("--tpm", type=click.FloatRange(min=0, min_open=True), help="Tokens a minute before 429.")
@click.option("--fault-rate", type=click.FloatRange(0, 1), default=0.0, help="Share of requests that meet a fault.")
@click.option("--credits", "credit_count", type=click.IntRange(min=0), help="Answers until the credits are used up.")
@click.option("--api-key-env", metavar="NAME", help="Ask for the bearer key in this environment variable.")
@click.option("--log", "log_path", type=click.Path(path_type=Path), help="Append one JSON line for each request.")
def serve(
    port: int,
    latency_s: float,
    rpm: float | None,
    tpm: float | None,
    fault_rate: float,
    credit_count: int | None,
    api_key_env: str | None,
    log_path: Path | None,
) -> None:
    """Serve the embedded endpoint until stopped.

    It listens on 127.0.0.1, and its base URL is printed on standard output. It is a stand-in for trying jobs offline,
    not a language model: the same request always gets the same answer.
    """
    from batchchat.serve.server import serve_forever
    from batchchat.serve.settings import ServeSettings

    settings = ServeSettings(
        api_key=_key_to_ask_for(api_key_env),
        latency_s=latency_s,
        requests_per_minute=rpm,
        tokens_per_minute=tpm,
        fault_rate=fault_rate,
        credits=credit_count,
        log_path=log_path,
    )
    serve_forever(settings, port, print_text)


def _key_to_ask_for(name: str | None) -> str | None:
    if name is None:
        return None
    if not os.environ.get(name):
        raise click.BadParameter(f"the environment variable {name} is not set", param_hint="--api-key-env")
    return os.environ[name]
