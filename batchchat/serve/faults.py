"""Draw the faults of `--fault-rate`, and make the replies that have them.

A draw depends on the seed, the request and how often it was asked, and on nothing else, so a run against faults can be
repeated however its requests interleave. One request suffers at most `MAX_IN_A_ROW` faults in a row: a client that
tries five times or more always gets through. That is remembered for the `REMEMBERED` requests asked last.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Literal

import orjson

from batchchat.serve.delivery import Delivery, EventStream
from batchchat.serve.request.errors import Refusal, rate_limited, titled, upstream

MAX_IN_A_ROW = 3
REMEMBERED = 20_000

FaultName = Literal[
    "rate_limited",  # 429, with a short Retry-After
    "server_error",  # 500, JSON
    "bad_gateway",  # 502, HTML
    "unavailable",  # 503, with a short Retry-After
    "request_timeout",  # 408
    "closed_before_reply",  # the connection ends without one byte
    "error_in_200",  # 200, and an error in its body
    "cut_body",  # the connection ends in the middle of the answer
    "truncated_json",  # 200, and the answer ends too early
    "empty_body",  # 200, and nothing
    "slow",  # the answer, late
]
# In these no answer is made. In the others it is, and it costs what an answer costs, but only `slow` delivers it.
UNANSWERED: tuple[FaultName, ...] = (
    "rate_limited",
    "server_error",
    "bad_gateway",
    "unavailable",
    "request_timeout",
    "closed_before_reply",
    "error_in_200",
)
ANSWERED: tuple[FaultName, ...] = ("cut_body", "truncated_json", "empty_body", "slow")
_ALL = UNANSWERED + ANSWERED
_HTML_502 = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><h1>502 Bad Gateway</h1></body>\r\n</html>\r\n"
)
_ERROR = b'{"error":{"message":"The upstream connection was lost.","code":502}}'


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault; `share`, from 0 to 1, says how hard it is: where the body is cut, how long the wait is."""

    name: FaultName
    share: float

    @property
    def is_answered(self) -> bool:
        """Whether an answer is made before the fault strikes."""
        return self.name in ANSWERED

    @property
    def wait_s(self) -> float:
        """The Retry-After of the faults that have one, and the lateness of `slow`: 0.05 to 0.2 s."""
        return round(0.05 + 0.15 * self.share, 3)


class FaultPlan:
    """Draws faults at a rate, and remembers how often each request was asked and faulted."""

    def __init__(self, rate: float, seed: int) -> None:
        self._rate = rate
        self._seed = seed
        self._asked: OrderedDict[bytes, tuple[int, int]] = OrderedDict()

    def draw(self, request_digest: bytes) -> Fault | None:
        """Return the fault that this request suffers this time, or None."""
        if self._rate <= 0:
            return None
        times, in_a_row = self._asked.pop(request_digest, (0, 0))
        fault = self._drawn(request_digest, times) if in_a_row < MAX_IN_A_ROW else None
        self._asked[request_digest] = (times + 1, in_a_row + 1 if fault else 0)
        if len(self._asked) > REMEMBERED:
            self._asked.popitem(last=False)
        return fault

    def _drawn(self, request_digest: bytes, times: int) -> Fault | None:
        seeded = b"%d:%d:" % (self._seed, times) + request_digest
        drawn = hashlib.blake2b(seeded, digest_size=24).digest()
        chance, kind, share = (int.from_bytes(drawn[at : at + 8]) / 2**64 for at in (0, 8, 16))
        if chance >= self._rate:
            return None
        return Fault(_ALL[min(int(kind * len(_ALL)), len(_ALL) - 1)], share)


def refused_delivery(refusal: Refusal) -> Delivery:
    """Return the delivery of a refusal, which is never a stream."""
    return Delivery(refusal.status, orjson.dumps(refusal.body), refusal.headers)


def fault_delivery(fault: Fault, *, is_streamed: bool) -> Delivery | EventStream:
    """Return the reply of a fault that strikes before an answer is made."""
    if fault.name == "rate_limited":
        return refused_delivery(rate_limited(fault.wait_s))
    if fault.name == "bad_gateway":
        return Delivery(502, _HTML_502, media_type="text/html")
    if fault.name == "unavailable":
        busy = titled(503, "unavailable", "The model is overloaded.")
        return refused_delivery(replace(busy, headers={"retry-after": f"{fault.wait_s:g}"}))
    if fault.name == "request_timeout":
        return refused_delivery(titled(408, "timeout", "The model did not answer in time."))
    if fault.name == "error_in_200":
        return EventStream((b"data: %s\n\n" % _ERROR,)) if is_streamed else Delivery(200, _ERROR)
    if fault.name == "closed_before_reply":
        return Delivery(0, b"")
    return refused_delivery(upstream(500))


def spoilt(delivery: Delivery | EventStream, fault: Fault) -> Delivery | EventStream:
    """Return a delivery as it is after a fault has struck the answer; one that is only slow stays as it is."""
    if fault.name == "slow":
        return delivery
    if isinstance(delivery, EventStream):
        return _spoilt_stream(delivery, fault)
    cut_at = 1 + int(fault.share * (len(delivery.body) - 2))
    if fault.name == "cut_body":
        return replace(delivery, sent_bytes=cut_at)
    return replace(delivery, body=b"" if fault.name == "empty_body" else delivery.body[:cut_at])


def _spoilt_stream(stream: EventStream, fault: Fault) -> EventStream:
    if fault.name == "empty_body":
        return replace(stream, events=())
    # Neither the reason why the reply ends nor anything after it may come: with them it would be whole.
    last = max(at for at, event in enumerate(stream.events) if b'"delta":{}' in event)
    whole = int(fault.share * last)
    half = stream.events[whole][: len(stream.events[whole]) // 2]
    return replace(stream, events=(*stream.events[:whole], half), is_cut=fault.name == "cut_body")
