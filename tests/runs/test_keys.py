"""The key is in nothing that a run leaves behind: files, screens, summaries, tracebacks, the list of processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import batchchat
from batchchat.errors import EndpointRefusedError
from tests.echoing import Echoing, Sent, completion
from tests.running import BATCHCHAT, ROOT, write_csv, write_job
from tests.running import batchchat as command

KEY = "sk-CANARY/7Hq2VbN9+xLr4_TzK8mWc5"
SOMEBODYS = "sk-proj-Zz9Yy8Xx7Ww6Vv5Uu4Tt3"


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the developer's own keys and proxies out of the tests."""
    for name in [name for name in os.environ if name.endswith("_API_KEY") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def spellings(key: str) -> list[bytes]:
    """Return what the key, or the most of it, looks like as it stands and as JSON may write it."""
    escaped = [key.replace("/", "\\/"), key.replace("-", "\\u002d"), "".join(f"\\u{ord(c):04x}" for c in key)]
    return [form.encode() for form in (key, key[: len(key) // 2], key[-12:], *escaped)]


def echoes(key: str) -> str:
    """Return a text with the key as endpoints are known to echo it."""
    return f"You sent Bearer {key}; x={key}"


def escaped(body: bytes) -> bytes:
    """Return a body with the dashes and slashes in it escaped, as JSON may have them."""
    return body.replace(b"-", b"\\u002d").replace(b"/", b"\\/")


def echoing(number: int, headers: Mapping[str, str], body: bytes) -> Sent:
    """Answer, refuse a row, fail for a while or break off; always with the key, wherever a reply can have it."""
    key = headers["authorization"].removeprefix("Bearer ")
    said = echoes(key)
    error = f'{{"error":{{"message":"{said}","code":"{key}","param":"{key}","type":"{key}"}}}}'.encode()
    ids = {"x-request-id": key, "x-generation-id": f"g-{key}", "retry-after": "0"}
    return [
        Sent(200, completion(said, id=key, model=key, system_fingerprint=said), ids),
        Sent(200, escaped(completion(said, id=said, usage={"prompt_tokens": 1, "x": key})), ids),
        Sent(400, error, ids),
        Sent(400, escaped(error), ids),
        Sent(500, f"<html>{said}</html>".encode(), ids),
        Sent(429, error, ids),
        Sent(200, completion(said)[:60] + key.encode()[:-3], ids, is_cut=True),
        Sent(200, f"no JSON: {said}".encode(), ids),
    ][number % 8]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Return a folder with a table of 16 rows."""
    folder = tmp_path / "job"
    folder.mkdir()
    write_csv(folder / "rows.csv", [f"text {number}" for number in range(16)])
    return folder


def traces(content: bytes, key: str = KEY) -> list[bytes]:
    """Return the spellings of the key that are in a content."""
    lower = content.lower()
    return [form for form in spellings(key) if form.lower() in lower]


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield all that can be read in a folder: every file as it is, every stored value, and every table, unpacked."""
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        yield str(path), path.read_bytes()
        if path.suffix == ".parquet":
            yield f"{path} unpacked", pl.read_parquet(path).write_ndjson().encode()
        if path.suffix == ".sqlite":
            yield from ((f"{path}: {place}", value) for place, value in stored(path))


def stored(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every value of a checkpoint, replies unpacked."""
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in connection.execute(f"SELECT * FROM {table}"):
                for value in row:
                    content = value if isinstance(value, bytes) else str(value).encode()
                    with contextlib.suppress(zlib.error):  # most values are not packed
                        content = zlib.decompress(content)
                    yield table, content


def assert_no_traces(folder: Path, *printed: str, but: tuple[Path, ...] = ()) -> None:
    """The key is in no file of a folder, but those that it was put in, nor in what was printed."""
    exempt = tuple(map(str, but))
    found = {place: traces(content) for place, content in contents(folder) if not place.startswith(exempt or ("\0",))}
    assert {place: forms for place, forms in found.items() if forms} == {}
    assert [forms for text in printed if (forms := traces(text.encode()))] == []


def echoing_job(folder: Path, base_url: str, **endpoint: Any) -> Path:
    """Write a job for an endpoint that echoes its key."""
    output = {"path": "out.parquet", "raw": True}
    limits = {"max_attempts": 2, "concurrency": 4}
    return write_job(folder, output=output, limits=limits, endpoint={"base_url": base_url, "name": "x", **endpoint})


@pytest.mark.slow
def test_key_is_in_nothing_that_a_run_with_faults_leaves(rows: Path) -> None:
    """Echoed in answers, errors, headers and broken replies, also JSON's escapes: it is in no file and on no screen."""
    env = {"TEST_KEY": KEY}
    with Echoing(echoing) as endpoint:
        job = echoing_job(rows, endpoint.base_url, api_key_env="TEST_KEY")
        ends = [
            command("preview", job, "-n", "5", "--send", env=env),
            command("run", job, "--json", env=env),
            command("run", job, "--retry-errors", env=env),
            command("status", job, env=env),
            *(command("export", job, "--output", rows / f"out.{suffix}", env=env) for suffix in ("csv", "jsonl")),
        ]
        assert all(headers["authorization"] == f"Bearer {KEY}" for headers in endpoint.seen)
        assert len(endpoint.seen) > 16
    assert {ended.code for ended in ends} == {0, 1}
    assert "[redacted]" in ends[0].stdout
    table = pl.read_parquet(rows / "out.parquet")
    assert table["completion"].str.contains("[redacted]", literal=True).any()
    assert table["raw"].str.contains("[redacted]", literal=True).any()
    assert table["error"].str.contains("[redacted]", literal=True).any()
    assert_no_traces(rows, *(ended.stdout + ended.stderr for ended in ends))


@pytest.mark.slow
def test_killed_run_and_damaged_checkpoint_have_no_key(rows: Path) -> None:
    """Not in the journal beside a checkpoint, nor in the list of processes, nor in what is said of damage."""

    def script(number: int, headers: Mapping[str, str], body: bytes) -> Sent:
        if number >= 6:
            time.sleep(30)
        return Sent(200, completion(echoes(headers["authorization"])))

    with Echoing(script) as endpoint:
        job = echoing_job(rows, endpoint.base_url, api_key_env="TEST_KEY")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TEST_KEY": KEY}
        with subprocess.Popen([*BATCHCHAT, "run", job], env=environment, stderr=subprocess.PIPE) as process:
            while len(endpoint.seen) < 8:
                assert process.poll() is None
                time.sleep(0.02)
            line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            process.send_signal(signal.SIGKILL)
            _, printed = process.communicate(timeout=300)
    assert (rows / ".batchchat" / "job.sqlite-wal").stat().st_size > 0
    assert_no_traces(rows, line.decode(), printed.decode())
    checkpoint = rows / ".batchchat" / "job.sqlite"
    status = command("status", job, "--json")
    damaged = bytearray(checkpoint.read_bytes())
    damaged[3000:] = b"\x55" * (len(damaged) - 3000)
    checkpoint.write_bytes(damaged)
    (rows / ".batchchat" / "job.sqlite-wal").unlink()
    ends = [status, command("export", job)]
    assert_no_traces_in(*(ended.stdout + ended.stderr for ended in ends))


def assert_no_traces_in(*printed: str) -> None:
    """The key is in nothing that was printed."""
    assert [forms for text in printed if (forms := traces(text.encode()))] == []


@pytest.mark.slow
@pytest.mark.parametrize("place", ["file", "Oxen's config"])
def test_key_from_a_file_stays_there(rows: Path, place: str, tmp_path: Path) -> None:
    """The file that it came from is the only one that has it."""
    with Echoing(echoing) as endpoint:
        if place == "file":
            source = rows / "key"
            source.write_text(KEY)
            job = echoing_job(rows, endpoint.base_url, api_key_file="key")
        else:
            source = tmp_path / "home" / ".config" / "oxen" / "auth_config.toml"
            source.parent.mkdir(parents=True)
            source.write_text(f'host_configs = [{{host = "{endpoint.place}", auth_token = "{KEY}"}}]')
            job = echoing_job(rows, endpoint.base_url, provider="oxen")
        ended = command("run", job)
        assert all(headers["authorization"] == f"Bearer {KEY}" for headers in endpoint.seen)
    assert ended.code == 1
    assert_no_traces(tmp_path, ended.stdout + ended.stderr, but=(source,))


def refusing(number: int, headers: Mapping[str, str], body: bytes) -> Sent:
    """Refuse every job, and say what came."""
    said = echoes(headers.get("authorization", "Bearer nothing").removeprefix("Bearer "))
    return Sent(401, f'{{"error":{{"message":"{said} and {SOMEBODYS}"}}}}'.encode(), {"x-request-id": said})


def test_refusal_has_no_key_in_words_summary_or_traceback(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the command line, in JSON, and in all that an exception shows in Python."""
    monkeypatch.setenv("TEST_KEY", KEY)
    with Echoing(refusing) as endpoint:
        job = echoing_job(rows, endpoint.base_url, api_key_env="TEST_KEY")
        ended = command("run", job, "--json")
        assert (ended.code, "[redacted]" in ended.stdout, "[redacted]" in ended.stderr) == (4, True, True)
        with pytest.raises(EndpointRefusedError) as caught:
            batchchat.run(job)
    shown = f"{caught.value} {caught.value!r} {caught.value.summary!r}" + "".join(
        traceback.format_exception(caught.value)
    )
    assert_no_traces(rows, ended.stdout + ended.stderr, shown)


def test_key_amid_control_characters_is_on_no_terminal(rows: Path) -> None:
    """What a terminal is not sent may not be what kept the key from being seen."""
    hidden = f"{KEY[:9]}\x1b[0m{KEY[9:]}"
    with Echoing(lambda *_: Sent(401, json.dumps({"error": {"message": f"not {hidden}"}}).encode())) as endpoint:
        job = echoing_job(rows, endpoint.base_url, api_key_env="TEST_KEY")
        ended = command("run", job, env={"TEST_KEY": KEY})
    assert (ended.code, "not [redacted]" in ended.stderr) == (4, True)
    assert KEY not in ended.stdout + ended.stderr


CRASH = """
import os
from batchchat import __main__
from batchchat.commands import run

def crash(*_, **__):
    raise RuntimeError("a bug, by which the headers are said: Authorization: Bearer " + os.environ["TEST_KEY"])

run.write_output = crash
__main__.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("debug", ["", "1"])
def test_crash_of_our_own_shows_no_key(rows: Path, debug: str) -> None:
    """Neither the line that asks for a report, nor the traceback, nor the checkpoint has what a bug would tell."""
    with Echoing(lambda *_: Sent(200, completion("yes"))) as endpoint:
        job = echoing_job(rows, endpoint.base_url, api_key_env="TEST_KEY")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TEST_KEY": KEY, "BATCHCHAT_DEBUG": debug}
        words = [sys.executable, "-c", CRASH, "run", str(job)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ("Traceback" in done.stderr, "a bug, by which" in done.stderr) == (bool(debug), True)
    assert done.returncode == 70
    assert_no_traces(rows, done.stderr)


def test_redirect_carries_the_key_nowhere(rows: Path) -> None:
    """A base URL that leads elsewhere ends the run, and elsewhere hears nothing."""
    with Echoing(refusing) as elsewhere:
        target = f"{elsewhere.base_url}/chat/completions"

        def script(number: int, headers: Mapping[str, str], body: bytes) -> Sent:
            return Sent(307, b"", {"location": f"{target}?key={headers['authorization'][7:]}"})

        with Echoing(script) as endpoint:
            job = echoing_job(rows, endpoint.base_url, api_key_env="TEST_KEY")
            ended = command("run", job, env={"TEST_KEY": KEY})
    assert (ended.code, elsewhere.seen) == (4, [])
    assert target in ended.stderr
    assert_no_traces(rows, ended.stderr)


@pytest.mark.slow
def test_key_of_a_provider_does_not_leave_for_another_host(rows: Path) -> None:
    """At another base URL the provider's key is not sent; `check` says so, and so does the refusal."""
    with Echoing(refusing) as endpoint:
        job = echoing_job(rows, endpoint.base_url, provider="oxen")
        ends = [command(name, job, env={"OXEN_API_KEY": KEY}) for name in ("check", "run")]
        assert not any("authorization" in headers for headers in endpoint.seen)
    assert [ended.code for ended in ends] == [0, 4]
    note = "no key is sent: OXEN_API_KEY belongs to hub.oxen.ai; name it in endpoint.api_key_env to send it to"
    assert all(f"{note} {endpoint.place}" in ended.stderr for ended in ends)
    assert_no_traces(rows, *(ended.stderr for ended in ends))


@pytest.mark.slow
def test_password_of_a_proxy_is_never_shown(rows: Path) -> None:
    """A proxy that refuses, or cannot be used, is named without what gets one in."""
    password = "pr0xy-CANARY-password"

    def script(number: int, headers: Mapping[str, str], body: bytes) -> Sent:
        return Sent(407, str(dict(headers)).encode(), {"proxy-authenticate": headers["proxy-authorization"]})

    with Echoing(script) as proxy:
        job = write_job(rows, endpoint={"base_url": "https://api.example.test/v1"})
        refused = command("run", job, "--json", env={"HTTPS_PROXY": f"http://me:{password}@{proxy.place}"})
        assert proxy.seen
        unusable = command("run", job, env={"HTTPS_PROXY": f"socks5://me:{password}@{proxy.place}"})
        plain = write_job(rows, endpoint={"base_url": "http://api.example.test/v1", "allow_http": True})
        unknown = command("run", plain, "--json", env={"HTTP_PROXY": f"http://me:{password}@{proxy.place}"})
    assert (unknown.code, "the proxy refuses the job (407)" in unknown.stderr) == (4, True)
    assert "another user or password" in refused.stderr
    assert (refused.code, unusable.code) == (4, 2)
    for text in (refused.stdout, refused.stderr, unknown.stdout, unknown.stderr, unusable.stderr):
        assert traces(text.encode(), password) == []
    found = [place for place, content in contents(rows) if traces(content, password)]
    assert found == []


def test_canary_is_found_where_it_is(rows: Path) -> None:
    """The search itself finds the key: in a file, in a stored reply, in a packed table."""
    (rows / "log").write_text(echoes(KEY))
    pl.DataFrame({"a": [KEY]}).write_parquet(rows / "x.parquet")
    with contextlib.closing(sqlite3.connect(rows / "x.sqlite", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.execute("INSERT INTO t VALUES (?)", (zlib.compress(KEY.encode(), 1),))
    found = {Path(place.split(":")[0]).name for place, content in contents(rows) if traces(content)}
    assert {"log", "x.parquet unpacked", "x.sqlite"} <= found
    shutil.rmtree(rows)
