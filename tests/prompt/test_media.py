"""Local images and videos: which files may be sent, what they are called in a request, and what is sent in the end."""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import os
import re
import socket
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from batchchat.errors import UsageError
from batchchat.prompt.media.file import MediaFile, blocks
from batchchat.prompt.media.folder import (
    MediaError,
    MediaFolder,
    MediaMemory,
    Unremembered,
    build,
    is_settled,
    require_pillow,
)
from batchchat.prompt.media.mime import mime_type
from batchchat.prompt.media.resize import MOST_PIXELS, shrunk
from batchchat.records import ChatRequest, Media
from tests.running import ROOT

NOBODY = 65534
LONG_AGO_NS = 1_000_000_000 * 10**9
IN_FUTURE_NS = 4_000_000_000 * 10**9
LIMIT = 20 * 2**20
MP4 = b"\0\0\0\x18ftypisom\0\0\2\0isommp41" + b"\0" * 40
HOW = "a local file is named by its path within input.media_root, such as photos/1.png"


class Memory:
    """What files had, in a dict."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, int, int], tuple[bytes, str]] = {}

    def find(self, path: str, size_bytes: int, mtime_ns: int) -> tuple[bytes, str] | None:
        """Return what is known."""
        return self.known.get((path, size_bytes, mtime_ns))

    def recall(self, path: str) -> tuple[int, int, bytes, str] | None:
        """Return what was known last."""
        found = [(*key[1:], *value) for key, value in self.known.items() if key[0] == path]
        return found[-1] if found else None

    def remember(
        self, path: str, size_bytes: int, mtime_ns: int, digest: bytes, mime_type: str, *, lasts: bool = True
    ) -> None:
        """Keep it."""
        if not lasts:
            return
        self.known[(path, size_bytes, mtime_ns)] = (digest, mime_type)

    def flush(self) -> None:
        """Do nothing: what is known stays."""


def image_file(format: str = "PNG", size: tuple[int, int] = (30, 20), mode: str = "RGB", **options: Any) -> bytes:  # noqa: A002
    """Return an image file of one colour."""
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, format, **options)
    return stream.getvalue()


PNG = image_file()


def digest(content: bytes) -> bytes:
    """Return what a file is known by."""
    return hashlib.blake2b(content, digest_size=20).digest()


def folder(root: Path | None, *, side: int | None = None, memory: MediaMemory | None = None) -> MediaFolder:
    """Return a folder with the usual limits."""
    return MediaFolder(root, LIMIT, side, memory or Unremembered())


def part(url: object, key: str = "image_url") -> dict[str, Any]:
    """Return a content part."""
    return {"type": key, key: {"url": url}}


def messages(*parts: object) -> list[Any]:
    """Return a conversation whose second message has these parts."""
    return [{"role": "system", "content": "Look."}, {"role": "user", "content": list(parts)}]


def placed(where: MediaFolder, url: object, key: str = "image_url") -> Media:
    """Return the medium of a conversation that has one."""
    return where.place(messages(part(url, key)))[1][0]


def written(path: Path, content: bytes, mtime_ns: int = LONG_AGO_NS) -> Path:
    """Write a file that was last changed then."""
    path.write_bytes(content)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


def request(where: MediaFolder, *parts: object) -> ChatRequest:
    """Return a request of these parts, as the prompt makes it."""
    content, media = where.place(messages(*parts))
    return ChatRequest(b"key", orjson.dumps({"model": "m", "messages": content}), "1", media)


def sent(one: ChatRequest, body: bytes | None = None) -> list[Any]:
    """Return the content parts as they are sent."""
    return list(orjson.loads(build(one, one.body if body is None else body, LIMIT))["messages"][1]["content"])


def data(url: str) -> bytes:
    """Return what a `data:` URL holds."""
    return base64.b64decode(url.partition(";base64,")[2], validate=True)


@contextmanager
def refusal(message: str) -> Iterator[None]:
    """Expect a MediaError of exactly this text."""
    with pytest.raises(MediaError, match=f"^{re.escape(message)}$"):
        yield


# What is placed


def test_path_becomes_a_name_by_content(tmp_path: Path) -> None:
    """The request names the content, so its key is the same wherever the file lies, and the conversation stays."""
    given_messages = messages({"type": "text", "text": "a.png"}, {**part("./a.png"), "extra": 1})
    before = copy.deepcopy(given_messages)
    path = written(tmp_path / "a.png", PNG)
    content, media = folder(tmp_path).place(given_messages)
    name = f"media:image/png;blake2b={digest(PNG).hex()}"
    assert content == messages({"type": "text", "text": "a.png"}, {**part(name), "extra": 1})
    at = ("messages", 1, "content", 1, "image_url", "url")
    source = Path(os.path.realpath(path))
    assert media == (Media(at, name, source, "image/png", digest(PNG), len(PNG), LONG_AGO_NS, None, '"./a.png"'),)
    assert given_messages == before


def test_bytes_and_videos_and_short_form_are_placed(tmp_path: Path) -> None:
    """A binary value, a video and `image_url: path` are media too, decided by the part's key, in the parts' order."""
    written(tmp_path / "clip", MP4)
    parts = [{"image_url": PNG}, {"type": "odd", "video_url": {"url": "clip", "fps": 2}}]
    content, media = folder(tmp_path, side=64).place(messages(*parts))
    image = f"media:image/png;blake2b={digest(PNG).hex()};max_side=64"
    video = f"media:video/mp4;blake2b={digest(MP4).hex()}"
    assert content == messages({"image_url": image}, {"type": "odd", "video_url": {"url": video, "fps": 2}})
    assert [(one.name, one.at[3:], one.max_image_side, one.mtime_ns) for one in media] == [
        (image, (0, "image_url"), 64, 0),
        (video, (1, "video_url", "url"), None, LONG_AGO_NS),
    ]
    assert media[0].source == PNG


@pytest.mark.parametrize(
    "parts",
    [
        [part("https://example.com/a.png"), part("HTTP://example.com/a.mp4", "video_url")],
        [part("data:image/png;base64,AAAA"), {"image_url": " Data:,x"}],
        [{"type": "input_audio", "input_audio": {"data": "a.wav"}}, {"type": "file", "file": {"file_data": "a.pdf"}}],
        [{"type": "text", "text": "hi", "image_url": None, "video_url": {"url": None}}],
        [{"type": "image_url", "image_url": {"file_id": "f-1"}}, "text", None],
    ],
)
def test_what_is_no_local_medium_stays(parts: list[Any]) -> None:
    """URLs, other parts, and the null fields that parts of one column have, are sent as they are written."""
    conversation = [*messages(*parts), {"role": "user", "content": None}, {"role": "user"}, "odd"]
    assert folder(None).place(conversation) == (conversation, ())


@pytest.mark.parametrize("value", [None, "", "  ", b""])
@pytest.mark.parametrize("key", ["image_url", "video_url"])
def test_row_without_a_medium_is_told(value: object, key: str) -> None:
    """A null or empty cell is the row's problem, not a request without the image that it is about."""
    kind = key.removesuffix("_url")
    message = f"the row has no {kind} for {key}; fill the cell, or leave such rows out with input.where"
    bare: list[dict[str, Any]] = [{"type": key}, {"type": key, key: {}}, {"type": key, key: {"detail": "low"}}]
    for one in (part(value, key), {"type": key, key: value}, {key: value}, *bare):
        with refusal(message):
            folder(None).place(messages(one))


def test_value_that_is_no_path_is_refused(tmp_path: Path) -> None:
    """A number is neither a path nor data; with no root there are no local files."""
    takes = "it takes a URL, a path within input.media_root or binary data"
    with refusal(f'image_url is "12", which is not text; {takes}'):
        placed(folder(tmp_path), 12)
    with refusal('"a.png" is a local file; set input.media_root to the folder of the images and videos'):
        placed(folder(None), "a.png")


# Which files may be sent


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("../a.png", f'"../a.png" has ".." in it; {HOW}'),
        ("b/../a.png", f'"b/../a.png" has ".." in it; {HOW}'),
        ("/etc/passwd", f'"/etc/passwd" is an absolute path; {HOW}'),
        ("..\\a.png", f'"..\\a.png" has a backslash; write / between folders: {HOW}'),
        ("a\0.png", f'"a\\x00.png" has a NUL character in it; {HOW}'),
        ("a\ud800.png", f'"a\\ud800.png" has characters that no file name has; {HOW}'),
        *(
            (f"{scheme}x", f'"{scheme}x" begins with {scheme.partition(":")[0]}: ; {allowed}')
            for allowed in [f"allowed are http:, https: and data: URLs, and {HOW}"]
            for scheme in ("file:///", "FTP:", "s3://", "C:\\", "http:/")
        ),
        (
            "iVBORw0K" * 600,
            f'"{"iVBORw0K" * 25}…" has 4,800 characters, too many for a path; base64 goes as data:image/png;base64,…',
        ),
    ],
)
def test_odd_path_is_refused_by_its_looks(tmp_path: Path, path: str, message: str) -> None:
    """Only a plain relative path is looked for; what is allowed is said, and the text is cut."""
    with refusal(message):
        placed(folder(tmp_path), path)


def test_links_lead_no_further_than_the_root(tmp_path: Path) -> None:
    """A link within the root counts as its target, also when the root is one; a link out of it is refused."""
    root, outside = tmp_path / "root", tmp_path / "root2"
    root.mkdir()
    outside.mkdir()
    written(root / "a.png", PNG)
    written(outside / "secret.png", PNG)
    (tmp_path / "link").symlink_to(root)
    (root / "near").symlink_to("a.png")
    (root / "far.png").symlink_to(outside / "secret.png")
    (root / "folder").symlink_to("../root2")
    (root / "loop").symlink_to("loop")
    (root / "zero").symlink_to("/dev/zero")
    linked = folder(tmp_path / "link")
    assert placed(linked, "near").source == Path(os.path.realpath(root / "a.png"))
    assert placed(linked, "near").digest == digest(PNG)
    for path in ("far.png", "folder/secret.png", "folder/none.png", "folder", "zero"):
        where = f"{tmp_path / 'link'} (input.media_root)"
        with refusal(f'"{path}" leads out of {where}, by a link; only files in that folder are sent'):
            placed(linked, path)
    with refusal('"loop" is a link without end; only regular files are sent'):
        placed(linked, "loop")


def test_link_chain_is_followed_or_refused(tmp_path: Path) -> None:
    """A chain of links that is too long for the system, or for the stack, is the row's failure.

    Python 3.13 resolves any chain.
    """
    for number in range(1500):
        (tmp_path / str(number)).symlink_to(str(number + 1))
    written(tmp_path / "1500", PNG)
    assert placed(folder(tmp_path), "1495").digest == digest(PNG)
    try:
        assert placed(folder(tmp_path), "0").digest == digest(PNG)
    except MediaError as error:
        assert str(error) == '"0" is a chain of too many links; name the file itself'  # noqa: PT017 - or it is followed


def test_what_is_no_regular_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder, a FIFO that nobody writes to, a socket and a device are refused without waiting for any of them."""
    os.mkfifo(tmp_path / "fifo.png")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # a socket's path is short
        server.bind("socket")
    cases = {"fifo.png": "a FIFO", "socket": "a socket", ".": "a folder", "./": "a folder"}
    for path, kind in cases.items():
        with refusal(f'"{path}" is {kind}; only regular files are sent'):
            placed(folder(tmp_path), path)
    with refusal('"zero" is a device; only regular files are sent'):
        placed(folder(Path("/dev")), "zero")


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    """The root is named, and a file that differs in case or suffix alone; a root that is none is said to be."""
    written(tmp_path / "Photo.JPG", PNG)
    where = f"{tmp_path} (input.media_root)"
    with refusal(f'"photo.jpeg" does not exist in {where}; did you mean "Photo.JPG"?'):
        placed(folder(tmp_path), "photo.jpeg")
    for path in ("other.jpg", "none/photo.jpeg", "Photo.JPG/x"):
        with refusal(f'"{path}" does not exist in {where}; check the path'):
            placed(folder(tmp_path), path)
    none = f"{tmp_path / 'none'} (input.media_root) is not a folder; check input.media_root"
    with refusal(f'"a.png" cannot be found: {none}'):
        placed(folder(tmp_path / "none"), "a.png")


def test_folder_is_listed_again_only_when_it_changed(tmp_path: Path) -> None:
    """A job whose files are missing does not list their folder for each row, and what comes into it is found."""
    root = tmp_path / "root"
    root.mkdir()
    other = tmp_path / "other"
    other.mkdir()
    written(other / "A.png", PNG)
    missing = f'"a.png" does not exist in {root} (input.media_root)'
    hint = 'did you mean "a.jpg"?'
    os.utime(root, ns=(LONG_AGO_NS, LONG_AGO_NS))
    with refusal(f"{missing}; check the path"):
        placed(folder(root), "a.png")
    written(root / "a.webp", PNG)
    written(root / "a.jpg", PNG)
    os.utime(root, ns=(LONG_AGO_NS, LONG_AGO_NS))
    with refusal(f'"a.png" does not exist in {other} (input.media_root); did you mean "A.png"?'):
        placed(folder(other), "a.png")
    with refusal(f"{missing}; check the path"):  # as it was listed
        placed(folder(root), "a.png")
    os.utime(root, ns=(LONG_AGO_NS, LONG_AGO_NS + 1))
    with refusal(f"{missing}; {hint}"):
        placed(folder(root), "a.png")


def test_unreadable_file_is_told(tmp_path: Path) -> None:
    """What the system refuses is said in its words."""
    written(tmp_path / "a.png", PNG).chmod(0)
    is_root = os.geteuid() == 0
    try:
        if is_root:
            os.seteuid(NOBODY)
        with refusal('"a.png" cannot be read: Permission denied; check its permissions'):
            placed(folder(tmp_path), "a.png")
    finally:
        if is_root:
            os.seteuid(0)
    name = "n" * 300
    with refusal(f'"{name[:200]}…" cannot be read: File name too long; check its permissions'):
        placed(folder(tmp_path), name)


def test_size_is_bounded(tmp_path: Path) -> None:
    """A file, or a binary value, of the largest size is taken, one byte more or none at all is refused."""
    where = MediaFolder(tmp_path, 1500, None, Unremembered())
    exact = PNG.ljust(1500, b"\0")
    written(tmp_path / "exact", exact)
    written(tmp_path / "large", exact + b"\0")
    written(tmp_path / "empty.png", b"")
    assert [placed(where, value).size_bytes for value in ("exact", exact)] == [1500, 1500]
    limit = "1,501 bytes; at most 1,500 are sent (input.max_media_bytes)"
    with refusal(f'"large" has {limit}'):
        placed(where, "large")
    with refusal(f"the row's binary value has {limit}"):
        placed(where, exact + b"\0")
    with refusal('"empty.png" is empty; check the file'):
        placed(where, "empty.png")


def test_no_file_is_left_open(tmp_path: Path) -> None:
    """Each file is closed: read to its end, looked at, or refused in the middle."""
    written(tmp_path / "a.png", PNG)
    written(tmp_path / "b.png", b"text" * 5000)
    before = {one.name for one in Path("/dev/fd").iterdir()}
    for where in (folder(tmp_path), replace(folder(tmp_path), look_only=True)):
        one = request(where, part("a.png"))
        sent(one)
        with suppress(MediaError):
            placed(where, "b.png")
        written(tmp_path / "a.png", PNG, LONG_AGO_NS + 1)
        with suppress(MediaError):
            sent(one)
        written(tmp_path / "a.png", PNG)
    assert {one.name for one in Path("/dev/fd").iterdir()} == before


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a root with one image, links out of it, and a secret beside it."""
    base = tmp_path_factory.mktemp("guarded")
    (base / "root" / "in").mkdir(parents=True)
    written(base / "root" / "in" / "a.png", PNG)
    written(base / "secret.png", PNG + b"secret")
    (base / "root" / "out").symlink_to("..")
    (base / "root" / "in" / "up").symlink_to("../..")
    return base / "root"


PIECES = ["in", "out", "up", "a.png", "secret.png", "/", "..", ".", "\\", "\0", "%2e%2e", "~", ":", "\udcff", "//", " "]


@given(st.lists(st.sampled_from(PIECES) | st.text(st.characters(exclude_categories=[]), max_size=4)).map("".join))
@example("in/a.png")
@example("out/secret.png")
@example("in/up/root/in/a.png")
def test_no_path_reads_outside_the_root(guarded: Path, path: str) -> None:
    """Whatever text a row has, it names a file within the root, or fails with a text that every output can hold."""
    try:
        found = folder(guarded).place(messages(part(path)))[1]
    except MediaError as error:
        str(error).encode()
        return
    assert [(one.digest, one.source) for one in found] in (
        [],
        [(digest(PNG), Path(os.path.realpath(guarded / "in" / "a.png")))],
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["content", "image_url", "url", "type"]), inner),
    max_leaves=12,
)


@pytest.mark.slow
@given(st.lists(JSON | st.fixed_dictionaries({"content": st.lists(st.dictionaries(st.just("video_url"), JSON))})))
def test_any_conversation_is_placed_or_refused(conversation: list[Any]) -> None:
    """Values of any shape lead to messages or a MediaError, and are not changed."""
    before = copy.deepcopy(conversation)
    try:
        content, media = folder(None).place(conversation)
    except MediaError:
        pass
    else:
        assert (content, media) == (before, ())
    assert conversation == before


# What a file is


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ("PNG", "image/png"),
        ("JPEG", "image/jpeg"),
        ("MPO", "image/jpeg"),
        ("GIF", "image/gif"),
        ("WEBP", "image/webp"),
        ("BMP", "image/bmp"),
        ("TIFF", "image/tiff"),
        ("AVIF", "image/avif"),
        ("JPEG2000", "image/jp2"),
        ("ICO", "image/x-icon"),
        ("PDF", "application/pdf"),
    ],
)
def test_image_is_known_by_its_content(format: str, expected: str) -> None:  # noqa: A002
    """What Pillow writes is known by its first bytes, whatever the file is called."""
    assert mime_type(image_file(format)[:4096], ".txt") == expected


def iso(*brands: bytes) -> bytes:
    """Return how an ISO base media file of these brands begins."""
    content = b"ftyp" + brands[0] + b"\0\0\0\0" + b"".join(brands[1:])
    return struct.pack(">I", len(content) + 4) + content + b"\0\0\0\x08free"


@pytest.mark.parametrize(
    ("head", "suffix", "expected"),
    [
        (iso(b"isom", b"avc1"), "", "video/mp4"),
        (iso(b"M4V ", b"mp42"), ".png", "video/mp4"),
        (iso(b"qt  "), ".mp4", "video/quicktime"),
        (iso(b"3gp5"), "", "video/3gpp"),
        (iso(b"M4A ", b"isom"), ".mp4", "audio/mp4"),
        (iso(b"heic", b"mif1"), ".jpg", "image/heic"),
        (iso(b"mif1", b"miaf", b"heic"), "", "image/heic"),
        (iso(b"mif1", b"avif"), "", "image/avif"),
        (iso(b"mif1", b"miaf"), "", "image/heif"),
        (b"\0\0\0\x20ftyp", "", "video/mp4"),
        (b"\0\0\x01\x00moov\0\0\0\x6cmvhd", "", "video/quicktime"),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x82\x84webm", "", "video/webm"),
        (b"\x1a\x45\xdf\xa3\xa3\x42\x82\x88matroska", "", "video/x-matroska"),
        (b"RIFF\x10\0\0\0AVI LIST", "", "video/x-msvideo"),
        (b"RIFF\x10\0\0\0WAVEfmt ", "", "audio/wav"),
        (b"OggS\0\2" + b"\0" * 22 + b"\x80theora", ".ogg", "video/ogg"),
        (b"OggS\0\2" + b"\0" * 22 + b"OpusHead", ".ogv", "audio/ogg"),
        (b"\0\0\1\xba\x44", "", "video/mpeg"),
        ((b"G" + b"\xff" * 187) * 3, "", "video/mp2t"),
        (b"II*\0\x08", ".png", "image/tiff"),
        (b"<?xml version='1.0'?>\n<!-- c -->\n<svg xmlns='s'/>", "", "image/svg+xml"),
        (b"\xef\xbb\xbf <svg/>", ".png", "image/svg+xml"),
        (b"<?xml version='1.0'?><rss/>", ".svg", "text/plain"),
        (b"  <!DOCTYPE HTML><title>404", ".png", "text/html"),
        ("Größe".encode()[:-1], ".mp4", "text/plain"),
        ("Gr\u00f6".encode()[:-1], ".mp4", "text/plain"),
        (b"BM, a, b and more text here", ".bmp", "text/plain"),
        (b"\0\0\2\0" + b"\0" * 14 + b"\xff", ".TGA", "image/x-tga"),
        (b"\x07\xff\xfe", ".mov", "video/quicktime"),
        (b"\x07\xff\xfe", ".png", None),
        (b"\x07\xff\xfe", "", None),
        (b"", ".txt", None),
    ],
)
def test_content_goes_before_the_suffix(head: bytes, suffix: str, expected: str | None) -> None:
    """The suffix is asked only where the content says nothing, and not for formats that always say it."""
    assert mime_type(head, suffix) == expected


@given(st.binary(max_size=600), st.sampled_from(["", ".png", ".mp4", "."]))
def test_any_content_has_a_type_or_none(head: bytes, suffix: str) -> None:
    """No content is too short or too odd to be looked at."""
    found = mime_type(head, suffix)
    assert found is None or re.fullmatch(r"[a-z]+/[a-z0-9.+-]+", found)


@pytest.mark.parametrize(
    ("content", "key", "message"),
    [
        (b"notes", "image_url", "is text/plain; image_url takes images"),
        (MP4, "image_url", "is video/mp4; image_url takes images"),
        (image_file("GIF"), "video_url", "is image/gif; video_url takes videos"),
        (
            b"\x07\xff",
            "image_url",
            "does not begin as an image or a video does; image_url takes images such as PNG, JPEG, WebP and GIF",
        ),
        (
            b"\x07\xff",
            "video_url",
            "does not begin as an image or a video does; video_url takes videos such as MP4, MOV and WebM",
        ),
    ],
)
def test_part_takes_its_own_kind(tmp_path: Path, content: bytes, key: str, message: str) -> None:
    """An image part takes images and a video part videos; what a file is instead is said, also of binary values."""
    written(tmp_path / "a.png", content)
    with refusal(f'"a.png" {message}'):
        placed(folder(tmp_path), "a.png", key)
    with refusal(f"the row's binary value {message}"):
        placed(folder(tmp_path), content, key)


# What is remembered


def test_resume_reads_no_file(tmp_path: Path) -> None:
    """A file of the same path, size and time is what it was when it was read; one with another time is read again."""
    memory = Memory()
    path = written(tmp_path / "a.png", PNG)
    where = folder(tmp_path, memory=memory)
    assert placed(where, "a.png").digest == digest(PNG)
    other = PNG[:-1] + b"?"
    written(path, other)
    assert placed(where, "a.png").digest == digest(PNG)
    written(path, other, LONG_AGO_NS + 1)
    assert placed(where, "a.png").digest == digest(other)
    assert list(memory.known.values()) == [(digest(PNG), "image/png"), (digest(other), "image/png")]


def test_young_file_is_not_remembered(tmp_path: Path) -> None:
    """A file that may yet be written to within one tick of the clock is read again by the next run."""
    memory = Memory()
    written(tmp_path / "a.png", PNG, IN_FUTURE_NS)
    placed(folder(tmp_path, memory=memory), "a.png")
    assert memory.known == {}


@pytest.mark.parametrize(
    ("mtime_ns", "age_ns", "is_remembered"),
    [
        (1_700_000_000_000_000_000, 1_900_000_000, False),
        (1_700_000_000_000_000_000, 2_000_000_000, True),
        (1_700_000_000_123_000_000, 49_000_000, False),
        (1_700_000_000_123_000_000, 50_000_000, True),
    ],
)
def test_age_at_which_a_file_is_remembered_depends_on_its_clock(
    mtime_ns: int, age_ns: int, is_remembered: bool
) -> None:
    """A file system that counts whole seconds may give two contents one time for longer than one that counts less."""
    assert is_settled(mtime_ns, mtime_ns + age_ns) == is_remembered


def test_look_reads_only_the_head(tmp_path: Path) -> None:
    """A look finds what is wrong with a large file in its first few KB, and makes up a digest for each file."""
    counter = Path("/proc/self/io")
    memory = Memory()
    where = replace(folder(tmp_path, memory=memory), look_only=True)
    written(tmp_path / "a.png", PNG + bytes(5_000_000))
    written(tmp_path / "b.png", PNG + bytes(5_000_000))
    written(tmp_path / "c.png", b"text" * 1_000_000)
    before = counter.read_text() if counter.exists() else "rchar: 0"
    names = {placed(where, path).name for path in ("a.png", "b.png", "a.png")}
    after = counter.read_text() if counter.exists() else "rchar: 0"
    read = int(after.split()[1]) - int(before.split()[1])
    assert len(names) == 2
    assert read < 100_000
    assert memory.known == {}
    with refusal('"c.png" is text/plain; image_url takes images'):
        placed(where, "c.png")


# What is sent


def test_built_body_has_the_data_in_place(tmp_path: Path) -> None:
    """Each medium's URL holds its file, also when the body has got more messages; nothing else differs."""
    written(tmp_path / "a.png", PNG)
    written(tmp_path / "b.mp4", MP4)
    parts = [{"type": "text", "text": "é"}, part("a.png"), part("b.mp4", "video_url"), {"image_url": PNG}]
    one = request(folder(tmp_path), *parts)
    more = orjson.loads(one.body)
    more["messages"].append({"role": "user", "content": "Again."})
    built = orjson.loads(build(one, orjson.dumps(more), LIMIT))
    image, video = (base64.b64encode(content).decode() for content in (PNG, MP4))
    expected = [
        {"type": "text", "text": "é"},
        part(f"data:image/png;base64,{image}"),
        part(f"data:video/mp4;base64,{video}", "video_url"),
        {"image_url": f"data:image/png;base64,{image}"},
    ]
    conversation = [*messages(*expected), {"role": "user", "content": "Again."}]
    assert built == {"model": "m", "messages": conversation}


NUMBERS = b'{"temperature":0.1234567890123456789012,"seed":%b,"top_p":1e999,"messages":' % (b"9" * 5000)


def test_built_body_differs_in_nothing_else(tmp_path: Path) -> None:
    """Numbers of more digits than a float has are sent as they are in the key, whatever a prompt's text quotes."""
    written(tmp_path / "a.png", PNG)
    content, media = folder(tmp_path).place(messages(part("a.png")))
    name = media[0].name
    url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    for text in ("Look.", name, f'"{name}', f'see "{name}" and "{name}"'):
        content[0]["content"] = text
        one = ChatRequest(b"key", NUMBERS + orjson.dumps(content) + b"}", "1", media)
        before, _, after = one.body.rpartition(name.encode())
        assert build(one, one.body, LIMIT) == before + url.encode() + after


def test_each_medium_gets_its_own_place(tmp_path: Path) -> None:
    """The order of a part's fields, files of one content and names that are keys do not lead to another's place."""
    for name in ("a.png", "copy.png"):
        written(tmp_path / name, PNG)
    written(tmp_path / "b.mp4", MP4)
    both = {"video_url": {"url": "b.mp4"}, "image_url": {"url": "a.png"}}
    png, mp4 = (base64.b64encode(content).decode() for content in (PNG, MP4))
    image, video = f"data:image/png;base64,{png}", f"data:video/mp4;base64,{mp4}"
    name = placed(folder(tmp_path), "a.png").name
    for extra in ({}, {name: [name], "0": name}):
        one = request(folder(tmp_path), {**extra, **both}, part("copy.png"))
        assert sent(one) == [{**extra, "video_url": {"url": video}, "image_url": {"url": image}}, part(image)]
    changed = '"copy.png" changed while the job ran; run the job again when nothing writes to it'
    written(tmp_path / "copy.png", PNG, LONG_AGO_NS + 1)
    with refusal(changed):
        sent(one)


TEXTS = st.text() | st.sampled_from([f"media:image/png;blake2b={digest(PNG).hex()}", '"media:', "media:", "\\"])


@pytest.mark.slow
@given(st.lists(st.booleans() | TEXTS | st.dictionaries(TEXTS, TEXTS), max_size=6))
def test_any_parts_around_media_stay(parts: list[Any]) -> None:
    """Whatever texts stand beside a medium, its data is in its place and all else is as it was; True is a medium."""
    one = request(folder(None), *(part(PNG) if value is True else value for value in parts))
    url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert sent(one) == [part(url) if value is True else value for value in parts]


def test_body_without_media_is_sent_as_it_is() -> None:
    """Bytes that hold no medium are not touched, not even parsed."""
    assert build(ChatRequest(b"key", b"{ }", "1"), b"{ }", LIMIT) == b"{ }"


@pytest.mark.parametrize("size", [1, 2, 3, 3 * 2**20 - 1, 3 * 2**20, 3 * 2**20 + 1])
def test_data_of_any_length_is_whole(tmp_path: Path, size: int) -> None:
    """Blocks are joined to one base64 text: there is padding at its end alone."""
    content = (b"\xff\xd8\xff" + os.urandom(size))[:size] if size > 2 else b"\xff\xd8"[:size]
    path = written(tmp_path / "a", content)
    name = "media:image/jpeg"
    medium = Media(("messages", 1, "content", 0), name, path.resolve(), "image/jpeg", b"", size, LONG_AGO_NS)
    one = ChatRequest(b"key", orjson.dumps({"messages": messages(name)}), "1", (medium,))
    assert sent(one) == [f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"]


def test_file_that_changed_is_not_sent(tmp_path: Path) -> None:
    """A file that is another by now would be sent under the key of the one before it: the row fails instead."""
    path = written(tmp_path / "a.png", PNG)
    one = request(folder(tmp_path), part("a.png"))
    changed = '"a.png" changed while the job ran; run the job again when nothing writes to it'
    assert data(sent(one)[0]["image_url"]["url"]) == PNG
    for content, mtime_ns in ((PNG + b"x", LONG_AGO_NS), (PNG[:-1], LONG_AGO_NS), (PNG, LONG_AGO_NS + 1)):
        written(path, content, mtime_ns)
        with refusal(changed):
            sent(one)
    path.unlink()
    with refusal(changed):
        sent(one)
    path.symlink_to(written(tmp_path / "b.png", PNG))
    with refusal(changed):
        sent(one)
    path.unlink()
    os.mkfifo(path)
    with refusal(changed):
        sent(one)


def test_change_while_reading_is_noticed(tmp_path: Path) -> None:
    """A file that is written to between two blocks is not one content; one that has changed gives no block at all."""
    path = written(tmp_path / "a", bytes(100)).resolve()
    file = MediaFile(str(path), 100, LONG_AGO_NS, "it")
    changed = "it changed while the job ran; run the job again when nothing writes to it"
    content = blocks(file, 60)
    assert len(next(content)) == 60
    written(path, bytes(100), LONG_AGO_NS + 1)
    assert len(next(content)) == 40
    for late in (content, blocks(file, 60)):
        with refusal(changed):
            next(late)
    status = tmp_path.resolve().stat()
    with refusal(changed):
        next(blocks(MediaFile(str(tmp_path.resolve()), status.st_size, status.st_mtime_ns, "it"), 60))


def test_build_keeps_to_the_size(tmp_path: Path) -> None:
    """The size is bounded again where the file is read."""
    written(tmp_path / "a.png", PNG)
    for value, shown in (("./a.png", '"./a.png"'), (PNG, "the row's binary value")):
        one = request(folder(tmp_path), part(value))
        with refusal(f"{shown} has {len(PNG):,} bytes; at most 10 are sent (input.max_media_bytes)"):
            build(one, one.body, 10)


@pytest.mark.parametrize("is_file", [True, False])
def test_building_takes_little_memory(tmp_path: Path, *, is_file: bool) -> None:
    """A body is built with little more than twice its size in memory: its pieces, and the whole."""
    content = PNG + os.urandom(6_000_000)
    written(tmp_path / "a.png", content)
    one = request(folder(tmp_path), part("a.png" if is_file else content))
    tracemalloc.start()
    try:
        built = build(one, one.body, LIMIT)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(content) * 4 // 3 < len(built) < peak < 2.5 * len(built)


def test_threads_build_the_same(tmp_path: Path) -> None:
    """Bodies that are built at once do not meet."""
    contents = [image_file("JPEG", (300 + number, 200)) for number in range(16)]
    for number, content in enumerate(contents):
        written(tmp_path / str(number), content)
    requests = [request(folder(tmp_path, side=100 + number), part(str(number))) for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        urls = [parts[0]["image_url"]["url"] for parts in pool.map(sent, requests * 3)]
    sizes = [Image.open(io.BytesIO(data(url))).width for url in urls]
    assert sizes == [100 + number for number in range(16)] * 3


# What is shrunk


def shrink(content: bytes, side: int = 100) -> bytes:
    """Shrink an image of the type that its content shows."""
    kind = mime_type(content[:4096])
    assert kind is not None
    return shrunk(content, kind, side, "it")


FORMATS = ["PNG", "JPEG", "MPO", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000"]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr"])
@pytest.mark.parametrize("format", FORMATS)
def test_large_image_becomes_small(format: str, mode: str) -> None:  # noqa: A002
    """Format and proportions stay in whatever mode it is, and an image that is small enough stays byte for byte."""
    try:
        content = image_file(format, (300, 200), mode)
    except (OSError, KeyError, ValueError):
        return  # a mode that the format does not have
    small = shrink(content)
    assert mime_type(small[:4096]) == mime_type(content[:4096])
    assert Image.open(io.BytesIO(small)).size == (100, 67)
    assert shrink(content, 300) is content
    assert shrink(small) is small


@pytest.mark.parametrize(
    ("format", "mode"), [("PNG", "I;16"), ("TIFF", "I;16"), ("TIFF", "I;16B"), ("JPEG2000", "I;16")]
)
def test_sixteen_bits_stay(format: str, mode: str) -> None:  # noqa: A002
    """Grey of 16 bits is as grey as before, and of 16 bits, also where it is shrunk to less than half."""
    width, height = 1500, 40
    code = ">H" if mode == "I;16B" else "<H"
    row = b"".join(struct.pack(code, 40 * column) for column in range(width))
    stream = io.BytesIO()
    Image.frombytes(mode, (width, height), row * height).save(stream, format)
    small = Image.open(io.BytesIO(shrink(stream.getvalue(), 150)))
    assert (small.size, small.mode[:4]) == ((150, 4), "I;16")
    levels = [small.getpixel((column, 2)) for column in (10, 75, 140)]
    assert levels == [pytest.approx(400 * column + 180, abs=40) for column in (10, 75, 140)]


def test_transparent_level_of_sixteen_bits_becomes_alpha() -> None:
    """Pillow cannot mix it, and would make every level above 255 white: it is grey of 8 bits with alpha then."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    row = struct.pack("<H", 1000) * 150 + struct.pack("<H", 0x8000) * 150
    image = Image.frombytes("I;16", (300, 200), row * 200)
    stream = io.BytesIO()
    image.save(stream, "PNG", transparency=1000, icc_profile=profile)
    small = Image.open(io.BytesIO(shrink(stream.getvalue())))
    assert (small.mode, small.info["icc_profile"]) == ("LA", profile)
    assert (small.getpixel((20, 30)), small.getpixel((80, 30))) == ((0, 0), (0x80, 255))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_image_is_turned_upright(format: str) -> None:  # noqa: A002
    """The EXIF orientation is applied, for the smaller file has no EXIF: that may say where a photo was taken."""
    image = Image.new("RGB", (200, 100), "red")
    image.paste("blue", (0, 0, 100, 100))
    exif = Image.Exif()
    exif[0x0112] = 6  # the left side goes up
    exif[0x010E] = "a secret"
    stream = io.BytesIO()
    image.save(stream, format, exif=exif)
    small = shrink(stream.getvalue(), 50)
    opened = Image.open(io.BytesIO(small))
    assert opened.size == (25, 50)
    assert b"a secret" not in small
    assert opened.getexif().get(0x0112, 1) == 1
    red, _, blue = opened.convert("RGB").resize((1, 2), Image.Resampling.BOX).getpixel((0, 0))  # type: ignore[misc]
    assert (red < 60, blue > 190) == (True, True)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_colour_profile_stays(format: str) -> None:  # noqa: A002
    """The profile says what the colours are."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    small = shrink(image_file(format, (300, 200), icc_profile=profile))
    assert Image.open(io.BytesIO(small)).info["icc_profile"] == profile


@pytest.mark.parametrize(("mode", "transparency"), [("P", 0), ("RGB", (0, 0, 0)), ("L", 0)])
def test_transparent_colour_becomes_alpha(mode: str, transparency: Any) -> None:
    """One transparent colour would be mixed with those around it."""
    clear = Image.open(io.BytesIO(shrink(image_file("PNG", (300, 200), mode, transparency=transparency))))
    assert (clear.mode, clear.getpixel((50, 30))) == ("RGBA", (0, 0, 0, 0))


def test_photo_with_a_preview_is_shrunk() -> None:
    """A second picture in a JPEG is what a camera adds, not an animation."""
    preview = Image.new("RGB", (30, 20))
    small = shrink(image_file("MPO", (300, 200), save_all=True, append_images=[preview]))
    assert Image.open(io.BytesIO(small)).size == (100, 67)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_animation_is_left_alone(format: str) -> None:  # noqa: A002
    """One frame would be another content than the row has."""
    frames = [Image.new("RGB", (300, 200), colour) for colour in ("red", "blue")]
    stream = io.BytesIO()
    frames[0].save(stream, format, save_all=True, append_images=frames[1:])
    assert shrink(stream.getvalue()) == stream.getvalue()


def test_vector_graphic_is_left_alone() -> None:
    """It has no pixels; an icon has few."""
    icon = image_file("ICO", (128, 128))
    assert [shrink(b"<svg/>"), shrink(icon)] == [b"<svg/>", icon]


def bomb(format: str, width: int, height: int) -> bytes:  # noqa: A002
    """Return a few bytes that say that they are a large image."""
    if format == "GIF":
        frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\2\2\x44\1\0;"
        return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + frame
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = b"IDAT" + zlib.compress(bytes(1000))
    chunks = (struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in (header, rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(("width", "height"), [(10_000, 10_000), (30_000, 30_000), (9_460, 9_460)])
@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_bomb_is_refused_before_it_is_decoded(format: str, width: int, height: int) -> None:  # noqa: A002
    """Few bytes that say they are many pixels cost no memory, and no warning."""
    size = f"{width:,} x {height:,} pixels"
    tracemalloc.start()
    try:
        with refusal(f"it has {size}; images of up to {MOST_PIXELS:,} are shrunk: make it smaller"):
            shrink(bomb(format, width, height))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("side", [16_383, 10_000])
def test_webp_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    """WebP makes room for its pixels on opening; far too many are refused even there, and not as damage."""
    size = (side - 1 | (side - 1) << 14).to_bytes(4, "little")
    chunk = b"VP8L" + struct.pack("<I", 22) + b"\x2f" + size + bytes(17)
    content = b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk
    said = rf"^it has .+ pixels; images of up to {MOST_PIXELS:,} are shrunk: make it smaller$"
    with pytest.raises(MediaError, match=said):
        shrink(content)


def test_what_pillow_cannot_do_is_no_damage() -> None:
    """A whole file that Pillow does not take, as one with a text of 2 MB, is not said to be damaged."""
    about = PngImagePlugin.PngInfo()
    about.add_text("about", "x" * 2_000_000, zip=True)
    advice = "save it as a plain PNG or JPEG, or leave input.max_image_side out"
    with pytest.raises(MediaError, match=rf"^it is image/png that cannot be shrunk: .+; {advice}$"):
        shrink(image_file("PNG", (300, 200), pnginfo=about))


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_image_is_the_rows_failure(format: str) -> None:  # noqa: A002
    """A file that ends too early is said to be damaged."""
    stream = io.BytesIO()
    Image.effect_noise((300, 200), 90).save(stream, format)
    content = stream.getvalue()
    kind = mime_type(content[:4096])
    for length in (40, len(content) // 2):
        with pytest.raises(MediaError, match=f"^it cannot be read as {kind}: .+; check that the file is whole$"):
            shrink(content[:length])


SMALL_FILES = [image_file(name, (40, 30)) for name in FORMATS]


@given(st.sampled_from(SMALL_FILES), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=5))
def test_any_damage_is_a_media_error(content: bytes, changes: list[tuple[int, int]]) -> None:
    """Whatever a decoder makes of a damaged file, it is an image or the row's failure."""
    damaged = bytearray(content)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    kind = mime_type(content)
    assert kind is not None
    with suppress(MediaError):
        assert shrunk(bytes(damaged), kind, 20, "it")


def test_format_without_a_writer_is_told() -> None:
    """A photo that Pillow cannot decode is not sent larger than the job says."""
    advice = "which cannot be shrunk; make it a PNG, or leave input.max_image_side out"
    with refusal(f"it is image/heic, {advice}"):
        shrink(iso(b"heic"))


def test_missing_pillow_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who wants images shrunk is told how to install what it takes; it is there, nothing is said."""
    require_pillow()
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(UsageError, match=re.escape("run `pip install 'batchchat[images]'`, or leave")):
        require_pillow()


@pytest.mark.slow
def test_pillow_is_loaded_only_to_shrink(tmp_path: Path) -> None:
    """Images go out without Pillow as long as they are sent as they are."""
    written(tmp_path / "a.png", PNG)
    script = (
        "import orjson, sys\nfrom pathlib import Path\n"
        "from batchchat.prompt.media.folder import MediaFolder, Unremembered, build\n"
        "from batchchat.records import ChatRequest\n"
        "where = MediaFolder(Path(sys.argv[1]), 1000, None, Unremembered())\n"
        "messages, media = where.place([{'content': [{'image_url': 'a.png'}]}])\n"
        "build(ChatRequest(b'', b'', '1', media), orjson.dumps({'messages': messages}), 1000)\n"
        "print('PIL' in sys.modules)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "False\n"
