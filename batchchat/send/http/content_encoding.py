"""A reply's bytes as they came -> decoded, in pieces of bounded size."""

import zlib
from collections.abc import Iterator

PIECE_BYTES = 2**20
ACCEPTED = "gzip"
"""What a request says that it takes (RFC 9110, section 12.5.3); `deflate` is read, since some send it unasked."""

_NO_CODINGS = frozenset({"", "identity", "none", "utf-8"})
"""Names that stand for none; the last two are no codings, but some servers take the header for another."""
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_MEMBER = b"\x1f\x8b\x08"
"""How a member of a gzip file begins; there may be several, one behind the other (RFC 1952, section 2.2)."""


class DecodingError(Exception):
    """The bytes are not what `content-encoding` says, or are coded in a way that was not asked for."""


class Decoder:
    """Decodes one reply."""

    def __init__(self, content_encoding: str) -> None:
        codings = [
            coding for part in content_encoding.lower().split(",") if (coding := part.strip()) not in _NO_CODINGS
        ]
        # Two codings, one in the other, are no real endpoint's, but a bomb that a bound on one of them does not stop.
        if len(codings) > 1 or (codings and codings[0] not in ("gzip", "x-gzip", "deflate")):
            raise DecodingError(f"the reply is encoded as {content_encoding[:100]!r}, and only gzip was asked for")
        self._decompressor = zlib.decompressobj(_GZIP_OR_ZLIB) if codings else None
        self._behind = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what some bytes stand for.

        Raises:
            DecodingError: they are not what they should be.
        """
        if self._decompressor is None:
            yield data
            return
        try:
            while data:
                if self._decompressor.eof:
                    data = self._next_member(data)
                    continue
                piece = self._decompressor.decompress(data, PIECE_BYTES)
                data = self._decompressor.unused_data or self._decompressor.unconsumed_tail
                if piece:
                    yield piece
        except zlib.error as error:
            raise DecodingError(f"the reply cannot be read: its compressed bytes are damaged ({error})") from error

    def _next_member(self, data: bytes) -> bytes:
        """Return what is to be read behind the end of a member: another one, or nothing of what is none."""
        behind = self._behind + data
        if behind.startswith(_MEMBER):
            self._decompressor, self._behind = zlib.decompressobj(_GZIP_OR_ZLIB), b""
            return behind
        self._behind = behind[: len(_MEMBER)]  # its first bytes may come one by one, and those of padding never are
        return b""
