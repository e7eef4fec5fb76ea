"""Jobs over local images and videos: what is sent, what is asked again, and what is refused."""

from __future__ import annotations

import base64
import io
import os
import sqlite3
import subprocess
import threading
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
from PIL import Image

import batchchat
from batchchat.commands.plan import CHUNK_MEDIA_BYTES, CHUNK_ROWS, chunks, prepare
from batchchat.job.file import job_from_mapping, load_job
from batchchat.prompt.media.folder import Unremembered
from batchchat.serve.server import EmbeddedEndpoint
from batchchat.serve.settings import ServeSettings
from tests.running import BATCHCHAT, Ended, write_job
from tests.running import batchchat as command

LONG_AGO_S = 1_600_000_000
VIDEO = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(100)


def picture(width: int, height: int, format: str = "PNG") -> bytes:  # noqa: A002
    """Return a picture of a size."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), (width % 256, height % 256, 90)).save(file, format)
    return file.getvalue()


def media_job(folder: Path, url: str = "{{ file }}", key: str = "image_url", **changes: Any) -> Path:
    """Write a job that sends one medium a row."""
    content = [{"type": key, key: {"url": url}}, {"type": "text", "text": "What is this?"}]
    request = {"model": "stand-in", "messages": [{"role": "user", "content": content}]}
    return write_job(folder, **{"request": request, **changes})


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with a table of three pictures in a folder beside it."""
    (tmp_path / "pictures").mkdir()
    names = []
    for number, format in enumerate(("PNG", "JPEG", "GIF"), start=1):  # noqa: A001
        path = tmp_path / "pictures" / f"{number}.{format.lower()}"
        path.write_bytes(picture(10 * number, 20, format))
        os.utime(path, (LONG_AGO_S, LONG_AGO_S))
        names.append(f"pictures/{path.name}")
    (tmp_path / "rows.csv").write_text("file\n" + "\n".join(names) + "\n")
    return tmp_path


def run(folder: Path, *options: str) -> tuple[Ended, pl.DataFrame]:
    """Run the job, and return its table."""
    ended = command("run", folder / "job.yaml", "--json", *options)
    return ended, pl.read_parquet(folder / "out.parquet")


@pytest.mark.slow
def test_pictures_are_sent_with_their_types(shop: Path) -> None:
    """The endpoint sees what is in each file, whatever its name."""
    media_job(shop)
    ended, table = run(shop)
    assert ended.code == 0
    for number, (kind, completion) in enumerate(zip(("png", "jpeg", "gif"), table["completion"], strict=True), start=1):
        assert f"image/{kind}, {10 * number} x 20 pixels" in completion


@pytest.mark.slow
def test_resume_asks_and_reads_nothing_again(shop: Path) -> None:
    """A file of the same size and time is not even opened: not when its content is another, not when it may not be."""
    media_job(shop)
    run(shop)
    path = shop / "pictures" / "1.png"
    path.write_bytes(bytes(path.stat().st_size))
    os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    ended, table = run(shop)
    assert (ended.code, ended.summary["requests_sent"], table["error"].null_count()) == (0, 0, 3)
    assert command("export", shop / "job.yaml").code == 0


@pytest.mark.slow
def test_changed_picture_is_asked_again_and_a_moved_one_is_not(shop: Path) -> None:
    """The key holds the content: one new picture is one request, and a new folder is none."""
    media_job(shop)
    run(shop)
    (shop / "pictures" / "1.png").write_bytes(picture(33, 44))
    (shop / "pictures").rename(shop / "moved")
    (shop / "rows.csv").write_text((shop / "rows.csv").read_text().replace("pictures/", "moved/"))
    ended, table = run(shop)
    assert (ended.summary["requests_sent"], ended.summary["rows_reused"]) == (1, 2)
    assert "33 x 44 pixels" in table["completion"][0]


@pytest.mark.slow
def test_output_holds_what_the_run_found(shop: Path) -> None:
    """Answers do not go when their pictures do: not from an export, and not from a run that asks nothing else."""
    media_job(shop)
    _, before = run(shop)
    (shop / "pictures").rename(shop / "elsewhere")
    assert command("export", shop / "job.yaml").code == 0
    assert pl.read_parquet(shop / "out.parquet").equals(before)
    ended, after = run(shop)
    assert (ended.code, ended.summary["requests_sent"], ended.summary["rows_reused"]) == (0, 0, 3)
    assert after.equals(before)


@pytest.mark.slow
def test_picture_that_changes_under_a_run_is_its_rows_trouble(shop: Path) -> None:
    """One file is written to while the run goes on: the output is there, with a failure for that row alone."""

    class Writing(BaseHTTPRequestHandler):
        """Answers, after the third picture has changed."""

        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            (shop / "pictures" / "3.gif").write_bytes(picture(77, 77, "GIF"))
            body = b'{"choices":[{"message":{"content":"fine"},"finish_reason":"stop"}]}'
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Writing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        media_job(shop, endpoint={"base_url": url}, limits={"concurrency": 1})
        ended, table = run(shop)
        again, mended = run(shop)
        server.shutdown()
    assert (ended.code, table["error_kind"].to_list()) == (1, [None, None, "media"])
    assert "changed while the job ran" in table["error"][2]
    assert (again.code, mended["error_kind"].null_count(), again.summary["requests_sent"]) == (0, 3, 1)


@pytest.mark.slow
def test_binary_column_is_sent_as_a_data_url(tmp_path: Path) -> None:
    """A table may hold the pictures themselves."""
    pl.DataFrame({"name": ["a", "b"], "photo": [picture(8, 9), None]}).write_parquet(tmp_path / "rows.parquet")
    media_job(tmp_path, "{{ photo }}", input={"path": "rows.parquet", "id": "name"})
    ended, table = run(tmp_path)
    assert ended.code == 1
    assert "image/png, 8 x 9 pixels" in table["completion"][0]
    assert (table["error_kind"][1], table["completion"][1]) == ("media", None)
    shown = command("preview", tmp_path / "job.yaml", "-n", "1")
    sent = orjson.loads(shown.stdout)["request"]["messages"][0]["content"][0]["image_url"]["url"]
    assert sent == f"data:image/png;base64,{base64.b64encode(picture(8, 9)).decode()}"


@pytest.mark.slow
def test_videos_and_urls_pass(shop: Path) -> None:
    """A video is read like a picture; http and data URLs go out as they are."""
    (shop / "clip.mp4").write_bytes(VIDEO)
    url = f"data:video/mp4;base64,{base64.b64encode(VIDEO).decode()}"
    (shop / "rows.csv").write_text(f'file\nclip.mp4\nhttps://example.com/clip.mp4\n"{url}"\n')
    media_job(shop, key="video_url")
    ended, table = run(shop)
    assert ended.code == 0
    assert table["completion"][0] == table["completion"][2]
    assert "example.com" in table["completion"][1]
    assert ended.summary["requests_sent"] == 3


@pytest.mark.slow
def test_only_the_media_root_is_read(shop: Path) -> None:
    """What lies outside is a failure of its row, however it is named; the others are answered."""
    outside = shop.parent / f"{shop.name}-outside.png"
    outside.write_bytes(picture(5, 5))
    (shop / "pictures" / "link.png").symlink_to(outside)
    (shop / "pictures" / "folder.png").mkdir()
    os.mkfifo(shop / "pictures" / "fifo.png")
    (shop / "pictures" / "zero.png").symlink_to("/dev/zero")
    bad = [
        f"../{outside.name}",
        f"pictures/../../{outside.name}",
        str(outside),
        f"file://{outside}",
        "pictures/link.png",
        "pictures/folder.png",
        "pictures/fifo.png",
        "pictures/zero.png",
        "pictures/missing.png",
        "rows.csv",
    ]
    (shop / "rows.csv").write_text("file\npictures/1.png\n" + "\n".join(bad) + "\n")
    media_job(shop)
    assert command("check", shop / "job.yaml").code == 1
    ended, table = run(shop)
    assert ended.code == 1
    assert table["error_kind"].to_list() == [None, *["media"] * len(bad)]
    assert ended.summary["requests_sent"] == 1
    assert table["completion"].null_count() == len(bad)


@pytest.mark.slow
def test_media_root_may_be_elsewhere(shop: Path) -> None:
    """Paths count from `input.media_root` when the job names one, and no longer from the input's folder."""
    media_job(shop, input={"path": "rows.csv", "media_root": "pictures"})
    (shop / "rows.csv").write_text("file\n1.png\npictures/1.png\n")
    ended, table = run(shop)
    assert ended.code == 1
    assert table["error_kind"].to_list() == [None, "media"]


@pytest.mark.slow
def test_too_large_picture_fails_its_row(shop: Path) -> None:
    """The cap is said, with the size found and the key that raises it."""
    media_job(shop, input={"path": "rows.csv", "max_media_bytes": 100})
    ended, table = run(shop)
    assert ended.code == 1
    assert table["error_kind"][1] == "media"
    assert "input.max_media_bytes" in table["error"][1]


@pytest.mark.slow
def test_large_pictures_are_shrunk(shop: Path) -> None:
    """The longer side comes down to the limit; smaller pictures and the keys of other sizes are left alone."""
    (shop / "pictures" / "1.png").write_bytes(picture(400, 200))
    media_job(shop, input={"path": "rows.csv", "max_image_side": 100})
    ended, table = run(shop)
    assert ended.code == 0
    assert "100 x 50 pixels" in table["completion"][0]
    assert "20 x 20 pixels" in table["completion"][1]
    again, _ = run(shop, "--set", "input.max_image_side=50")
    assert again.summary["requests_sent"] == 3


@pytest.mark.slow
def test_media_of_a_frame_need_a_root(shop: Path) -> None:
    """Rows that come from a program have no folder of their own."""
    job = {
        "endpoint": {"provider": "local"},
        "checkpoint": {"path": str(shop / "c.sqlite")},
        "request": {
            "model": "stand-in",
            "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "{{ file }}"}}]}],
        },
    }
    rows = pl.DataFrame({"file": ["pictures/1.png"]})
    assert "input.media_root" in batchchat.run(job, frame=rows)["error"][0]
    rooted = {**job, "input": {"media_root": str(shop)}}
    assert "10 x 20 pixels" in batchchat.run(rooted, frame=rows)["completion"][0]


@pytest.mark.slow
def test_killed_run_remembers_what_it_read(shop: Path) -> None:
    """The digests of a run that was killed before its first answer are there for the next."""
    with EmbeddedEndpoint(ServeSettings(latency_s=30)) as endpoint:
        job = media_job(shop, endpoint={"base_url": endpoint.base_url}, checkpoint={"path": "answers.sqlite"})
        with subprocess.Popen([*BATCHCHAT, "run", str(job), "--quiet"]) as process:
            while remembered(shop / "answers.sqlite") < 3:
                assert process.poll() is None
            process.kill()
    assert remembered(shop / "answers.sqlite") == 3
    assert remembered(shop / "answers.sqlite", "answers") == 0


def remembered(checkpoint: Path, table: str = "media") -> int:
    """Return how many files a checkpoint knows the content of, or rows of another table; none before it is made."""
    if not checkpoint.exists():
        return 0
    with closing(sqlite3.connect(checkpoint)) as connection:
        try:
            return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


class CountingMemory(Unremembered):
    """A memory that counts how often it was told to keep what it has."""

    def __init__(self) -> None:
        self.flushes = 0

    def flush(self) -> None:
        """Count."""
        self.flushes += 1


def test_digests_are_kept_before_each_chunk_is_asked(tmp_path: Path) -> None:
    """A run that is killed in the middle of a long table has not read the files of its first rows in vain."""
    loaded = job_from_mapping({"request": {"model": "m", "messages": "{{ text }}"}}, tmp_path)
    plan = prepare(loaded, pl.DataFrame({"text": ['[{"role":"user","content":"a"}]'] * (2 * CHUNK_ROWS + 1)}))
    memory = CountingMemory()
    media = replace(plan.prompt.media, memory=memory)
    feed = chunks(replace(plan, prompt=replace(plan.prompt, media=media)))
    assert [memory.flushes for _ in feed] == [1, 2, 3]


def test_first_requests_do_not_wait_for_all_files_to_be_read(tmp_path: Path) -> None:
    """A chunk ends with the bytes of its files as well: a few large videos are one."""
    for number in range(3):
        with (tmp_path / f"{number}.mp4").open("wb") as file:
            file.write(VIDEO)
            file.truncate(CHUNK_MEDIA_BYTES // 2)
    job = media_job(tmp_path, key="video_url")
    (tmp_path / "rows.csv").write_text("file\n0.mp4\n1.mp4\n2.mp4\n")
    assert [len(chunk.requests) for chunk in chunks(prepare(load_job(job)))] == [2, 1]
