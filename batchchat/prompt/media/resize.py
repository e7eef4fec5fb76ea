"""Image files made smaller, by Pillow, which is an extra."""

import io
from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING

from batchchat.errors import UsageError
from batchchat.prompt.media.file import MediaError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

MOST_PIXELS = 89_478_485
"""An image of more is not decoded; Pillow too suspects a decompression bomb there.

One of so many pixels takes up to 0.7 GB of memory as PNG, 1.6 GB as WebP or JPEG 2000, and hardly any as JPEG.
"""

_FORMATS = MappingProxyType(
    {
        "image/png": "PNG",
        "image/jpeg": "JPEG",
        "image/gif": "GIF",
        "image/webp": "WEBP",
        "image/bmp": "BMP",
        "image/tiff": "TIFF",
        "image/avif": "AVIF",
        "image/jp2": "JPEG2000",
    }
)
LARGE_PIXELS = 4_000_000
"""Pixels above which an image is decoded apart: a file of some KB may take hundreds of MB while it is."""
_LARGE_PIXELS = MappingProxyType({"WEBP": 1_000_000, "TIFF": 500_000, "JPEG2000": 10_000})
"""The same for formats whose decoders keep Python's lock: for 3, 7 and 300 ms a million pixels."""
_LEFT_ALONE = frozenset({"image/svg+xml", "image/x-icon"})
_LOSSY = frozenset({"JPEG", "WEBP", "AVIF"})
_QUALITY = 90
_GREY_LEVELS = 2**16

Apart = Callable[[bytes, str, int, str], bytes]
"""Shrinks an image elsewhere."""


def require_pillow() -> None:
    """Make sure that images can be shrunk.

    Raises:
        UsageError: Pillow is not installed.
    """
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        message = (
            "input.max_image_side needs Pillow, which is not installed;"
            " run `pip install 'batchchat[images]'`, or leave input.max_image_side out"
        )
        raise UsageError(message) from error


def shrunk(content: bytes, mime_type: str, max_side: int, shown: str, apart: Apart | None = None) -> bytes:
    """Return an image whose longer side has at most `max_side` pixels; `content` itself where it has no more.

    What is large goes to `apart`, which takes what this takes, and decodes one at a time out of others' way. Its
    orientation and colour profile go along, other metadata do not. An animation and a file of several pages are
    returned as they are, for one frame or page would be another content; so are vector graphics and icons.

    Raises:
        MediaError: it is damaged, too large to decode, or of a format that Pillow does not write. `shown` is its name.
    """
    if mime_type in _LEFT_ALONE:
        return content
    from PIL.Image import DecompressionBombError

    format_name = _FORMATS.get(mime_type)
    if format_name is None:
        message = f"{shown} is {mime_type}, which cannot be shrunk; make it a PNG, or leave input.max_image_side out"
        raise MediaError(message)
    try:
        with _opened(content, format_name) as image:
            if max(image.size) <= max_side or _has_frames(image):
                return content
            _refuse_bomb(image, shown)
            if apart is None or image.width * image.height <= _LARGE_PIXELS.get(format_name, LARGE_PIXELS):
                return _encoded(_small(image, max_side), format_name)
    except MediaError:
        raise
    except DecompressionBombError as error:  # of the one decoder that makes room for the pixels on opening
        message = f"{shown} has far too many pixels; images of up to {MOST_PIXELS:,} are shrunk: make it smaller"
        raise MediaError(message) from error
    except ValueError as error:  # what Pillow cannot do, be the file as whole as it may
        message = (
            f"{shown} is {mime_type} that cannot be shrunk: {error};"
            " save it as a plain PNG or JPEG, or leave input.max_image_side out"
        )
        raise MediaError(message) from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        message = (
            f"{shown} cannot be read as {mime_type}: {str(error) or type(error).__name__}; check that the file is whole"
        )
        raise MediaError(message) from error
    return apart(content, mime_type, max_side, shown)


def _opened(content: bytes, format_name: str) -> "ImageFile":
    # Not Image.open: that warns of large images, and a filter for warnings would be one for all threads. The format
    # is the one that the first bytes show, so that no decoder but its own sees the file.
    from PIL import Image

    Image.init()
    factory = Image.OPEN[format_name][0]
    return factory(io.BytesIO(content), "")


def _has_frames(image: "ImageFile") -> bool:
    # What a camera adds to a JPEG is a preview or a depth map, not a frame.
    return image.format != "MPO" and bool(getattr(image, "is_animated", False))


def _refuse_bomb(image: "ImageFile", shown: str) -> None:
    width, height = image.size
    if width * height > MOST_PIXELS:
        message = (
            f"{shown} has {width:,} x {height:,} pixels; images of up to {MOST_PIXELS:,} are shrunk: make it smaller"
        )
        raise MediaError(message)


def _small(image: "Image", max_side: int) -> "Image":
    from PIL import Image, ImageOps

    if image.mode == "1":
        image = image.convert("L")
    elif image.mode == "I;16" and "transparency" in image.info:
        image = _with_alpha(image)
    elif image.mode in ("P", "PA") or "transparency" in image.info:
        # Neither a palette's numbers nor the one transparent colour can be mixed.
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    has_16_bits = image.mode.startswith("I;16")
    if has_16_bits:
        image = image.convert("I")  # Pillow refuses to shrink such modes much, or takes their bytes in the wrong order
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    if has_16_bits:
        image = image.convert("I;16")
    return ImageOps.exif_transpose(image)


def _with_alpha(image: "Image") -> "Image":
    """Return 16-bit grey with a transparent level as 8-bit grey with alpha: what Pillow makes of it is white."""
    from PIL import Image

    clear = image.info["transparency"]
    levels = image.convert("I")
    grey = levels.point([level >> 8 for level in range(_GREY_LEVELS)], "L")
    alpha = levels.point([0 if level == clear else 255 for level in range(_GREY_LEVELS)], "L")
    return Image.merge("LA", (grey, alpha))


def _encoded(image: "Image", format_name: str) -> bytes:
    stream = io.BytesIO()
    options = {"quality": _QUALITY} if format_name in _LOSSY else {}
    image.save(stream, format_name, icc_profile=image.info.get("icc_profile"), **options)
    return stream.getvalue()
