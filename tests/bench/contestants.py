"""Who is measured: batchchat, what people use today, and the wire's limit; each as a command over the same rows."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pyarrow import parquet

from tests.bench.asking import MAX_TOKENS, MODEL, Task
from tests.bench.endpoint import Endpoint, MissingError
from tests.bench.runs import Launch, Run, RunError, run_against
from tests.running import BATCHCHAT

LIBRARIES = ("openai", "aiohttp", "saturate", "matplotlib")
INSTALL = "pip install -e '.[bench]'"


@dataclass(frozen=True)
class Contestant:
    """A way to ask about all rows. The slow ones get fewer rows, so that the whole takes bearable time."""

    name: str
    command: Callable[[Task], Sequence[str]]
    durable: str
    """What is left of the answers when the machine stops, in a word."""
    is_slow: bool = False


def check_libraries(names: Sequence[str] = LIBRARIES) -> None:
    """Make sure that the libraries of the contestants, and that of the plots, are installed.

    Raises:
        MissingError: some are not.
    """
    if lacking := [name for name in names if find_spec(name) is None]:
        message = (
            f"the benchmarks need {', '.join(lacking)}, which {'is' if len(lacking) == 1 else 'are'} not installed"
        )
        raise MissingError(f"{message}; {INSTALL}")


def write_job(
    folder: Path,
    rows: Path,
    base_url: str,
    limits: Mapping[str, Any],
    *,
    limit: int | None = None,
) -> Path:
    """Write batchchat's job over the rows, or the first `limit` of them; its checkpoint and output are in `folder`."""
    job = {
        "input": {"path": str(rows.resolve()), "limit": limit},
        "output": {"path": "answers.parquet"},
        "checkpoint": {"path": "answers.sqlite"},
        "endpoint": {"base_url": base_url, "name": "bench"},
        "request": {"model": MODEL, "messages": [{"role": "user", "content": "{{ text }}"}], "max_tokens": MAX_TOKENS},
        "limits": dict(limits),
    }
    path = folder / "job.yaml"
    path.write_text(json.dumps(job))
    return path


def batchchat_command(job: Path, command: str = "run") -> list[str]:
    """Return batchchat's command for a job."""
    return [*BATCHCHAT, command, str(job), *(["--quiet"] if command == "run" else [])]


def _batchchat(task: Task) -> list[str]:
    job = write_job(task.folder, task.rows, task.base_url, {"concurrency": task.concurrency})
    return batchchat_command(job)


def _script(module: str, variant: str, task: Task) -> list[str]:
    given = Task(task.rows, task.count, task.base_url, task.concurrency, task.folder, variant)
    return [sys.executable, "-m", f"tests.bench.{module}", *given.as_arguments()]


BATCHCHAT_ITSELF = Contestant("batchchat", _batchchat, "SQLite, each")
OPENAI = Contestant("AsyncOpenAI, gather", partial(_script, "asking_openai", ""), "no", is_slow=True)
OPENAI_AIOHTTP = Contestant(
    "AsyncOpenAI, gather, aiohttp extra", partial(_script, "asking_openai", "aiohttp"), "no", is_slow=True
)
SATURATE = Contestant("saturate", partial(_script, "asking_saturate", ""), "Parquet, each 500", is_slow=True)
BARE_DURABLE = Contestant("bare protocol to SQLite", partial(_script, "asking_barely", "durable"), "SQLite, each 256")
BARE = Contestant("bare protocol", partial(_script, "asking_barely", ""), "no")
EVERYONE = (BATCHCHAT_ITSELF, OPENAI, OPENAI_AIOHTTP, SATURATE, BARE_DURABLE, BARE)


def run_contestant(contestant: Contestant, endpoint: Endpoint, task: Task, core: int | None) -> Run:
    """Run a contestant over its task, in the task's folder.

    Raises:
        RunError: it did not end well, or a row has no answer.
    """
    command = contestant.command(task)
    run = run_against(endpoint, contestant.name, command, task.count, task.folder, Launch(core))
    if run.stats.answered < task.count:
        message = f"{contestant.name} got {run.stats.answered} answers for {task.count} rows"
        raise RunError(message)
    if contestant is BATCHCHAT_ITSELF:
        check_output(task.folder / "answers.parquet", task.count)
    return run


def check_output(path: Path, count: int) -> None:
    """Make sure that batchchat's output has an answer in each of its rows.

    Raises:
        RunError: it has not.
    """
    completions = parquet.read_table(path, columns=["completion"])["completion"]
    if len(completions) != count or completions.null_count:
        message = (
            f"batchchat's output has {len(completions)} rows, {completions.null_count} without answer, not {count}"
        )
        raise RunError(message)
