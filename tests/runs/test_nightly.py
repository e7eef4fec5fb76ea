"""Nights on one checkpoint: what is asked, what is gone, and what an output has after several inputs."""

import random
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from batchchat.serve.server import EmbeddedEndpoint
from batchchat.serve.settings import ServeSettings
from tests.running import batchchat, ledger, write_job

pytestmark = pytest.mark.slow

ROWS, NEW, CHANGED, REMOVED = 5_000, 300, 20, 50
SAME = 400
"""Rows of the first night that have the words of another one."""


class Nights:
    """A job whose input and prompt change from night to night, and the ledger of the endpoint that answers it."""

    def __init__(self, folder: Path, base_url: str) -> None:
        self.folder = folder
        self.endpoint = {"base_url": base_url, "name": "stand-in"}

    def run(self, texts: list[str], prompt: str) -> tuple[int, dict[str, int]]:
        """Run a night to its end; return the requests that the endpoint saw, and the summary."""
        pl.DataFrame({"text": texts}).write_csv(self.folder / "rows.csv")
        request = {"model": "stand-in", "messages": [{"role": "user", "content": prompt}]}
        job = write_job(self.folder, endpoint=self.endpoint, request=request, output={"path": "out.csv"})
        before = len(ledger(self.folder / "ledger.jsonl"))
        ended = batchchat("run", job, "--json")
        assert ended.code == 0, ended.stderr
        return len(ledger(self.folder / "ledger.jsonl")) - before, ended.summary


@pytest.fixture
def nights(tmp_path: Path) -> Iterator[Nights]:
    """Return a job that has not run yet."""
    with EmbeddedEndpoint(ServeSettings(log_path=tmp_path / "ledger.jsonl")) as endpoint:
        yield Nights(tmp_path, endpoint.base_url)


def test_three_nights_ask_only_what_is_new_or_changed(nights: Nights) -> None:
    """5,000 rows less the identical ones; then 300 new and 20 changed of a shuffled table; then, by a prompt, all."""
    dice = random.Random(7)
    texts = [f"ticket {number}" for number in range(ROWS - SAME)]
    texts += texts[:SAME]
    asked, first = nights.run(texts, "Repeat: {{ text }}")
    assert (asked, first["rows_reused"], first["answers_gone"]) == (ROWS - SAME, SAME, 0)

    distinct = range(SAME, ROWS - SAME)  # rows whose words no other has
    changed = dice.sample(distinct, CHANGED + REMOVED)
    for number in changed[:CHANGED]:
        texts[number] = f"changed {number}"
    gone = set(changed[CHANGED:])
    texts = [text for number, text in enumerate(texts) if number not in gone]
    texts += [f"new {number}" for number in range(NEW)]
    dice.shuffle(texts)
    asked, second = nights.run(texts, "Repeat: {{ text }}")
    assert (asked, second["answers_gone"]) == (NEW + CHANGED, CHANGED + REMOVED)
    assert second["rows_reused"] == len(texts) - asked

    asked, third = nights.run(texts, "Say again: {{ text }}")
    assert asked == third["answers_gone"] == len(set(texts)) == ROWS - SAME + NEW - REMOVED
    table = pl.read_csv(nights.folder / "out.csv")
    assert table["text"].to_list() == texts
    assert all(text in answer for text, answer in table.select("text", "completion").iter_rows())


def test_same_night_again_has_nothing_gone(nights: Nights) -> None:
    """A run that asks nothing uses the answers that the one before it used."""
    texts = [f"ticket {number}" for number in range(10)]
    nights.run(texts, "Repeat: {{ text }}")
    asked, again = nights.run(texts, "Repeat: {{ text }}")
    assert (asked, again["answers_gone"]) == (0, 0)
    asked, fewer = nights.run(texts[:7], "Repeat: {{ text }}")
    assert (asked, fewer["answers_gone"]) == (0, 3)
