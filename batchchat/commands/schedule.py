"""Write what cron and systemd need to run a job every day.

Both run the same shell command. No key is in it: the command reads it from a file of the user's.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from dataclasses import dataclass
from datetime import time
from pathlib import Path

from batchchat.errors import UsageError

EXIT_CODES = (
    "0: every row is answered",
    "1: finished, some rows failed; the next run asks those again whose failure may have passed",
    "2: the job file, the data or the output are wrong, or the key is missing: somebody must see to it",
    "3: the checkpoint cannot be used, or the disk is full: mostly the night before still runs; the next run goes on",
    "4: the endpoint refuses the job (key, credits, model): somebody must see to it; then the next run goes on",
    "5: stopped at its budget, deadline or error rate; the next run goes on",
    "129, 130, 143: stopped by a signal; the next run goes on",
)
LONGEST_LINE = 998
"""Characters of a line that every cron takes."""


@dataclass(frozen=True, slots=True)
class Nightly:
    """A job that runs every day at a time; `key_variable` is the variable of its key, if it has one."""

    job: Path
    name: str
    at: time
    key_variable: str | None

    def __post_init__(self) -> None:
        """Refuse names that no line can hold."""
        for text in (str(self.job), self.name, sys.executable):
            if not text.isprintable():
                raise UsageError(f"{text!r} has characters that a schedule cannot hold; rename it")

    @property
    def environment(self) -> Path:
        """The file of variables, such as the key, that is read before each run when it is there."""
        return self.job.parent / ".batchchat" / f"{self.name}.env"

    @property
    def slug(self) -> str:
        """The units' file name: the job's name, and a digest that tells it from another job of that name."""
        digest = hashlib.sha256(str(self.job).encode()).hexdigest()[:8]
        return f"batchchat-{re.sub('[^A-Za-z0-9_.]+', '-', self.name).strip('-.') or 'job'}-{digest}"

    @property
    def command(self) -> str:
        """The shell command of a run, for any /bin/sh; its exit code is that of `batchchat run`."""
        environment, summaries, log = (
            shlex.quote(f"./.batchchat/{self.name}{suffix}") for suffix in (".env", ".summaries.jsonl", ".log")
        )
        # -P: no file of the job's folder takes the place of a module.
        run = f"{shlex.quote(sys.executable)} -P -m batchchat run {shlex.quote(f'./{self.job.name}')}"
        return (
            f"cd {shlex.quote(str(self.job.parent))} && mkdir -p -m 700 .batchchat || exit 2;"
            f" if [ -r {environment} ]; then set -a; . {environment}; set +a; fi;"
            f" exec {run} --json --log-format json >>{summaries} 2>>{log}"
        )

    @property
    def notes(self) -> str:
        """What a reader of the schedule needs to know, as comments."""
        variable = f"{self.key_variable}=..." if self.key_variable else "NAME=value"
        lines = [
            f"batchchat: {self.job}, every day at {self.at:%H:%M} by this machine's clock and time zone",
            f"Variables ({variable}, one a line), read if it is there; chmod 600: {self.environment}",
            f"Summaries, one JSON object a run: {self.environment.with_name(f'{self.name}.summaries.jsonl')}",
            f"Log, one JSON object a line: {self.environment.with_name(f'{self.name}.log')}",
            "Exit codes:",
            *(f"  {line}" for line in EXIT_CODES),
        ]
        return "".join(f"# {line}\n" for line in lines)


def crontab_lines(nightly: Nightly) -> str:
    """Return comments, and the one crontab line that runs the job.

    Raises:
        UsageError: the line would be longer than cron takes.
    """
    line = f"{nightly.at.minute} {nightly.at.hour} * * * {nightly.command.replace('%', chr(92) + '%')}"
    if len(line.encode()) > LONGEST_LINE:
        raise UsageError(f"the line would have {len(line):,} characters, and cron takes {LONGEST_LINE}; use --systemd")
    return f"{nightly.notes}{line}\n"


def systemd_units(nightly: Nightly) -> dict[str, str]:
    """Return a service and the timer that starts it, by file name."""
    what = f"batchchat {nightly.name}".replace("%", "%%")
    # In quotes a unit has the escapes of C, and % and $ stand for something in it.
    command = nightly.command.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    service = (
        f'{nightly.notes}[Unit]\nDescription={what}\n\n[Service]\nType=oneshot\nExecStart=/bin/sh -c "{command}"\n'
    )
    timer = (
        f"# A run that was missed is made up for.\n"
        f"# To run while you are not logged in: loginctl enable-linger\n"
        f"[Unit]\nDescription={what}\n\n"
        f"[Timer]\nOnCalendar=*-*-* {nightly.at:%H:%M}:00\nPersistent=true\n\n[Install]\nWantedBy=timers.target\n"
    )
    return {f"{nightly.slug}.service": service, f"{nightly.slug}.timer": timer}
