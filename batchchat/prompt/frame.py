"""The JSON that all requests of a job have in common: made once, and filled with the texts of each row."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import orjson

KEY_BYTES = 20
"""Bytes of a key: at 160 bits, a billion requests share one with a probability below 1e-30."""


_TEXTS = frozenset({str})


@dataclass(frozen=True, slots=True)
class Frame:
    """The JSON of requests that differ in nothing but some texts.

    The `rest` of the body, after what comes `before` all texts, has in turn a place for a text and what follows it; so
    has the `rest_in_key` of what the key is made of, of which `digest` has seen what comes before.
    """

    before: bytes
    rest: tuple[bytes, ...]
    rest_in_key: tuple[bytes, ...]
    digest: blake2b
    choice_count: int

    def takes(self, parts: Sequence[Any]) -> bool:
        """Whether all parts are texts: a column can also hold a list of content parts."""
        return set(map(type, parts)) <= _TEXTS

    def filled(self, texts: Sequence[str]) -> tuple[bytes, blake2b]:
        """Return the body with the texts in it, and the digest of what the key is made of.

        Raises:
            TypeError: half a surrogate pair, which JSON cannot hold.
        """
        written = list(map(orjson.dumps, texts))
        rest = _filled(self.rest, written)
        digest = self.digest.copy()
        digest.update(rest if self.rest_in_key is self.rest else _filled(self.rest_in_key, written))
        return self.before + rest, digest


def marks(count: int) -> list[str]:
    """Return texts to stand for others, each different, and unlike any that a person writes."""
    return [f"\0{number}\0" for number in range(count)]


def framed(content: bytes, in_key: bytes, texts: Sequence[str], choice_count: int) -> Frame | None:
    """Return the frame of a body, and of what its key is made of, that have the texts within them, in this order.

    None where a text is not there, or cannot be told from another that is the same.
    """
    pieces, pieces_in_key = _cut(content, texts), _cut(in_key, texts)
    if pieces is None or pieces_in_key is None:
        return None
    (before, *rest), (before_in_key, *rest_in_key) = pieces, pieces_in_key
    digest = blake2b(before_in_key, digest_size=KEY_BYTES)
    in_body = tuple(rest)
    return Frame(before, in_body, in_body if content == in_key else tuple(rest_in_key), digest, choice_count)


def _cut(content: bytes, texts: Sequence[str]) -> list[bytes] | None:
    """Return what stands before, between and after the texts, with empty places for them."""
    pieces: list[bytes] = []
    for text in texts:
        written = orjson.dumps(text)
        if content.count(written) != 1:
            return None
        piece, _, content = content.partition(written)
        pieces += (piece, b"")
    return [*pieces, content]


def _filled(pieces: Sequence[bytes], written: Sequence[bytes]) -> bytes:
    filled = list(pieces)
    filled[::2] = written
    return b"".join(filled)
