"""The structure of the package: who imports whom, and one door for each third party."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import batchchat

pytestmark = pytest.mark.slow

PACKAGE = Path(batchchat.__file__).parent

VALUES = {f"batchchat.{name}" for name in ("records", "runs", "errors", "crash_points", "redaction", "json_values")}
COMMANDS = "batchchat.cli"
JOINING = [f"batchchat.{name}" for name in ("commands", "engines", "estimate", "prices")]
"""What joins rooms, from the top down."""
FACADE = "batchchat"
"""`import batchchat` loads nothing of the package until `run` is called: anyone may ask it for the version."""

DOORS = {
    "polars": r"batchchat\.(read|write)\..*",
    "pyarrow": r"batchchat\.(read|write)\..*",
    "genai_prices": r"batchchat\.prices",
    "httpx": r"batchchat\.send\.http\..*",
    "httptools": r"batchchat\.send\.http\.connection",
    "certifi": r"batchchat\.send\.http\.connect",
    "sqlite3": r"batchchat\.checkpoint\..*",
    "click": r"batchchat\.cli\..*",
    "jinja2": r"batchchat\.prompt\..*",
    "jsonschema_rs": r"batchchat\.(send\.structured\.judge|serve\.request\.schema)",
    "PIL": r"batchchat\.prompt\.media\.resize",
    "imagesize": r"batchchat\.serve\..*",
    "pydantic": r"batchchat\.job\..*",
    "pydantic_core": r"batchchat\.job\..*",
    "yaml": r"batchchat\.job\.yaml",
    "tqdm": r"batchchat\.show\.progress",
    "aiohappyeyeballs": r"batchchat\.send\.http\.connect",
    "tenacity": r"batchchat\.send\.policy\.backoff",
    "starlette": r"batchchat\.serve\..*",
    "uvicorn": r"batchchat\.serve\..*",
    "uvloop": r"batchchat\.(engines\.in_process|serve\..*)",
    "orjson": r"batchchat\..*",
}
"""Every third party that the package may import, and the modules that may import it."""

ENDING_CALLS = {"print", "exit", "quit", "input", "sys.exit", "os._exit", "os.abort", "click.echo"}
MOST_POSITIONAL = 6
MOST_FILES = 17
EMPTY_WORDS = {"util", "utils", "helper", "helpers", "manager", "managers"}
CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.datetime.now", "date.today"}
UNSAFE_MODULES = {"pickle", "shelve", "marshal", "dill"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__", "yaml.load", "yaml.unsafe_load", "os.system"}


@dataclass(frozen=True)
class Import:
    """One imported module; `is_for_types` when it stands under `if TYPE_CHECKING`."""

    name: str
    line: int
    is_for_types: bool


def module_name(path: Path) -> str:
    """Return the dotted name of a file of the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_name(path): ast.parse(path.read_bytes()) for path in sorted(PACKAGE.rglob("*.py"))}
SOURCES = {module_name(path): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = sorted(TREES)
TOP = {"batchchat.__main__", *(module for module in MODULES if module.startswith(COMMANDS))}


def room_of(module: str) -> str:
    """Return the folder or file of the package that a module is in."""
    return ".".join(module.split(".")[:2])


def folder_of(module: str) -> str:
    """Return the folder that a module is in, or the module where it stands beside the folders."""
    path = PACKAGE.parent / module.replace(".", "/")
    if path.is_dir():
        return module
    parent = module.rpartition(".")[0]
    return module if parent == "batchchat" else parent


def imports(module: str) -> Iterator[Import]:
    """Yield every import of a module, also those within functions."""
    for_types = {
        id(node)
        for branch in ast.walk(TREES[module])
        if isinstance(branch, ast.If) and ast.unparse(branch.test).endswith("TYPE_CHECKING")
        for statement in branch.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: imports are absolute"
            assert node.module is not None
            names = sorted({_imported(node.module, alias.name) for alias in node.names})
        else:
            continue
        yield from (Import(name, node.lineno, id(node) in for_types) for name in names)


def _imported(module: str, name: str) -> str:
    """`from batchchat import pipeline` imports a module, `from batchchat import __version__` does not."""
    return f"{module}.{name}" if f"{module}.{name}" in TREES else module


def own_imports(module: str, *, with_types: bool) -> list[Import]:
    """Return the imports of the package's own modules."""
    found = [one for one in imports(module) if one.name.partition(".")[0] == "batchchat"]
    return [one for one in found if with_types or not one.is_for_types]


def calls(node: ast.AST) -> set[str]:
    """Return the names of all that is called within a node."""
    return {ast.unparse(one.func) for one in ast.walk(node) if isinstance(one, ast.Call)}


def test_imports_go_one_way() -> None:
    """Values import values, a room itself and values; what joins rooms imports them, and nothing above itself."""
    wrong = []
    for module in MODULES:
        room = room_of(module)
        for one in own_imports(module, with_types=True):
            target = room_of(one.name)
            if module in VALUES:
                allowed = one.name in VALUES
            elif module in TOP or module == FACADE:
                allowed = True
            elif room in JOINING:
                allowed = target not in JOINING or JOINING.index(room) <= JOINING.index(target)
            else:
                allowed = one.name in VALUES or target == room
            if not allowed:
                wrong.append(f"{module}:{one.line} imports {one.name}")
    assert wrong == []


@pytest.mark.slow
def test_no_import_cycles() -> None:
    """No module needs itself, not even by an import within a function; imports for types do not count."""
    needs = {module: {one.name for one in own_imports(module, with_types=False)} for module in MODULES}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_no_cycles_of_folders() -> None:
    """No folder needs itself by way of others, not even for types; a module beside the folders is one by itself."""
    needs: dict[str, set[str]] = {}
    for module in MODULES:
        place = folder_of(module)
        needs.setdefault(place, set()).update(
            folder_of(one.name) for one in own_imports(module, with_types=True) if folder_of(one.name) != place
        )
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        pytest.fail(f"cycle of folders: {' -> '.join(error.args[1])}")


def test_folders_can_be_taken_in_at_a_glance() -> None:
    """No folder has more than seventeen files."""
    counts = Counter(path.parent for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)
    assert [folder.name for folder, count in counts.items() if count > MOST_FILES] == []


@pytest.mark.slow
def test_third_parties_have_one_door_each() -> None:
    """Each library is imported by its own modules alone, elsewhere at most for types; no other library is imported."""
    wrong, imported = [], set()
    for module in MODULES:
        for one in imports(module):
            library = one.name.partition(".")[0]
            imported.add(library)
            if one.is_for_types or library == "batchchat" or library in sys.stdlib_module_names:
                continue
            if not re.fullmatch(DOORS.get(library, ""), module):
                wrong.append(f"{module}:{one.line} imports {library}")
    assert wrong == []
    assert set(DOORS) - imported == set()


@pytest.mark.slow
def test_only_the_command_line_prints_or_exits() -> None:
    """Nothing but the command line prints, ends the process, or takes standard output; progress has standard error."""
    wrong = []
    for module in set(MODULES) - TOP:
        caught = {
            id(name)
            for handler in ast.walk(TREES[module])
            if isinstance(handler, ast.ExceptHandler) and handler.type is not None
            for name in ast.walk(handler.type)
        }
        names = {
            ast.unparse(node)
            for node in ast.walk(TREES[module])
            if isinstance(node, ast.Attribute | ast.Name) and id(node) not in caught
        }
        forbidden = {"SystemExit", "sys.stdout", "sys.__stdout__", "sys.__stderr__"}
        forbidden |= {"sys.stderr"} if module != "batchchat.show.progress" else set()
        found = (calls(TREES[module]) & ENDING_CALLS) | (names & forbidden)
        wrong += [f"{module}: {name}" for name in sorted(found)]
    assert wrong == []


def test_names_say_something() -> None:
    """No module, class or function is named for being of use."""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = [*MODULES, *(n.name for tree in TREES.values() for n in ast.walk(tree) if isinstance(n, definitions))]
    words = {word.lower() for name in names for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}
    assert words & EMPTY_WORDS == set()


def test_importing_has_no_effects() -> None:
    """At import a module only defines: it opens nothing and reads no environment, except to be the command."""
    effects = {"open", "os.getenv", "os.environ.get", "Path.cwd", "os.getcwd"}
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    wrong = [
        f"{module}:{statement.lineno}"
        for module in MODULES
        if module != "batchchat.__main__"
        for statement in TREES[module].body
        if not isinstance(statement, definitions) and calls(statement) & effects
    ]
    assert wrong == []


@pytest.mark.slow
def test_nothing_that_is_read_becomes_code() -> None:
    """No pickle, and nothing that compiles or runs text: rows, replies and checkpoints are data."""
    for module in MODULES:
        assert {one.name.partition(".")[0] for one in imports(module)}.isdisjoint(UNSAFE_MODULES), module
        assert calls(TREES[module]).isdisjoint(UNSAFE_CALLS), module


def test_wall_clock_is_only_for_dates() -> None:
    """It may jump: what waits goes by the monotonic clock, and only dates that are written or read need the other."""
    for_dates = re.compile(
        r"batchchat\.((checkpoint|show|serve)\..*|send\.scheduler\.ask_row|prompt\.media\.folder|job\.(deadline|yaml))"
    )
    assert [one for one in MODULES if calls(TREES[one]) & CLOCKS and not for_dates.fullmatch(one)] == []


def test_tests_see_what_a_caller_sees() -> None:
    """No test reaches into an attribute or a name that is private to the package."""
    wrong = []
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Attribute) and re.match("_[a-z]", node.attr):
                owner = ast.unparse(node.value)
                if owner not in ("self", "cls", *sys.stdlib_module_names):
                    wrong.append(f"{path.name}:{node.lineno}: {owner}.{node.attr}")
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("batchchat"):
                private = [alias.name for alias in node.names if alias.name.startswith("_") and alias.name[1] != "_"]
                wrong += [f"{path.name}:{node.lineno}: {name}" for name in private]
    assert wrong == []


def test_calls_name_their_arguments() -> None:
    """No call has more than six positional arguments; ruff bounds the parameters."""
    found = [
        f"{module}:{node.lineno}"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and len(node.args) > MOST_POSITIONAL
    ]
    assert found == []
