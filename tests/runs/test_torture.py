"""The torture, small: kills, budgets, refusals, outages, flips, a full disk, attacks; `make torture` is full size."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.torture.budget import keep_to_budgets
from tests.torture.disk import fill
from tests.torture.fatal import refuse_and_resume
from tests.torture.flips import flip
from tests.torture.hostile import attack
from tests.torture.kills import kill_and_resume
from tests.torture.outage import outages
from tests.torture.soak import SPARE_FILES, soak

pytestmark = pytest.mark.slow


def test_kills_over_a_faulty_server_lose_double_and_cross_no_row(tmp_path: Path) -> None:
    """Each kill costs at most what was in flight, and the file is that of a run without faults and kills."""
    figures = kill_and_resume(tmp_path, rows=400, kills=5, concurrency=32)
    assert figures.broken() == []
    assert figures.kills == 5
    assert figures.faults > 0.2 * figures.requests
    assert max(figures.lost_per_kill) > 0


def test_what_refuses_the_job_stops_it_at_once_and_the_next_run_goes_on(tmp_path: Path) -> None:
    """No new request after the deciding reply, exit 4, no failed row, and nothing is asked again."""
    causes = ("401", "429-budget", "model-oxen", "400-everywhere")
    figures = refuse_and_resume(tmp_path, rows=1_200, concurrency=50, latency_s=(0.05, 0.15), causes=causes)
    assert figures.broken() == []
    assert [stop.cause for stop in figures.stops] == list(causes)


def test_outage_fails_no_row_and_charges_nobody(tmp_path: Path) -> None:
    """The server goes away and comes back: the run waits, asks now and then, and ends well."""
    figures = outages(tmp_path, rows=300, concurrency=32, outage_s=3.5)
    # Refused connections are counted for the whole machine, and other tests meet some too.
    assert [one for one in figures.broken() if not re.fullmatch(r"down: .* probes a second", one)] == []


def test_flipped_bit_gives_no_wrong_answer(tmp_path: Path) -> None:
    """Whatever a flipped bit does to a checkpoint, no output has an answer that was not given."""
    figures = flip(tmp_path, rows=100, exported=40, went_on=8)
    assert figures.broken() == []
    assert figures.exported["null"] + figures.exported["refused"] > 0


def test_full_disk_stops_the_run_and_nothing_stored_is_asked_again(tmp_path: Path) -> None:
    """The run says that there is no room and exits 3; with room, it goes on to the end."""
    figures = fill(tmp_path, rows=400)
    assert figures.broken() == []


def test_attacked_rows_fail_alone(tmp_path: Path) -> None:
    """Dribbles, bombs, poison and echoes: exactly the rows that ask for them fail; closed connections fail nobody."""
    figures = attack(tmp_path, race_requests=200, rows=60, deadline_s=1.5, poison_attempts=2)
    figures = replace(figures, checks_lateness=False)
    assert figures.broken() == []


def test_long_run_keeps_its_memory_and_files(tmp_path: Path) -> None:
    """A run opens no more than a connection for each request in flight; at this size buffers are still filling."""
    figures = soak(tmp_path, rows=3_000, concurrency=100, latency_s=0.02, every_s=0.1)
    assert (figures.code, figures.checked.harm, figures.checked.failed) == (0, (0, 0, 0, 0), 0)
    assert 100 < figures.most_files <= 100 + SPARE_FILES
    assert figures.growth < 1.3


def test_budgets_are_never_exceeded_and_nearly_used_up(tmp_path: Path) -> None:
    """Prices, faults, sizes and kills by chance: the server bills no more than the budget, of which 95 % is charged."""
    figures = keep_to_budgets(tmp_path, runs=3, rows=600, most_concurrency=40)
    assert figures.broken() == []
    assert sum(run.setting.kills for run in figures.runs) > 0
