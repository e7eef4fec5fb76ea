"""Print the figures at full size, as a table of Markdown: `python -m tests.torture [NAME...]`.

Exits with 1 when a promise was not kept, and says which.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from tests.torture.budget import keep_to_budgets
from tests.torture.disk import fill
from tests.torture.fatal import refuse_and_resume
from tests.torture.figures import Figures, Line, table
from tests.torture.flips import flip
from tests.torture.hostile import attack
from tests.torture.kills import kill_and_resume
from tests.torture.memory import memory
from tests.torture.outage import outages
from tests.torture.soak import soak

SCENARIOS: Mapping[str, Callable[[Path], Figures]] = {
    "kills": partial(kill_and_resume, rows=20_000, kills=200, concurrency=64),
    "budget": partial(keep_to_budgets, runs=50, rows=3_000, most_concurrency=500),
    "fatal": partial(refuse_and_resume, rows=100_000, concurrency=500, latency_s=(0.2, 0.6)),
    "outage": partial(outages, rows=2_000, concurrency=64, outage_s=12.0),
    "flips": partial(flip, rows=300, exported=1_000, went_on=100),
    "disk": partial(fill, rows=4_000, mounts=True),
    "soak": partial(soak, rows=100_000, concurrency=1_000, latency_s=0.5),
    "hostile": partial(attack, race_requests=5_000, rows=400, deadline_s=5.0, poison_attempts=4),
    "memory": partial(memory, rows=(10_000, 50_000), pictures=500, in_flight_mb=(16, 64, 256)),
}


def main() -> int:
    """Run the scenarios that are named, or all; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SCENARIOS))
    names = parser.parse_args().names or list(SCENARIOS)
    if unknown := set(names) - set(SCENARIOS):
        parser.error(f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    lines: list[Line] = []
    broken: list[str] = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            figures = SCENARIOS[name](Path(folder))
        _say(f"{name}: {figures.seconds:.0f} s{''.join(f'; BROKEN: {text}' for text in figures.broken())}")
        lines += figures.lines()
        broken += figures.broken()
    sys.stdout.write(f"{table(lines)}\n")
    return 1 if broken else 0


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
