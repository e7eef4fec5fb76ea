"""The command line's root: every error becomes one message and its exit code; no traceback reaches a user."""

from __future__ import annotations

import os
import traceback
from typing import Any

import click

from batchchat import __version__
from batchchat.cli.console import complain, harmless, keyless, logs_json, say
from batchchat.errors import EXIT_INTERNAL, BatchchatError, JobError, StopSignal

EXIT_SIGINT, EXIT_SIGTERM = 130, 143
DEBUG_VARIABLE = "BATCHCHAT_DEBUG"
_ORDER = "run, check, preview, estimate, status, export, verify, prune, schedule, init, schema, serve"
_EPILOG = """\b
Exit codes:
0  every row answered
1  finished, some rows failed
2  the job, the arguments or the data are wrong
3  the checkpoint cannot be used
4  the endpoint refuses the job
5  stopped at budget, deadline or error rate
129/130/143  interrupted
After 3, 4, 5, 129, 130 and 143 the same command goes on.
"""


class Commands(click.Group):
    """Turns every error into one message and its exit code; no traceback reaches a user."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which they are used."""
        return sorted(super().list_commands(ctx), key=_ORDER.index)

    def invoke(self, ctx: click.Context) -> Any:
        """Invoke the command."""
        try:
            return super().invoke(ctx)
        except BatchchatError as error:
            problems = error.problems if isinstance(error, JobError) else ()
            complain(str(error), problems, exit_code=error.exit_code, is_resumable=error.is_resumable)
            if error.is_resumable and not logs_json():
                say("Everything answered so far is kept; run the same command to go on.")
            ctx.exit(error.exit_code)
        except (KeyboardInterrupt, StopSignal) as stop:
            exit_code = 128 + stop.number if isinstance(stop, StopSignal) else EXIT_SIGINT
            complain("interrupted", exit_code=exit_code)
            ctx.exit(exit_code)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            if logs_json():
                complain(harmless(error.format_message()), exit_code=error.exit_code)
                ctx.exit(error.exit_code)
            raise click.UsageError(harmless(error.format_message()), error.ctx) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if os.environ.get(DEBUG_VARIABLE):
                say(keyless("".join(traceback.format_exception(error))))
            words = harmless(f"{type(error).__name__}: {error}")
            hint = f"internal error: {words}. This is a bug; {DEBUG_VARIABLE}=1 shows where"
            complain(hint, exit_code=EXIT_INTERNAL)
            ctx.exit(EXIT_INTERNAL)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EPILOG,
)
@click.version_option(__version__, prog_name="batchchat")
def main() -> None:
    """A model's answer beside every row of a table."""
