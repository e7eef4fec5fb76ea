"""The faults that the scripted server deals: which one a request meets at an attempt, and the bytes of each.

A fault is drawn from a hash of the request and the attempt, so a run meets the same ones again; the fourth attempt in a
row is always answered.
"""

import gzip
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from types import MappingProxyType

import orjson

from tests.torture.answers import plain_reply, stream_events
from tests.torture.wire import Ending, Wire, chunked, http

LONGEST_SERIES = 3
"""Faults in a row that one request meets at most."""


@dataclass(frozen=True, slots=True)
class Fault:
    """How often it comes (of all faults), whether the server has worked on the request all the same, and its bytes."""

    weight: int
    is_billed: bool
    wire: Callable[[str, str], Wire]
    is_first_only: bool = False


def draw(digest: str, attempt: int, rate: float, *, is_streamed: bool) -> str | None:
    """Return the name of the fault that this attempt (from 1) meets; None for an answer."""
    place = (attempt - 1) % (LONGEST_SERIES + 1)
    chance = hashlib.sha256(f"{digest} {attempt}".encode()).digest()
    if place == LONGEST_SERIES or int.from_bytes(chance[:4]) >= rate * 2**32:
        return None
    dealt = _STREAM_DECK if is_streamed else _DECK
    name = dealt[int.from_bytes(chance[4:8]) % len(dealt)]
    return "status-500" if place and FAULTS[name].is_first_only else name


def _error(status: int, message: str, *headers: str) -> Callable[[str, str], Wire]:
    content = http(status, orjson.dumps({"error": {"message": message, "type": "server_error"}}), headers)
    return lambda digest, response_id: Wire(content)


def _rate_limit(*headers: str) -> Callable[[str, str], Wire]:
    return _error(429, "Rate limit reached", *headers)


def _rate_limit_until(seconds: float) -> Callable[[str, str], Wire]:
    def wire(digest: str, response_id: str) -> Wire:
        return _error(429, "Rate limit reached", f"retry-after: {formatdate(time.time() + seconds, usegmt=True)}")(
            digest, response_id
        )

    return wire


def _bad_gateway(digest: str, response_id: str) -> Wire:
    return Wire(http(502, b"<html><head><title>502 Bad Gateway</title></head></html>", kind="text/html"))


def _reset(digest: str, response_id: str) -> Wire:
    return Wire(b"", Ending.RESET)


def _reset_amid(digest: str, response_id: str) -> Wire:
    whole = http(200, plain_reply(digest, response_id))
    return Wire(whole[: len(whole) - 60], Ending.RESET)


def _stall(digest: str, response_id: str) -> Wire:
    return Wire(http(200, plain_reply(digest, response_id))[:-80], Ending.HANG)


def _truncated(digest: str, response_id: str) -> Wire:
    return Wire(http(200, plain_reply(digest, response_id)[:-70]))


def _cut_chunks(digest: str, response_id: str) -> Wire:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    body = plain_reply(digest, response_id)
    return Wire(head + b"%x\r\n%s\r\n" % (len(body) - 60, body[:-60]), Ending.CLOSE)


def _error_inside(digest: str, response_id: str) -> Wire:
    return Wire(http(200, orjson.dumps({"error": {"message": "Provider returned error", "code": 502}})))


def _empty(digest: str, response_id: str) -> Wire:
    return Wire(http(200, b""))


def _bad_utf8(digest: str, response_id: str) -> Wire:
    body = plain_reply(digest, response_id)
    return Wire(http(200, body[:-1] + b',"system_fingerprint":"\xff\xc3("}'))


def _corrupt_gzip(digest: str, response_id: str) -> Wire:
    content = bytearray(gzip.compress(plain_reply(digest, response_id)))
    content[len(content) // 2] ^= 0xFF
    content[-6] ^= 0xFF
    return Wire(http(200, bytes(content), ["content-encoding: gzip"]))


def _null_choices(digest: str, response_id: str) -> Wire:
    return Wire(http(200, b'{"error":null,"choices":null}'))


def _stream_without_end(digest: str, response_id: str) -> Wire:
    return Wire(chunked(stream_events(digest, response_id)[:-1]))


def _stream_error(digest: str, response_id: str) -> Wire:
    error = b'data: {"error":{"message":"Provider disconnected","code":502}}\n\n'
    return Wire(chunked([*stream_events(digest, response_id)[:2], error]))


def _stream_cut(digest: str, response_id: str) -> Wire:
    return Wire(chunked(stream_events(digest, response_id)[:2], is_whole=False), Ending.CLOSE)


_ANY = {
    "429-seconds": Fault(6, False, _rate_limit("retry-after: 0")),
    "429-float": Fault(6, False, _rate_limit("retry-after: 0.02")),
    "429-ms": Fault(6, False, _rate_limit("retry-after-ms: 15")),
    "429-date": Fault(1, False, _rate_limit_until(1.0)),
    "429-past-date": Fault(2, False, _rate_limit_until(-60.0)),
    "429-absent": Fault(2, False, _rate_limit()),
    "status-500": Fault(40, False, _error(500, "internal error")),
    "status-502-html": Fault(30, False, _bad_gateway),
    "status-503": Fault(10, False, _error(503, "overloaded", "retry-after: 0")),
    "status-529": Fault(10, False, _error(529, "Overloaded")),
    "reset": Fault(40, True, _reset),
    "stall": Fault(3, True, _stall),
}
_PLAIN = {
    "reset-amid": Fault(30, True, _reset_amid),
    "truncated-json": Fault(25, True, _truncated),
    "cut-chunks": Fault(20, True, _cut_chunks),
    "error-inside": Fault(20, False, _error_inside),
    "empty": Fault(20, True, _empty),
    "bad-utf8": Fault(15, True, _bad_utf8),
    "corrupt-gzip": Fault(15, True, _corrupt_gzip),
    # The client asks a row that is answered nothing three times in all, whatever came before.
    "null-choices": Fault(15, True, _null_choices, is_first_only=True),
}
_STREAMED = {
    "stream-without-end": Fault(40, True, _stream_without_end),
    "stream-error": Fault(60, True, _stream_error),
    "stream-cut": Fault(60, True, _stream_cut),
}
FAULTS: Mapping[str, Fault] = MappingProxyType({**_ANY, **_PLAIN, **_STREAMED})


def _deck(*families: Mapping[str, Fault]) -> list[str]:
    return [name for family in families for name, fault in family.items() for _ in range(fault.weight)]


_DECK = _deck(_ANY, _PLAIN)
_STREAM_DECK = _deck(_ANY, _STREAMED)
