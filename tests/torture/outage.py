"""An endpoint that goes away amid a run and comes back: no row fails for it, and nobody is charged."""

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tests.torture.answers import digest_of_text
from tests.torture.checker import Checked, arrivals_by_text, check_output
from tests.torture.figures import Line
from tests.torture.stage import (
    Server,
    different_texts,
    scripted_server,
    started,
    waited,
    write_job,
    write_texts,
)

KINDS = ("down", "unavailable", "blackhole")
"""The listening socket is closed; every request gets a 503; requests are read and never answered."""
LIMITS = {"timeout_s": 0.5}
SETTLED_S = 2.0
"""Seconds after the outage's beginning until it is known for one: of a silent endpoint, after two time limits."""
MOST_PROBES_PER_S = 2.0
LONGEST_RUN_S = 300.0


@dataclass(frozen=True)
class Outage:
    """How a run took one kind of outage.

    `charged` rows have more attempts than requests of theirs arrived: they paid for a refused connection. (Not for one
    that was made, and cut before the server took it: of these the run says that their outcome is unknown.)
    `most_attempts` is that of any row. `probes_per_s` were made once the outage was known: of refused connections, by
    anybody on this machine. `back_s` is how long the rest took once the server was there again. `checked` is None where
    the run wrote no output.
    """

    kind: str
    code: int
    checked: Checked | None
    charged: int
    most_attempts: int
    probes_per_s: float
    back_s: float
    said: str


@dataclass(frozen=True)
class OutageFigures:
    """How runs took every kind of outage, each for `outage_s`."""

    rows: int
    concurrency: int
    outage_s: float
    outages: tuple[Outage, ...]
    seconds: float

    def lines(self) -> list[Line]:
        """Return the lines of the table."""
        size = f"{self.rows:,} rows, concurrency {self.concurrency}"
        return [
            Line(
                f"endpoint {one.kind} for {self.outage_s:g} s",
                size,
                f"{one.checked.failed if one.checked else 'all'} rows failed, "
                f"{one.charged} charged for refused connections, {one.probes_per_s:.1f} probes a second, "
                f"done {one.back_s:.1f} s after its end",
            )
            for one in self.outages
        ]

    def broken(self) -> list[str]:
        """Return the promises that were not kept."""
        found = []
        for one in self.outages:
            if one.code or one.checked is None or one.checked.failed or any(one.checked.harm):
                found.append(f"{one.kind}: ended with {one.code}: {one.checked} {one.said}")
            if one.charged:
                found.append(f"{one.kind}: {one.charged} rows were charged for refused connections")
            if one.probes_per_s > MOST_PROBES_PER_S:
                found.append(f"{one.kind}: {one.probes_per_s:.1f} probes a second")
        return found


def outages(
    folder: Path, *, rows: int, concurrency: int, outage_s: float, kinds: tuple[str, ...] = KINDS
) -> OutageFigures:
    """Let the server go away in every way, each amid a run of its own, all at the same time, and come back."""
    started_at = time.monotonic()
    write_texts(folder / "rows.csv", different_texts(rows))
    with ThreadPoolExecutor(len(kinds)) as threads:  # each is mostly a wait
        done = tuple(threads.map(lambda kind: _outage(folder, kind, rows, concurrency, outage_s), kinds))
    return OutageFigures(rows, concurrency, outage_s, done, time.monotonic() - started_at)


def _outage(parent: Path, kind: str, rows: int, concurrency: int, outage_s: float) -> Outage:
    folder = parent / kind
    folder.mkdir()
    (folder / "rows.csv").hardlink_to(parent / "rows.csv")
    stdout_path, stderr_path, output = folder / "stdout.txt", folder / "stderr.txt", folder / "torture.parquet"
    with scripted_server(folder, "latency 0.02 0.06") as server:
        job = write_job(folder, server.base_url, {**LIMITS, "concurrency": concurrency})
        with (
            stdout_path.open("wb") as stdout,
            stderr_path.open("wb") as stderr,
            started("run", job, "--json", stdout=stdout, stderr=stderr) as process,
        ):
            _wait_for_answers(server, process, rows // 3)
            began_at = time.monotonic()
            server.say(f"{kind} {outage_s}")
            time.sleep(SETTLED_S)
            refused = _refused_connections()
            time.sleep(max(0.0, began_at + outage_s - time.monotonic()))
            refused = _refused_connections() - refused
            code, _ = waited(process, LONGEST_RUN_S)
        back_s = time.monotonic() - began_at - outage_s
        entries = server.ledger()
    if kind != "down":
        refused = sum(entry.sent == kind and entry.arrived > began_at + SETTLED_S for entry in entries)
    arrivals = arrivals_by_text(entries)
    cut_unseen = json.loads(stdout_path.read_text())["possibly_billed"] - sum(
        not entry.is_delivered for entry in entries
    )
    attempts = pl.read_parquet(output).select("text", "attempts").rows() if output.exists() else []
    return Outage(
        kind=kind,
        code=code,
        checked=check_output(folder / "rows.csv", output) if output.exists() else None,
        charged=max(0, sum(count > arrivals[digest_of_text(text)] for text, count in attempts) - max(0, cut_unseen)),
        most_attempts=max((count for _, count in attempts), default=0),
        probes_per_s=refused / (outage_s - SETTLED_S),
        back_s=back_s,
        said=stderr_path.read_text()[-300:],
    )


def _wait_for_answers(server: Server, process: subprocess.Popen[bytes], count: int) -> None:
    deadline = time.monotonic() + LONGEST_RUN_S
    while server.counts()[1] < count:
        assert process.poll() is None, f"the run ended by itself, with {process.returncode}"
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.005)


def _refused_connections() -> int:
    """Return how many connections were refused on this machine, whoever made them; 0 where the system does not say."""
    path = Path("/proc/net/snmp")
    if not path.exists():
        return 0
    names, values = (line.split() for line in path.read_text().splitlines() if line.startswith("Tcp:"))
    return int(values[names.index("AttemptFails")])
