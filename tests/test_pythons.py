"""What must come out the same on every Python from 3.11 up, and on every machine."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import batchchat
from tests.running import batchchat_process as command
from tests.running import write_csv, write_job

PACKAGE = Path(batchchat.__file__).parent
_ESCAPES_AND_CLASSES = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)


def _is_possessive(pattern: str) -> bool:
    return re.search(r"[*+?}]\+|\(\?>", _ESCAPES_AND_CLASSES.sub("x", pattern)) is not None


def _strings(tree: ast.Module) -> Iterator[str]:
    """Yield a module's string constants but its docstrings."""
    prose = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node not in prose and isinstance(node.value, (str, bytes)):
            yield node.value if isinstance(node.value, str) else node.value.decode("latin-1")


@pytest.mark.parametrize("pattern", ["a*+", "a++b", "(?:a|b)?+", "a{2}+", "(?>a)", r"[\]]*+"])
def test_possessive_patterns_are_told(pattern: str) -> None:
    """The check below sees each form."""
    assert _is_possessive(pattern)
    assert not _is_possessive(rf"[{re.escape(pattern)}]\++")


@pytest.mark.slow
def test_no_pattern_is_possessive_or_atomic() -> None:
    """Python 3.11 before 3.11.5 matches some such patterns wrongly."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text("utf-8")
        if "import re\n" in source:
            found += [f"{path.name}: {one}" for one in _strings(ast.parse(source)) if _is_possessive(one)]
    assert not found


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
MACHINES: list[dict[str, str]] = [
    {"LANG": "C", "LC_ALL": "C", "TZ": "Asia/Kolkata", "HOME": "/nonexistent", "PYTHONHASHSEED": "1"},
    {"LANG": "C.UTF-8", "LC_ALL": "", "TZ": "Australia/Adelaide", "PYTHONHASHSEED": "2"},
    {**ASCII, "TZ": "America/St_Johns", "PYTHONHASHSEED": "3"},
]
STRICT = {"PYTHONDEVMODE": "1", "PYTHONWARNINGS": "error", "PYTHONWARNDEFAULTENCODING": "1"}


@pytest.mark.slow
def test_other_locales_and_time_zones_change_nothing(tmp_path: Path) -> None:
    """A run elsewhere finds every answer, writes the same bytes, and leaves nothing open or to a default encoding."""
    write_csv(tmp_path / "rows.csv", ["naïve", "Grüße", "日本"])
    messages = [{"role": "user", "content": "{{ text | upper }} {{ [0.1, 0.2, 0.3] | sum }}"}]
    job = write_job(tmp_path, output={"path": "out.csv"}, request={"model": "stand-in", "messages": messages})
    asked, outputs = [], set()
    for machine in MACHINES:
        ended = command("run", job, "--json", env={**STRICT, **machine})
        said = re.sub(r"(?m)^Executing <.* seconds\n", "", ended.stderr)  # what asyncio says on a busy machine
        assert (ended.code, said) == (0, "")
        asked.append(ended.summary["rows_asked"])
        outputs.add((tmp_path / "out.csv").read_bytes())
        assert command("verify", job, env={**STRICT, **machine}).code == 0
    assert asked == [3, 0, 0]
    assert len(outputs) == 1


@pytest.mark.slow
def test_path_beyond_the_locale_is_a_problem_of_the_job(tmp_path: Path) -> None:
    """Where file names are ASCII, another one is refused with what to do."""
    write_csv(tmp_path / "rows.csv", ["a"])
    ended = command("check", write_job(tmp_path, output={"path": "ö.csv"}), env=ASCII)
    assert ended.code == 2
    assert "cannot be a file name in ascii, the locale's encoding; set LANG=C.UTF-8" in ended.stderr


@pytest.mark.slow
def test_sums_of_a_template_are_those_of_every_python(tmp_path: Path) -> None:
    """Python 3.12 adds floats in another way; a request must not change, or it is paid for again."""
    write_csv(tmp_path / "rows.csv", ["a"])
    messages = [{"role": "user", "content": "{{ [0.1, 0.2, 0.3] | sum }}"}]
    job = write_job(tmp_path, request={"model": "stand-in", "messages": messages})
    assert '"content":"0.6000000000000001"' in command("preview", job).stdout
