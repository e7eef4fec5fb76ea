"""How long a run's event loop is held up at a time: by reading, rendering, images, large replies and SQLite."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from tests.echoing import completion
from tests.running import ROOT, write_job

pytestmark = pytest.mark.slow

LONGEST_MS = 20.0
"""What may hold the loop at a time."""
TRIES = 3
"""Runs until one is within it: what holds the loop by itself does so in each, what the machine does to it does not."""
LATENCY_S = 0.01
SMALL_ROWS = 2_500
KEY = "sk-not-a-real-key-0123456789"


class _Answering(asyncio.Protocol):
    """Gives every request the same answer, after a while."""

    def __init__(self, reply: bytes) -> None:
        self._reply = reply
        self._received = b""
        self._wanted_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Count what a request still lacks, and answer when that is nothing."""
        if not self._wanted_bytes:
            head, end, body = (self._received + data).partition(b"\r\n\r\n")
            self._received = b"" if end else head
            if not end:
                return
            length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length:"))
            self._wanted_bytes, data = int(length.partition(b":")[2]), body
        self._wanted_bytes -= len(data)
        if not self._wanted_bytes:
            asyncio.get_running_loop().call_later(LATENCY_S, self._transport.write, self._reply)


@contextmanager
def endpoint(content: str) -> Iterator[str]:
    """Answer all requests with a content, in a thread of this process, and not of the one that is measured."""
    body = completion(content)
    reply = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(lambda: _Answering(reply), "127.0.0.1", 0, backlog=1024))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.close()


def run_measured(folder: Path, number: int) -> dict[str, Any]:
    """Run the folder's job from its beginning in a process of its own."""
    job = folder / "job.yaml"
    changed = {**json.loads(job.read_text()), "checkpoint": {"path": f"{number}.sqlite"}}
    job.write_text(json.dumps(changed))
    done = subprocess.run(
        [sys.executable, "-m", "tests.lagging", str(job)],
        cwd=ROOT,
        env={**os.environ, "LAG_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check_lag(folder: Path, rows: int, content: str = "a label", **changes: Any) -> None:
    """Run a job over `rows.parquet` until a run holds its loop up no longer than may be; at most a few times."""
    with endpoint(content) as url:
        write_job(folder, **{"input": {"path": "rows.parquet"}, "endpoint": {"base_url": url}, **changes})
        runs: list[dict[str, Any]] = []
        while not runs or (runs[-1]["worst_ms"] > LONGEST_MS and len(runs) < TRIES):
            runs.append(run_measured(folder, len(runs)))
            assert (runs[-1]["outcome"], runs[-1]["rows"]) == ("finished", rows)
            assert runs[-1]["beats"] > 20
    assert runs[-1]["worst_ms"] <= LONGEST_MS, json.dumps(runs, indent=1)


def prose(characters: int) -> str:
    """Return words that no codec has seen before."""
    draw = random.Random(characters)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(500)]
    return " ".join(draw.choices(words, k=characters // 8))


def picture(size: tuple[int, int], format: str) -> bytes:  # noqa: A002
    """Return a picture with as much in it as a photograph has."""
    small = Image.effect_noise((size[0] // 4, size[1] // 4), 60)
    file = io.BytesIO()
    options = {"PNG": {"compress_level": 1}, "JPEG": {"quality": 85}, "WEBP": {"quality": 85, "method": 0}}[format]
    small.resize(size).convert("RGB").save(file, format, **options)
    return file.getvalue()


def test_many_small_rows(tmp_path: Path) -> None:
    """Thousands of rows of 1 KB, and all the objects that come and go with them, do not hold the loop up."""
    text = prose(1_000)
    rows = pl.DataFrame({"text": [f"{number} {text}" for number in range(SMALL_ROWS)]})
    rows.write_parquet(tmp_path / "rows.parquet")
    check_lag(tmp_path, SMALL_ROWS, limits={"concurrency": 32})


def test_one_huge_row_group(tmp_path: Path) -> None:
    """A file whose rows are all in one group is read a little at a time."""
    rows = pl.DataFrame({"text": [f"row {number} of many" for number in range(200_000)]})
    rows.write_parquet(tmp_path / "rows.parquet", row_group_size=200_000)
    check_lag(tmp_path, 1_500, input={"path": "rows.parquet", "limit": 1_500}, limits={"concurrency": 24})


def test_wide_rows(tmp_path: Path) -> None:
    """Rows of 100 KB are read, rendered, hashed and sent in steps."""
    text = prose(100_000)
    pl.DataFrame({"text": [f"{number} {text}" for number in range(300)]}).write_parquet(tmp_path / "rows.parquet")
    check_lag(tmp_path, 300, limits={"concurrency": 24})


def test_pictures_that_are_shrunk(tmp_path: Path) -> None:
    """Photographs of some MB are decoded, made smaller and coded while the loop goes on."""
    sizes = {"PNG": (4_000, 3_000), "JPEG": (4_000, 3_000), "WEBP": (5_000, 4_000)}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(picture(size, name))
    pl.DataFrame({"file": list(sizes)}).write_parquet(tmp_path / "rows.parquet")
    parts = [{"type": "image_url", "image_url": {"url": "{{ file }}"}}, {"type": "text", "text": "What is this?"}]
    check_lag(
        tmp_path,
        len(sizes),
        input={"path": "rows.parquet", "max_image_side": 1_024},
        request={"model": "stand-in", "messages": [{"role": "user", "content": parts}]},
        limits={"concurrency": 4},
    )


def test_large_replies(tmp_path: Path) -> None:
    """Replies of 2 MB, which are read, looked through for the key, compressed and stored, hold nobody up."""
    pl.DataFrame({"text": [str(number) for number in range(30)]}).write_parquet(tmp_path / "rows.parquet")
    check_lag(tmp_path, 30, content="größer " * 116_000, limits={"concurrency": 2})
