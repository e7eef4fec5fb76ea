"""The one idea, from outside: what is asked again, and what is not."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from batchchat.serve.server import EmbeddedEndpoint
from batchchat.serve.settings import ServeSettings
from tests.running import Ended, batchchat, ledger, write_csv, write_job


class Place:
    """A folder with a job of ten rows, and the ledger of the endpoint that answers it."""

    def __init__(self, folder: Path, base_url: str) -> None:
        self.folder = folder
        self.endpoint = {"base_url": base_url, "name": "stand-in"}
        self.texts = [f"parcel number {number}" for number in range(10)]
        self.write()

    def write(self, content: str = "Repeat: {{ text }}", **changes: object) -> None:
        """Write the rows and the job as they are now."""
        write_csv(self.folder / "rows.csv", self.texts)
        request = {"model": "stand-in", "messages": [{"role": "user", "content": content}]}
        self.job = write_job(self.folder, endpoint=self.endpoint, request=request, **changes)

    def run(self, *options: str) -> Ended:
        """Run the job."""
        ended = batchchat("run", self.job, "--json", *options)
        assert ended.code == 0, ended.stderr
        return ended

    def asked(self) -> int:
        """Return how many requests the endpoint has seen."""
        return len(ledger(self.folder / "ledger.jsonl"))

    def asked_by(self, *options: str) -> int:
        """Return how many requests one more run sends."""
        before = self.asked()
        self.run(*options)
        return self.asked() - before

    def output(self) -> pl.DataFrame:
        """Return the output."""
        return pl.read_parquet(self.folder / "out.parquet")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Return a job that has been run once."""
    with EmbeddedEndpoint(ServeSettings(log_path=tmp_path / "ledger.jsonl")) as endpoint:
        place = Place(tmp_path, endpoint.base_url)
        assert place.asked_by() == 10
        yield place


def test_same_job_again_asks_nothing(place: Place) -> None:
    """A finished job has every answer, and its output is the same to the byte."""
    first = (place.folder / "out.parquet").read_bytes()
    assert place.asked_by() == 0
    assert (place.folder / "out.parquet").read_bytes() == first


def test_changed_prompt_asks_every_row(place: Place) -> None:
    """Another prompt is another request; no stale answer is kept."""
    place.write("Say again: {{ text }}")
    assert place.asked_by() == 10
    assert place.output()["completion"].str.contains("parcel").all()


@pytest.mark.parametrize("setting", ["request.model=demo", "request.max_tokens=5", "endpoint.name=other"])
def test_changed_request_or_endpoint_asks_every_row(place: Place, setting: str) -> None:
    """Model, parameters and the endpoint's name are all part of an answer's identity."""
    assert place.asked_by("--set", setting) == 10


def test_changed_row_asks_that_row(place: Place) -> None:
    """One edited cell costs one request."""
    place.texts[4] = "another parcel"
    place.write()
    assert place.asked_by() == 1
    assert "another" in place.output()["completion"][4]


def test_reordered_rows_ask_nothing_and_keep_their_answers(place: Place) -> None:
    """Keys do not depend on where a row stands."""
    place.texts.reverse()
    place.write()
    assert place.asked_by() == 0
    for text, completion in place.output().select("text", "completion").iter_rows():
        assert text in completion


def test_re_encoded_input_asks_nothing(place: Place) -> None:
    """The same rows as Parquet make the same requests."""
    pl.read_csv(place.folder / "rows.csv").write_parquet(place.folder / "rows.parquet")
    assert place.asked_by("--set", "input.path=rows.parquet") == 0


def test_new_row_asks_one(place: Place) -> None:
    """A row in front of the others costs one request."""
    place.texts.insert(0, "a parcel of last night")
    place.write()
    assert place.asked_by() == 1
    assert place.output().height == 11


def test_identical_rows_ask_once_and_all_get_the_answer(place: Place) -> None:
    """Three rows that make one request are paid for once."""
    place.texts += ["the same words"] * 3
    place.write()
    assert place.asked_by() == 1
    assert place.output()["response_id"][-3:].n_unique() == 1


@pytest.mark.slow
def test_without_dedupe_identical_rows_are_asked_for_themselves(place: Place) -> None:
    """`checkpoint.dedupe: false` makes each row its own request, and still resumes."""
    place.texts = ["the same words"] * 4
    place.write(checkpoint={"dedupe": False})
    assert place.asked_by() == 4
    assert place.asked_by() == 0


def test_moved_endpoint_with_a_name_asks_nothing(place: Place) -> None:
    """`endpoint.name` lets answers survive another port; nothing answers there, and nothing needs to."""
    place.endpoint = {"base_url": "http://127.0.0.1:9/v1", "name": "stand-in"}
    place.write()
    assert place.asked_by() == 0


def test_fresh_asks_everything_and_keeps_the_old_answers(place: Place) -> None:
    """`--fresh` pays again on purpose; what was paid before is set aside, not deleted."""
    assert place.asked_by("--fresh") == 10
    assert len(list((place.folder / ".batchchat").glob("job.*-*.sqlite"))) == 1


@pytest.mark.slow
def test_preview_send_keeps_its_answers(place: Place) -> None:
    """What a preview asked, the run does not ask again."""
    place.texts += [f"new {number}" for number in range(3)]
    place.texts = place.texts[-3:] + place.texts[:-3]
    place.write()
    before = place.asked()
    assert batchchat("preview", place.job, "-n", "2", "--send").code == 0
    assert place.asked() - before == 2
    assert place.asked_by() == 1
