"""Whole runs: refusals, failed rows, formats, options, secrets, and what people type wrong."""

import asyncio
import json
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest

import batchchat
from batchchat.errors import EndpointRefusedError
from batchchat.serve.server import EmbeddedEndpoint
from batchchat.serve.settings import ServeSettings
from batchchat.write.columns import COLUMNS
from tests.echoing import ManyAtOnce
from tests.running import BATCHCHAT, ROOT, ledger, write_csv, write_job
from tests.running import batchchat as command

KEY = "canary-key-0123456789"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Return a folder with a table of 40 rows."""
    write_csv(tmp_path / "rows.csv", [f"text {number}" for number in range(40)])
    return tmp_path


@pytest.mark.slow
def test_wrong_key_stops_the_job_and_marks_no_row_failed(rows: Path) -> None:
    """A 401 ends the run with 4, and the right key goes on from there."""
    with EmbeddedEndpoint(ServeSettings(api_key=KEY)) as endpoint:
        job = write_job(rows, endpoint={"base_url": endpoint.base_url, "api_key_env": "TEST_KEY"})
        refused = command("run", job, "--json", env={"TEST_KEY": "another-key-9876543210"})
        assert (refused.code, refused.summary["outcome"]) == (4, "refused")
        assert (refused.summary["rows_failed"], refused.summary["rows_unasked"]) == (0, 40)
        assert "You must be authenticated" in refused.stderr
        assert command("run", job, env={"TEST_KEY": KEY}).code == 0


@pytest.mark.slow
def test_empty_account_stops_the_job_and_keeps_what_was_answered(rows: Path) -> None:
    """A 402 in the middle: the answers before it are kept, the run after it asks the rest only."""
    log = rows / "ledger.jsonl"
    with EmbeddedEndpoint(ServeSettings(credits=15, log_path=log)) as endpoint:
        job = write_job(rows, endpoint={"base_url": endpoint.base_url, "name": "x"}, limits={"concurrency": 4})
        refused = command("run", job, "--json")
        assert (refused.code, refused.summary["rows_answered"], refused.summary["rows_failed"]) == (4, 15, 0)
        assert "run out of credits" in refused.stderr
        assert not (rows / "out.parquet").exists()
        assert len(ledger(log)) <= 15 + 4
    with EmbeddedEndpoint(ServeSettings()) as endpoint:
        job = write_job(rows, endpoint={"base_url": endpoint.base_url, "name": "x"})
        assert command("run", job, "--json").summary["requests_sent"] == 25


@pytest.mark.slow
def test_unknown_model_stops_the_job(rows: Path) -> None:
    """An unknown model would fail every row; it ends the run instead, in the provider's words."""
    job = write_job(rows)
    refused = command("run", job, "--set", "request.model=no-such-model")
    assert refused.code == 4
    assert "Model not found: no-such-model" in refused.stderr


@pytest.mark.slow
def test_nothing_on_the_port_is_said_within_seconds(rows: Path) -> None:
    """A base URL with nothing behind it ends the run with 4, and no row is failed for it."""
    refused = command("run", write_job(rows), "--endpoint", "http://127.0.0.1:9/v1", "--json")
    assert (refused.code, refused.summary["rows_failed"]) == (4, 0)
    assert "cannot connect to 127.0.0.1:9: Connection refused" in refused.stderr


@pytest.mark.slow
def test_endpoint_that_answered_last_night_is_waited_for(rows: Path) -> None:
    """When it is down as the next run starts, with nothing but new rows, that is an outage and no mistyped address."""
    with EmbeddedEndpoint(ServeSettings()) as endpoint:
        job = write_job(rows, endpoint={"base_url": endpoint.base_url}, limits={"concurrency": 4})
        assert command("run", job, "--limit", "3").code == 0
    write_csv(rows / "rows.csv", ["quite", "new", "rows"])
    for _ in range(2):  # the run that was in vain forgets nothing
        with subprocess.Popen([*BATCHCHAT, "run", str(job)], stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("waiting for the endpoint, with one probe at a time: cannot")
            process.send_signal(signal.SIGINT)
            assert process.wait(300) == 130


@pytest.mark.slow
def test_rows_that_make_no_request_fail_alone(rows: Path) -> None:
    """A template that cannot be rendered for one row is that row's failure, exit 1, and the output is written."""
    write_csv(rows / "rows.csv", ["4", "0", "2"])
    request = {"model": "stand-in", "messages": [{"role": "user", "content": "{{ 8 / (text | int) }}"}]}
    assert command("run", write_job(rows, request=request)).code == 1
    table = pl.read_parquet(rows / "out.parquet")
    assert table["error_kind"].to_list() == [None, "template", None]
    assert table["error"][1] == "ZeroDivisionError: division by zero"
    assert table["attempts"].to_list() == [1, None, 1]


@pytest.mark.slow
def test_dtypes_are_the_same_when_every_row_fails(rows: Path) -> None:
    """A run with nothing but failures writes the columns of a run without any."""
    request = {"model": "stand-in", "messages": [{"role": "user", "content": "{{ text.nothing }}"}]}
    assert command("run", write_job(rows, request=request)).code == 1
    schema = pl.read_parquet_schema(rows / "out.parquet")
    assert {name: schema[name] for name in COLUMNS} == dict(COLUMNS)


@pytest.mark.slow
def test_refused_rows_keep_the_provider_words_and_are_not_asked_again(rows: Path) -> None:
    """A 400 is final for its row: kept with its reason, asked again only with --retry-errors."""
    log = rows / "ledger.jsonl"
    with EmbeddedEndpoint(ServeSettings(log_path=log)) as endpoint:
        warm = "{{ 9 if id | int is odd else 1 }}"
        messages = [{"role": "user", "content": "{{ text }}"}]
        request = {"model": "stand-in", "messages": messages, "temperature": warm}
        job = write_job(rows, endpoint={"base_url": endpoint.base_url}, request=request)
        assert command("run", job).code == 1
        table = pl.read_parquet(rows / "out.parquet")
        assert table["error_kind"].to_list() == [None, "bad_request"] * 20
        assert table["error_status"].to_list() == [None, 400] * 20
        assert (command("run", job).code, len(ledger(log))) == (1, 40)
        assert (command("run", "--retry-errors", job).code, len(ledger(log))) == (1, 60)
        assert (command("run", job, "--retry-errors", "schema").code, len(ledger(log))) == (1, 60)
        assert (command("run", job, "--retry-errors=schema,bad_request").code, len(ledger(log))) == (1, 80)
        said = command("status", job).stdout
        assert "failed: 20 x bad_request: " in said
        named = re.search(r"\(rows (\d+), (\d+), (\d+), (\d+), (\d+), \.\.\.\)", said)  # in the order of their replies
        assert named
        assert all(int(row) % 2 == 0 for row in named.groups())


@pytest.mark.slow
def test_mistake_of_the_job_marks_no_row_failed(rows: Path) -> None:
    """When all rows are refused alike, the job stops with the provider's words; once mended, every row is asked."""
    log = rows / "ledger.jsonl"
    with EmbeddedEndpoint(ServeSettings(log_path=log)) as endpoint:
        request = {"model": "stand-in", "messages": [{"role": "user", "content": "{{ text }}"}], "temperature": 9}
        job = write_job(rows, endpoint={"base_url": endpoint.base_url}, request=request)
        stopped = command("run", job, "--json")
        assert (stopped.code, stopped.summary["rows_failed"], stopped.summary["rows_unasked"]) == (4, 0, 40)
        assert "temperature" in stopped.summary["reason"]
        assert 20 <= len(ledger(log)) < 40
        assert not (rows / "out.parquet").exists()
        assert command("run", job, "--set", "request.temperature=1").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_every_format_has_every_row_and_column(suffix: str, rows: Path) -> None:
    """The suffix of the output chooses the format."""
    assert command("run", write_job(rows, output={"path": f"out.{suffix}"})).code == 0
    readers: dict[str, Callable[[Path], pl.DataFrame]]
    readers = {"csv": pl.read_csv, "jsonl": pl.read_ndjson, "parquet": pl.read_parquet}
    table = readers[suffix](rows / f"out.{suffix}")
    assert table.columns == ["id", "text", *COLUMNS]
    assert [str(number) in text for number, text in enumerate(table["completion"])] == [True] * 40


@pytest.mark.slow
def test_export_twice_gives_the_same_bytes(rows: Path) -> None:
    """The output depends on the answers alone."""
    job = write_job(rows)
    assert command("run", job).code == 0
    first = (rows / "out.parquet").read_bytes()
    for _ in range(2):
        assert command("export", job).code == 0
        assert (rows / "out.parquet").read_bytes() == first


@pytest.mark.slow
def test_key_is_in_nothing_that_a_run_leaves_behind(rows: Path) -> None:
    """A run with faults, a refusal, check and preview leave no trace of the key, in files or on the screen."""
    with EmbeddedEndpoint(ServeSettings(api_key=KEY, fault_rate=0.3)) as endpoint:
        job = write_job(rows, endpoint={"base_url": endpoint.base_url, "api_key_env": "TEST_KEY"})
        ends = [command(*words, job, env={"TEST_KEY": KEY}) for words in (["check"], ["preview", "--send"], ["run"])]
        ends.append(command("run", job, "--set", "endpoint.name=y", env={"TEST_KEY": f"{KEY}-wrong"}))
    assert [ended.code for ended in ends] == [0, 0, 0, 4]
    assert not any(KEY in ended.stdout + ended.stderr for ended in ends)
    files = [path for path in rows.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in path.read_bytes() for path in files)


@pytest.mark.slow
def test_plain_standard_error_has_no_control_characters(rows: Path) -> None:
    """In a log file there is no bar, and no colour."""
    ended = command("run", write_job(rows))
    assert "40 answered" in ended.stderr
    assert not any(character < " " and character != "\n" for character in ended.stderr)
    assert command("run", write_job(rows), "--quiet").stderr == ""


def test_python_run_returns_the_table(rows: Path) -> None:
    """`batchchat.run` with a mapping and a frame returns the frame with the new columns, and writes no output."""
    frame = pl.DataFrame({"text": ["one", "two", "one"], "when": [1, 2, 3]})
    job = {
        "checkpoint": {"path": str(rows / "answers.sqlite")},
        "endpoint": {"provider": "local"},
        "request": {"model": "stand-in", "messages": [{"role": "user", "content": "Repeat: {{ text }}"}]},
    }
    table = batchchat.run(job, frame=frame)
    assert table.columns == ["text", "when", *COLUMNS]
    assert table["completion"][0] == table["completion"][2] != table["completion"][1]


def test_python_run_works_inside_a_running_event_loop(rows: Path) -> None:
    """A notebook has a loop of its own already."""
    job = write_job(rows)

    async def cell() -> pl.DataFrame:
        return batchchat.run(job)

    assert asyncio.run(cell()).height == 40


def test_python_run_raises_what_stopped_it(rows: Path) -> None:
    """A refusal is an exception with the summary of how far the run was."""
    job = write_job(rows, request={"model": "no-such-model", "messages": [{"role": "user", "content": "x"}]})
    with pytest.raises(EndpointRefusedError, match="Model not found") as raised:
        batchchat.run(job)
    assert raised.value.summary is not None
    assert raised.value.summary.progress.rows_answered == 0


@pytest.mark.slow
def test_requests_per_minute_are_spread_evenly(rows: Path) -> None:
    """At 600 a minute, 40 requests take four seconds, without a burst at the start."""
    log = rows / "ledger.jsonl"
    with EmbeddedEndpoint(ServeSettings(log_path=log)) as endpoint:
        job = write_job(rows, endpoint={"base_url": endpoint.base_url}, limits={"requests_per_minute": 600})
        assert command("run", job).code == 0
    times = [entry["at"] for entry in ledger(log)]
    assert 3.6 <= times[-1] - times[0] <= 6, "the first may be let in late on a busy machine"
    assert times[10] - times[0] >= 0.7


class OneBadRow:
    """An endpoint that answers all but the rows with `bad` in their text, which always get one status and body."""

    def __init__(self, status: int, body: bytes) -> None:
        answer = b'{"choices":[{"message":{"content":"fine"},"finish_reason":"stop"}]}'

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["content-length"]))
                is_bad = b"bad" in text
                self.send_response(status if is_bad else 200)
                content = body if is_bad else answer
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the standard library's name
                """Say nothing."""

        self._server = ManyAtOnce(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self.base_url

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (429, b'{"error":{"message":"Request too large for gpt-4o on tokens per min"}}', "too_large"),
        (403, b'{"error":{"code":403,"message":"Flagged","metadata":{"reasons":["violence"]}}}', "content_filter"),
        (200, b"<html>not a reply</html>", "protocol"),
        (200, b'{"choices":[]}', "empty_reply"),
        (400, b'{"error":{"message":"429 rate limit, insufficient_quota, model not found"}}', "bad_request"),
    ],
)
def test_one_bad_row_fails_alone_run_after_run(status: int, body: bytes, kind: str, rows: Path) -> None:
    """Whatever one row meets, the others are answered beside it, and the next run writes the output too."""
    write_csv(rows / "rows.csv", [f"text {number}" for number in range(60)] + ["bad"] + ["more"] * 3)
    with OneBadRow(status, body) as base_url:
        job = write_job(rows, endpoint={"base_url": base_url}, limits={"max_attempts": 2, "concurrency": 2})
        assert [command("run", job).code for _ in range(2)] == [1, 1]
    table = pl.read_parquet(rows / "out.parquet")
    assert table["error_kind"].to_list() == [None] * 60 + [kind] + [None] * 3


def test_checkpoint_over_the_output_is_refused(rows: Path) -> None:
    """Answers that were paid for are not written over by the table."""
    refused = command("run", write_job(rows, checkpoint={"path": "out.parquet"}))
    assert refused.code == 2
    assert "checkpoint.path" in refused.stderr


@pytest.mark.parametrize("path", ["*.csv", "."])
def test_output_that_the_next_run_would_read_is_refused(path: str, rows: Path) -> None:
    """A nightly job must not read its own output the second night."""
    refused = command("run", write_job(rows, input={"path": path, "format": "csv"}, output={"path": "out.csv"}))
    assert refused.code == 2
    assert "would read it" in refused.stderr


@pytest.mark.slow
def test_columns_named_like_patterns_come_out(rows: Path) -> None:
    """`^t.*$` is a legal name, and only a name."""
    (rows / "rows.csv").write_text("^t.*$,text,tex\na,b,c\n")
    assert command("run", write_job(rows, output={"path": "out.csv"})).code == 0
    assert (rows / "out.csv").read_text().splitlines()[0].startswith("^t.*$,text,tex,completion,")


@pytest.mark.slow
def test_huge_integers_are_sent_and_written_as_they_are(rows: Path) -> None:
    """An identifier of thirty digits is not rounded on its way."""
    (rows / "rows.jsonl").write_text('{"text": 123456789012345678901234567890}\n')
    job = write_job(rows, input={"path": "rows.jsonl"}, output={"path": "out.jsonl"})
    assert "Repeat: 123456789012345678901234567890" in command("preview", job).stdout
    assert command("run", job).code == 0
    assert (rows / "out.jsonl").read_text().startswith('{"text":123456789012345678901234567890,')


NOTEBOOK = """
import asyncio, signal, sys, threading, batchchat

async def cell():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as a notebook's kernel has it
    batchchat.run(sys.argv[1])

try:
    asyncio.run(cell())
except BaseException as error:
    print(type(error).__name__, [thread.name for thread in threading.enumerate() if thread.name.startswith("batch")])
"""


@pytest.mark.slow
def test_notebook_interrupt_stops_the_run_and_frees_the_checkpoint(rows: Path) -> None:
    """Ctrl-C in a notebook's cell stops the run in its thread; nothing goes on behind it."""
    with EmbeddedEndpoint(ServeSettings(latency_s=0.5)) as endpoint:
        job = write_job(rows, endpoint={"base_url": endpoint.base_url}, limits={"concurrency": 2})
        with subprocess.Popen(
            [sys.executable, "-c", NOTEBOOK, job], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as process:
            while '"state":"running"' not in command("status", job, "--json").stdout:
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            stdout, _ = process.communicate(timeout=300)
    assert stdout == "InterruptedRunError []\n"
    assert "stopped" in command("status", job).stdout


def _checkpoint(version: int, application: int) -> bytes:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute(f"PRAGMA application_id = {application}")
        content: bytes = connection.serialize()
    return content


BAD_FILES: list[tuple[str, dict[str, bytes], dict[str, object], int, str]] = [
    ("missing file", {}, {"input": {"path": "none.csv"}}, 2, "none.csv"),
    ("empty glob", {}, {"input": {"path": "*.parquet"}}, 2, "*.parquet"),
    ("mixed folder", {"a/x.csv": b"a\n1\n", "a/y.jsonl": b"{}"}, {"input": {"path": "a"}}, 2, "several formats"),
    ("truncated parquet", {"x.parquet": b"PAR1 and no more"}, {"input": {"path": "x.parquet"}}, 2, "x.parquet"),
    ("ragged rows", {"x.csv": b"id,text\n1,a\n2\n"}, {"input": {"path": "x.csv"}}, 2, "row 2 has 1 cell"),
    ("invalid UTF-8", {"x.csv": b"id,text\n1,\xff\xfe\n"}, {"input": {"path": "x.csv"}}, 2, "not valid UTF-8"),
    ("broken JSONL", {"x.jsonl": b'{"text":1}\n{"text"\n'}, {"input": {"path": "x.jsonl"}}, 2, "x.jsonl:2"),
    ("no such column", {}, {"request": {"model": "m", "messages": "{{ texts }}"}}, 2, "did you mean 'text'?"),
    ("template syntax", {}, {"request": {"model": "m", "messages": "{{ text"}}, 2, "job.yaml:1: request.messages"),
    ("output is input", {}, {"output": {"path": "rows.csv"}}, 2, "is the input file"),
    ("no output folder", {}, {"output": {"path": "none/out.csv"}}, 2, "mkdir -p"),
    ("output suffix", {}, {"output": {"path": "out.xlsx"}}, 2, ".parquet"),
    ("colliding column", {}, {"output": {"path": "o.csv", "columns": {"completion": "text"}}}, 2, "output.prefix"),
    ("where", {}, {"input": {"path": "rows.csv", "where": "texts = 1"}}, 2, "texts"),
    ("wrong base URL", {}, {"endpoint": {"base_url": "hub.oxen.ai"}}, 2, "must be a whole URL"),
    ("no key", {}, {"endpoint": {"base_url": "http://127.0.0.1:9", "api_key_env": "NO_SUCH_KEY"}}, 2, "NO_SUCH_KEY"),
    ("not a checkpoint", {"c": b"no database" * 99}, {"checkpoint": {"path": "c"}}, 3, "damaged or not a checkpoint"),
    ("another database", {"c": _checkpoint(1, 7)}, {"checkpoint": {"path": "c"}}, 3, "not a checkpoint of batchchat"),
    ("newer checkpoint", {"c": _checkpoint(99, 0x6263686B)}, {"checkpoint": {"path": "c"}}, 3, "newer batchchat"),
    ("schema", {}, {"request": {"model": "m", "messages": "x", "response_schema": "s.json"}}, 2, "s.json"),
    ("media root", {}, {"input": {"path": "rows.csv", "media_root": "none"}}, 2, "is not a folder"),
]


@pytest.mark.parametrize(
    ("files", "changes", "code", "words"), [case[1:] for case in BAD_FILES], ids=[c[0] for c in BAD_FILES]
)
def test_bad_input_gets_one_message_and_writes_nothing(
    files: dict[str, bytes], changes: dict[str, object], code: int, words: str, rows: Path
) -> None:
    """What is wrong is said once, with its exit code; what was there is as it was, and no output appears."""
    for name, content in files.items():
        (rows / name).parent.mkdir(exist_ok=True)
        (rows / name).write_bytes(content)
    job = write_job(rows, **changes)
    before = _contents(rows)
    ended = command("run", "job.yaml", cwd=rows)
    assert ended.code == code, ended.stderr
    assert words in ended.stderr
    assert ended.stderr.count("batchchat: ") == 1
    after = {path: content for path, content in _contents(rows).items() if not path.name.endswith(".lock")}
    assert after == before
    assert job.exists()


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in pairwise("abcdefghi")
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("input:\n\tpath: x\n", "job.yaml:2: is not YAML: a tab"),
        ("name: a\nname: b\n", "job.yaml:2: name: stands twice"),
        (BOMB, "unfold"),
        ("input: {path: *.csv}\n", "put a glob in quotes"),
        ("", "is not a job"),
        ("inptu: {}\nlimits: {concurrency: 0}\n", "did you mean `input`?"),
    ],
    ids=["tabs", "duplicate keys", "anchor bomb", "unquoted glob", "empty", "several problems"],
)
def test_bad_yaml_names_the_line(text: str, words: str, tmp_path: Path) -> None:
    """Broken job files are told with their line, and nothing is made."""
    (tmp_path / "job.yaml").write_text(text)
    ended = command("run", "job.yaml", cwd=tmp_path)
    assert (ended.code, words in ended.stderr) == (2, True), ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


def test_check_tells_what_run_would_meet(rows: Path) -> None:
    """`check` sends nothing, makes no checkpoint, and counts the rows that cannot be asked."""
    write_csv(rows / "rows.csv", ["4", "0"])
    request = {"model": "stand-in", "messages": [{"role": "user", "content": "{{ 8 / (text | int) }}"}]}
    before = _contents(rows)
    ended = command("check", write_job(rows, request=request))
    assert ended.code == 1
    assert "row 2: ZeroDivisionError" in ended.stderr
    assert "2 rows, 2 columns; 1 rows cannot be asked" in ended.stderr
    assert set(_contents(rows)) == {*before, rows / "job.yaml"}


def test_preview_prints_the_exact_requests(rows: Path) -> None:
    """Standard output has one JSON object for each row; without --send nothing is kept."""
    ended = command("preview", write_job(rows), "-n", "1")
    shown = json.loads(ended.stdout)
    assert shown["row"] == "1"
    assert shown["request"] == {"model": "stand-in", "messages": [{"role": "user", "content": "Repeat: text 0"}]}
    assert not (rows / ".batchchat").exists()


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's own keys out of the tests."""
    for name in ("OXEN_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
