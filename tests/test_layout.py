"""The structure of the package: who imports whom, one door for each third party, small files, described names."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import batchchat

PACKAGE = Path(batchchat.__file__).parent
MAX_FILE_LINES = 400
MAX_BODY_LINES = 60

VALUES = {"batchchat.records", "batchchat.runs", "batchchat.errors", "batchchat.crashpoint"}
COMMANDS = "batchchat.cli"
FACADE = "batchchat"
"""`import batchchat` loads nothing of the package until `run` is called: anyone may ask it for the version."""

DOORS = {
    "polars": r"batchchat\.(read|write)\..*",
    "pyarrow": r"batchchat\.(read|write)\..*",
    "genai_prices": r"batchchat\.prices",
    "httpx": r"batchchat\.send\.(transport|connections|exchange|pricelist|webhook)",
    "httptools": r"batchchat\.send\.exchange",
    "certifi": r"batchchat\.send\.opening",
    "sqlite3": r"batchchat\.keep\..*",
    "click": r"batchchat\.cli\..*",
    "jinja2": r"batchchat\.prompt\..*",
    "jsonschema_rs": r"batchchat\.send\.structured",
    "PIL": r"batchchat\.prompt\.image",
    "imagesize": r"batchchat\.serve\..*",
    "pydantic": r"batchchat\.(job|jobfile|jobproblems|jobtypes|responseschema)",
    "pydantic_core": r"batchchat\.(job|jobfile|jobproblems)",
    "yaml": r"batchchat\.jobyaml",
    "tqdm": r"batchchat\.show\.progress",
    "tenacity": r"batchchat\.send\.retry",
    "starlette": r"batchchat\.serve\..*",
    "uvicorn": r"batchchat\.serve\..*",
    "uvloop": r"batchchat\.(asking|serve\..*)",
    "orjson": r"batchchat\..*",
}
"""Every third party that the package may import, and the modules that may import it."""

ENDING_CALLS = {"print", "exit", "quit", "input", "sys.exit", "os._exit", "os.abort", "click.echo"}
EMPTY_WORDS = {"util", "utils", "helper", "helpers", "manager", "managers"}


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
ROOMS = {f"batchchat.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py")} - {COMMANDS}
MODULES = sorted(TREES)
TOP = {"batchchat.__main__", *(module for module in MODULES if module.startswith(COMMANDS))}
each_module = pytest.mark.parametrize("module", MODULES)


def room_of(module: str) -> str | None:
    """Return the room that a module is in, None for those that stand beside the rooms."""
    room = ".".join(module.split(".")[:2])
    return room if room in ROOMS else None


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


def functions(module: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function and method of a module, nested ones too."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def public_definitions(
    body: list[ast.stmt], prefix: str = ""
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    """Yield the public functions, classes and methods by their names."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield f"{prefix}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body, f"{prefix}{node.name}.")


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many lines a function's body takes, without its docstring."""
    first = function.body[1 if ast.get_docstring(function) is not None and len(function.body) > 1 else 0]
    assert function.end_lineno is not None
    return function.end_lineno - first.lineno + 1


def test_the_rooms_are_those_of_the_design() -> None:
    """A new room is a decision: it is named in the design, and here."""
    rooms = {"read", "prompt", "send", "keep", "write", "show", "serve", "starter"}
    assert {room.removeprefix("batchchat.") for room in ROOMS} == rooms


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module: str) -> None:
    """A value imports values, a room itself and values, a module beside the rooms any but the command line."""
    room = room_of(module)
    for one in own_imports(module, with_types=True):
        if module in VALUES:
            allowed = one.name in VALUES
        elif room is not None:
            allowed = one.name in VALUES or room_of(one.name) == room
        elif module in TOP:
            allowed = True
        else:
            allowed = one.name not in TOP and one.name != FACADE
        assert allowed, f"{module}:{one.line} imports {one.name}"


def test_no_import_cycles() -> None:
    """No module needs itself, not even by an import within a function; imports for types do not count."""
    needs = {module: {one.name for one in own_imports(module, with_types=False)} for module in MODULES}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@each_module
def test_third_parties_have_one_door_each(module: str) -> None:
    """Each library is imported by its own modules alone, elsewhere at most for types; no other library is imported."""
    for one in imports(module):
        library = one.name.partition(".")[0]
        if one.is_for_types or library == "batchchat":
            continue
        if library in DOORS:
            assert re.fullmatch(DOORS[library], module), f"{module}:{one.line} imports {library}"
        else:
            assert library in sys.stdlib_module_names, f"{module}:{one.line} imports {library}, which has no door"


def test_every_door_is_used() -> None:
    """The list of doors has no library that the package does not import any more."""
    imported = {one.name.partition(".")[0] for module in MODULES for one in imports(module)}
    assert set(DOORS) - imported == set()


@each_module
def test_only_the_command_line_prints_or_exits(module: str) -> None:
    """Nothing but the command line prints, ends the process, or takes standard output; progress has standard error."""
    if module in TOP:
        return
    caught = {
        id(name)
        for handler in ast.walk(TREES[module])
        if isinstance(handler, ast.ExceptHandler) and handler.type is not None
        for name in ast.walk(handler.type)
    }
    for node in ast.walk(TREES[module]):
        where = f"{module}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ENDING_CALLS, where
        if isinstance(node, ast.Attribute | ast.Name):
            name = "" if id(node) in caught else ast.unparse(node)
            assert name not in ("SystemExit", "sys.stdout", "sys.__stdout__", "sys.__stderr__"), where
            assert name != "sys.stderr" or module == "batchchat.show.progress", where


@pytest.mark.parametrize("module", MODULES)
def test_files_are_short(module: str) -> None:
    """A file is read in one go."""
    assert len(SOURCES[module].splitlines()) <= MAX_FILE_LINES


@each_module
def test_functions_are_short(module: str) -> None:
    """A function's body, without its docstring, fits on a screen."""
    long = {function.name: body_lines(function) for function in functions(module)}
    assert {name: lines for name, lines in long.items() if lines > MAX_BODY_LINES} == {}


@each_module
def test_everything_public_is_described(module: str) -> None:
    """Every module, and every public class, function and method, has a docstring."""
    assert ast.get_docstring(TREES[module]), module
    definitions = public_definitions(TREES[module].body)
    assert [name for name, node in definitions if not ast.get_docstring(node)] == []


@each_module
def test_names_say_something(module: str) -> None:
    """No module, class or function is named for being of use."""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = [module, *(node.name for node in ast.walk(TREES[module]) if isinstance(node, definitions))]
    words = {word.lower() for name in names for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}
    assert words & EMPTY_WORDS == set()


@each_module
def test_importing_has_no_effects(module: str) -> None:
    """At import a module only defines: it opens nothing and reads no environment, except to be the command."""
    if module == "batchchat.__main__":
        return
    calls = {
        ast.unparse(node.func)
        for statement in TREES[module].body
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        for node in ast.walk(statement)
        if isinstance(node, ast.Call)
    }
    assert calls & {"open", "os.getenv", "os.environ.get", "Path.cwd", "os.getcwd"} == set()


@each_module
def test_nothing_that_is_read_becomes_code(module: str) -> None:
    """No pickle, and nothing that compiles or runs text: rows, replies and checkpoints are data."""
    assert {one.name.partition(".")[0] for one in imports(module)}.isdisjoint({"pickle", "shelve", "marshal", "dill"})
    calls = {ast.unparse(node.func) for node in ast.walk(TREES[module]) if isinstance(node, ast.Call)}
    assert calls.isdisjoint({"eval", "exec", "compile", "__import__", "yaml.load", "yaml.unsafe_load", "os.system"})


@each_module
def test_wall_clock_is_only_for_dates(module: str) -> None:
    """It may jump: what waits goes by the monotonic clock, and only dates that are written or read need the other."""
    calls = {ast.unparse(node.func) for node in ast.walk(TREES[module]) if isinstance(node, ast.Call)}
    is_for_dates = re.fullmatch(
        r"batchchat\.((keep|show|serve)\..*|send\.reading|prompt\.media|deadline|jobyaml)", module
    )
    clocks = {"time.time", "time.time_ns", "datetime.now", "datetime.datetime.now", "date.today"}
    assert is_for_dates or calls.isdisjoint(clocks)
    if module == "batchchat.send.reading":  # where it reads the dates in headers
        assert SOURCES[module].count("time.time()") == SOURCES[module].count("unix_now=time.time()") >= 1
