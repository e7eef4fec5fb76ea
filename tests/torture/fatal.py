"""What refuses the whole job, at a random row of many: one cause after the other, over one checkpoint.

Every run is stopped by its cause, and the next goes on against a server that is well again for a while. So at the end
every row is answered, once.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.torture.checker import Checked, answers_delivered, check_output
from tests.torture.figures import Line
from tests.torture.ledger import Entry
from tests.torture.refusals import REFUSALS
from tests.torture.stage import (
    Server,
    command,
    different_texts,
    scripted_server,
    status_of,
    write_job,
    write_texts,
)

CAUSES = tuple(name for name, refusal in REFUSALS.items() if refusal.is_fatal)
PASSING = tuple(name for name, refusal in REFUSALS.items() if not refusal.is_fatal)
WIRE_S = 0.25
"""How long the deciding reply, and requests that left before it was read, may be on their way: a busy client reads the
replies that came meanwhile first."""
PASSING_S = 1.5
"""How long a refusal that passes is given."""


@dataclass(frozen=True)
class Stop:
    """How a cause stopped a run.

    `new` requests arrived later than `WIRE_S` after the deciding reply was written, `on_the_wire` ones before that, the
    last of all after `last_s`. `failed_rows` were marked failed for it.
    """

    cause: str
    code: int
    new: int
    on_the_wire: int
    last_s: float
    failed_rows: int
    said: str


@dataclass(frozen=True)
class FatalFigures:
    """What all causes did; `asked_twice` rows were answered more than once over all runs."""

    concurrency: int
    stops: tuple[Stop, ...]
    last_code: int
    checked: Checked
    asked_twice: int
    seconds: float

    def lines(self) -> list[Line]:
        """Return the lines of the table."""
        size = (
            f"{len(self.stops)} causes, each at a random row of {self.checked.rows:,}, concurrency {self.concurrency}"
        )
        new, near = sum(stop.new for stop in self.stops), max(stop.on_the_wire for stop in self.stops)
        last_ms = 1000 * max(stop.last_s for stop in self.stops)
        failed = sum(stop.failed_rows for stop in self.stops)
        return [
            Line("requests after the deciding reply", size, f"{new}; on the wire {near} at most, for {last_ms:.0f} ms"),
            Line("rows marked failed for it; rows asked again by the next run", size, f"{failed}; {self.asked_twice}"),
        ]

    def broken(self) -> list[str]:
        """Return the promises that were not kept."""
        found = [f"{stop.cause}: exit code {stop.code}: {stop.said}" for stop in self.stops if stop.code != 4]
        found += [f"{stop.cause}: {stop.new} new requests after it" for stop in self.stops if stop.new]
        found += [f"{stop.cause}: {stop.failed_rows} rows marked failed" for stop in self.stops if stop.failed_rows]
        if self.last_code or any(self.checked.harm) or self.checked.failed:
            found.append(f"the last run, over {PASSING}, ended with {self.last_code}: {self.checked}")
        if self.asked_twice:
            found.append(f"{self.asked_twice} rows were answered twice")
        return found


def refuse_and_resume(
    folder: Path, *, rows: int, concurrency: int, latency_s: tuple[float, float], causes: Sequence[str] = CAUSES
) -> FatalFigures:
    """Let each cause stop a run at a random row, and the next run go on; what passes must not stop the last one."""
    started_at = time.monotonic()
    chance = random.Random(rows)
    write_texts(folder / "rows.csv", different_texts(rows))
    moments = sorted(chance.sample(range(concurrency, rows - 2 * concurrency), len(causes)))
    with scripted_server(folder, f"latency {latency_s[0]} {latency_s[1]}") as server:
        job = write_job(folder, server.base_url, {"concurrency": concurrency})
        stops = [_stopped(folder, server, job, *one) for one in zip(causes, moments, strict=True)]
        for name in PASSING:
            server.say(f"pass {name} {PASSING_S}")
        last = command("run", job, "--quiet", folder=folder)
        delivered = answers_delivered(server.ledger())
    return FatalFigures(
        concurrency=concurrency,
        stops=tuple(stops),
        last_code=last.code,
        checked=check_output(folder / "rows.csv", folder / "torture.parquet"),
        asked_twice=sum(count > 1 for count in delivered.values()),
        seconds=time.monotonic() - started_at,
    )


def _stopped(folder: Path, server: Server, job: Path, cause: str, moment: int) -> Stop:
    """Run until `moment` rows are answered, or nearly; then let the cause stop the run."""
    before = len(server.ledger())
    server.say(f"refuse {cause} {max(1, moment - status_of(job).answers_stored)}")
    ended = command("run", job, "--json", folder=folder)
    server.say("well")
    entries = server.ledger()[before:]
    decided_at = _deciding(entries, cause)
    later = [entry.arrived - decided_at for entry in entries if entry.arrived > decided_at]
    failures = sum(group.count for group in status_of(job).failures)
    return Stop(
        cause=cause,
        code=ended.code,
        new=sum(seconds > WIRE_S for seconds in later),
        on_the_wire=sum(seconds <= WIRE_S for seconds in later),
        last_s=max(later, default=0.0),
        failed_rows=max(failures, ended.summary.get("rows_failed", 0)),
        said=ended.stderr.strip()[-300:],
    )


def _deciding(entries: Sequence[Entry], cause: str) -> float:
    """Return when the reply was written that decided.

    It is the last of as many in a row as the cause needs, or, where answers came between, of as many in all; of fewer
    where nothing else came before.
    """
    refusal = REFUSALS[cause]
    replies = sorted(entries, key=lambda entry: entry.replied)
    if all(entry.sent == cause for entry in replies[: refusal.deciding_first_count]):
        return replies[refusal.deciding_first_count - 1].replied
    refusals = [entry for entry in replies if entry.sent == cause]
    assert len(refusals) >= refusal.deciding_count, f"{cause}: the run met only {len(refusals)} of them"
    in_a_row = 0
    for entry in replies:
        in_a_row = in_a_row + 1 if entry.sent == cause else 0
        if in_a_row == refusal.deciding_count:
            return entry.replied
    return refusals[refusal.deciding_count - 1].replied
