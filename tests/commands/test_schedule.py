"""`batchchat schedule` and docs/nightly.md: what they print runs as they say."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from datetime import time
from pathlib import Path

import pytest
import yaml

from batchchat.cli import main
from batchchat.commands.schedule import EXIT_CODES, LONGEST_LINE, Nightly, crontab_lines, systemd_units
from batchchat.errors import UsageError
from tests.running import ROOT, batchchat, write_csv, write_job

CRON = {"SHELL": "/bin/sh", "PATH": "/usr/bin:/bin", "LOGNAME": "nobody"}
"""What cron sets, beside HOME."""


def cron_line(text: str) -> str:
    """Return the one line of a crontab that is no comment."""
    (line,) = [line for line in text.splitlines() if line and not line.startswith("#")]
    return line


def as_cron_runs(line: str, home: Path) -> int:
    """Run a crontab line's command as cron does: by its shell, from home, in its environment; return the exit code."""
    command = line.split(None, 5)[5].replace("\\%", "%")
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=home,
        env={**CRON, "HOME": str(home)},
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert (done.stdout, done.stderr) == (b"", b"")
    return done.returncode


@dataclass(frozen=True)
class Place:
    """A folder with a job whose name and path need quoting; the environment file says where batchchat is."""

    folder: Path
    job: Path

    @property
    def state(self) -> Path:
        """The folder of what runs leave."""
        return self.folder / ".batchchat"

    def lines(self, name: str) -> list[dict[str, object]]:
        """Return the objects of a file of JSON lines."""
        return [json.loads(line) for line in (self.state / name).read_text().splitlines()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Make the folder, with a table of two rows."""
    folder = tmp_path / 'it\'s 100% $HOME "b"'
    folder.mkdir()
    write_csv(folder / "rows.csv", ["a", "b"])
    job = write_job(folder)
    (folder / ".batchchat").mkdir()
    (folder / ".batchchat" / "job.env").write_text(f"PYTHONPATH='{ROOT}'\nKEY_OF_THE_JOB='sk-a b'\n")
    return Place(folder, job)


@pytest.mark.slow
def test_crontab_line_runs_under_crons_own_environment(place: Place, tmp_path: Path) -> None:
    """From another folder, with what cron sets and no more: exit code, summaries and log are as its comments say."""
    printed = batchchat("schedule", place.job, "--at", "02:05")
    assert printed.code == 0, printed.stderr
    line = cron_line(printed.stdout)
    assert line.startswith("5 2 * * * ")
    assert as_cron_runs(line, tmp_path) == 0
    write_job(
        place.folder, request={"model": "stand-in", "messages": [{"role": "user", "content": "n {{ 1 // (id % 2) }}"}]}
    )
    assert as_cron_runs(line, tmp_path) == 1
    (place.folder / "rows.csv").unlink()
    assert as_cron_runs(line, tmp_path) == 2
    summaries = place.lines("job.summaries.jsonl")
    assert [(one["exit_code"], one["outcome"]) for one in summaries] == [
        (0, "finished"),
        (1, "finished"),
        (2, "failed"),
    ]
    log = place.lines("job.log")
    assert [one["event"] for one in log if one["event"] != "progress"] == ["end", "end", "error"]
    assert (place.folder / "out.parquet").exists()
    for name in ("job.summaries.jsonl", "job.log"):
        assert str(place.state / name) in printed.stdout


@pytest.mark.slow
def test_crontab_line_of_a_deep_folder_names_it_once(place: Place, tmp_path: Path) -> None:
    """A line that would be too long for cron with every path from the root still runs, and its comments have them."""
    folder = place.folder / ("100% deep " * 15)
    shutil.copytree(place.folder, folder)
    printed = batchchat("schedule", folder / "job.yaml", "--at", "02:05")
    assert printed.code == 0, printed.stderr
    line = cron_line(printed.stdout)
    assert len(line.encode()) <= LONGEST_LINE
    assert as_cron_runs(line, tmp_path) == 0
    assert (folder / "out.parquet").exists()
    log = folder / ".batchchat" / "job.log"
    assert log.exists()
    assert str(log) in printed.stdout


@pytest.mark.slow
def test_crontab_line_needs_no_environment_file(place: Place, tmp_path: Path) -> None:
    """Where there is none, and not even its folder, the run starts all the same; here it misses what the file said."""
    line = cron_line(batchchat("schedule", place.job, "--at", "02:05").stdout).replace(" -P -m ", " -P -c 'print(1)' ")
    shutil.rmtree(place.state)
    assert as_cron_runs(line, tmp_path) == 0
    assert (place.state / "job.summaries.jsonl").read_text() == "1\n"
    assert place.state.stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
def test_variables_of_the_environment_file_reach_the_run_and_are_printed_nowhere(place: Place, tmp_path: Path) -> None:
    """What the file sets is in the environment of the run, quotes and all; the schedule does not read it."""
    printed = batchchat("schedule", place.job, "--at", "02:05")
    assert "sk-a" not in printed.stdout + printed.stderr
    show = "-c 'import os; print(os.environ[\"KEY_OF_THE_JOB\"])' "
    assert as_cron_runs(cron_line(printed.stdout).replace("-P -m ", show), tmp_path) == 0
    assert (place.state / "job.summaries.jsonl").read_text() == "sk-a b\n"


@pytest.mark.slow
def test_no_module_beside_the_job_is_imported(place: Place, tmp_path: Path) -> None:
    """A file of the job's folder that has the name of a library stays what it is."""
    (place.folder / "click.py").write_text("raise SystemExit(77)")
    assert as_cron_runs(cron_line(batchchat("schedule", place.job, "--at", "02:05").stdout), tmp_path) == 0


def test_what_is_missing_for_the_key_is_said(place: Place) -> None:
    """Where the key is to be put is said as long as it is not there; the schedule is printed all the same."""
    (place.state / "job.env").unlink()
    write_job(place.folder, endpoint={"provider": "groq"})
    printed = batchchat("schedule", place.job, "--at", "23:30")
    assert printed.code == 0
    assert cron_line(printed.stdout).startswith("30 23 * * * ")
    assert "GROQ_API_KEY=..." in printed.stderr


@pytest.mark.parametrize("at", ["24:00", "2", "02:60", "noon", "0 2 * * *"])
def test_time_that_is_none_is_refused(at: str, place: Place) -> None:
    """The error says what a time looks like."""
    ended = batchchat("schedule", place.job, "--at", at)
    assert (ended.code, ended.stdout) == (2, "")
    assert "write one such as 02:00" in ended.stderr


NIGHTLY = Nightly(Path("/srv/jobs/triage.yaml"), "triage", time(2, 0), "OXEN_API_KEY")


def test_line_too_long_for_cron_is_refused() -> None:
    """Cron would cut it, or refuse the whole crontab."""
    deep = Nightly(Path("/srv", *["x" * 200] * 5, "triage.yaml"), "triage", time(2, 0), None)
    assert len(cron_line(crontab_lines(NIGHTLY))) < LONGEST_LINE
    with pytest.raises(UsageError, match=f"cron takes {LONGEST_LINE}"):
        crontab_lines(deep)


def test_name_with_a_line_end_is_refused() -> None:
    """It would begin a line of its own in the crontab."""
    with pytest.raises(UsageError, match="rename it"):
        Nightly(Path("/srv/a\n* * * * * rm/job.yaml"), "triage", time(2, 0), None)


@pytest.mark.slow
def test_systemd_timer_is_what_systemd_takes(place: Place, tmp_path: Path) -> None:
    """The units of a job with odd names pass systemd's own check, and the service runs the command that cron runs."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd here")
    nightly = Nightly(place.job, "a 100% 'job'", time(2, 5), None)
    for name, text in systemd_units(nightly).items():
        (tmp_path / name).write_text(text)
    units = [str(tmp_path / name) for name in systemd_units(nightly)]
    done = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, timeout=300, check=False
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if nightly.slug in line]
    assert said == []


def test_systemd_units_are_printed_under_their_names(place: Place) -> None:
    """Each unit stands below its file's name, and the timer has the time."""
    printed = batchchat("schedule", place.job, "--at", "02:05", "--systemd")
    names = re.findall(r"^# (\S+)\.(service|timer)$", printed.stdout, re.MULTILINE)
    assert [kind for _, kind in names] == ["service", "timer"]
    assert len({name for name, _ in names}) == 1
    assert "OnCalendar=*-*-* 02:05:00" in printed.stdout


PAGE = (ROOT / "docs" / "nightly.md").read_text()


def blocks(language: str) -> list[str]:
    """Return the page's blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_snippets_of_the_page_can_be_read() -> None:
    """The workflow and the manifest are YAML, the Airflow task is Python; a retry spares what cannot pass."""
    workflow, cron_job = (yaml.safe_load(block) for block in blocks("yaml"))
    kept = [step["with"] for step in workflow["jobs"]["run"]["steps"] if "cache" in step.get("uses", "")]
    assert (kept[0]["path"], kept[0]["key"]) == (kept[1]["path"], kept[1]["key"])
    (rule,) = cron_job["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [1, 2, 4]
    for block in blocks("python"):
        ast.parse(block)


def test_commands_of_the_page_have_the_options_that_there_are() -> None:
    """Each `batchchat` command of the page names a command, and options that it has."""
    lines = "\n".join([*blocks("console"), *blocks("yaml")])
    found = re.findall(r"batchchat (run|schedule) ([^|)\n]*)", lines)
    assert len(found) >= 4
    for name, arguments in found:
        options = {option for param in main.commands[name].params for option in param.opts}
        assert set(re.findall(r"--[a-z-]+", arguments)) <= options
    assert set(re.findall(r"`(--[a-z-]+)", PAGE)) <= {
        option for param in main.commands["run"].params for option in param.opts
    }


def test_exit_codes_of_the_page_are_those_of_the_schedule() -> None:
    """The page's table has each exit code once."""
    cells = re.findall(r"^\| ([\d, ]+) \|", PAGE, re.MULTILINE)
    assert sorted(re.findall(r"\d+", " ".join(cells))) == sorted(
        code for line in EXIT_CODES for code in re.findall(r"\d+", line.partition(":")[0])
    )
