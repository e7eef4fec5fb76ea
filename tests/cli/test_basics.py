"""What the command line answers before any job runs."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import packages_distributions
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

from batchchat import __version__
from batchchat.cli import main
from batchchat.job.job import Checkpoint, Endpoint, Input, Job, Limits, Output, Request
from tests.running import BATCHCHAT, ROOT, batchchat

COMMANDS = [
    *("check", "estimate", "export", "init", "preview", "prune", "run", "schedule", "schema", "serve", "status"),
    "verify",
]
THIRD_PARTIES = sorted(
    name
    for name, packages in packages_distributions().items()
    if name.isidentifier() and not name.startswith("_") and "batchchat" not in packages
)
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def controls(text: str) -> list[str]:
    """Return the control characters of a text, but newlines."""
    return [character for character in text if not character.isprintable() and character != "\n"]


def shell(command: str, cwd: Path) -> tuple[int, str]:
    """Run a shell line in which `$BATCHCHAT` is the command; return its exit code and standard error."""
    environment = {**ENVIRONMENT, "BATCHCHAT": " ".join(BATCHCHAT)}
    done = subprocess.run(
        ["bash", "-c", command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    return done.returncode, done.stderr


@pytest.fixture
def starter(tmp_path: Path) -> Path:
    """A folder with the starter job."""
    assert batchchat("init", cwd=tmp_path).code == 0
    return tmp_path


@contextmanager
def serving(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `batchchat serve` on a free port; yield its process and the first line that it prints."""
    command = [*BATCHCHAT, "serve", "--port", "0", *options]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline()
        finally:
            process.kill()


def test_version_is_printed() -> None:
    """The version goes to standard output, and is the package's."""
    ended = batchchat("--version")
    assert (ended.code, ended.stdout, ended.stderr) == (0, f"batchchat, version {__version__}\n", "")


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_lists_every_command(option: str) -> None:
    """Help names every command with what it does, and the exit codes."""
    ended = batchchat(option)
    assert (ended.code, ended.stderr) == (0, "")
    listed = re.findall(r"^  (\w+)  +[A-Z]\w+ ", ended.stdout.partition("Commands:")[2], re.MULTILINE)
    assert sorted(listed) == COMMANDS == sorted(main.commands)
    assert "129/130/143  interrupted" in ended.stdout
    assert "..." not in ended.stdout.partition("Commands:")[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str) -> None:
    """Each command says what it does, and so does each of its options."""
    ended = batchchat(command, "--help")
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"Usage: batchchat {command} ")
    options = [option for option in main.commands[command].params if isinstance(option, click.Option)]
    assert [option.name for option in options if not option.help] == []
    assert [option.name for option in options if option.opts[-1] not in ended.stdout] == []


def test_schema_has_every_key_of_a_job() -> None:
    """The schema is JSON on standard output, with every section and key, and a description of each."""
    ended = batchchat("schema")
    assert (ended.code, ended.stderr) == (0, "")
    schema = json.loads(ended.stdout)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["properties"].keys() == Job.model_fields.keys()
    assert schema["required"] == ["request"]
    sections: Sequence[type[BaseModel]] = (Input, Output, Checkpoint, Endpoint, Request, Limits)
    for section in sections:
        properties = schema["$defs"][section.__name__]["properties"]
        assert properties.keys() == section.model_fields.keys()
        assert [key for key, value in properties.items() if not value.get("description")] == []


@pytest.mark.slow
def test_starter_job_runs_as_it_stands(tmp_path: Path) -> None:
    """In an empty folder `init` and then `run` label every ticket, without key or network; a log has no controls."""
    written = batchchat("init", cwd=tmp_path)
    assert (written.code, written.stdout) == (0, "")
    assert written.stderr.splitlines() == ["wrote job.yaml", "wrote tickets.csv", "try it: batchchat run job.yaml"]
    ended = batchchat("run", "job.yaml", cwd=tmp_path, env={"OXEN_API_KEY": ""})
    assert (ended.code, ended.stdout) == (0, "")
    assert re.match(r"job: 6 rows: 6 answered, 0 failed · 6 requests, [\d,]+ tokens · [\d.]+ s\n", ended.stderr)
    assert controls(ended.stderr) == []
    with (tmp_path / "labelled.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["ticket_id"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert {row["label"] for row in rows} <= {"billing", "shipping", "bug", "account", "other"}


def test_init_where_a_job_is_changes_nothing(starter: Path) -> None:
    """A second `init` says what is there, and exits with 2."""
    (starter / "job.yaml").write_text("mine")
    ended = batchchat("init", cwd=starter)
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr == "batchchat: job.yaml is there already; name another path: batchchat init other/job.yaml\n"
    assert (starter / "job.yaml").read_text() == "mine"


@pytest.mark.slow
def test_json_is_one_object_on_standard_output(starter: Path) -> None:
    """With --json and --quiet there is one line of JSON on standard output, and nothing else."""
    ended = batchchat("run", "job.yaml", "--json", "--quiet", cwd=starter)
    assert (ended.code, ended.stderr, ended.stdout.count("\n")) == (0, "", 1)
    assert (ended.summary["rows_answered"], ended.summary["exit_code"]) == (6, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["unknown"],
        ["run"],
        ["run", "--unknown", "job.yaml"],
        ["run", "job.yaml", "extra"],
        ["run", "job.yaml", "--limit", "0"],
        ["preview", "job.yaml", "-n", "many"],
        ["serve", "--port", "65536"],
        ["serve", "--fault-rate", "2"],
        ["serve", "--api-key-env", "BATCHCHAT_NO_SUCH_VARIABLE"],
        [],
    ],
)
def test_wrong_arguments_exit_with_2(arguments: list[str], tmp_path: Path) -> None:
    """A command, option or value that does not exist is explained on standard error; nothing is done."""
    ended = batchchat(*arguments, cwd=tmp_path)
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.startswith("Usage: batchchat")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["run", "check", "preview", "status", "export"])
def test_missing_job_file_is_one_line(command: str, tmp_path: Path) -> None:
    """A job file that is not there gives exit code 2, one line with the way out, and leaves nothing behind."""
    ended = batchchat(command, "none.yaml", cwd=tmp_path)
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr == "batchchat: none.yaml: there is no such file; `batchchat init` writes a starter job\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["run", "check", "preview", "status", "export"])
def test_folder_in_place_of_a_job_is_one_line(command: str, tmp_path: Path) -> None:
    """A folder is not a job file: exit code 2, one line."""
    ended = batchchat(command, tmp_path)
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr == f"batchchat: {tmp_path}: cannot be read: Is a directory\n"


def test_export_before_the_first_run_exits_with_3(starter: Path) -> None:
    """Without a checkpoint there is nothing to export; one line says so."""
    ended = batchchat("export", "job.yaml", cwd=starter)
    assert (ended.code, ended.stdout) == (3, "")
    assert ended.stderr.endswith("there is no checkpoint; `batchchat run` makes one\n")
    assert ended.stderr.count("\n") == 1
    assert sorted(path.name for path in starter.iterdir()) == ["job.yaml", "tickets.csv"]


def test_status_before_the_first_run_says_so(starter: Path) -> None:
    """A job that was never run is not started, which is no error."""
    ended = batchchat("status", "job.yaml", cwd=starter)
    assert (ended.code, ended.stdout, ended.stderr) == (0, "job: not started\n", "")
    assert sorted(path.name for path in starter.iterdir()) == ["job.yaml", "tickets.csv"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_prints_its_url_and_stops_on_signals(number: signal.Signals) -> None:
    """`serve --port 0` prints one line, a URL that answers; a signal ends it without a word."""
    with serving() as (process, line):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/api/ai\n", line)
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
        request = urllib.request.Request(
            f"{line.strip()}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=300) as reply:
            assert json.load(reply)["object"] == "chat.completion"
        process.send_signal(number)
        assert process.communicate(timeout=300) == ("", "")
        assert process.returncode == 0


@pytest.mark.slow
def test_serve_on_a_used_port_is_one_line() -> None:
    """A port that another program has gives exit code 2 and one line."""
    with serving() as (_, line):
        port = line.rpartition(":")[2].partition("/")[0]
        ended = batchchat("serve", "--port", port)
    assert (ended.code, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert ended.stderr.startswith(f"batchchat: port {port} on 127.0.0.1 cannot be used")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["--help", "--version", "schema", "preview job.yaml", "status job.yaml --json"])
def test_reader_that_went_away_is_no_error_to_show(command: str, starter: Path) -> None:
    """`batchchat ... | head -0` ends without a word on standard error."""
    assert batchchat("run", "job.yaml", "--quiet", cwd=starter).code == 0
    read_end, write_end = os.pipe()
    os.close(read_end)
    with subprocess.Popen(
        [*BATCHCHAT, *command.split()], cwd=starter, env=ENVIRONMENT, stdout=write_end, stderr=subprocess.PIPE
    ) as process:
        os.close(write_end)
        _, stderr = process.communicate(timeout=300)
    assert stderr == b""
    assert process.returncode == 1


@pytest.mark.slow
@pytest.mark.parametrize("end", [">&-", "> /dev/full"])
def test_output_that_takes_nothing_is_no_internal_error(end: str, tmp_path: Path) -> None:
    """A closed or full standard output is not reported as a bug of batchchat."""
    code, stderr = shell(f"$BATCHCHAT schema {end}", tmp_path)
    assert "internal error" not in stderr
    assert code != 70


@pytest.mark.slow
def test_run_without_standard_error_works(starter: Path) -> None:
    """A job that is started with standard error closed does its work."""
    assert shell("$BATCHCHAT run job.yaml 2>&-", starter) == (0, "")
    assert (starter / "labelled.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=str)
def test_help_loads_nothing_but_click(command: list[str]) -> None:
    """Help waits for no library that only a command needs, and so answers at once."""
    code = f"""
import sys
from batchchat.cli import main
main({[*command, "--help"]!r}, standalone_mode=False)
loaded = {{name.partition(".")[0] for name in sys.modules}}
print(sorted(loaded & {{"asyncio", *{THIRD_PARTIES!r}}}), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "['click']\n"
