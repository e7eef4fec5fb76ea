"""`batchchat schedule`: what it prints runs as it says, and nothing is installed unless asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from datetime import time
from pathlib import Path

import pytest
import yaml

from batchchat.errors import UsageError
from batchchat.scheduling import LONGEST_LINE, Nightly, crontab_block, crontab_with, github_workflow, systemd_units
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
        timeout=60,
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


def test_crontab_line_needs_no_environment_file(place: Place, tmp_path: Path) -> None:
    """Where there is none, and not even its folder, the run starts all the same; here it misses what the file said."""
    line = cron_line(batchchat("schedule", place.job, "--at", "02:05").stdout).replace(" -P -m ", " -P -c 'print(1)' ")
    shutil.rmtree(place.state)
    assert as_cron_runs(line, tmp_path) == 0
    assert (place.state / "job.summaries.jsonl").read_text() == "1\n"
    assert place.state.stat().st_mode & 0o777 == 0o700


def test_variables_of_the_environment_file_reach_the_run_and_are_printed_nowhere(place: Place, tmp_path: Path) -> None:
    """What the file sets is in the environment of the run, quotes and all; the schedule does not read it."""
    printed = batchchat("schedule", place.job, "--at", "02:05")
    assert "sk-a" not in printed.stdout + printed.stderr
    show = "-c 'import os; print(os.environ[\"KEY_OF_THE_JOB\"])' "
    assert as_cron_runs(cron_line(printed.stdout).replace("-P -m ", show), tmp_path) == 0
    assert (place.state / "job.summaries.jsonl").read_text() == "sk-a b\n"


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
    assert len(cron_line(crontab_block(NIGHTLY))) < LONGEST_LINE
    with pytest.raises(UsageError, match=f"cron takes {LONGEST_LINE}"):
        crontab_block(deep)


def test_name_with_a_line_end_is_refused() -> None:
    """It would begin a line of its own in the crontab."""
    with pytest.raises(UsageError, match="rename it"):
        Nightly(Path("/srv/a\n* * * * * rm/job.yaml"), "triage", time(2, 0), None)


def test_job_has_one_block_in_a_crontab() -> None:
    """Installing again takes the place of the job's own lines, and leaves all others, to the byte, where they are."""
    others = "MAILTO=me@example.org\n\n# mine\n*/5 * * * * true # \udcff"
    once = crontab_with(NIGHTLY, others)
    assert once == f"{others}\n{crontab_block(NIGHTLY)}"
    later = Nightly(NIGHTLY.job, "triage", time(3, 0), None)
    assert crontab_with(later, once + "@daily true\n") == f"{others}\n@daily true\n{crontab_block(later)}"
    second = Nightly(Path("/srv/other/triage.yaml"), "triage", time(2, 0), None)
    assert crontab_with(second, once) == once + crontab_block(second)
    assert crontab_with(NIGHTLY, "") == crontab_block(NIGHTLY)


def test_half_a_block_is_not_guessed_at() -> None:
    """Where somebody has taken the end away, nothing is replaced."""
    with pytest.raises(UsageError, match="crontab -e"):
        crontab_with(NIGHTLY, crontab_block(NIGHTLY).replace("# END", "# end"))


CRONTAB = """#!/bin/sh
case "$1" in
-l) [ -f "$HOME/crontab" ] && cat "$HOME/crontab" || { echo "no crontab for me" >&2; exit 1; } ;;
-) cat > "$HOME/crontab" ;;
esac
"""
SYSTEMCTL = '#!/bin/sh\necho "$@" >> "$HOME/systemctl"\n'


def with_command(folder: Path, name: str, script: str) -> dict[str, str]:
    """Put a command in the place of a system's; return the environment that has it."""
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / name).write_text(script)
    (folder / "bin" / name).chmod(0o755)
    return {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "HOME": str(folder), "XDG_CONFIG_HOME": ""}


def test_crontab_is_installed_only_when_asked_for(place: Place, tmp_path: Path) -> None:
    """Without --install the crontab is not touched; with it, twice, it has the line once."""
    env = with_command(tmp_path, "crontab", CRONTAB)
    assert batchchat("schedule", place.job, "--at", "02:05", env=env).code == 0
    assert not (tmp_path / "crontab").exists()
    (tmp_path / "crontab").write_text("@daily true\n")
    for _ in range(2):
        ended = batchchat("schedule", place.job, "--at", "02:05", "--install", env=env)
        assert (ended.code, ended.stdout) == (0, ""), ended.stderr
    installed = (tmp_path / "crontab").read_text()
    assert installed.startswith("@daily true\n# BEGIN batchchat-job-")
    assert installed.count("-m batchchat run") == 1
    assert as_cron_runs(cron_line(installed.removeprefix("@daily true\n")), tmp_path) == 0


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("#!/bin/sh\necho 'you may not use crontab' >&2; exit 1\n", "you may not use crontab"),
        (None, "cannot be started"),
    ],
)
def test_crontab_that_cannot_be_read_is_not_replaced(
    script: str | None, words: str, place: Place, tmp_path: Path
) -> None:
    """An error of crontab is told, and so is that there is none; neither is taken for an empty crontab."""
    env = with_command(tmp_path, "crontab", script or "")
    if script is None:
        (tmp_path / "bin" / "crontab").unlink()
        env["PATH"] = str(tmp_path / "bin")
    ended = batchchat("schedule", place.job, "--at", "02:05", "--install", env=env)
    assert ended.code == 2
    assert words in ended.stderr


def test_systemd_timer_is_what_systemd_takes(place: Place, tmp_path: Path) -> None:
    """The units of a job with odd names pass systemd's own check, and the service runs the command that cron runs."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd here")
    nightly = Nightly(place.job, "a 100% 'job'", time(2, 5), None)
    for name, text in systemd_units(nightly).items():
        (tmp_path / name).write_text(text)
    units = [str(tmp_path / name) for name in systemd_units(nightly)]
    done = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, timeout=60, check=False
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if nightly.slug in line]
    assert said == []


def test_systemd_units_are_installed_and_enabled(place: Place, tmp_path: Path) -> None:
    """The two files are in the user's folder, and systemd is told of them; printed, they are only printed."""
    env = with_command(tmp_path, "systemctl", SYSTEMCTL)
    printed = batchchat("schedule", place.job, "--at", "02:05", "--systemd", env=env)
    assert "OnCalendar=*-*-* 02:05:00" in printed.stdout
    assert not (tmp_path / ".config").exists()
    assert not (tmp_path / "systemctl").exists()
    assert batchchat("schedule", place.job, "--at", "02:05", "--systemd", "--install", env=env).code == 0
    timer, service = sorted(path.name for path in (tmp_path / ".config/systemd/user").iterdir())[::-1]
    assert (timer.removesuffix(".timer"), timer[-6:]) == (service.removesuffix(".service"), ".timer")
    told = (tmp_path / "systemctl").read_text().splitlines()
    assert told[1:] == ["--user daemon-reload", f"--user enable --now {timer}"]


def test_workflow_runs_the_job_from_the_repositorys_root(place: Place) -> None:
    """Its paths count from the root, the key is named and stays where GitHub keeps it, and the checkpoint is kept."""
    nightly = Nightly(place.job, "a ${{ github.token }}: 'job'", time(2, 5), "GROQ_API_KEY")
    text = github_workflow(
        nightly, place.folder.parent, place.state / "job.sqlite", place.folder / "out.parquet", "0.1.0"
    )
    workflow = yaml.safe_load(text)
    assert workflow[True]["schedule"] == [{"cron": "5 2 * * *"}]
    job = workflow["jobs"]["run"]
    assert job["env"] == {"JOB": f"{place.folder.name}/job.yaml"}
    run = next(step for step in job["steps"] if "batchchat run" in step.get("run", ""))
    assert run["env"] == {"GROQ_API_KEY": "${{ secrets.GROQ_API_KEY }}"}
    kept = [step["with"] for step in job["steps"] if "cache" in step.get("uses", "")]
    assert kept[0]["key"] == kept[1]["key"]
    assert kept[0]["path"] == kept[1]["path"] == f"{place.folder.name}/.batchchat/job.sqlite*"
    assert "${{ github.token" not in workflow["name"]
    assert "UTC" in text


def test_workflow_is_written_into_the_repository(place: Place) -> None:
    """With --install it is a file among the repository's workflows; outside of one there is nothing to install."""
    outside = batchchat("schedule", place.job, "--at", "02:05", "--github")
    assert (outside.code, outside.stdout) == (2, "")
    assert "in no git repository" in outside.stderr
    (place.folder / ".git").mkdir()
    assert batchchat("schedule", place.job, "--at", "02:05", "--github", "--install").code == 0
    (written,) = (place.folder / ".github/workflows").iterdir()
    assert written.read_text() == batchchat("schedule", place.job, "--at", "02:05", "--github").stdout
