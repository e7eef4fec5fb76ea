"""What the README and the documents say is what there is."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from batchchat import cli, errors
from batchchat.job.job import PRESETS, Checkpoint, Endpoint, Input, Job, Limits, Notify, Output, Price, Request
from batchchat.write.columns import COLUMNS
from tests.running import ROOT, batchchat

README = (ROOT / "README.md").read_text()
DOCS = {path.stem: path.read_text() for path in (ROOT / "docs").glob("*.md")}
MOST_WORDS = 1_000
SECTIONS: dict[str, type[BaseModel]] = {
    "input": Input,
    "output": Output,
    "checkpoint": Checkpoint,
    "endpoint": Endpoint,
    "limits": Limits,
    "price": Price,
    "notify": Notify,
}


def table_of(document: str, heading: str = "") -> str:
    """Return the first table of a document, or the first one after a heading."""
    match = re.search(rf"{heading}\n.*?\n((?:\|[^\n]*\n)+)", DOCS[document], re.DOTALL)
    assert match is not None
    return match.group(1)


def test_readme_is_short() -> None:
    """A newcomer reads it in a few minutes."""
    assert len(README.split()) <= MOST_WORDS


def test_every_key_of_the_job_file_is_in_the_table() -> None:
    """The keys of the table are the keys of the models, and no others."""
    named = set(re.findall(r"`([a-z_]+\.[a-z_]+|name)`", "\n".join(_first_cells(table_of("job-file")))))
    keys = {f"{section}.{key}" for section, model in SECTIONS.items() for key in model.model_fields}
    assert named == keys | {"name", *(f"request.{key}" for key in Request.model_fields)}
    assert set(Job.model_fields) == {*SECTIONS, "name", "request"}


def test_defaults_in_the_table_are_the_defaults() -> None:
    """Numbers in the table's default column are those of the models."""
    limits = Limits()
    for key in ("max_attempts", "timeout_s", "grace_s"):
        row = next(line for line in DOCS["job-file"].splitlines() if f"`limits.{key}`" in line)
        assert float(row.split("|")[2]) == getattr(limits, key)


def test_every_provider_is_named() -> None:
    """The providers of the table are the presets."""
    row = next(line for line in DOCS["job-file"].splitlines() if "`endpoint.provider`" in line)
    assert set(re.findall(r"`([a-z]+)`", row.split("|")[3])) == set(PRESETS)


def test_columns_of_the_table_are_the_output_contract() -> None:
    """The table names the new columns in their order."""
    names = re.findall(r"`(\w+)`", "\n".join(_first_cells(table_of("columns"))))
    assert names == list(COLUMNS)


def test_every_command_and_option_is_named() -> None:
    """The table names each command, and the options that a command of the table has exist."""
    table = table_of("commands")
    commands = cli.main.commands
    rows = {name: line for line in table.splitlines() for name in re.findall(r"`([a-z]+)[ `]", line.split("|")[1])}
    assert set(rows) == set(commands)
    for name, line in rows.items():
        options = {option for param in commands[name].params for option in param.opts}
        if name not in ("init", "schema"):
            assert set(re.findall(r"`(--?[a-z-]+)", line)) <= options, name


def test_exit_codes_of_the_table_are_those_of_the_errors() -> None:
    """Each documented exit code is one that an error or an end of a run has."""
    codes = {int(code) for cell in _first_cells(table_of("errors")) for code in re.findall(r"\d+", cell)}
    found = {errors.EXIT_ANSWERED, errors.EXIT_ROWS_FAILED, *(128 + number for number in errors.STOPPING_SIGNALS)}
    found |= {kind.exit_code for kind in (errors.UsageError, errors.CheckpointError)}
    found |= {kind.exit_code for kind in (errors.EndpointRefusedError, errors.LimitReachedError)}
    assert codes == found


@pytest.mark.slow
def test_keys_of_the_summary_are_those_of_the_table(tmp_path: Path) -> None:
    """The object of `--json` has the documented keys, and no others."""
    assert batchchat("init", tmp_path / "job.yaml").code == 0
    found = batchchat("run", tmp_path / "job.yaml", "--json").summary
    named = re.findall(r"`([a-z_]+)`", "\n".join(_first_cells(table_of("nightly", "## What a run says of itself"))))
    assert sorted(named) == sorted(found)


def test_job_on_the_first_screen_is_the_demo_job() -> None:
    """What a newcomer reads first is what `make demo` runs."""
    match = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert match is not None
    assert yaml.safe_load(match.group(1)) == yaml.safe_load((ROOT / "jobs" / "triage.yaml").read_text())


def test_linked_files_exist() -> None:
    """No link leads nowhere."""
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_map_names_what_is_there() -> None:
    """Each folder and file of the map exists, and each folder of the package is on it."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = {
        name
        for cell in _first_cells(text[text.index("| folder") :].partition("\n\n")[0])
        for name in re.findall(r"`([^`]+)`", cell)
    }
    assert [name for name in named if not (ROOT / "batchchat" / name).exists()] == []
    folders = {f"{path.parent.relative_to(ROOT / 'batchchat')}/" for path in (ROOT / "batchchat").glob("*/__init__.py")}
    assert folders - named == set()


@pytest.mark.slow
def test_python_example_runs(tmp_path: Path) -> None:
    """The first Python line of the README gives a frame with the new columns."""
    code = "import batchchat; frame = batchchat.run('jobs/triage.yaml'); print(frame.height, 'label' in frame.columns)"
    assert 'batchchat.run("jobs/triage.yaml")' in README
    for name in ("jobs", "sample_data"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns(".batchchat"))
    (tmp_path / "out").mkdir()
    command, environment = [sys.executable, "-c", code], {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "200 True\n", done.stderr


@pytest.mark.slow
def test_commands_for_a_first_table_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, and the last asks only what those before it did not."""
    monkeypatch.chdir(tmp_path)
    block = README.partition("## Your own table")[2].partition("```console\n")[2].partition("```")[0]
    commands = [line.partition("#")[0].split()[2:] for line in block.splitlines()]
    assert [command[0] for command in commands] == ["init", "check", "preview", "run", "run"]
    *others, last = commands
    for command in others:
        assert batchchat(*command).code == 0, command
    summary = batchchat(*last, "--json").summary
    assert (summary["exit_code"], summary["rows_reused"], summary["rows_asked"]) == (0, 2, 4)


def _first_cells(table: str) -> list[str]:
    return [line.split("|")[1] for line in table.splitlines()[2:]]
