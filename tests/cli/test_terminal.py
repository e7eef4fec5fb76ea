"""What strangers wrote steers no terminal and forges no line; odd surroundings lose nothing and end as they should."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pytest

from batchchat.commands.status import job_status
from batchchat.job.file import load_job
from tests.echoing import Echoing, Sent, completion
from tests.running import BATCHCHAT, ROOT, batchchat, write_csv, write_job

pytestmark = pytest.mark.slow

TITLE, CLIPBOARD, CLEAR, C1, BIDI = "\x1b]0;pwned\x07", "\x1b]52;c;cm0=\x07", "\x1b[2J", "\x9b31m\x85", "\u202e\u2066"
EVIL = f"{TITLE}{CLIPBOARD}{CLEAR}{C1}{BIDI}\x08\x7f"
FORGED = "\nbatchchat: everything is fine\n"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def on_a_terminal(*arguments: str, cwd: Path) -> tuple[int, str]:
    """Run the command with everything on one terminal of 200 columns; return its exit code and what it wrote."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 200))
    with subprocess.Popen(
        [*BATCHCHAT, *arguments], cwd=cwd, env=ENVIRONMENT, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):  # Linux says EIO when the other side is closed
            while chunk := os.read(ours, 65536):
                written += chunk
        os.close(ours)
    return process.returncode, written.decode().replace("\r\n", "\n")


def in_a_shell(line: str, cwd: Path) -> tuple[int, str]:
    """Run a shell line in which `$BATCHCHAT` is the command; return its exit code and standard error."""
    environment = {**ENVIRONMENT, "BATCHCHAT": " ".join(BATCHCHAT)}
    done = subprocess.run(
        ["bash", "-c", line], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    return done.returncode, done.stderr


def steering(text: str) -> set[str]:
    """Return what is in a text that a terminal acts upon, but line ends and the sequences of the bar itself."""
    plain = text.replace("\x1b[A", "").replace("\r", "").replace("\n", "").replace("\t", "")
    return {character for character in plain if not character.isprintable() or character in BIDI}


def assert_harmless(text: str) -> None:
    """Nothing steers, and no line pretends to be ours."""
    assert steering(text) == set()
    assert "batchchat: everything is fine" not in text.splitlines()


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Return a folder with an evil name, in which a table has evil column names and rows, and a job an evil name."""
    folder = tmp_path / f"in{EVIL}{FORGED}to"
    folder.mkdir()
    (folder / "rows.csv").write_text(f'id,"te{EVIL}{FORGED}xt"\n"a{EVIL}{FORGED}","x{EVIL}{FORGED}"\nb,c\n', newline="")
    return folder


def write_hostile_job(folder: Path, base_url: str) -> None:
    """Write the job of the hostile folder; a name cannot have C0 controls, everything else in it can."""
    write_job(
        folder,
        name=f"tri{C1}{BIDI}\x7fage",
        input={"path": "rows.csv", "id": "id"},
        output={"path": f"o{EVIL}{FORGED}.csv", "columns": {"model": f"m{EVIL}{FORGED}"}},
        endpoint={"base_url": base_url, "name": "x"},
        request={"model": "m", "messages": [{"role": "user", "content": f'{{{{ row["te{EVIL}{FORGED}xt"] }}}}'}]},
        limits={"max_attempts": 1},
    )


def answer(number: int, headers: Mapping[str, str], body: bytes) -> Sent:
    """Answer the first row with an evil completion, the others with an evil error."""
    if b"x" in json.loads(body)["messages"][0]["content"].encode():
        return Sent(200, completion(f"yes{EVIL}{FORGED}", model=f"m{EVIL}"))
    message = f"no{EVIL}{FORGED}"
    return Sent(400, json.dumps({"error": {"message": message, "code": EVIL}}).encode(), {"x-request-id": "\x9b31m"})


def refuse(number: int, headers: Mapping[str, str], body: bytes) -> Sent:
    """Refuse the job with evil words."""
    return Sent(401, json.dumps({"error": {"message": f"no{EVIL}{FORGED}"}}).encode())


COMMANDS = {
    "terminal": [["run", "job.yaml"], ["status", "job.yaml"], ["preview", "job.yaml", "--send"]],
    "pipe": [["check", "job.yaml"], ["run", "job.yaml", "--json"], ["export", "job.yaml"]],
}


@pytest.mark.slow
@pytest.mark.parametrize("place", ["terminal", "pipe"])
def test_strangers_words_steer_no_terminal(hostile: Path, place: str) -> None:
    """Names of jobs, folders, columns and rows, a model's words and a provider's: shown without what they hide."""
    with Echoing(answer) as endpoint:
        write_hostile_job(hostile, endpoint.base_url)
        for command in COMMANDS[place]:
            if place == "terminal":
                code, written = on_a_terminal(*command, cwd=hostile)
            else:
                ended = batchchat(*command, cwd=hostile)
                code, written = ended.code, ended.stderr
                if "--json" in command:
                    assert ended.summary["output"] == str(hostile / f"o{EVIL}{FORGED}.csv"), "data is exact"
            assert code == (1 if command[0] in ("run", "preview") else 0), written
            if command != ["status", "job.yaml"]:  # a status shows a whole path, and what a failure said, on its lines
                assert_harmless(written)
            assert steering(written) == set()
    table = pl.read_csv(next(hostile.glob("o*.csv")).read_bytes())
    assert table["completion"][0] == f"yes{EVIL}{FORGED}", "files keep what was said"
    assert table["error"][1] == f"no{EVIL}{FORGED}"


def test_json_on_a_pipe_is_exact(hostile: Path) -> None:
    """A program gets what was said, in JSON's own escapes."""
    with Echoing(answer) as endpoint:
        write_hostile_job(hostile, endpoint.base_url)
        shown = batchchat("preview", "job.yaml", "-n", "1", "--send", cwd=hostile).stdout
    assert json.loads(shown)["answer"]["content"] == f"yes{EVIL}{FORGED}"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["terminal", "pipe"])
def test_refusal_with_evil_words_is_harmless(hostile: Path, place: str) -> None:
    """The provider's words may have many lines; none of them begins like one of ours."""
    with Echoing(refuse) as endpoint:
        write_hostile_job(hostile, endpoint.base_url)
        if place == "terminal":
            code, written = on_a_terminal("run", "job.yaml", cwd=hostile)
        else:
            ended = batchchat("run", "job.yaml", cwd=hostile)
            code, written = ended.code, ended.stderr
    assert code == 4
    assert "no key is sent" in written
    assert_harmless(written)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "NAME"],
        ["run", "job.yaml", "NAME"],
        ["run", "job.yaml", "--set", "NAME"],
        ["run", "job.yaml", "--endpoint", "NAME"],
        ["run", "job.yaml", "--output", "NAME.csv/x.csv"],
        ["run", "job.yaml", "--set", "input.path=NAME"],
        ["run", "job.yaml", "--NAME"],
        ["NAME"],
        ["init", "NAME/\0"],
    ],
)
def test_evil_arguments_are_shown_harmless(arguments: list[str], tmp_path: Path) -> None:
    """A shell's `*` makes arguments of whatever the files in a folder are called."""
    write_csv(tmp_path / "rows.csv", ["a"])
    write_job(tmp_path)
    words = [argument.replace("NAME", f"n{EVIL}{FORGED}").replace("\0", "job.yaml") for argument in arguments]
    ended = batchchat(*words, cwd=tmp_path)
    assert ended.code == (0 if arguments[0] == "init" else 2), ended.stderr
    assert ended.stdout == ""
    assert_harmless(ended.stderr)


def test_key_typed_as_an_argument_is_not_repeated(tmp_path: Path) -> None:
    """`--set endpoint.api_key sk-...`, with a space: what click says of it goes to a log."""
    write_job(tmp_path)
    key = "sk-proj-7Hq2VbN9xLr4TzK8mWc5"
    for words in (["--set", "endpoint.api_key", key], ["--set", f"endpoint.api_key={key}"]):
        ended = batchchat("run", "job.yaml", *words, cwd=tmp_path)
        assert ended.code == 2
        assert key not in ended.stderr


# Odd surroundings

ODD = {
    "LANG=C": {"LANG": "C", "LC_ALL": "C", "HOME": "/nowhere/at/all"},
    "ASCII streams": {"LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict"},
    "nothing": {name: None for name in os.environ if name not in ("PYTHONPATH", "PATH")},
}


@pytest.mark.slow
@pytest.mark.parametrize("changes", ODD.values(), ids=list(ODD))
def test_odd_environment_changes_nothing(changes: dict[str, str | None], tmp_path: Path) -> None:
    """Locales without UTF-8, and no home folder: the same output, the same exit code, every character in the file."""
    write_csv(tmp_path / "rows.csv", ["größer", "日本"])
    write_job(tmp_path, name="größer 日本", output={"path": "ausgäbe.csv"})
    environment = {name: value for name, value in {**ENVIRONMENT, **changes}.items() if value is not None}
    for command in ("run", "status") if "PYTHONIOENCODING" in changes else ("run",):
        words = [*BATCHCHAT, command, "job.yaml"]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, timeout=300, check=False)
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
        assert "größer 日本" in done.stdout.decode() or command == "run"
    assert pl.read_csv(tmp_path / "ausgäbe.csv")["text"].to_list() == ["größer", "日本"]


def test_names_that_are_not_utf8_work(tmp_path: Path) -> None:
    """A folder with a name of other bytes: the run works, and `--json` says its path in escapes."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    write_csv(folder / "rows.csv", ["a"])
    job = write_job(folder)
    for command in ("run", "status"):
        ended = batchchat(command, job, "--json")
        assert ended.code == 0, ended.stderr
        assert ended.summary["checkpoint"] == str(folder / ".batchchat" / "job.sqlite")


SHELL = {
    "no standard output": ("run job.yaml --json >&-", 0),
    "no streams at all": ("run job.yaml <&- >&- 2>&-", 0),
    "standard error full": ("run job.yaml 2> /dev/full", 0),
    "nobody reads standard error": ("run job.yaml 2> >(exec true)", 0),
    "JSON to a full disk": ("run job.yaml --json > /dev/full", 2),
    "JSON that nobody reads": ("run job.yaml --json > >(exec true)", 1),
    "refused, JSON that nobody reads": ("run job.yaml --json --set request.model=no-such-model > >(exec true)", 4),
}


@pytest.mark.slow
@pytest.mark.parametrize(("line", "code"), SHELL.values(), ids=list(SHELL))
def test_closed_and_full_streams_lose_nothing(line: str, code: int, tmp_path: Path) -> None:
    """Whatever becomes of what is printed, the run does its work; only data that cannot be written is an error."""
    write_csv(tmp_path / "rows.csv", ["a", "b"])
    job = write_job(tmp_path)
    ended, stderr = in_a_shell(f"$BATCHCHAT {line}", cwd=tmp_path)
    assert ended == code, stderr
    assert "Traceback" not in stderr
    assert "internal error" not in stderr
    assert (tmp_path / "out.parquet").exists() == (code != 4)
    assert job_status(load_job(job)).answers_stored == (0 if code == 4 else 2)


OPEN_FILES = """
import os, sys
from batchchat import __main__, cli

def files(*_, **__):
    with open(sys.argv.pop(), "w") as report:
        report.write(" ".join(os.readlink(f"/proc/self/fd/{number}") for number in range(3)))

cli.main = files
__main__.main()
"""


@pytest.mark.slow
def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    """A library that writes its last words to file 2 must not write them into a checkpoint or an output."""
    in_a_shell(f"{sys.executable} -c '{OPEN_FILES}' run report <&- >&- 2>&-", cwd=tmp_path)
    assert (tmp_path / "report").read_text() == "/dev/null /dev/null /dev/null"


def test_read_only_working_directory_is_no_obstacle(tmp_path: Path) -> None:
    """Nothing is written where the command is started, except by `init`, which says that it cannot."""
    write_csv(tmp_path / "rows.csv", ["a"])
    job, nowhere = write_job(tmp_path), Path("/proc")
    assert batchchat("run", job, cwd=nowhere).code == 0
    assert (tmp_path / "out.parquet").exists()
    ended = batchchat("init", cwd=nowhere)
    assert (ended.code, ended.stderr.count("\n")) == (2, 1)


@pytest.mark.slow
def test_working_directory_that_is_gone_is_no_bug(tmp_path: Path) -> None:
    """A job that is named by its whole path runs, and says where its output is."""
    write_csv(tmp_path / "rows.csv", ["a"])
    job = write_job(tmp_path)
    code, stderr = in_a_shell(f"mkdir gone && cd gone && rmdir ../gone && $BATCHCHAT run '{job}'", cwd=tmp_path)
    assert code == 0, stderr
    assert f"output: {tmp_path / 'out.parquet'}" in stderr
