"""Read the images and videos of a request: each becomes a `Medium`, or a `RefusedError` that says what is wrong.

URLs of http and https are taken as they are and never fetched.
"""

import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

import imagesize

from batchchat.serve.request.errors import RefusedError, invalid_file

MAX_MEDIUM_BYTES = 20 * 1024 * 1024
_MAX_HEADER_CHARS = 200


@dataclass(frozen=True, slots=True)
class Medium:
    """An image or a video; `sentence` is what the stand-in says of it."""

    sentence: str


def read_medium(part: Mapping[str, Any], where: str) -> Medium:
    """Return what a part of the type image_url or video_url holds. Raises RefusedError with status 400."""
    key = str(part["type"])
    kind = key.removesuffix("_url")
    # Some clients write the URL itself where OpenAI has an object.
    value = part.get(key)
    url = value.get("url") if isinstance(value, dict) else value
    name = f"{'An' if kind == 'image' else 'A'} {kind}"
    scheme = url[:8].partition(":")[0].casefold() if isinstance(url, str) else None
    if scheme in ("http", "https"):
        return Medium(f"{name} at {_host(str(url), where)}.")
    if scheme != "data":
        raise _wrong(f"{where}.{key} must be a data: URL, or one of http or https")
    mime_type, content = _decoded(str(url), where)
    if not mime_type.startswith(f"{kind}/"):
        raise _wrong(f"{where} has the MIME type {mime_type!r}; it must be {kind}/...")
    if len(content) > MAX_MEDIUM_BYTES:
        raise _wrong(f"{where} has {len(content):,} bytes; at most {MAX_MEDIUM_BYTES // 1024**2} MB are allowed")
    pixels = ""
    if kind == "image":
        width, height = imagesize.get(BytesIO(content))
        if width < 1 or height < 1:
            raise _wrong(f"{where} has {len(content):,} bytes that are not an image of any kind known")
        pixels = f"{width} x {height} pixels, "
    return Medium(f"{name}: {mime_type}, {pixels}{len(content):,} bytes.")


def _host(url: str, where: str) -> str:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    if not host:
        raise _wrong(f"{where} has a URL that names no host")
    return host


def _decoded(url: str, where: str) -> tuple[str, bytes]:
    """Return the MIME type and the bytes of a `data:` URL."""
    comma = url.find(",", 0, _MAX_HEADER_CHARS)
    mime_type, *parameters = url[len("data:") : max(comma, 0)].casefold().split(";")
    if "base64" not in parameters:
        raise _wrong(f"{where} has a data: URL that is not data:<MIME type>;base64,<data>")
    try:
        content = binascii.a2b_base64(url[comma + 1 :], strict_mode=True)
    except ValueError as error:
        raise _wrong(f"{where} has data that is not base64 ({error})") from error
    if not content:
        raise _wrong(f"{where} has no data")
    return mime_type, content


def _wrong(description: str) -> RefusedError:
    return RefusedError(invalid_file(description))
