"""Rows whose replies are an attack, among others that are not: what becomes of them, and of the others.

The server does what a row's text asks for (`do:NAME`); all other rows are answered.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tests.torture.checker import Checked, check_output
from tests.torture.figures import Line
from tests.torture.ledger import Entry
from tests.torture.stage import Ended, command, different_texts, scripted_server, write_job, write_texts

DRIBBLES = ("dribbled-body", "dribbled-head", "dribbled-comments")
BOMBS = ("gzip-bomb", "deep-json", "huge-reply", "many-headers", "endless-header")
TRAPS = (
    "429 rate limit exceeded",
    "insufficient_quota: You exceeded your current quota",
    "model not found",
    "invalid api key 401",
    "You have run out of credits",
)
MOST_CHARGED = 0.002
FEW_CHARGED = 3
"""Share of the requests, and some of any number, that may be charged for a closed connection: on a busy machine not
each is noticed at once."""
MOST_LATE = 1.05
MOST_MB = 700.0
"""Memory of a run that is sent 100 MiB, a bomb of 256 MiB and headers without end; 64 MiB is the largest reply."""


@dataclass(frozen=True)
class Attack:
    """How a run with attacked rows ended: rows failed by their kinds, and which rows failed that should not have."""

    code: int
    kinds: Mapping[str, int]
    attacked: int
    bystanders: int
    bystanders_failed: int
    attacked_answered: int
    most_attempts: int
    peak_mb: float
    seconds: float
    said: str

    def broken(self, name: str) -> list[str]:
        """Return what is wrong: anything but that exactly the attacked rows failed."""
        is_good = self.code == 1 and not self.bystanders_failed and not self.attacked_answered
        return [] if is_good else [f"{name}: {self}"]


@dataclass(frozen=True)
class Race:
    """How a run went over connections of which the server closed `closed` while idle; `charged` rows paid for it."""

    code: int
    checked: Checked
    charged: int
    closed: int


@dataclass(frozen=True)
class HostileFigures:
    """What attacks did.

    `deadline_s` is the limit on an attempt, `longest_s` and `shortest_s` what attempts against dribbles took at the
    server. `others_done_s` is when the last other row was answered beside a row that always fails. Without
    `checks_lateness`, an attempt may end as late as a busy machine makes it.
    """

    race: Race
    deadline_s: float
    shortest_s: float
    longest_s: float
    dribbles: Attack
    bombs: Attack
    poison: Attack
    others_done_s: float
    traps: Attack
    seconds: float
    checks_lateness: bool = True

    def lines(self) -> list[Line]:
        """Return the lines of the table."""
        return [
            Line(
                "connections that the server closes while idle",
                f"{self.race.checked.rows:,} requests, {self.race.closed:,} closed",
                f"{self.race.checked.failed} rows failed, {self.race.charged} charged with an attempt",
            ),
            Line(
                "a byte at a time, for ever (body, header, comments)",
                f"{self.dribbles.attacked} rows, deadline {self.deadline_s:g} s",
                f"given up after {self.shortest_s:.2f} to {self.longest_s:.2f} s",
            ),
            Line(
                "gzip bomb, 10^6-deep JSON, 100 MiB, 10^6 headers, endless header",
                f"{self.bombs.attacked} rows among {self.bombs.bystanders}",
                f"{sum(self.bombs.kinds.values())} failed, no other; peak memory {self.bombs.peak_mb:.0f} MB",
            ),
            Line(
                "a row that always fails",
                f"among {self.poison.bystanders} others",
                f"failed after {self.poison.most_attempts} attempts in {self.poison.seconds:.1f} s, "
                f"the others answered in {self.others_done_s:.1f} s",
            ),
            Line(
                "prompts that sound like refusals, echoed in 400s",
                f"{self.traps.attacked} rows among {self.traps.bystanders}",
                ", ".join(f"{count} {kind}" for kind, count in sorted(self.traps.kinds.items())),
            ),
        ]

    def broken(self) -> list[str]:
        """Return the promises that were not kept."""
        found = []
        most_charged = FEW_CHARGED + MOST_CHARGED * self.race.checked.rows
        if self.race.code or any(self.race.checked.harm) or self.race.charged > most_charged:
            found.append(f"keep-alive race: {self.race}")
        if self.checks_lateness and self.longest_s > MOST_LATE * self.deadline_s:
            found.append(f"an attempt took {self.longest_s:.2f} s of {self.deadline_s:g} s")
        found += self.dribbles.broken("dribbles")
        found += self.bombs.broken("bombs")
        found += self.poison.broken("poison")
        found += self.traps.broken("echoes")
        if self.bombs.peak_mb > MOST_MB:
            found.append(f"bombs took {self.bombs.peak_mb:.0f} MB")
        if set(self.traps.kinds) - {"bad_request"}:
            found.append(f"echoes were taken for {dict(self.traps.kinds)}")
        return found


def attack(folder: Path, *, race_requests: int, rows: int, deadline_s: float, poison_attempts: int) -> HostileFigures:
    """Run a job for each kind of attack."""
    started_at = time.monotonic()
    race = _keepalive_race(_folder(folder, "race"), race_requests)
    slow = [f"row {number} do:{DRIBBLES[number % 3]}" for number in range(18)]
    dribbles, entries = _attacked(folder, "dribbles", slow, rows, timeout_s=deadline_s, concurrency=32)
    took_s = [entry.replied - entry.arrived for entry in entries if entry.sent in DRIBBLES]
    bombs, _ = _attacked(
        folder, "bombs", [f"row {name} do:{name}" for name in BOMBS], rows, concurrency=8, max_attempts=2
    )
    poison, entries = _attacked(
        folder, "poison", ["row do:always-500"], rows, max_attempts=poison_attempts, concurrency=8
    )
    echoes = [f"{TRAPS[number % len(TRAPS)]} {number} do:echo" for number in range(max(12, rows // 4))]
    traps, _ = _attacked(folder, "traps", echoes, rows, concurrency=16)
    return HostileFigures(
        race=race,
        deadline_s=deadline_s,
        shortest_s=min(took_s),
        longest_s=max(took_s),
        dribbles=dribbles,
        bombs=bombs,
        poison=poison,
        others_done_s=_last_answer_s(entries),
        traps=traps,
        seconds=time.monotonic() - started_at,
    )


def _folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder


def _keepalive_race(folder: Path, requests: int) -> Race:
    """Ask over connections that are closed after about as long as they are idle."""
    write_texts(folder / "rows.csv", different_texts(requests))
    with scripted_server(folder, "idle 0.001 0.012", "latency 0.001 0.006") as server:
        job = write_job(folder, server.base_url, {"concurrency": 24})
        done = command("run", job, "--quiet", folder=folder)
        closed = int(server.say("closed"))
    output = folder / "torture.parquet"
    charged = pl.read_parquet(output).filter(pl.col("attempts") > 1).height
    return Race(done.code, check_output(folder / "rows.csv", output), charged, closed)


def _attacked(
    parent: Path, name: str, attacks: Sequence[str], others: int, *, max_attempts: int = 1, **limits: float
) -> tuple[Attack, list[Entry]]:
    """Run a job with rows that ask for an attack, spread among others; return how it ended, and the ledger."""
    folder = _folder(parent, name)
    texts = list(different_texts(others))
    step = max(1, others // len(attacks))
    for number, text in enumerate(attacks):
        texts.insert(number * (step + 1) + step, text)
    write_texts(folder / "rows.csv", iter(texts))
    with scripted_server(folder, "latency 0.002 0.01") as server:
        job = write_job(folder, server.base_url, {"max_attempts": max_attempts, "timeout_s": 20, **limits})
        done = command("run", job, "--quiet", folder=folder)
        entries = server.ledger()
    return _taken(done, folder / "torture.parquet", len(attacks), others), entries


def _taken(done: Ended, output: Path, attacked: int, others: int) -> Attack:
    table = pl.read_parquet(output) if output.exists() else pl.DataFrame(schema=_EMPTY)
    is_attacked = pl.col("text").str.contains("do:")
    victims, bystanders = table.filter(is_attacked), table.filter(~is_attacked)
    return Attack(
        code=done.code,
        kinds=dict(Counter(victims["error_kind"].drop_nulls())),
        attacked=attacked,
        bystanders=others,
        bystanders_failed=others - bystanders["error_kind"].null_count(),
        attacked_answered=attacked - len(victims["error_kind"].drop_nulls()),
        most_attempts=max([0, *victims["attempts"].drop_nulls()]),
        peak_mb=done.peak_mb,
        seconds=done.seconds,
        said=done.stderr.strip()[-300:],
    )


_EMPTY = {"text": pl.String, "error_kind": pl.String, "attempts": pl.Int32}


def _last_answer_s(entries: Sequence[Entry]) -> float:
    """Return how long after the first request the last answer was given."""
    return max(entry.replied for entry in entries if entry.is_delivered) - min(entry.arrived for entry in entries)
