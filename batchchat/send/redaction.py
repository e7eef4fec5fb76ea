"""Takes the key out of what an endpoint sent, whichever way it is spelled there.

What passes in are replies, headers and messages; what comes out are the same without the key: as it stands, with its
characters escaped for JSON or a URL, or in base64, alone or behind `Bearer `. A model's words are only ever searched
for the key itself; from the messages of failures goes everything that looks like somebody's key. It does not know HTTP.
"""

import base64
import itertools
import re
from collections.abc import Iterable, Iterator

SHORTEST_SECRET = 8
"""Characters below which a key is a placeholder such as `x`, and taking it out would only spoil replies."""

_REDACTED = b"[redacted]"

_LOOSE = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ-_", b"abcdefghijklmnopqrstuvwxyz+/")
"""For a first look: without regard to case, and to which of its two alphabets base64 uses."""
_BASE64 = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=")
_BASE64_BEFORE, _BASE64_AFTER = 3, 4
"""Characters beside what base64 has of a key for certain that have the rest of its first and last ones."""

KEY_LIKE = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"sk-(?:(?=[\w-]*\d)[\w-]{8,}|[\w-]{20,})"  # OpenAI, Anthropic, OpenRouter, DeepSeek and many others
    r"|AIza[\w-]{20,}|nvapi-[\w-]{20,}|(?:gsk_|hf_|xai-|pplx-|csk-|gh[opsu]_|r8_)[A-Za-z0-9]{16,}"
    r"|(?:eyJ[\w-]{8,}|SFMyNTY)\.[\w.-]{8,}"  # signed tokens; Oxen's are of the second kind
    r")"
)
"""Keys whose first letters say that they are keys."""
_BEARER = re.compile(r"(?i)\b(bearer\s+)(?=[\w.~+/=-]*\d)[\w.~+/=-]{8,}")


class Redaction:
    """Knows one key (None: there is none), and takes it out; a key below `SHORTEST_SECRET` characters stays."""

    def __init__(self, api_key: str | None) -> None:
        key = (api_key or "").encode()
        self._key = key.translate(_LOOSE) if len(key) >= SHORTEST_SECRET else b""
        codes = list(_base64_of(key)) if self._key else []
        self._codes = [code.translate(_LOOSE) for code in codes]
        self._spelled = re.compile(b"|".join(_spelled(form) for form in (key, *codes)), re.IGNORECASE)
        escaped = b"|".join(sorted({b"%02x" % character for character in key + b"+/="}))
        # One for each first letter: so a search goes from one such letter to the next, not through the whole.
        self._escapes = (re.compile(rb"%%(?:25)*(%s)" % escaped), re.compile(rb"\\(?:u00(%s)|/)" % escaped))

    def content(self, content: bytes) -> bytes:
        """Return bytes without the key, nor its first half at the end of a body that was cut off."""
        if not self._key:
            return content
        loose = content.translate(_LOOSE)
        spans = [*_spans_of(self._key, loose), *self._code_spans(loose)]
        if self._has_escaped(loose):
            spans += [match.span() for match in self._spelled.finditer(content)]
        spans += self._beginning_at_end(loose)
        return _without(spans, content) if spans else content

    def text(self, text: str) -> str:
        """Return text without the key."""
        if not self._key:
            return text
        return self.content(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")

    def message(self, text: str) -> str:
        """Return a failure's message without the key, nor anything else that looks like one."""
        return without_keys(self.text(text))

    def _code_spans(self, loose: bytes) -> Iterator[tuple[int, int]]:
        for code in self._codes:
            for start, end in _spans_of(code, loose):
                before, after = loose[max(0, start - _BASE64_BEFORE) : start], loose[end : end + _BASE64_AFTER]
                yield start - _run(reversed(before)), end + _run(after)

    def _has_escaped(self, loose: bytes) -> bool:
        """Whether the key is there with some of its characters escaped, once or several times over."""
        count = 0
        for mark, escape in zip((b"%", b"\\"), self._escapes, strict=True):
            if mark in loose:
                loose, found = escape.subn(_unescaped, loose)
                count += found
        loose = loose.replace(b"\\", b"")  # of several before one escape, all but the last are left
        return count > 0 and any(form in loose for form in (self._key, *self._codes))

    def _beginning_at_end(self, loose: bytes) -> list[tuple[int, int]]:
        size = len(loose)
        for length in range(len(self._key) - 1, max(SHORTEST_SECRET, len(self._key) // 2) - 1, -1):
            if loose.endswith(self._key[:length]):
                return [(size - length, size)]
        return []


def without_keys(text: str) -> str:
    """Return text without anything that looks like a key: `sk-...`, `Bearer ...` and the like."""
    return KEY_LIKE.sub("[redacted]", _BEARER.sub(r"\1[redacted]", text))


def _spans_of(form: bytes, loose: bytes) -> Iterator[tuple[int, int]]:
    start = loose.find(form)
    while start >= 0:
        yield start, start + len(form)
        start = loose.find(form, start + 1)


def _run(characters: Iterable[int]) -> int:
    """Return how many of the characters, from the first, are base64's."""
    return sum(1 for _ in itertools.takewhile(_BASE64.__contains__, characters))


def _without(spans: list[tuple[int, int]], content: bytes) -> bytes:
    """Return the content with each of the spans, which may overlap, replaced."""
    parts, kept_from = [], 0
    for start, end in sorted(spans):
        if start >= kept_from:
            parts += [content[kept_from:start], _REDACTED]
        kept_from = max(kept_from, end)
    return b"".join([*parts, content[kept_from:]])


def _unescaped(match: re.Match[bytes]) -> bytes:
    return bytes([int(match[1], 16)]).translate(_LOOSE) if match[1] else b"/"


def _base64_of(key: bytes) -> Iterator[bytes]:
    """Yield what base64 has of a key for certain, wherever in a group of three bytes the key begins."""
    for before in range(3):
        code = base64.b64encode(b"\0" * before + key).rstrip(b"=")
        is_even = (before + len(key)) % 3 == 0
        yield code[(0, 2, 3)[before] : len(code) if is_even else -1]


def _spelled(form: bytes) -> bytes:
    """Return the pattern of a form with any of its characters escaped for JSON or a URL, once or several times."""
    return b"".join(
        rb"(?:%s|\\+u00%02x|%%(?:25)*%02x%s)" % (re.escape(bytes([c])), c, c, rb"|\\+/" if c == ord("/") else b"")
        for c in form
    )
