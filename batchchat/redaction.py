"""Keep the endpoint's key out of what is received, printed and stored.

A key that looks random goes from everything: as it stands, and with characters of it escaped as JSON strings may have
them. One that may be a word, or is short, stays in replies, and goes from headers and errors.
"""

import re

SHORTEST_SECRET = 8
"""Characters below which a key is a placeholder such as `x`, and taking it out would only spoil replies."""
LONGEST_WORD = 19
"""Characters up to which a key of letters alone may be a word, such as `placeholder` or `sk-no-key-required`."""
SHORTEST_WORD = 4
"""Characters from which a key that may be a word is taken out of messages and headers; `x` and `0` say too little."""
_FEWEST_CHARACTERS = 5
"""Different characters of a key that nobody typed: `xxxxxxxx` and `sk-00000000` have fewer."""

_REDACTED = b"[redacted]"
_PIECE_BYTES = 2**18
"""Bytes that are searched at a time: for as long as that takes, no other thread runs."""

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
    """Removes one key (None: there is none) from what an endpoint sends."""

    def __init__(self, api_key: str | None) -> None:
        api_key = api_key or ""
        self._key = api_key.encode() if is_secret(api_key) else b""
        self._word = None if self._key or len(api_key) < SHORTEST_WORD else _whole(api_key)
        self._pattern = re.compile(b"".join(map(_character, self._key)))
        self._longest = len(self._key) * len("\\u0000")
        shorts = b"".join(re.escape(bytes([one])) for one in b'"\\/' if one in self._key)
        self._escape = re.compile(rb"\\(?:u00[2-7]%s)" % (rb"|[%s]" % shorts if shorts else b""))

    @property
    def has_secret(self) -> bool:
        """Whether there is a key, and one that looks random."""
        return bool(self._key)

    def content(self, content: bytes) -> bytes:
        """Return bytes without the key, unless it may be a word."""
        if not self._key:
            return content
        parts, end = [], 0
        for start in range(0, len(content), _PIECE_BYTES):
            stop = start + _PIECE_BYTES + self._longest  # a key may begin in this piece and end in the next
            if content.find(self._key, start, stop) < 0 and not self._escape.search(content, start, stop):
                continue
            for match in self._pattern.finditer(content, max(start, end), stop):
                parts += [content[end : match.start()], _REDACTED]
                end = match.end()
        return b"".join([*parts, content[end:]]) if parts else content

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


KEYS_IN_USE: dict[str, Redaction] = {}


def keep_secret(key: str) -> None:
    """Remove a key that is in use from every text that is printed, logged or posted from here on."""
    KEYS_IN_USE.setdefault(key, Redaction(key))


def without_own_keys(text: str, *, with_words: bool = False) -> str:
    """Return text without the keys in use; only `with_words` without those that may be words."""
    for redaction in tuple(KEYS_IN_USE.values()):
        if with_words or redaction.has_secret:
            text = redaction.text(text)
    return text


def without_keys(text: str) -> str:
    """Return text without the keys in use, and without what looks like a key: `sk-...`, `Bearer ...` and the like."""
    return KEY_LIKE.sub("[redacted]", _BEARER.sub(r"\1[redacted]", without_own_keys(text)))


def _whole(word: str) -> re.Pattern[str]:
    """Return the pattern of a word that is no part of another."""
    return re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])")


def _character(code: int) -> bytes:
    """Return the pattern of a character, as it stands or escaped as in a JSON string (RFC 8259, section 7)."""
    plain = re.escape(bytes([code]))
    short = rb"\\%s|" % plain if code in b'"\\/' else b""
    return rb"(?:%s\\u00(?i:%02x)|%s)" % (short, code, plain)
