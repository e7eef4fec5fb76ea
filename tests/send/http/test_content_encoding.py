"""Decoding replies: what is asked for, what is refused, and bounded pieces."""

import gzip
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.send.http.content_encoding import PIECE_BYTES, Decoder, DecodingError


@pytest.mark.parametrize("coding", ["", "identity", "Identity, identity", "none", "UTF-8"])
def test_plain_bytes_pass_as_they_are(coding: str) -> None:
    """Without a coding nothing is changed or copied."""
    data = b"anything \xff\x00"
    assert [piece is data for piece in Decoder(coding).feed(data)] == [True]


@given(st.binary(max_size=5_000), st.lists(st.integers(0, 5_000), max_size=5))
def test_any_split_of_gzip_or_deflate_decodes(data: bytes, cuts: list[int]) -> None:
    """However the network cuts the bytes, they stand for the same."""
    for coding, packed in (
        ("gzip", gzip.compress(data)),
        ("X-GZIP", gzip.compress(data)),
        ("deflate", zlib.compress(data)),
    ):
        decoder, edges = Decoder(coding), sorted({0, len(packed), *(cut % (len(packed) + 1) for cut in cuts)})
        parts = [packed[start:end] for start, end in pairwise(edges)]
        assert b"".join(piece for part in parts for piece in decoder.feed(part)) == data


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "deflate, gzip", "nonsense"])
def test_coding_that_was_not_asked_for_is_refused(coding: str) -> None:
    """The message names it."""
    with pytest.raises(DecodingError, match=coding):
        Decoder(coding)


@pytest.mark.slow
def test_bomb_comes_in_bounded_pieces() -> None:
    """Kilobytes that stand for 100 MB never become more than one piece at a time."""
    packed = gzip.compress(bytes(100 * 2**20), compresslevel=9)
    assert len(packed) < 2**19
    size = 0
    for piece in Decoder("gzip").feed(packed):
        assert len(piece) <= PIECE_BYTES
        size += len(piece)
    assert size == 100 * 2**20


def test_damaged_bytes_are_an_error() -> None:
    """What is not gzip, or no longer, is told."""
    with pytest.raises(DecodingError, match="damaged"):
        list(Decoder("gzip").feed(b"no gzip at all"))
    packed = bytearray(gzip.compress(b"text" * 1_000))
    packed[len(packed) // 2] ^= 0x10
    with pytest.raises(DecodingError, match="damaged"):
        list(Decoder("gzip").feed(bytes(packed)))


def test_bytes_after_the_end_are_left() -> None:
    """Some servers pad a compressed reply."""
    assert b"".join(Decoder("gzip").feed(gzip.compress(b"text") + b"padding")) == b"text"


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=4), st.lists(st.integers(0, 5_000), max_size=8))
def test_every_member_is_read(parts: list[bytes], cuts: list[int]) -> None:
    """Some compress each piece by itself: gzip may have several members, and the network cuts within any of them."""
    packed = b"".join(map(gzip.compress, parts))
    edges = sorted({0, len(packed), *(cut % (len(packed) + 1) for cut in cuts)})
    decoder = Decoder("gzip")
    read = [piece for start, end in pairwise(edges) for piece in decoder.feed(packed[start:end])]
    assert b"".join(read) == b"".join(parts)


def test_later_members_come_in_bounded_pieces_a_byte_at_a_time_too() -> None:
    """A bomb behind a small member is bounded like any other, and its first bytes may come alone."""
    packed = gzip.compress(b"text") + gzip.compress(bytes(5 * 2**20)) + b"\x1f\x8b and other padding"
    decoder = Decoder("gzip")
    pieces = [piece for byte in packed for piece in decoder.feed(bytes([byte]))]
    assert b"".join(pieces) == b"text" + bytes(5 * 2**20)
    whole = list(Decoder("gzip").feed(packed))
    assert b"".join(whole) == b"".join(pieces)
    assert max(map(len, whole)) <= PIECE_BYTES


def test_damaged_later_member_is_an_error() -> None:
    """What begins like a member must be one."""
    with pytest.raises(DecodingError, match="damaged"):
        list(Decoder("gzip").feed(gzip.compress(b"text") + b"\x1f\x8b\x08" + b"\xff" * 99))
