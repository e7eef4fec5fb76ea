"""Takes the key out of what an endpoint sent, whichever way it is spelled there.

What passes in are replies, headers and messages; what comes out are the same without the key: as it stands, with its
characters escaped for JSON or a URL, or in base64, alone or behind `Bearer `. A model's words are only ever searched
for the key itself, and not for one that may be a word, such as `placeholder`; from the messages of failures goes
everything that looks like somebody's key. It does not know HTTP.
"""

import base64
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

SHORTEST_SECRET = 8
"""Characters below which a key is a placeholder such as `x`, and taking it out would only spoil replies."""
LONGEST_WORD = 19
"""Characters up to which a key of letters alone may be a word, such as `placeholder` or `sk-no-key-required`."""
SHORTEST_WORD = 4
"""Characters from which a key that may be a word is taken out of messages and headers; `x` and `0` say too little."""
_FEWEST_CHARACTERS = 5
"""Different characters of a key that nobody typed: `xxxxxxxx` and `sk-00000000` have fewer."""

_REDACTED = b"[redacted]"

_URL_BASE64 = bytes.maketrans(b"+/", b"-_")
_BASE64 = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=")
_SEARCHED_BYTES = 2**18
"""Bytes of a large body that are searched at a time: for as long as that takes, no other thread runs."""
_OUTSIDE_ESCAPES = re.compile(rb"[^%0-9A-Fa-f\\u/]")
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


def is_secret(key: str) -> bool:
    """Whether a key looks random, so that no model says it by chance; otherwise it may be a word, a name or a number.

    That is one of 8 characters or more, 5 of them different, with a letter; and with a digit, a capital right behind a
    small letter, or 20 characters.
    """
    if len(key) < SHORTEST_SECRET or len(set(key)) < _FEWEST_CHARACTERS or not re.search("[A-Za-z]", key):
        return False
    return len(key) > LONGEST_WORD or re.search("[0-9]|[a-z][A-Z]", key) is not None


class Redaction:
    """Knows one key (None: there is none), and takes it out.

    A key that `is_secret` goes from everything. Any other is also a word of replies, and stays there; from messages and
    headers it goes where it stands by itself.
    """

    def __init__(self, api_key: str | None) -> None:
        api_key = api_key or ""
        key = api_key.encode() if is_secret(api_key) else b""
        self._key = key
        self._codes = sorted({form for code in _base64_of(key) for form in (code, code.translate(_URL_BASE64))})
        # A body that ends in the midst of the key has its first half, as has one with the whole.
        marks = (key[: max(SHORTEST_SECRET, len(key) // 2)], *self._codes)
        self._marks = tuple(mark.decode("latin-1") for mark in marks)
        self._overlap = max(map(len, self._marks))
        self._escaped_as_json = re.compile(r"\\u00[2-7]" if key.isascii() else r"\\u00")
        self._word = None if key or len(api_key) < SHORTEST_WORD else _whole(api_key)
        self._spelled = re.compile(b"|".join(_spelled(form) for form in (key, *self._codes)))
        escaped = b"|".join(sorted({b"%02x" % character for character in key + b"+/-_="}))
        # One for each first letter: so a search goes from one such letter to the next, not through the whole.
        self._escapes = (
            re.compile(rb"%%(?:25)*((?i:%s))" % escaped),
            re.compile(rb"\\(?:u00((?i:%s))|/)" % escaped),
        )

    def content(self, content: bytes) -> bytes:
        """Return bytes without the key, if it is no word, nor its first half at the end of a body that was cut off."""
        if not self._key:
            return content
        texts = self._texts(content)
        is_escaped = self._has_escapes(texts) and self._has_escaped(content)
        if not is_escaped and not self._has_mark(texts):
            return content
        spans = [*_spans_of(self._key, content), *self._code_spans(content)]
        if is_escaped:
            spans += [match.span() for match in self._spelled.finditer(content)]
        spans += self._beginning_at_end(content)
        return _without(spans, content) if spans else content

    def text(self, text: str) -> str:
        """Return a header's text without the key."""
        if self._word is not None:
            return self._word.sub(_REDACTED.decode(), text)
        if not self._key:
            return text
        return self.content(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")

    def message(self, text: str) -> str:
        """Return a failure's message without the key, nor anything else that looks like one."""
        return without_keys(self.text(text))

    def _code_spans(self, content: bytes) -> Iterator[tuple[int, int]]:
        for code in self._codes:
            for start, end in _spans_of(code, content):
                before, after = content[max(0, start - _BASE64_BEFORE) : start], content[end : end + _BASE64_AFTER]
                yield start - _run(reversed(before)), end + _run(after)

    def _texts(self, content: bytes) -> Sequence[str]:
        """Return the content in pieces, each of which goes on until everything that may begin in it has ended."""
        # `in` takes half the time in a text, and every reply comes by here.
        if len(content) <= _SEARCHED_BYTES:
            return (content.decode("latin-1"),)
        starts = range(0, len(content), _SEARCHED_BYTES)
        return [content[start : start + _SEARCHED_BYTES + self._overlap].decode("latin-1") for start in starts]

    def _has_escapes(self, texts: Sequence[str]) -> bool:
        """Whether any character that the key may have is escaped."""
        for text in texts:
            if "%" in text or "\\/" in text or ("\\u00" in text and self._escaped_as_json.search(text)):
                return True
        return False

    def _has_mark(self, texts: Sequence[str]) -> bool:
        """Whether the key may be there as it stands, in part at the end, or in base64."""
        for text in texts:
            for mark in self._marks:  # `any` takes twice the time
                if mark in text:
                    return True
        return False

    def _has_escaped(self, content: bytes) -> bool:
        """Whether the key is there with some of its characters escaped, once or several times over."""
        of_url, of_json = self._escapes
        pieces, count = [], 0
        for escaped in _pieces(content):
            piece, found_of_url = of_url.subn(_unescaped, escaped)
            piece, found_of_json = of_json.subn(_unescaped, piece)
            pieces.append(piece)
            count += found_of_url + found_of_json
        if not count:
            return False
        forms = [form.replace(b"\\", b"") for form in (self._key, *self._codes)]
        longest, end = max(map(len, forms)), b""
        for piece in pieces:
            text = end + piece.replace(b"\\", b"")  # of several before one escape, all but the last are left
            if any(form in text for form in forms):
                return True
            end = text[-longest:]
        return False

    def _beginning_at_end(self, content: bytes) -> list[tuple[int, int]]:
        size = len(content)
        for length in range(len(self._key) - 1, max(SHORTEST_SECRET, len(self._key) // 2) - 1, -1):
            if content.endswith(self._key[:length]):
                return [(size - length, size)]
        return []


def without_keys(text: str) -> str:
    """Return text without anything that looks like a key: `sk-...`, `Bearer ...` and the like."""
    return KEY_LIKE.sub("[redacted]", _BEARER.sub(r"\1[redacted]", text))


def _whole(word: str) -> re.Pattern[str]:
    """Return the pattern of a word that is no part of another."""
    return re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])")


def _pieces(content: bytes) -> Iterator[bytes]:
    """Yield the content in pieces, none of which ends amid an escape."""
    start = 0
    while start < len(content):
        boundary = _OUTSIDE_ESCAPES.search(content, start + _SEARCHED_BYTES)
        stop = boundary.start() if boundary else len(content)
        yield content[start:stop]
        start = stop


def _spans_of(form: bytes, content: bytes) -> Iterator[tuple[int, int]]:
    start = content.find(form)
    while start >= 0:
        yield start, start + len(form)
        start = content.find(form, start + 1)


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
    return bytes([int(match[1], 16)]) if match[1] else b"/"


def _base64_of(key: bytes) -> Iterator[bytes]:
    """Yield what base64 has of a key for certain, wherever in a group of three bytes the key begins."""
    if not key:
        return
    for before in range(3):
        code = base64.b64encode(b"\0" * before + key).rstrip(b"=")
        is_even = (before + len(key)) % 3 == 0
        yield code[(0, 2, 3)[before] : len(code) if is_even else -1]


def _spelled(form: bytes) -> bytes:
    """Return the pattern of a form with any of its characters escaped for JSON or a URL, once or several times."""
    return b"".join(
        rb"(?:%s|\\+u00(?i:%02x)|%%(?:25)*(?i:%02x)%s)"
        % (re.escape(bytes([c])), c, c, rb"|\\+/" if c == ord("/") else b"")
        for c in form
    )
