"""A job and a time of day -> what a scheduler reads: a line for cron, units for systemd, a workflow for GitHub.

What passes in is a job that was loaded, and where; what comes out are texts. Cron and systemd run the same shell
command. A key is in none of the texts: the command reads it from a file of the user's. It installs nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import sys
from collections.abc import Callable
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
SLUG = re.compile(r"[^A-Za-z0-9_.]+")


@dataclass(frozen=True, slots=True)
class Nightly:
    """A job to be run every day at a time; `key_variable` is the variable that its key is in, if it is in one."""

    job: Path
    name: str
    at: time
    key_variable: str | None

    def __post_init__(self) -> None:
        """Refuse names that no line can hold."""
        for text in (str(self.job), self.name, sys.executable):
            if not text.isprintable():
                message = f"{text!r} has characters that a schedule cannot hold; rename it"
                raise UsageError(message)

    @property
    def folder(self) -> Path:
        """The job's folder, where it runs."""
        return self.job.parent

    @property
    def environment(self) -> Path:
        """The file of variables, such as the key, that is read before each run when it is there."""
        return self.folder / ".batchchat" / f"{self.name}.env"

    @property
    def summaries(self) -> Path:
        """The file that each run appends its summary to, one JSON object a line."""
        return self.folder / ".batchchat" / f"{self.name}.summaries.jsonl"

    @property
    def log(self) -> Path:
        """The file that each run appends its progress, warnings and errors to, one JSON object a line."""
        return self.folder / ".batchchat" / f"{self.name}.log"

    @property
    def slug(self) -> str:
        """A name for files and units: that of the job, and what tells it from another job of that name."""
        digest = hashlib.sha256(str(self.job).encode()).hexdigest()[:8]
        return f"batchchat-{SLUG.sub('-', self.name).strip('-.') or 'job'}-{digest}"

    @property
    def command(self) -> str:
        """The shell command of a run, for any /bin/sh; its exit code is that of `batchchat run`."""
        return self._command(_quoted)

    @property
    def short_command(self) -> str:
        """The same command; only the folder that it goes to first is named from the root."""
        return self._command(lambda path: _quoted(f"./{path.relative_to(self.folder)}"))

    def _command(self, spelled: Callable[[Path], str]) -> str:
        environment = spelled(self.environment)
        # -P: no file of the job's folder takes the place of a module.
        run = f"{_quoted(sys.executable)} -P -m batchchat run {spelled(self.job)} --json --log-format json"
        return (
            f"cd {_quoted(self.folder)} && mkdir -p -m 700 {spelled(self.log.parent)} || exit 2;"
            f" if [ -r {environment} ]; then set -a; . {environment}; set +a; fi;"
            f" exec {run} >>{spelled(self.summaries)} 2>>{spelled(self.log)}"
        )

    @property
    def notes(self) -> list[str]:
        """What a reader of the schedule needs to know."""
        variable = f"{self.key_variable}=..." if self.key_variable else "NAME=value"
        return [
            f"batchchat: {self.job}, every day at {self.at:%H:%M}",
            f"Variables ({variable}, one a line), read if it is there; chmod 600: {self.environment}",
            f"Summaries, one JSON object a run: {self.summaries}",
            f"Log, one JSON object a line: {self.log}",
            "Exit codes:",
            *(f"  {line}" for line in EXIT_CODES),
        ]


def _quoted(path: str | Path) -> str:
    return shlex.quote(str(path))


def crontab_block(nightly: Nightly) -> str:
    """Return the lines for a crontab: notes, and the one line that runs the job, between two marks.

    Raises:
        UsageError: the line would be longer than cron takes.
    """
    line = _crontab_line(nightly, nightly.command)
    if len(line.encode()) > LONGEST_LINE:
        line = _crontab_line(nightly, nightly.short_command)
    if len(line.encode()) > LONGEST_LINE:
        message = f"the line would have {len(line):,} characters, and cron takes {LONGEST_LINE}; use --systemd"
        raise UsageError(message)
    begin, end = _marks(nightly)
    notes = [f"# {note}" for note in [*nightly.notes, "The time is that of this machine's clock and time zone."]]
    return "\n".join([begin, *notes, line, end, ""])


def _crontab_line(nightly: Nightly, command: str) -> str:
    return f"{nightly.at.minute} {nightly.at.hour} * * * {command.replace('%', chr(92) + '%')}"


def _marks(nightly: Nightly) -> tuple[str, str]:
    return f"# BEGIN {nightly.slug}", f"# END {nightly.slug}"


def crontab_with(nightly: Nightly, crontab: str) -> str:
    """Return a crontab with the job's lines, in place of those that it had; everything else stays as it is.

    Raises:
        UsageError: the mark at the end of the lines that it had is missing.
    """
    begin, end = _marks(nightly)
    lines = crontab.splitlines(keepends=True)
    stripped = [line.strip() for line in lines]
    if begin in stripped:
        start = stripped.index(begin)
        if end not in stripped[start:]:
            message = f"the crontab has the line {begin!r} without {end!r} after it; mend it by `crontab -e`"
            raise UsageError(message)
        del lines[start : stripped.index(end, start) + 1]
    kept = "".join(lines)
    return f"{kept}{'' if not kept or kept.endswith(chr(10)) else chr(10)}{crontab_block(nightly)}"


def systemd_units(nightly: Nightly) -> dict[str, str]:
    """Return a service and the timer that starts it, by file name."""
    notes = "".join(f"# {note}\n" for note in nightly.notes)
    what = f"batchchat {nightly.name}".replace("%", "%%")
    # In quotes a unit has the escapes of C, and % and $ stand for something in it.
    command = nightly.command.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    service = f'{notes}[Unit]\nDescription={what}\n\n[Service]\nType=oneshot\nExecStart=/bin/sh -c "{command}"\n'
    timer = (
        f"# The time is that of this machine's clock and time zone; a run that was missed is made up for.\n"
        f"# To run while you are not logged in: loginctl enable-linger\n"
        f"[Unit]\nDescription={what}\n\n"
        f"[Timer]\nOnCalendar=*-*-* {nightly.at:%H:%M}:00\nPersistent=true\n\n[Install]\nWantedBy=timers.target\n"
    )
    return {f"{nightly.slug}.service": service, f"{nightly.slug}.timer": timer}


_WORKFLOW = """\
{notes}
name: {title}
on:
  schedule:
    - cron: "{minute} {hour} * * *" # in UTC, and often some minutes late
  workflow_dispatch:
permissions:
  contents: read
concurrency:
  group: {slug}
  cancel-in-progress: false
jobs:
  run:
    runs-on: ubuntu-latest
    env:
      JOB: {job}
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
      - run: pip install "batchchat=={version}"
      - uses: actions/cache/restore@v4
        with:
          path: {checkpoint}
          key: {slug}-${{{{ github.run_id }}}}-${{{{ github.run_attempt }}}}
          restore-keys: {slug}-
      - run: batchchat run "$JOB" --json --log-format json | tee -a "$GITHUB_STEP_SUMMARY"
        shell: bash # with pipefail: the exit code is that of batchchat{secret}
      - if: always()
        uses: actions/cache/save@v4
        with:
          path: {checkpoint}
          key: {slug}-${{{{ github.run_id }}}}-${{{{ github.run_attempt }}}}
      - if: always()
        uses: actions/upload-artifact@v4
        with:
          name: output
          path: {output}
          if-no-files-found: ignore
"""


def github_workflow(nightly: Nightly, repository: Path, checkpoint: Path, output: Path | None, version: str) -> str:
    """Return a workflow; it runs on other machines, so its paths count from the repository's root.

    Raises:
        UsageError: a file of the job is not in the repository.
    """
    notes = [
        f"batchchat: every day at {nightly.at:%H:%M} UTC. The checkpoint is kept in the cache, from which GitHub takes",
        "it after a week without a run: then every row is asked again. The log is that of the step.",
        "Exit codes:",
        *(f"  {line}" for line in EXIT_CODES),
    ]
    variable = nightly.key_variable
    secret = f"\n        env:\n          {variable}: ${{{{ secrets.{variable} }}}}" if variable else ""
    return _WORKFLOW.format(
        notes="\n".join(f"# {note}" for note in notes),
        title=_yaml(f"batchchat {nightly.name}"),
        minute=nightly.at.minute,
        hour=nightly.at.hour,
        slug=nightly.slug,
        job=_yaml(_within(repository, nightly.job)),
        version=version,
        # With SQLite's other files.
        checkpoint=_yaml(f"{_within(repository, checkpoint)}*"),
        secret=secret,
        output=_yaml(_within(repository, output) if output else "out"),
    )


def _within(repository: Path, path: Path) -> str:
    if not path.is_relative_to(repository):
        message = f"{path} is not in the repository {repository}, which is all that a workflow has; move it there"
        raise UsageError(message)
    return path.relative_to(repository).as_posix()


def _yaml(text: str) -> str:
    """Return a text in quotes, in which GitHub finds no expression."""
    return json.dumps(text.replace("${{", "${{ '${{' }}"), ensure_ascii=False)


def repository_of(job: Path) -> Path:
    """Return the root of the repository that a job is in. Raises UsageError when it is in none."""
    for folder in job.parents:
        if (folder / ".git").exists():
            return folder
    message = f"{job} is in no git repository, and a workflow runs in one"
    raise UsageError(message)
