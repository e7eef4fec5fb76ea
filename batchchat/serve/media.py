"""The parts of a message that are not text: each -> a `Medium`, or `RefusedError` with what is wrong with it.

What passes in is a part as the request has it; what comes out is its kind, and what a `data:` URL tells: the MIME type,
how many bytes, and for an image its size in pixels. URLs of http and https are taken as they are and never fetched. It
does not know messages or answers.
"""

import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

import imagesize

from batchchat.serve.refusal import RefusedError, invalid_file, refused, shown

MAX_MEDIUM_BYTES = 20 * 1024 * 1024
MAX_FILE_BYTES = 24 * 1024 * 1024
_NAMES = {"image_url": "image", "video_url": "video", "audio_url": "audio", "input_audio": "audio", "file": "file"}
MEDIA_PARTS = tuple(_NAMES)
_ARTICLES = {"image": "An image", "video": "A video", "audio": "A sound", "file": "A file"}
_AUDIO_FORMATS = ("wav", "mp3")
_MAX_HEADER_CHARS = 200


@dataclass(frozen=True, slots=True)
class Medium:
    """An image, video, sound or file: what its bytes tell, or the host that has it."""

    kind: str
    mime_type: str | None = None
    size_bytes: int = 0
    width: int | None = None
    height: int | None = None
    host: str | None = None

    @property
    def sentence(self) -> str:
        """What the stand-in says of it."""
        name = _ARTICLES[self.kind]
        if self.host is not None:
            return f"{name} at {self.host}."
        pixels = f"{self.width} x {self.height} pixels, " if self.width is not None else ""
        return f"{name}: {self.mime_type}, {pixels}{self.size_bytes:,} bytes."

    @property
    def facts(self) -> Mapping[str, Any]:
        """What is known of it, by the names that a schema may give these properties."""
        if self.mime_type is None:
            return {}
        known: dict[str, Any] = {
            "mime_type": self.mime_type,
            "format": self.mime_type.partition("/")[2],
            "size_bytes": self.size_bytes,
        }
        return known if self.width is None else {"width": self.width, "height": self.height, **known}


def read_medium(part: Mapping[str, Any], where: str) -> Medium:
    """Return what a part of one of the types `MEDIA_PARTS` holds. Raises RefusedError with status 400."""
    kind = str(part["type"])
    value, where = part.get(kind), f"{where}.{kind}"
    if kind == "input_audio":
        return _input_audio(value, where)
    if kind == "file":
        return _file(value, where)
    # Some clients write the URL itself where OpenAI has an object.
    url = value.get("url") if isinstance(value, dict) else value
    where = f"{where}.url" if isinstance(value, dict) else where
    return _at_url(url, _NAMES[kind], where)


def _at_url(url: Any, kind: str, where: str) -> Medium:
    if not isinstance(url, str):
        raise refused(f"{where} is {shown(url)}; it must be a data: URL, or one of http or https")
    scheme = url[:8].partition(":")[0].casefold()
    if scheme in ("http", "https"):
        return Medium(kind, host=_host(url, where))
    if scheme != "data":
        raise _wrong(f"{where} is {shown(url)}; it must be a data: URL, or one of http or https")
    return _looked_at(*_data(url, where), kind, where)


def _host(url: str, where: str) -> str:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    if not host:
        raise _wrong(f"{where} is {shown(url)}, which names no host")
    return host


def _data(url: str, where: str) -> tuple[str, bytes]:
    """Return the MIME type and the bytes of a `data:` URL."""
    comma = url.find(",", 0, _MAX_HEADER_CHARS)
    if comma < 0:
        raise _wrong(f"{where} is a data: URL without a comma; it must be data:<MIME type>;base64,<data>")
    mime_type, *parameters = url[len("data:") : comma].casefold().split(";")
    if "base64" not in parameters:
        raise _wrong(f"{where} is a data: URL that is not base64; it must be data:<MIME type>;base64,<data>")
    return mime_type, _decoded(url[comma + 1 :], where)


def _decoded(text: str, where: str) -> bytes:
    try:
        content = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise _wrong(f"{where} has data that is not base64 ({error})") from error
    if not content:
        raise _wrong(f"{where} has no data")
    return content


def _looked_at(mime_type: str, content: bytes, kind: str, where: str) -> Medium:
    if not mime_type.startswith(f"{kind}/"):
        raise _wrong(f"{where} has the MIME type {shown(mime_type)}; it must be {kind}/...")
    _check_size(content, MAX_MEDIUM_BYTES, where)
    if kind != "image":
        return Medium(kind, mime_type, len(content))
    width, height = imagesize.get(BytesIO(content))
    if width < 1 or height < 1:
        raise _wrong(f"{where} has {len(content):,} bytes that are not an image of any kind known")
    return Medium(kind, mime_type, len(content), int(width), int(height))


def _input_audio(value: Any, where: str) -> Medium:
    content, kind = (value.get("data"), value.get("format")) if isinstance(value, dict) else (None, None)
    if not isinstance(content, str):
        raise refused(f"{where} is {shown(value)}; it must be an object with data (base64) and format")
    if kind not in _AUDIO_FORMATS:
        raise refused(f"{where}.format is {shown(kind)}; it must be one of {', '.join(_AUDIO_FORMATS)}")
    return _looked_at(f"audio/{kind}", _decoded(content, f"{where}.data"), "audio", f"{where}.data")


def _file(value: Any, where: str) -> Medium:
    if not isinstance(value, dict) or ("file_data" in value) == ("file_url" in value):
        raise refused(f"{where} is {shown(value)}; it must be an object with either file_data or file_url")
    if "file_url" in value:
        url = value["file_url"]
        if not isinstance(url, str) or not url.casefold().startswith(("http://", "https://")):
            raise _wrong(f"{where}.file_url is {shown(url)}; it must be a URL of http or https")
        return Medium("file", host=_host(url, f"{where}.file_url"))
    where = f"{where}.file_data"
    url = value["file_data"]
    if not isinstance(url, str) or not url[:5].casefold() == "data:":
        raise _wrong(f"{where} is {shown(url)}; it must be a data: URL")
    mime_type, content = _data(url, where)
    if mime_type != "application/pdf" or not content.startswith(b"%PDF-"):
        raise _wrong(f"{where} is not a PDF; no other files are read")
    _check_size(content, MAX_FILE_BYTES, where)
    return Medium("file", mime_type, len(content))


def _check_size(content: bytes, limit: int, where: str) -> None:
    if len(content) > limit:
        raise _wrong(f"{where} has {len(content):,} bytes; at most {limit // 1024**2} MB are allowed")


def _wrong(description: str) -> RefusedError:
    return RefusedError(invalid_file(description))
