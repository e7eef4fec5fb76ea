"""A fault -> the reply that has it.

What passes in is a fault, and the delivery that it strikes where an answer was made; what comes out is a delivery. It
does not know requests, nor when a fault strikes.
"""

from dataclasses import replace

import orjson

from batchchat.serve.delivery import Delivery, EventStream
from batchchat.serve.faults import Fault
from batchchat.serve.refusal import Refusal, rate_limited, titled, upstream

_HTML_502 = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><h1>502 Bad Gateway</h1></body>\r\n</html>\r\n"
)
_ERROR = b'{"error":{"message":"The upstream connection was lost.","code":502}}'


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
