"""What must come out the same on every Python from 3.11 up, and on every machine."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import batchchat

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


def test_no_pattern_is_possessive_or_atomic() -> None:
    """Python 3.11 before 3.11.5 matches some such patterns wrongly."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text("utf-8")
        if "import re\n" in source:
            found += [f"{path.name}: {one}" for one in _strings(ast.parse(source)) if _is_possessive(one)]
    assert not found
