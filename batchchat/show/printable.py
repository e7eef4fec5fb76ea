"""Make text from models, providers and files safe to print, and write dollars.

Files keep the raw text; what is printed loses the control sequences by which it could move the cursor, set titles,
write the clipboard or reorder what is read.
"""

import re

from batchchat.redaction import without_own_keys

_SEQUENCES = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC: titles, links, the clipboard
    r"|\x1b[PX^_][^\x1b]*(?:\x1b\\)?"  # DCS, SOS, PM, APC
    r"|[\x1b\x9b]\[?[0-?]*[ -/]*[@-~]"  # CSI and the two-character escapes
)
_LINE_ENDS = re.compile("[\n\t\u2028\u2029]")
_DATA_URL = re.compile(r"(data:[^\"\\]{60})[^\"\\]{100,}")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return `text` without control sequences, control characters (but newlines and tabs) and marks of direction.

    Nor does it have the keys in use, which such characters may have stood in.
    """
    return without_own_keys(_CONTROLS.sub("", _SEQUENCES.sub("", text.replace("\r\n", "\n"))))


def on_one_line(text: str) -> str:
    """Return `text` printable, with a space for each line end and tab: names are not to look like lines of ours."""
    return _LINE_ENDS.sub(" ", printable(text))


def indented(text: str) -> str:
    """Return `text` printable, with every line but the first indented, so that it cannot look like one of ours."""
    return "\n  ".join(printable(text).splitlines())


def one_line(text: str, width: int) -> str:
    """Return `text` printable, on one line, cut with an ellipsis to `width` characters."""
    flat = " ".join(printable(text).split())
    return flat if len(flat) <= width else f"{flat[: width - 1]}…"


def shortened(text: str) -> str:
    """Return JSON text with its long `data:` URLs cut: nobody reads a picture's base64 on a terminal."""
    return _DATA_URL.sub(lambda url: f"{url[1]}… ({len(url[0]):,} characters)", text)


def dollars(usd: float) -> str:
    """Return an amount with the digits that matter of it: `$1,234.50`, `$0.0123`, `less than $0.0001`."""
    if usd >= 1 or not usd:
        return f"${usd:,.2f}"
    return f"${usd:.4f}" if usd >= 0.00005 else "less than $0.0001"
