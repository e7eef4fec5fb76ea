"""Random SIGKILLs of runs over a faulty server, until every row is answered: what was lost, and what was paid twice."""

import random
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.torture.checker import Checked, check_output, lost_by_kills, not_by_kills, same_answers
from tests.torture.figures import Line
from tests.torture.ledger import GONE
from tests.torture.stage import (
    Server,
    command,
    different_texts,
    scripted_server,
    started,
    status_of,
    write_job,
    write_texts,
)

FAULT_RATE = 0.3
LIMITS = {"timeout_s": 4}
SHARE_AT_START = 0.1
SHARE_AT_END = 0.1
SHARE_AMID = 0.9
"""Share of the kills that fall into the start of a run, and into the writing of the output; share of the rows over
which the others are spread."""
STREAMED = "{{ id % 4 == 0 }}"
LONGEST_START_S = 0.8
LONGEST_END_S = 1.5
LONGEST_WAIT_S = 60.0


@dataclass(frozen=True)
class KillFigures:
    """What a series of kills did.

    `lost_per_kill` are requests that were billed and not stored because of each kill, `bounds` what the killed run had
    recorded as in flight at most. `paid_again_unexplained` were paid for again without any kill.
    """

    kills: int
    concurrency: int
    requests: int
    faults: int
    checked: Checked
    lost_per_kill: tuple[int, ...]
    bounds: tuple[int, ...]
    paid_again_unexplained: int
    early_outputs: int
    equals_undisturbed: bool
    exports_same_bytes: bool
    seconds: float

    def lines(self) -> list[Line]:
        """Return the lines of the table."""
        size = f"{self.checked.rows:,} rows, {self.kills} kills, {self.faults / self.requests:.0%} of attempts faulty"
        lost, doubled, crossed, wrong = self.checked.harm
        most, total = max(self.lost_per_kill), sum(self.lost_per_kill)
        same = "equal" if self.equals_undisturbed else "NOT equal"
        bytes_ = "same bytes" if self.exports_same_bytes else "OTHER bytes"
        return [
            Line("rows after SIGKILLs", size, f"{lost} lost, {doubled} doubled, {crossed} crossed, {wrong} wrong"),
            Line(
                "billed but not stored, per kill",
                f"concurrency {self.concurrency}",
                f"at most {most}, bound {max(self.bounds)}; {total} in all; {self.over_bound} kills above their bound",
            ),
            Line("file against that of an undisturbed run", size, f"{same}; exported twice: {bytes_}"),
        ]

    @property
    def over_bound(self) -> int:
        """How many kills cost more than the killed run had said."""
        return sum(lost > bound for lost, bound in zip(self.lost_per_kill, self.bounds, strict=True))

    def broken(self) -> list[str]:
        """Return the promises that were not kept."""
        found = {
            f"lost, doubled, crossed, wrong rows: {self.checked.harm}": any(self.checked.harm),
            f"{self.checked.failed} rows failed": self.checked.failed,
            f"{self.over_bound} kills cost more than was in flight": self.over_bound,
            f"{self.paid_again_unexplained} answers were paid for again without a kill": self.paid_again_unexplained,
            f"{self.early_outputs} outputs stood there before all rows were answered": self.early_outputs,
            "the output differs from that of an undisturbed run": not self.equals_undisturbed,
            "two exports differ": not self.exports_same_bytes,
        }
        return [text for text, is_broken in found.items() if is_broken]


def kill_and_resume(folder: Path, *, rows: int, kills: int, concurrency: int) -> KillFigures:
    """Kill runs of a job at random moments, also in their start and while they write, and hold the end to account."""
    started_at = time.monotonic()
    at_start, at_end = max(1, round(kills * SHARE_AT_START)), max(1, round(kills * SHARE_AT_END))
    write_texts(folder / "rows.csv", different_texts(rows))
    with scripted_server(folder, f"faults {FAULT_RATE}", "latency 0.002 0.012") as server:
        limits = {**LIMITS, "concurrency": concurrency}
        killer = Killer(write_job(folder, server.base_url, limits, stream=STREAMED), server, random.Random(rows))
        killer.kill_while_asking(rows, at_start, kills - at_start - at_end)
        asked = command("run", killer.job, "--quiet", folder=folder)
        killer.kill_while_writing(at_end)
        last = command("run", killer.job, "--json", folder=folder)
        assert (asked.code, last.code) == (0, 0), asked.stderr + last.stderr
        entries = server.ledger()
        undisturbed = _undisturbed(folder, server, limits)
    killed_at = [kill.at for kill in killer.kills]
    return KillFigures(
        kills=len(killer.kills),
        concurrency=concurrency,
        requests=len(entries),
        faults=sum(not entry.is_delivered and entry.sent != GONE for entry in entries),
        checked=check_output(folder / "rows.csv", killer.output),
        lost_per_kill=tuple(lost_by_kills(entries, killed_at)),
        bounds=tuple(kill.bound for kill in killer.kills),
        paid_again_unexplained=not_by_kills(entries, killed_at),
        early_outputs=killer.early_outputs,
        equals_undisturbed=same_answers(killer.output, undisturbed),
        exports_same_bytes=exports_same_bytes(folder, killer.job, killer.output),
        seconds=time.monotonic() - started_at,
    )


@dataclass(frozen=True)
class Kill:
    """One kill: when the process was dead, and what its run had recorded as in flight (0 before its first commit)."""

    at: float
    bound: int


class Killer:
    """Starts runs of a job and kills them; `early_outputs` counts outputs that were there before all was answered."""

    def __init__(self, job: Path, server: Server, chance: random.Random) -> None:
        self.job = job
        self.output = job.with_suffix(".parquet")
        self.kills: list[Kill] = []
        self.early_outputs = 0
        self._server = server
        self._chance = chance
        self._last_run = 0

    def kill_while_asking(self, rows: int, at_start: int, amid: int) -> None:
        """Kill `at_start` runs soon after they began, and `amid` others, spread over the answers to all rows."""
        moments = self._chance.sample([True] * at_start + [False] * amid, at_start + amid)
        for number, is_at_start in enumerate(moments):
            if is_at_start:
                with started("run", self.job, "--quiet") as process:
                    time.sleep(self._chance.uniform(0.02, LONGEST_START_S))
                    process.kill()
            else:
                unasked = max(0.0, SHARE_AMID * rows - status_of(self.job).answers_stored)
                share = unasked / moments[number:].count(False)
                self._kill_after_answers(round(min(unasked, self._chance.uniform(0.0, 2.0) * share)))
            self._note()
            self.early_outputs += self.output.exists()

    def _kill_after_answers(self, answers: int) -> None:
        """Kill a run when the server has delivered so many more answers, and a moment later."""
        wanted, deadline = self._server.counts()[1] + max(1, answers), time.monotonic() + LONGEST_WAIT_S
        with started("run", self.job, "--quiet") as process:
            while self._server.counts()[1] < wanted:
                assert process.poll() is None, f"the run ended by itself, with {process.returncode}"
                assert time.monotonic() < deadline, "the run does not get on"
                time.sleep(0.003)
            time.sleep(self._chance.uniform(0.0, 0.02))
            process.kill()

    def kill_while_writing(self, count: int) -> None:
        """Kill so many runs that have nothing left to ask, between their start and their end."""
        longest_s = LONGEST_END_S
        for _ in range(count):
            has_ended = True
            while has_ended:
                with started("run", self.job, "--quiet") as process:
                    has_ended = _ends_within(process, self._chance.uniform(0.3, longest_s))
                longest_s = max(0.4, 0.9 * longest_s) if has_ended else longest_s
            self._note()

    def _note(self) -> None:
        at = time.monotonic()
        run = status_of(self.job).run
        is_its_own = run is not None and run.run > self._last_run
        self.kills.append(Kill(at, run.lost_in_flight if run is not None and is_its_own else 0))
        self._last_run = run.run if run is not None else 0


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def exports_same_bytes(folder: Path, job: Path, output: Path) -> bool:
    """Whether two exports give the bytes of the output that a run wrote."""
    exported = [folder / "first.parquet", folder / "second.parquet"]
    for path in exported:
        assert command("export", job, "--output", path, folder=folder).code == 0
    return {path.read_bytes() for path in exported} == {output.read_bytes()}


def _undisturbed(folder: Path, server: Server, limits: Mapping[str, int]) -> Path:
    """Return the output of the same job in a checkpoint of its own, without faults and kills."""
    server.say("faults 0")
    job = write_job(folder, server.base_url, limits, name="undisturbed", stream=STREAMED)
    done = command("run", job, "--quiet", folder=folder)
    assert done.code == 0, done.stderr
    return folder / "undisturbed.parquet"
