"""Measure, and print tables of Markdown: `python -m tests.bench [NAME...]`.

The tables and their plots are also written to a folder. Exits with 1 when a target was missed at full size or a
scenario failed, and with 2 when something is not installed.
"""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from tests.bench.contestants import check_libraries
from tests.bench.cores import choose_cores
from tests.bench.endpoint import MissingError, find_nginx
from tests.bench.environment import describe
from tests.bench.long_runs import measure_million, measure_resume
from tests.bench.pace import measure_auto, measure_latency, measure_queue
from tests.bench.plots import draw
from tests.bench.quotas import REQUESTS, TOKENS, measure_quota
from tests.bench.report import Report, as_markdown
from tests.bench.runs import RunError, compile_checkout, end_all_runs
from tests.bench.side_by_side import measure_side_by_side
from tests.bench.stage import QUICK, Stage

SCENARIOS: Mapping[str, Callable[[Stage], Report]] = {
    "wire": partial(measure_side_by_side, name="wire", concurrency=64),
    "wire512": partial(measure_side_by_side, name="wire512", concurrency=512),
    "latency": measure_latency,
    "auto500": measure_auto,
    "queue64": measure_queue,
    "rpm": partial(measure_quota, quota=REQUESTS),
    "tpm": partial(measure_quota, quota=TOKENS),
    "resume": measure_resume,
    "million": measure_million,
}
ONLY_WHEN_NAMED = {"million"}


def main() -> int:
    """Run the scenarios that are named, or all but the longest; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    defaults = [name for name in SCENARIOS if name not in ONLY_WHEN_NAMED]
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(SCENARIOS)}; default: {', '.join(defaults)}"
    )
    parser.add_argument("--out", type=Path, default=Path("bench-results"), help="folder of the results: %(default)s")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the size: to see that it works")
    parser.add_argument("--full", action="store_true", help="give the slow contestants all rows too")
    given = parser.parse_args()
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, _leave)
    if unknown := set(given.names) - set(SCENARIOS):
        parser.error(f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    try:
        find_nginx()
        check_libraries()
        compile_checkout()
        given.out.mkdir(parents=True, exist_ok=True)
        return _measure_all(given.names or defaults, given.out, is_quick=given.quick, is_full=given.full)
    except MissingError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


def _leave(number: int, _frame: object) -> NoReturn:
    end_all_runs()
    sys.exit(128 + number)


def _measure_all(names: Sequence[str], out: Path, *, is_quick: bool, is_full: bool) -> int:
    cores = choose_cores()
    sys.stdout.write(f"{describe(cores)}\n\n")
    has_missed = has_failed = False
    # Within the results, because what is durable on a disk costs nothing in a /tmp that is memory.
    with tempfile.TemporaryDirectory(dir=out, prefix="work-") as folder:
        stage = Stage(Path(folder).resolve(), cores, QUICK if is_quick else 1.0, is_full)
        for name in names:
            try:
                report = _measure(name, stage, out)
            except RunError as error:
                sys.stderr.write(f"{name}: FAILED: {error}\n")
                has_failed = True
                continue
            has_missed |= not all(target.is_met for target in report.targets)
    return 1 if has_failed or (has_missed and not is_quick) else 0


def _measure(name: str, stage: Stage, out: Path) -> Report:
    sys.stderr.write(f"{name}:\n")
    started = time.monotonic()
    report = SCENARIOS[name](stage)
    text = as_markdown(report)
    sys.stdout.write(f"{text}\n\n")
    sys.stdout.flush()
    if stage.scale < 1:
        text += "\n\nQuick: too few rows for the figures and the targets to mean anything."
    (out / f"{name}.md").write_text(f"{text}\n\n![{name}]({name}.png)\n\n{describe(stage.cores)}\n")
    draw(out / f"{name}.png", f"batchchat, {name}", report.plots)
    sys.stderr.write(f"  {time.monotonic() - started:.0f} s\n")
    return report


if __name__ == "__main__":
    sys.exit(main())
