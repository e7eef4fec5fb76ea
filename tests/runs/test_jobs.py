"""Every job in `jobs/` runs as it stands, offline, and gives back its input with the new columns."""

from pathlib import Path

import orjson
import polars as pl
import pytest
from PIL import Image
from polars.testing import assert_frame_equal

from batchchat.commands.plan import prepare
from batchchat.commands.verify import verify
from batchchat.job.file import load_job
from batchchat.write.columns import COLUMNS
from tests.running import ROOT, batchchat

pytestmark = pytest.mark.slow

JOBS = sorted(path.name for path in (ROOT / "jobs").glob("*.yaml"))


def run_job(name: str, folder: Path, suffix: str, *options: str) -> Path:
    """Run a job of the repository with its output and checkpoint in `folder`."""
    output = folder / f"out{suffix}"
    checkpoint = f"checkpoint.path={folder / 'answers.sqlite'}"
    ended = batchchat("run", ROOT / "jobs" / name, "--output", output, "--set", checkpoint, *options)
    assert ended.code == 0, ended.stderr
    loaded = load_job(
        ROOT / "jobs" / name, settings=[checkpoint, *options[1::2]], overrides={("output", "path"): output}
    )
    assert verify(prepare(loaded, is_read_only=True)).differences == []
    return output


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_job_answers_every_row(name: str, tmp_path: Path) -> None:
    """Every row of every job has its answer, and no error."""
    table = pl.read_parquet(run_job(name, tmp_path, ".parquet"))
    assert table.height > 0
    assert table["error"].null_count() == table.height
    assert table["finish_reason"].is_in(["stop", "length", "tool_calls"]).all()


def test_triage_labels_tickets_and_leaves_their_columns_alone(tmp_path: Path) -> None:
    """The demo: 200 tickets in, 200 tickets out, each with one of the five labels."""
    table = pl.read_parquet(run_job("triage.yaml", tmp_path, ".parquet"))
    tickets = pl.read_csv(ROOT / "sample_data" / "tickets.csv")
    assert_frame_equal(table.select(tickets.columns), tickets)
    assert table.columns == [*tickets.columns, "label", *list(COLUMNS)[1:]]
    assert set(table["label"]) <= {"billing", "shipping", "bug", "account", "other"}
    assert table["label"].n_unique() == 5


def test_injection_in_a_ticket_changes_nothing(tmp_path: Path) -> None:
    """Row data is data: a ticket with template marks or instructions is sent as it is, and labelled like the others."""
    output = f"output.path={tmp_path / 'out.parquet'}"
    ended = batchchat("preview", ROOT / "jobs" / "triage.yaml", "-n", "200", "--set", output)
    assert ended.code == 0, ended.stderr
    bodies = [message["messages"][1]["content"] for message in _requests(ended.stdout)]
    tickets = pl.read_csv(ROOT / "sample_data" / "tickets.csv")
    for body, subject, text in zip(bodies, tickets["subject"], tickets["body"], strict=True):
        assert body == f"{subject}\n\n{text or ''}"
    assert any("{{" in body for body in bodies)


def _requests(stdout: str) -> list[dict[str, list[dict[str, str]]]]:
    text = "[" + stdout.replace("\n}\n{", "\n},\n{") + "]"
    return [shown["request"] for shown in orjson.loads(text)]


@pytest.mark.slow
def test_reviews_give_json_that_fits_the_schema(tmp_path: Path) -> None:
    """The answers under `response_format` are instances of the job's schema."""
    table = pl.read_parquet(run_job("reviews.yaml", tmp_path, ".parquet"))
    assert table.height == 400
    for text in table["reading"]:
        reading = orjson.loads(text)
        assert reading.keys() == {"sentiment", "needs_reply", "summary"}
        assert reading["sentiment"] in {"positive", "negative", "mixed"}
        assert isinstance(reading["needs_reply"], bool)


def test_products_keep_mixed_numbers_and_missing_keys(tmp_path: Path) -> None:
    """JSONL goes out as it came in: 79 stays 79, 54.9 stays 54.9, an absent key stays absent."""
    written = [orjson.loads(line) for line in run_job("products.yaml", tmp_path, ".jsonl").read_bytes().splitlines()]
    source = [orjson.loads(line) for line in (ROOT / "sample_data" / "products.jsonl").read_bytes().splitlines()]
    for row, original in zip(written, source, strict=True):
        assert {key: value for key, value in row.items() if key in original} == original
        assert ("notes" in row) == ("notes" in original)
        assert type(row["price"]) is type(original["price"])


def test_nightly_takes_its_input_and_provider_from_the_environment(tmp_path: Path) -> None:
    """`${NAME:-default}` lets one job file serve another night."""
    table = tmp_path / "tonight.csv"
    columns = "ticket_id,created_at,lang,channel,customer_tier,subject,body\n"
    table.write_text(f"{columns}T-1,2026-01-01,en,web,pro,Down,The shop is down since an hour\n")
    checkpoint = f"checkpoint.path={tmp_path / 'answers.sqlite'}"
    ended = batchchat(
        "run",
        ROOT / "jobs" / "nightly.yaml",
        "--output",
        tmp_path / "out.csv",
        "--set",
        checkpoint,
        "--json",
        env={"TICKETS": str(table)},
    )
    assert (ended.code, ended.summary["rows_total"]) == (0, 1)


@pytest.mark.slow
def test_nightly_appends_the_file_of_each_day(tmp_path: Path) -> None:
    """The lines that its comments show: one dated file each night, one checkpoint, one table of all nights."""
    job = (ROOT / "jobs" / "nightly.yaml").read_text()
    job = job.replace("  path: ${TICKETS", "  # path: ${TICKETS").replace("  # path: ../inbox", "  path: ../inbox")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "nightly.yaml").write_text(job.replace("  # mode: append", "  mode: append"))
    (tmp_path / "inbox").mkdir()
    (tmp_path / "out").mkdir()
    columns = "ticket_id,created_at,lang,channel,customer_tier,subject,body\n"
    for day in ("2026-11-21", "2026-11-22"):
        text = f"{columns}T-{day},{day},en,web,pro,Down,The shop is down\n"
        (tmp_path / "inbox" / f"tickets-{day}.csv").write_text(text)
    for day in ("2026-11-21", "2026-11-22", "2026-11-21"):
        ended = batchchat("run", tmp_path / "jobs" / "nightly.yaml", env={"TODAY": day})
        assert ended.code == 0, ended.stderr
    table = pl.read_csv(tmp_path / "out" / "nightly.csv")
    assert table["ticket_id"].to_list() == ["T-2026-11-21", "T-2026-11-22"]


@pytest.mark.slow
def test_captions_tell_what_is_in_the_pictures(tmp_path: Path) -> None:
    """Each product's own picture is sent: the endpoint saw its size in pixels."""
    table = pl.read_parquet(run_job("caption.yaml", tmp_path, ".parquet"))
    assert table.height == 120
    for sku, caption in table.select("sku", "caption").iter_rows():
        with Image.open(ROOT / "sample_data" / "pictures" / f"{sku}.png") as picture:
            assert f"image/png, {picture.width} x {picture.height} pixels" in caption


@pytest.mark.slow
def test_tools_gives_one_call_for_each_ticket(tmp_path: Path) -> None:
    """A required tool is called once, with arguments that fit its parameters."""
    table = pl.read_parquet(run_job("tools.yaml", tmp_path, ".parquet"))
    assert table["completion"].null_count() == table.height == 200
    names = set()
    for (call,) in table["tool_calls"]:
        arguments = orjson.loads(call["arguments"])
        names.add(call["name"])
        assert arguments.keys() >= {"refund_payment": {"reason"}, "track_parcel": {"question"}}.get(
            call["name"], {"team"}
        )
    assert names == {"refund_payment", "track_parcel", "escalate"}


def test_extract_gives_a_typed_column(tmp_path: Path) -> None:
    """The short form of a schema is a struct, whose fields have its types."""
    table = pl.read_parquet(run_job("extract.yaml", tmp_path, ".parquet"))
    assert table.schema["ticket"] == pl.Struct(
        {
            "category": pl.String(),
            "urgent": pl.Boolean(),
            "language": pl.String(),
            "products": pl.List(pl.String()),
            "contact": pl.Struct({"name": pl.String(), "order_number": pl.String()}),
            "summary": pl.String(),
        }
    )
    for text, ticket in table.select("completion", "ticket").iter_rows():
        assert ticket == orjson.loads(text)
    assert set(table["ticket"].struct.field("category")) <= {"billing", "shipping", "bug", "account", "other"}


@pytest.mark.slow
def test_stream_knows_when_each_answer_began(tmp_path: Path) -> None:
    """A streamed job has the same answers as one that is not, and `first_token_s` beside them."""
    streamed = pl.read_parquet(run_job("stream.yaml", tmp_path, ".parquet"))
    assert (streamed["first_token_s"] <= streamed["latency_s"]).all()
    assert streamed["first_token_s"].null_count() == 0
    (tmp_path / "plain").mkdir()
    plain = pl.read_parquet(run_job("stream.yaml", tmp_path / "plain", ".parquet", "--set", "request.stream=false"))
    timed = ["first_token_s", "latency_s"]
    assert_frame_equal(streamed.drop(timed), plain.drop(timed))
    assert plain["first_token_s"].null_count() == plain.height
