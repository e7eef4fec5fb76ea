"""Large images in a process of their own: what it does, what it has, and how it ends."""

from __future__ import annotations

import io
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from batchchat.prompt.media import resize
from batchchat.prompt.media.file import MediaError
from batchchat.prompt.media.resize_process import ImageProcess
from tests.running import ROOT

pytestmark = pytest.mark.slow

KEY = "sk-not-a-real-key-0123456789"
SECONDS = 10.0
AMID_DECODING_S = 0.25
"""Seconds of CPU after which the process has started, and has not yet decoded what takes it 0.6 s."""


def picture(format: str = "WEBP", side: int = 1_100) -> bytes:  # noqa: A002
    """Return an image that takes its decoder a while."""
    stream = io.BytesIO()
    Image.effect_noise((side // 4, side // 4), 60).resize((side, side)).save(stream, format)
    return stream.getvalue()


LARGE = picture()


@pytest.fixture
def apart() -> Iterator[ImageProcess]:
    """Return what starts the process, and let none stay."""
    one = ImageProcess()
    yield one
    one.end()


def children(parent: int) -> list[int]:
    """Return the processes that a process has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            found += [int(path.parent.name)] if (fields[0] != "Z", int(fields[1])) == (True, parent) else []
    return found


def child() -> int:
    """Return the one process that decodes images here."""
    (found,) = (pid for pid in children(os.getpid()) if b"resize_process" in Path(f"/proc/{pid}/cmdline").read_bytes())
    return found


def has_ended(descriptor: int) -> bool:
    """Whether the process that a descriptor stands for ends within a few seconds."""
    return bool(select.select([descriptor], [], [], SECONDS)[0])


@pytest.mark.parametrize("format", ["WEBP", "TIFF", "JPEG2000", "PNG"])
def test_large_image_is_the_same_from_there(apart: ImageProcess, format: str) -> None:  # noqa: A002
    """What decodes in this process and apart is the same to the byte."""
    content = picture(format, 2_100 if format == "PNG" else 800 if format == "TIFF" else 1_100)
    kind = f"image/{ {'JPEG2000': 'jp2'}.get(format, format.lower()) }"
    small = apart.shrunk(content, kind, 100, "it")
    assert child()
    assert small == resize.shrunk(content, kind, 100, "it")
    assert Image.open(io.BytesIO(small)).size == (100, 100)


def test_what_is_small_starts_no_process(apart: ImageProcess) -> None:
    """Neither an image of few pixels nor one that stays as it is."""
    before = children(os.getpid())
    assert len(apart.shrunk(picture(side=300), "image/webp", 100, "it")) > 0
    assert apart.shrunk(LARGE, "image/webp", 1_100, "it") is LARGE
    assert children(os.getpid()) == before


def test_damage_is_told_as_ever(apart: ImageProcess) -> None:
    """The row's failure is in the same words, and the process goes on."""
    whole, said = picture("JPEG2000", 400), []
    for shrunk in (resize.shrunk, apart.shrunk):
        with pytest.raises(MediaError) as caught:
            shrunk(whole[: len(whole) // 2], "image/jp2", 100, '"ä\ud800.jp2"')
        said.append(str(caught.value))
    before = child()
    assert said[0] == said[1]
    assert said[0].startswith('"ä\ud800.jp2" cannot be read as image/jp2: ')
    assert len(apart.shrunk(LARGE, "image/webp", 100, "it")) > 0
    assert child() == before


def test_many_threads_get_each_its_own(apart: ImageProcess) -> None:
    """Images are decoded one after the other, by one process, whoever asks; none gets another's."""
    with ThreadPoolExecutor(8) as pool:
        sides = list(range(50, 66))
        smalls = pool.map(lambda side: apart.shrunk(LARGE, "image/webp", side, "it"), sides)
        assert [Image.open(io.BytesIO(small)).width for small in smalls] == sides
    assert child()


def test_small_images_do_not_wait_for_large_ones(apart: ImageProcess) -> None:
    """They are decoded here meanwhile, be the process stopped."""
    apart.shrunk(LARGE, "image/webp", 100, "it")
    os.kill(child(), signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(apart.shrunk, LARGE, "image/webp", 100, "it")
        assert len(apart.shrunk(picture(side=300), "image/webp", 100, "it")) > 0
        assert not waiting.done()
        os.kill(child(), signal.SIGCONT)
        assert len(waiting.result()) > 0


def test_it_has_no_keys(apart: ImageProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment says where libraries are, and nothing else; its arguments and open files say nothing at all."""
    monkeypatch.setenv("OXEN_API_KEY", KEY)
    apart.shrunk(LARGE, "image/webp", 100, "it")
    names = {entry.partition(b"=")[0] for entry in Path(f"/proc/{child()}/environ").read_bytes().split(b"\0") if entry}
    assert names <= {b"PYTHONPATH", b"LD_LIBRARY_PATH", b"DYLD_LIBRARY_PATH", b"PYTHONHOME"}
    assert KEY.encode() not in Path(f"/proc/{child()}/cmdline").read_bytes()
    assert len(list(Path(f"/proc/{child()}/fd").iterdir())) == 3


def test_next_image_starts_another_where_one_has_ended(apart: ImageProcess) -> None:
    """The system may end it, for want of memory; `end` does too, and leaves neither a process nor an open file."""
    apart.shrunk(LARGE, "image/webp", 100, "it")
    first = child()
    os.kill(first, signal.SIGKILL)
    assert len(apart.shrunk(LARGE, "image/webp", 100, "it")) > 0
    second = child()
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    apart.end()
    apart.end()
    assert len(list(Path("/proc/self/fd").iterdir())) == open_files - 2
    assert {first, second}.isdisjoint(children(os.getpid()))
    assert len(apart.shrunk(LARGE, "image/webp", 100, "it")) > 0


def cpu_s(pid: int) -> float:
    """Return the time that a process has had a processor."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def killed_amid(apart: ImageProcess, content: bytes) -> tuple[set[int], BaseException | None]:
    """Shrink a picture, and kill each process amid decoding it; return those that were killed, and what came of it."""
    ended = set()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(apart.shrunk, content, "image/jp2", 100, "it")
        while not waiting.done():
            wait([waiting], timeout=0.02)
            for pid in children(os.getpid()):
                with suppress(OSError):
                    if cpu_s(pid) > AMID_DECODING_S:
                        os.kill(pid, signal.SIGKILL)
                        ended.add(pid)
    return ended, waiting.exception()


def test_image_that_ends_it_each_time_is_its_rows_failure(apart: ImageProcess) -> None:
    """It is tried twice; then the row has its reason, and the next image a new process."""
    ended, failure = set[int](), None
    while len(ended) < 2:  # on a busy machine an image may be decoded before its process is killed
        ended, failure = killed_amid(apart, picture("JPEG2000", 4_000))
    said = "it cannot be read as image/jp2: the process that decoded it ended with -9; check that the file is whole"
    assert str(failure).startswith(said)
    assert len(apart.shrunk(LARGE, "image/webp", 100, "it")) > 0


def test_system_that_starts_no_process_costs_no_image(apart: ImageProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then large images are decoded here; so where what is started is no Python."""
    for executable in ("/nowhere/python", "/bin/true"):
        monkeypatch.setattr(sys, "executable", executable)
        small = apart.shrunk(LARGE, "image/webp", 100, "it")
        assert small == resize.shrunk(LARGE, "image/webp", 100, "it")


SCRIPT = """
import signal, sys
from pathlib import Path
from batchchat.prompt.media.resize_process import image_process
signal.signal(signal.SIGINT, lambda *_: None)
content = Path(sys.argv[1]).read_bytes()
while sys.stdin.readline():
    print(len(image_process.shrunk(content, "image/webp", 100, "it")), flush=True)
"""


def test_it_ends_with_a_killed_parent_and_not_by_ctrl_c(tmp_path: Path) -> None:
    """A Ctrl-C in the terminal is the run's to deal with; kill -9 of the run leaves no process behind."""
    (tmp_path / "a.webp").write_bytes(LARGE)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "a.webp")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdin.write(b"\n")
        parent.stdin.flush()
        size = parent.stdout.readline()
        (decoder,) = children(parent.pid)
        os.killpg(parent.pid, signal.SIGINT)
        parent.stdin.write(b"\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == size
        assert children(parent.pid) == [decoder]
        descriptor = os.pidfd_open(decoder)
        try:
            parent.kill()
            assert has_ended(descriptor)
        finally:
            os.close(descriptor)
        assert parent.communicate()[1] == b""
