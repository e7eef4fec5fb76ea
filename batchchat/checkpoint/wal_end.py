"""What stands in a WAL behind the place where SQLite ends it.

SQLite takes a log's frames up to the first whose checksum does not hold: after a kill or a power cut the rest is what
was never committed. After damage it is what was.
"""

import struct
from collections.abc import Iterator
from io import BufferedReader

HEADER_BYTES, FRAME_HEADER_BYTES = 32, 24
_BIG_ENDIAN_MAGIC = b"\x37\x7f\x06\x83"

_Sums = tuple[int, int]


def frames_behind_the_end(log: BufferedReader, page_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield page number and place of the page's content; what an earlier use of the file left there is passed over."""
    log.seek(0)
    header = log.read(HEADER_BYTES)
    order = ">" if header.startswith(_BIG_ENDIAN_MAGIC) else "<"
    sums = _sums(order, header[:24], (0, 0))
    is_taken = header[24:] == struct.pack(">II", *sums)
    salts = header[16:24] if is_taken else b""
    start = HEADER_BYTES
    while len(frame := log.read(FRAME_HEADER_BYTES + page_bytes)) == FRAME_HEADER_BYTES + page_bytes:
        if is_taken:
            sums = _sums(order, frame[FRAME_HEADER_BYTES:], _sums(order, frame[:8], sums))
            is_taken = frame[8:16] == salts and frame[16:24] == struct.pack(">II", *sums)
        salts = salts or frame[8:16]  # where the header is damaged, the first frame is the last writer's
        # Each use of the file changes both salts, one flipped bit only one.
        if not is_taken and (frame[8:12] == salts[:4] or frame[12:16] == salts[4:]):
            yield int.from_bytes(frame[:4]), start + FRAME_HEADER_BYTES
        start += len(frame)


def _sums(order: str, data: bytes, sums: _Sums) -> _Sums:
    """Return the two running sums of a WAL with more data in them."""
    first, second = sums
    for one, other in struct.iter_unpack(f"{order}II", data[: len(data) // 8 * 8]):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second
