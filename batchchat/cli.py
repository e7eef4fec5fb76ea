"""The click commands: arguments in, exit codes out; the only place that prints or exits.

Standard output is for data, everything else goes to standard error. Heavy modules are imported by the commands that
need them, so that `--help` and typing errors answer at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchchat import __version__
from batchchat.errors import (
    EXIT_ANSWERED,
    EXIT_ROWS_FAILED,
    STOPPING_SIGNALS,
    BatchchatError,
    InterruptedRunError,
    JobError,
    OutputError,
    Problem,
    StopSignal,
)
from batchchat.interpreter import importing
from batchchat.usage import USAGE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from batchchat.jobfile import LoadedJob

EXIT_INTERNAL = 70
EXIT_SIGINT, EXIT_SIGTERM = 130, 143
DEBUG_VARIABLE = "BATCHCHAT_DEBUG"


class Commands(click.Group):
    """Turns every error into one message and its exit code; no traceback reaches a user."""

    def get_help(self, ctx: click.Context) -> str:
        """Return the help text of the command itself."""
        return USAGE.rstrip()

    def invoke(self, ctx: click.Context) -> Any:
        """Invoke the command."""
        try:
            return super().invoke(ctx)
        except BatchchatError as error:
            _complain(str(error), error.problems if isinstance(error, JobError) else ())
            if error.is_resumable:
                _say("Everything answered so far is kept; run the same command to go on.")
            ctx.exit(error.exit_code)
        except (KeyboardInterrupt, StopSignal) as stop:
            _complain("interrupted")
            ctx.exit(128 + stop.number if isinstance(stop, StopSignal) else EXIT_SIGINT)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            raise click.UsageError(_harmless(error.format_message()), error.ctx) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if os.environ.get(DEBUG_VARIABLE):
                _say(_without_keys("".join(traceback.format_exception(error))))
            words = _harmless(f"{type(error).__name__}: {error}")
            _complain(f"internal error: {words}. This is a bug; {DEBUG_VARIABLE}=1 shows where")
            ctx.exit(EXIT_INTERNAL)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="batchchat")
def main() -> None:
    """A model's answer beside every row of a table."""


_job = click.argument("job", type=click.Path(path_type=Path))
_setting = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a field, such as limits.concurrency=8."
)
_endpoint = click.option(
    "--endpoint", metavar="PROVIDER|URL", help="Replace the job's endpoint: a provider or a base URL."
)
_output = click.option("--output", type=click.Path(path_type=Path), help="Replace output.path.")
_limit = click.option("--limit", type=click.IntRange(min=1), help="Read at most this many rows.")
_json = click.option("--json", "is_json", is_flag=True, help="Print one JSON object on standard output.")


@main.command()
@_job
@_limit
@_output
@_endpoint
@_setting
@click.option("--retry-errors", is_flag=True, help="Ask rows again that failed for good.")
@click.option("--fresh", is_flag=True, help="Set the old answers aside and ask everything again.")
@_json
@click.option("--quiet", is_flag=True, help="No progress, no summary; errors only.")
def run(
    job: Path,
    limit: int | None,
    output: Path | None,
    endpoint: str | None,
    settings: tuple[str, ...],
    retry_errors: bool,
    fresh: bool,
    is_json: bool,
    quiet: bool,
) -> None:
    """Run or resume JOB: ask every row that has no answer, then write the output."""
    with importing():
        from batchchat import pipeline
        from batchchat.apikey import api_key
        from batchchat.show import summary as show

    _raise_file_limit()
    _let_signals_raise()
    options = pipeline.RunOptions(retry_errors, fresh, is_quiet=quiet)
    try:
        loaded = _load(job, settings, endpoint, output, limit)
        _require_output(loaded)
        plan = pipeline.prepare(loaded)
        summary = pipeline.run(plan, api_key(loaded), options)
    except BatchchatError as error:
        if is_json:
            with contextlib.suppress(BrokenPipeError, OutputError):  # the run's own exit code says more
                _print_object(show.failed_object(error))
        elif error.summary is not None and not quiet:
            _say(show.as_text(error.summary))
        raise
    exit_code = EXIT_ROWS_FAILED if summary.progress.rows_failed else EXIT_ANSWERED
    if is_json:
        _print_object(show.as_object(summary, exit_code))
    elif not quiet:
        _say(show.as_text(summary))
        width = shutil.get_terminal_size((120, 24)).columns
        if summary.first_rows:
            _say(f"\n{show.table(summary.first_rows, width)}")
    sys.exit(exit_code)


@main.command()
@_job
@_limit
@_output
@_endpoint
@_setting
def check(job: Path, limit: int | None, output: Path | None, endpoint: str | None, settings: tuple[str, ...]) -> None:
    """Check everything about JOB that can be known without sending: file, columns, output, key, every row's request.

    Exits with 1 when there are rows that cannot be turned into a request; they would fail.
    """
    from batchchat import pipeline
    from batchchat.apikey import api_key, key_note

    loaded = _load(job, settings, endpoint, output, limit)
    _require_output(loaded)
    plan = pipeline.prepare(loaded)
    key = api_key(loaded)
    failures = 0
    for row, failure in pipeline.unaskable_rows(plan):
        failures += 1
        if failures <= 10:
            _complain(f"row {row.name}: {failure.message}")
    columns, rows = len(plan.source.columns), plan.source.total_rows
    preset = plan.job.endpoint.preset
    if (note := key_note(plan.job.endpoint, key)) and (preset is None or preset.api_key_env):  # else it needs none
        _say_line(note)
    _say_line(f"{plan.job.name}: {rows:,} rows, {columns:,} columns; {failures:,} rows cannot be asked")
    sys.exit(EXIT_ROWS_FAILED if failures else EXIT_ANSWERED)


@main.command()
@_job
@click.option("-n", "count", type=click.IntRange(min=1), default=3, show_default=True, help="Rows to show.")
@click.option("--send", is_flag=True, help="Send them too, and keep the answers.")
@_endpoint
@_setting
def preview(job: Path, count: int, send: bool, endpoint: str | None, settings: tuple[str, ...]) -> None:
    """Print the exact requests of the first rows of JOB, one JSON object for each."""
    from batchchat import previewing

    _let_signals_raise()
    loaded = _load(job, settings, endpoint, None, None)
    shown = previewing.preview(loaded, count, sends=send)
    for row in shown:
        _print_object(row, indent=True)
    sys.exit(EXIT_ROWS_FAILED if any("error" in row for row in shown) else EXIT_ANSWERED)


@main.command()
@_job
@_setting
@_json
def status(job: Path, settings: tuple[str, ...], is_json: bool) -> None:
    """Say how far JOB is, from its checkpoint alone; works while another process runs it."""
    from batchchat.show import status as show
    from batchchat.status import job_status

    found = job_status(_load(job, settings, None, None, None))
    if is_json:
        _print_object(show.as_object(found))
    else:
        _print(show.as_text(found))


@main.command()
@_job
@_limit
@_output
@_endpoint
@_setting
def export(job: Path, limit: int | None, output: Path | None, endpoint: str | None, settings: tuple[str, ...]) -> None:
    """Write the output of JOB from the answers that are there now; the other rows have nulls."""
    from batchchat import pipeline

    _let_signals_raise()
    loaded = _load(job, settings, endpoint, output, limit)
    _require_output(loaded)
    plan = pipeline.prepare(loaded)
    for note in pipeline.export(plan):
        _complain(note)
    _say_line(f"{plan.job.name}: {plan.source.total_rows:,} rows written to {plan.job.output.path}")


@main.command()
@click.argument("path", type=click.Path(path_type=Path), default=Path("job.yaml"))
def init(path: Path) -> None:
    """Write a commented starter job to PATH (job.yaml), and the small table that it reads beside it."""
    from batchchat.starter import write_starter

    for written in write_starter(path):
        _say_line(f"wrote {written}")
    _say_line(f"try it: batchchat run {path}")


@main.command()
def schema() -> None:
    """Print the job file's JSON Schema, for editors and validators."""
    from batchchat.jobschema import json_schema

    _print_object(json_schema(), indent=True)


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
    """Serve the embedded endpoint on 127.0.0.1 until stopped; prints its base URL on standard output.

    It is a stand-in for trying jobs offline, not a language model: the same request always gets the same answer.
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
    serve_forever(settings, port, _print)


def _load(
    job: Path, settings: tuple[str, ...], endpoint: str | None, output: Path | None, limit: int | None
) -> LoadedJob:
    from batchchat.jobfile import load_job

    overrides: dict[tuple[str | int, ...], Any] = {}
    if output is not None:
        overrides["output", "path"] = output.absolute()
    if limit is not None:
        overrides["input", "limit"] = limit
    return load_job(job, settings=settings, endpoint=endpoint, overrides=overrides)


def _require_output(loaded: LoadedJob) -> None:
    if loaded.job.output.path is None:
        raise JobError(
            [Problem(loaded.label, "output.path", "is required: the file to write (.parquet, .csv, .jsonl)")]
        )


def _key_to_ask_for(name: str | None) -> str | None:
    if name is None:
        return None
    if not os.environ.get(name):
        message = f"the environment variable {name} is not set"
        raise click.BadParameter(message, param_hint="--api-key-env")
    return os.environ[name]


def _harmless(words: str) -> str:
    """Return words of a library, on one line: file names may be in them, or a key that was typed as an argument."""
    from batchchat.show.printable import on_one_line

    return on_one_line(_without_keys(words))


def _without_keys(words: str) -> str:
    from batchchat.send.redaction import without_keys

    return without_keys(words)


def _let_signals_raise() -> None:
    """Let a signal to stop end the command by an exception, so that temporary files go."""

    def handler(number: int, _: FrameType | None) -> None:
        # A second one must not interrupt the tidying up; where the first was swallowed, there is none.
        if not isinstance(sys.exc_info()[1], StopSignal | InterruptedRunError):
            raise StopSignal(number)

    for number in STOPPING_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` lets SIGHUP be ignored
            signal.signal(number, handler)


def _raise_file_limit() -> None:
    """Allow as many open files as the system lets us have: each request in flight is a connection."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = hard if hard != resource.RLIM_INFINITY else max(soft, 10_240)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _print_object(value: Any, *, indent: bool = False) -> None:
    import orjson

    from batchchat.show.printable import printable, shortened

    try:
        text = orjson.dumps(value, option=orjson.OPT_INDENT_2 if indent else None, default=str).decode()
    except TypeError:  # a path that is not UTF-8, which escapes alone can say
        text = json.dumps(value, indent=2 if indent else None, default=str)
    _print(printable(shortened(text)) if sys.stdout is not None and sys.stdout.isatty() else text)


def _print(text: str) -> None:
    """Write to standard output, as UTF-8 whatever the locale says: it is data."""
    try:
        click.echo(text.encode())
    except BrokenPipeError:
        raise
    except OSError as error:
        message = f"standard output cannot be written: {error.strerror}"
        raise OutputError(message) from error


def _say(text: str) -> None:
    """Write to standard error; one that is full or gone must not change how a run ends."""
    from batchchat.show.printable import printable

    with contextlib.suppress(OSError):
        click.echo(printable(text), err=True)


def _say_line(text: str) -> None:
    """Write one line to standard error: a line end in a file's name must not begin another."""
    from batchchat.show.printable import on_one_line

    _say(on_one_line(text))


def _complain(text: str, problems: Sequence[object] = ()) -> None:
    """Write what is wrong: each problem on its line, or a text of which only the first line is not indented."""
    from batchchat.show.printable import indented, on_one_line

    lines = "\n".join(on_one_line(str(problem)) for problem in problems) or indented(text)
    _say(f"batchchat: {lines}")
