"""The MIME type of a file, by its first bytes and, where these tell nothing, by its name's suffix.

It depends on nothing of the machine, for the type is part of a request's identity. It does not open files.
"""

import codecs
import re
from collections.abc import Mapping
from types import MappingProxyType

_STARTS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"II+\0", "image/tiff"),
    (b"MM\0+", "image/tiff"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "image/jp2"),
    (b"\xff\x4f\xff\x51", "image/jp2"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "image/jxl"),
    (b"\xff\x0a", "image/jxl"),
    (b"8BPS", "image/vnd.adobe.photoshop"),
    (b"\0\0\1\0", "image/x-icon"),
    (b"FLV\1", "video/x-flv"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "video/x-ms-wmv"),
    (b"\0\0\1\xba", "video/mpeg"),
    (b"\0\0\1\xb3", "video/mpeg"),
    (b"ID3", "audio/mpeg"),
    (b"\xff\xfb", "audio/mpeg"),
    (b"fLaC", "audio/flac"),
    (b"%PDF-", "application/pdf"),
    (b"PK\3\4", "application/zip"),
    (b"\x1f\x8b\x08", "application/gzip"),
)
_RIFF_FORMS = MappingProxyType({b"WEBP": "image/webp", b"AVI ": "video/x-msvideo", b"WAVE": "audio/wav"})
# The brand of an ISO base media file (ISO/IEC 14496-12). Any other is a video: most encoders have one of their own.
_BRANDS = MappingProxyType(
    {b"avif": "image/avif", b"avis": "image/avif"}
    | dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "image/heic")
    | dict.fromkeys((b"mif1", b"msf1"), "image/heif")
    | dict.fromkeys((b"M4A ", b"M4B ", b"M4P "), "audio/mp4")
    | {b"qt  ": "video/quicktime", b"crx ": "image/x-canon-cr3"}
    | dict.fromkeys((b"3gp4", b"3gp5", b"3gp6", b"3gp7"), "video/3gpp")
)
_OLD_QUICKTIME_ATOMS = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_BMP_HEADER_BYTES = (12, 16, 40, 52, 56, 64, 108, 124)
_TRANSPORT_PACKET_BYTES = 188

_SUFFIXES: Mapping[str, str] = MappingProxyType(
    {
        ".png": "image/png",
        ".jpg": "image/jpeg",
        ".jpeg": "image/jpeg",
        ".gif": "image/gif",
        ".webp": "image/webp",
        ".bmp": "image/bmp",
        ".tif": "image/tiff",
        ".tiff": "image/tiff",
        ".avif": "image/avif",
        ".heic": "image/heic",
        ".heif": "image/heif",
        ".tga": "image/x-tga",
        ".pcx": "image/x-pcx",
        ".mp4": "video/mp4",
        ".m4v": "video/mp4",
        ".mov": "video/quicktime",
        ".webm": "video/webm",
        ".mkv": "video/x-matroska",
        ".avi": "video/x-msvideo",
        ".mpg": "video/mpeg",
        ".mpeg": "video/mpeg",
        ".ogv": "video/ogg",
        ".wmv": "video/x-ms-wmv",
        ".flv": "video/x-flv",
        ".3gp": "video/3gpp",
        ".ts": "video/mp2t",
        ".ogg": "audio/ogg",
        ".mp3": "audio/mpeg",
        ".wav": "audio/wav",
        ".pdf": "application/pdf",
    }
)
_ALWAYS_SIGNED = frozenset(
    {"image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp", "image/tiff", "image/avif", "image/heic"}
)
_HTML = re.compile(rb"<!doctype html|<html", re.IGNORECASE)
_TEXT_CONTROLS = frozenset(b"\t\n\f\r\x1b")


def mime_type(head: bytes, suffix: str = "") -> str | None:
    """Return the type of content that begins with `head` (a few KB), of a file whose name ends in `suffix`, or None.

    The suffix counts only where the content says nothing, and never for a format that always begins in a known way:
    what is called `.png` and is none is an error page more often than an image.
    """
    # The structure first: a box of 256 bytes begins as an icon does.
    by_content = _by_structure(head) or _by_signature(head) or _text_type(head)
    if by_content is not None:
        return by_content
    by_suffix = _SUFFIXES.get(suffix.lower())
    return None if by_suffix in _ALWAYS_SIGNED else by_suffix


def _by_signature(head: bytes) -> str | None:
    return next((name for start, name in _STARTS if head.startswith(start)), None)


def _by_structure(head: bytes) -> str | None:
    """Return the type of a format that does not show in its first bytes alone."""
    if head[:4] == b"RIFF":
        return _RIFF_FORMS.get(head[8:12])
    if head[4:8] == b"ftyp":
        return _iso_type(head)
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "video/webm" if b"webm" in head[:64] else "video/x-matroska"
    if head[:4] == b"OggS":
        return "video/ogg" if b"\x80theora" in head[:256] else "audio/ogg"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES:
        return "image/bmp"
    if head[4:8] in _OLD_QUICKTIME_ATOMS and head[0] == 0:
        return "video/quicktime"
    # One sync byte may be chance; every packet of a transport stream begins with it.
    if len(head) > 2 * _TRANSPORT_PACKET_BYTES and set(head[::_TRANSPORT_PACKET_BYTES]) == {ord("G")}:
        return "video/mp2t"
    return None


def _iso_type(head: bytes) -> str:
    """Return the type by the main brand or, where that is a general one, by those that the file is compatible with."""
    end = min(int.from_bytes(head[:4], "big"), 256)
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, end, 4))]
    known = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
    if brands[0] not in _BRANDS:
        return next((name for name in known if name.startswith("image/")), "video/mp4")
    return next((name for name in known if name != "image/heif"), known[0])


def _text_type(head: bytes) -> str | None:
    """Return the type of UTF-8 text: SVG, HTML or plain; None for what is not text."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # the last character may be cut
    except UnicodeDecodeError:
        return None
    if not head or any(byte < ord(" ") and byte not in _TEXT_CONTROLS for byte in head):
        return None
    begin = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if begin.startswith(b"<svg") or (begin.startswith((b"<?xml", b"<!--", b"<!DOCTYPE svg")) and b"<svg" in begin):
        return "image/svg+xml"
    return "text/html" if _HTML.match(begin) else "text/plain"
