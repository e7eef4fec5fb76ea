"""What whole-run tests share: a folder with a job, the command, and the endpoint's ledger."""

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from batchchat.cli import main
from batchchat.errors import STOPPING_SIGNALS

BATCHCHAT = [sys.executable, "-m", "batchchat"]
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def summary(self) -> dict[str, Any]:
        """The object that `--json` printed."""
        found: dict[str, Any] = json.loads(self.stdout)
        return found


def batchchat(*arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Ended:
    """Run the command to its end within this process, which spares it the imports: most of a short command's time."""
    with _process_as_before(), contextlib.chdir(cwd or Path.cwd()):
        done = CliRunner().invoke(main, [*map(str, arguments)], prog_name="batchchat", env=env)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Ended(done.exit_code, done.stdout, done.stderr)


def batchchat_process(*arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Ended:
    """Run the command to its end in a process of its own."""
    done = subprocess.run(
        [*BATCHCHAT, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return Ended(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def _process_as_before() -> Iterator[None]:
    """Undo what a command sets for its process: the handlers of signals, and what the garbage collector passes over."""
    handlers = {number: signal.getsignal(number) for number in STOPPING_SIGNALS}
    try:
        yield
    finally:
        gc.unfreeze()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def write_job(folder: Path, **changes: Any) -> Path:
    """Write `job.yaml`: `rows.csv` in, `out.parquet` out, through the embedded endpoint; `changes` replace sections."""
    job: dict[str, Any] = {
        "input": {"path": "rows.csv"},
        "output": {"path": "out.parquet"},
        "endpoint": {"provider": "local"},
        "request": {"model": "stand-in", "messages": [{"role": "user", "content": "Repeat: {{ text }}"}]},
    }
    path = folder / "job.yaml"
    path.write_text(json.dumps({**job, **changes}))
    return path


def write_csv(path: Path, texts: Sequence[str]) -> None:
    """Write a CSV with a number and a text in each row."""
    path.write_text("id,text\n" + "".join(f'{number},"{text}"\n' for number, text in enumerate(texts)))


def ledger(path: Path) -> list[dict[str, Any]]:
    """Return what the embedded endpoint wrote about each request."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
