"""The benchmarks, small: each contestant over a few rows, the endpoint if nginx is there, tables, plots, refusals."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from pyarrow import parquet

from tests.bench.asking import Task
from tests.bench.contestants import (
    BARE,
    BARE_DURABLE,
    BATCHCHAT_ITSELF,
    OPENAI,
    OPENAI_AIOHTTP,
    SATURATE,
    Contestant,
    check_libraries,
    check_output,
)
from tests.bench.cores import choose_cores
from tests.bench.endpoint import Behaviour, Endpoint, MissingError, Stats, find_nginx, running_endpoint
from tests.bench.plots import draw
from tests.bench.quotas import BY_HEADERS, REQUESTS, TOKENS, UNTOLD, Delivered, judge, settled_share
from tests.bench.report import Bars, Lines, Report, Table, Target, as_markdown
from tests.bench.rows import ROW_BYTES, rows_file
from tests.bench.runs import Launch, Process, Run, RunError, run_process
from tests.bench.side_by_side import Rounds, compare, run_rounds
from tests.bench.side_by_side import judge as judge_rounds
from tests.bench.stage import Stage
from tests.running import ROOT

pytestmark = pytest.mark.slow

ROWS = 20
ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"bench-model","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"billing"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":250,"completion_tokens":1,"total_tokens":251}}'
)


def _has_nginx() -> bool:
    try:
        find_nginx()
    except MissingError:
        return False
    return True


needs_nginx = pytest.mark.skipif(not _has_nginx(), reason="nginx with its Lua module is not installed")


class Answering(BaseHTTPRequestHandler):
    """Gives every request the same answer."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """Answer a request."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    """Return where an endpoint is that answers at once."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server, ThreadPoolExecutor(1) as thread:
        serving = thread.submit(server.serve_forever, 0.02)
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        serving.result()


def contend(contestant: Contestant, folder: Path, base_url: str, count: int = ROWS) -> Process:
    """Run a contestant over a few rows, of which it is told that they are `count`."""
    task = Task(rows_file(folder, ROWS), count, base_url, 4, folder)
    return run_process(contestant.name, contestant.command(task), folder, Launch(longest_s=60))


def made_run(rows: int, seconds: float, active_s: float, cpu_s: float = 1.0) -> Run:
    """Return a run with these figures, whose first request came half a second after its start."""
    process = Process(0, 100.0, seconds, cpu_s, 50.0)
    return Run(rows, process, Stats(rows, rows, 0, 8, 100.5, 100.5 + active_s, (rows,), (0,), (rows,)))


def ask(endpoint: Endpoint) -> tuple[int, Message]:
    """Send a request; return the status and the headers of the reply."""
    request = Request(f"{endpoint.base_url}/chat/completions", data=b"{}", method="POST")
    try:
        with urlopen(request, timeout=10.0) as reply:
            assert b'"total_tokens"' in reply.read()
            return reply.status, reply.headers
    except HTTPError as error:
        return error.code, error.headers


def test_rows_are_a_kilobyte_each_all_different_and_the_same_every_time(tmp_path: Path) -> None:
    """Everyone reads the same rows, and a shorter table is the beginning of a longer one."""
    (tmp_path / "again").mkdir()
    texts = parquet.read_table(rows_file(tmp_path, 300))["text"].to_pylist()
    fewer = parquet.read_table(rows_file(tmp_path / "again", 50))["text"].to_pylist()
    assert {len(text.encode()) for text in texts} == {ROW_BYTES}
    assert len(set(texts)) == 300
    assert fewer == texts[:50]


def test_batchchat_contends_and_its_output_is_checked(tmp_path: Path, base_url: str) -> None:
    """Its job is over the rows that the others read; an output with fewer answers is refused."""
    contend(BATCHCHAT_ITSELF, tmp_path, base_url)
    check_output(tmp_path / "answers.parquet", ROWS)
    with pytest.raises(RunError, match=f"has {ROWS} rows, 0 without answer, not {ROWS + 1}"):
        check_output(tmp_path / "answers.parquet", ROWS + 1)


def test_bare_protocol_to_sqlite_keeps_an_answer_for_each_row(tmp_path: Path, base_url: str) -> None:
    """What it commits is there when it has ended, one for each different request."""
    contend(BARE_DURABLE, tmp_path, base_url)
    with closing(sqlite3.connect(tmp_path / "answers.sqlite")) as database:
        assert database.execute("SELECT count(*), count(completion) FROM answers").fetchone() == (ROWS, ROWS)


@pytest.mark.parametrize("contestant", [OPENAI, OPENAI_AIOHTTP], ids=lambda contestant: contestant.name)
def test_openai_client_contends_and_writes_its_answers(contestant: Contestant, tmp_path: Path, base_url: str) -> None:
    """The client's gather gives the answers in the order of the rows, beside which they are written."""
    if contestant is OPENAI_AIOHTTP:
        pytest.importorskip("aiohttp")
    contend(contestant, tmp_path, base_url)
    assert parquet.read_table(tmp_path / "answers.parquet").num_rows == ROWS


def test_saturate_contends_and_writes_its_parts(tmp_path: Path, base_url: str) -> None:
    """Its pump writes all rows, none as an error."""
    pytest.importorskip("saturate")
    contend(SATURATE, tmp_path, base_url)
    parts = [parquet.read_table(path) for path in (tmp_path / "answers").glob("part-*.parquet")]
    assert [part["error"].null_count for part in parts] == [ROWS]


def test_contestant_without_an_answer_for_every_row_is_refused(tmp_path: Path, base_url: str) -> None:
    """Who does less than the others is not measured, and what it said is shown."""
    with pytest.raises(RunError, match=f"bare protocol ended with 1: {ROWS} of {ROWS + 1} rows have an answer"):
        contend(BARE, tmp_path, base_url, ROWS + 1)


def test_costs_of_a_process_are_its_own(tmp_path: Path) -> None:
    """CPU and peak memory are those of the command: not the little of who starts it, nor the much of who asks."""
    lines = (
        "import time; kept = b'x' * 100_000_000; end = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
    )
    large = run_process("large", [sys.executable, "-c", lines], tmp_path, Launch(choose_cores().client))
    small = run_process("small", [sys.executable, "-c", ""], tmp_path, Launch())
    assert 0.2 <= large.cpu_s <= large.seconds
    assert 80 < large.peak_mb - small.peak_mb < 120
    assert small.peak_mb < 40


def test_command_is_ended_after_its_time(tmp_path: Path) -> None:
    """It gets a SIGTERM; how it then ends is its code."""
    lines = [sys.executable, "-c", "import time; time.sleep(30)"]
    ended = run_process("sleeper", lines, tmp_path, Launch(end_after_s=0.3), codes=(-signal.SIGTERM,))
    assert 0.3 <= ended.seconds < 5


def test_command_that_does_not_end_is_killed(tmp_path: Path) -> None:
    """What takes too long is killed with all that it started, and named."""
    lines = ["sh", "-c", "echo $$; exec sleep 3600"]
    for longest_s in (0.5, 5.0, 50.0):  # a busy machine takes its time to start it
        with pytest.raises(RunError, match=f"sleeper did not end within {longest_s:g} s"):
            run_process("sleeper", lines, tmp_path, Launch(longest_s=longest_s))
        if said := (tmp_path / "said.txt").read_text():
            break
    while Path(f"/proc/{int(said)}").exists():  # it may take a moment to be gone
        time.sleep(0.01)


def test_ratios_are_those_of_the_same_round() -> None:
    """A machine that was slow for a whole round changes no ratio, and of whole and active the lesser counts."""
    own = [made_run(1_000, 1.0, 0.5), made_run(1_000, 4.0, 2.0), made_run(1_000, 1.0, 0.5)]
    other = [made_run(100, 1.0, 1.0), made_run(100, 4.0, 4.0), made_run(100, 1.0, 1.0)]
    rounds = Rounds({BATCHCHAT_ITSELF.name: own, SATURATE.name: other}, {BARE.name: "it fell"})
    assert rounds.least_times(SATURATE.name) == pytest.approx(10)
    assert [(target.figure, target.is_met) for target in judge_rounds(rounds)] == [("10.0", True), ("0.100", True)]
    table = compare(rounds)
    assert [row[:4] for row in table.rows[:2]] == [
        ("batchchat", "1,000", "1,000", "2,000"),
        ("saturate", "100", "100", "100"),
    ]
    assert table.rows[2][:2] == ("bare protocol", "failed: it fell")
    assert len({len(row) for row in (table.headings, *table.rows)}) == 1


def test_share_of_an_allowance_counts_the_seconds_in_which_nothing_came() -> None:
    """Seconds before it has settled do not count; a run that stands still at its end has delivered nothing there."""
    assert settled_share([500, 50, 25], 50.0, 1, 3) == 0.75
    assert settled_share([500, 50, 50], 50.0, 1, 5) == 0.5


def test_requests_with_a_limit_that_is_told_may_not_be_refused_at_all() -> None:
    """One 429 in 200 replies is too many for those who know the limit, and few for who does not, as for tokens."""
    run = made_run(199, 4.0, 4.0)
    delivered = Delivered(replace(run, stats=replace(run.stats, refused=1)), (), 0.96)
    found = {BY_HEADERS: delivered, UNTOLD: delivered}
    assert [target.is_met for target in judge(REQUESTS, found)] == [True, False, True, True]
    assert [target.is_met for target in judge(TOKENS, found)] == [True, True, True, True]


def test_report_is_a_section_of_markdown_and_a_picture(tmp_path: Path) -> None:
    """The tables stand one after the other, the missed target says so, and the plots are one PNG."""
    plots: list[Bars | Lines] = [Bars("rows/s", {"one": 1.0, "other": 2.0}), Lines("answers", {"one": (1, 2, 3)}, 2.0)]
    targets = [Target("speed", "1", "at least 2", is_met=False)]
    text = as_markdown(Report("wire", "What.", [Table(("", "rows"), [("one", "1")])], targets, plots))
    assert text.splitlines()[:7] == ["## wire", "", "What.", "", "|  | rows |", "| --- | ---: |", "| one | 1 |"]
    assert text.splitlines()[-1] == "| speed | 1 | at least 2 | NOT MET |"
    pytest.importorskip("matplotlib")
    draw(tmp_path / "wire.png", "wire", plots)
    assert (tmp_path / "wire.png").read_bytes().startswith(b"\x89PNG")


def test_missing_nginx_is_named_with_the_way_to_install_it(tmp_path: Path) -> None:
    """Where there is no nginx, the message says so, and which packages have it."""
    with pytest.raises(MissingError, match="there is no nginx; sudo apt-get install nginx libnginx-mod-http-lua"):
        find_nginx(str(tmp_path))


def test_missing_module_ends_the_benchmarks_with_2(tmp_path: Path) -> None:
    """An nginx without Lua is found out before anything is measured; no traceback, and no results."""
    (tmp_path / "nginx").write_text("#!/bin/sh\necho 'configure arguments: --modules-path=/nowhere' >&2\n")
    (tmp_path / "nginx").chmod(0o755)
    command = [sys.executable, "-m", "tests.bench", "--quick", "--out", str(tmp_path / "results")]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "/nowhere has no ndk_http_module.so, ngx_http_lua_module.so" in ended.stderr
    assert "sudo apt-get install nginx libnginx-mod-http-lua" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "results").exists()


def test_missing_libraries_are_named_with_the_way_to_install_them() -> None:
    """What the extra would bring is said at once, not by a contestant that fails."""
    with pytest.raises(MissingError, match=r"the benchmarks need no_such_library, which is not.*pip install"):
        check_libraries(("json", "no_such_library"))


@needs_nginx
def test_endpoint_works_at_as_many_requests_as_it_has_slots(tmp_path: Path) -> None:
    """Four requests at two slots of 0.2 s take two turns, and it counts what it sees."""
    behaviour = Behaviour(latency_s=0.2, slots=2)
    with running_endpoint(tmp_path, behaviour, None) as endpoint, ThreadPoolExecutor(4) as threads:
        replies = [reply.result() for reply in [threads.submit(ask, endpoint) for _ in range(4)]]
        stats = endpoint.stats()
        endpoint.reset()
        assert endpoint.stats().received == 0
    assert [status for status, _ in replies] == [200] * 4
    assert (stats.received, stats.answered, stats.refused, stats.most_in_flight) == (4, 4, 0, 4)
    assert 0.39 <= stats.last_at - stats.first_at < 3.0
    assert abs(stats.first_at - time.time()) < 5


@needs_nginx
@pytest.mark.parametrize("limit", [{"requests_per_minute": 120}, {"tokens_per_minute": 3_600}], ids=str)
def test_endpoint_refuses_what_is_above_its_limit(limit: dict[str, int], tmp_path: Path) -> None:
    """A second's worth comes at once; then it is 429, until Retry-After is over. Headers tell the limit."""
    unit = "requests" if "requests_per_minute" in limit else "tokens"
    with running_endpoint(tmp_path, Behaviour(says_limits=True, **limit), None) as endpoint:
        replies = [ask(endpoint) for _ in range(8)]
        wait_s = next(float(headers["retry-after"]) for status, headers in replies if status == 429)
        time.sleep(wait_s)
        again, _ = ask(endpoint)
        stats = endpoint.stats()
    assert (replies[0][0], wait_s, again) == (200, 1.0, 200)
    assert {headers[f"x-ratelimit-limit-{unit}"] for _, headers in replies} == {str(*limit.values())}
    assert stats.received == 9 == stats.answered + stats.refused
    assert sum(stats.refusals) == stats.refused > 0


@needs_nginx
def test_contestants_take_turns_and_who_fails_is_left_out(tmp_path: Path) -> None:
    """All rounds are measured with what the endpoint saw; one that cannot run costs no other its place."""
    broken = Contestant("broken", lambda _: [sys.executable, "-c", "raise SystemExit('it is broken')"], "no")
    stage = Stage(tmp_path, choose_cores(), scale=1 / 500)
    rounds = run_rounds(stage, (BARE_DURABLE, broken, BARE), 8, 2)
    assert rounds.failures == {"broken": "broken ended with 1: it is broken"}
    assert {name: [run.rows for run in runs] for name, runs in rounds.runs.items()} == {
        "bare protocol to SQLite": [40, 40],
        "bare protocol": [40, 40],
    }
    assert all(0 < run.first_request_s < run.process.seconds for runs in rounds.runs.values() for run in runs)
    assert list(tmp_path.glob("run-*")) == []
