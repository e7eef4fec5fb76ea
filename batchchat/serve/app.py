"""The embedded endpoint's routes: a request -> the reply, by settings, limits and faults.

What passes in are HTTP requests; what comes out are deliveries, and a ledger entry for each. It does not know sockets
or threads, nor how an answer is worded. Nothing here awaits between reading a request and deciding on it, so that
limits and counts need no lock.

In turn: the key (401), the body (400, 404), an injected fault, credits (402), limits (429), the answer.
"""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from batchchat.serve.body import read_body
from batchchat.serve.completion import Completed, complete
from batchchat.serve.delivery import Delivery
from batchchat.serve.faults import Fault, FaultPlan
from batchchat.serve.ledger import Entry, WriteEntry, forget_entry
from batchchat.serve.quota import Quota
from batchchat.serve.refusal import (
    INTERNAL,
    NO_CREDITS,
    NO_ROUTE,
    UNAUTHENTICATED,
    Refusal,
    RefusedError,
    invalid_params,
    rate_limited,
    titled,
    upstream,
)
from batchchat.serve.settings import ServeSettings

MAX_BODY_BYTES = 128 * 1024 * 1024
BASE_PATH = "/api/ai"
_HTML_502 = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><h1>502 Bad Gateway</h1></body>\r\n</html>\r\n"
)


@dataclass(frozen=True, slots=True)
class _Reply:
    """What was decided on a request: what to send, when, and what the ledger says of it."""

    delivery: Delivery
    at: float
    delay_s: float = 0.0
    fault: Fault | None = None
    completed: Completed | None = None


def create_app(settings: ServeSettings, write_entry: WriteEntry = forget_entry) -> Starlette:
    """Return the ASGI application of an embedded endpoint, with counts and limits of its own."""
    endpoint = _ChatCompletions(settings, write_entry)
    app = Starlette(
        routes=[Route(f"{BASE_PATH}/chat/completions", endpoint.respond, methods=["POST"])],
        exception_handlers={HTTPException: _on_http_exception, Exception: _on_exception},
    )
    # Oxen has no such route with a slash at its end; redirecting would hide a wrong base URL.
    app.router.redirect_slashes = False
    return app


class _ChatCompletions:
    """`POST /chat/completions` of one server: its limits, its faults and how many answers it has given."""

    def __init__(self, settings: ServeSettings, write_entry: WriteEntry) -> None:
        self._settings = settings
        self._write_entry = write_entry
        self._faults = FaultPlan(settings.fault_rate, settings.seed)
        self._quota = Quota(settings.requests_per_minute, settings.tokens_per_minute)
        self._credits = settings.credits
        # The same request gives the same reply for as long as the server runs.
        self._created = int(time.time())
        self._unix_zero = time.time() - time.monotonic()

    async def respond(self, request: Request) -> Delivery:
        """Return the reply to one request, after its latency, with its entry in the ledger."""
        try:
            body = await _whole_body(request)
        except ClientDisconnect:
            # Nobody is left to hear the reply, and a request that never came whole is none.
            return _refused(INTERNAL)
        reply = self._reply(body, request.headers, time.monotonic())
        if reply.delay_s > 0:
            await asyncio.sleep(reply.delay_s)
        self._write_entry(self._entry(reply, body))
        return reply.delivery

    def _reply(self, body: bytes | None, headers: Mapping[str, str], now: float) -> _Reply:
        try:
            self._check_key(headers.get("authorization", ""))
            if body is None:
                raise RefusedError(
                    titled(413, "invalid_params", "Request body too large", f"{MAX_BODY_BYTES} bytes at most")
                )
            return self._valid_reply(body, now)
        except RefusedError as error:
            return _Reply(_refused(error.refusal), now)

    def _check_key(self, authorization: str) -> None:
        if self._settings.api_key is None:
            return
        scheme, _, key = authorization.partition(" ")
        is_right = hmac.compare_digest(key.strip().encode("latin-1"), self._settings.api_key.encode())
        if scheme.casefold() != "bearer" or not is_right:
            raise RefusedError(UNAUTHENTICATED)

    def _valid_reply(self, body: bytes, now: float) -> _Reply:
        chat = read_body(body)
        fault = self._faults.draw(hashlib.blake2b(body, digest_size=16).digest())
        if fault is not None and not fault.is_answered:
            return _Reply(_fault_delivery(fault), now, fault=fault)
        completed = complete(chat, self._created)
        at = self._admitted_at(completed.total_tokens, now)
        delivery = Delivery(200, orjson.dumps(completed.reply))
        reply = _Reply(delivery, at, at - now + self._settings.latency_s, fault, completed)
        return _spoilt(reply, fault) if fault else reply

    def _admitted_at(self, tokens: int, now: float) -> float:
        """Return when an answer of so many tokens may start, and count it. Raises RefusedError with 400, 402 or 429."""
        if self._credits == 0:
            raise RefusedError(NO_CREDITS)
        if not self._quota.fits_ever(tokens):
            limit = self._settings.tokens_per_minute
            raise RefusedError(invalid_params(f"the request needs {tokens} tokens; the limit a minute is {limit:g}"))
        admission = self._quota.admit(now, tokens)
        if not admission.is_admitted:
            raise RefusedError(rate_limited(admission.at - now))
        if self._credits is not None:
            self._credits -= 1
        return admission.at

    def _entry(self, reply: _Reply, body: bytes | None) -> Entry:
        completed, fault = reply.completed, reply.fault
        return Entry(
            at=round(self._unix_zero + reply.at, 6),
            status=reply.delivery.status,
            fault=fault.name if fault else None,
            delivered=completed is not None and (fault is None or fault.name == "slow"),
            response_id=completed.response_id if completed else None,
            request_sha256=hashlib.sha256(body or b"").hexdigest(),
            prompt_tokens=completed.prompt_tokens if completed else None,
            completion_tokens=completed.completion_tokens if completed else None,
        )


async def _whole_body(request: Request) -> bytes | None:
    """Return the request's body; None when it is longer than what is read."""
    chunks: list[bytes] = []
    size_bytes = 0
    async for chunk in request.stream():
        size_bytes += len(chunk)
        if size_bytes > MAX_BODY_BYTES:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _refused(refusal: Refusal) -> Delivery:
    return Delivery(refusal.status, orjson.dumps(refusal.body), refusal.headers)


def _fault_delivery(fault: Fault) -> Delivery:
    """Return the reply of a fault that strikes before an answer is made."""
    if fault.name == "rate_limited":
        return _refused(rate_limited(fault.wait_s))
    if fault.name == "bad_gateway":
        return Delivery(502, _HTML_502, media_type="text/html")
    if fault.name == "unavailable":
        busy = titled(503, "unavailable", "The model is overloaded.")
        return _refused(replace(busy, headers={"retry-after": f"{fault.wait_s:g}"}))
    if fault.name == "request_timeout":
        return _refused(titled(408, "timeout", "The model did not answer in time."))
    if fault.name == "error_in_200":
        return Delivery(200, b'{"error":{"message":"The upstream connection was lost.","code":502}}')
    if fault.name == "closed_before_reply":
        return Delivery(0, b"")
    return _refused(upstream(500))


def _spoilt(reply: _Reply, fault: Fault) -> _Reply:
    """Return the reply as it is after a fault has struck an answer."""
    delivery = reply.delivery
    cut_at = 1 + int(fault.share * (len(delivery.body) - 2))
    if fault.name == "slow":
        return replace(reply, delay_s=reply.delay_s + fault.wait_s)
    if fault.name == "cut_body":
        return replace(reply, delivery=replace(delivery, sent_bytes=cut_at))
    body = b"" if fault.name == "empty_body" else delivery.body[:cut_at]
    return replace(reply, delivery=replace(delivery, body=body))


def _on_http_exception(request: Request, error: Exception) -> Response:
    """Say in Oxen's shape what Starlette found wrong with the route or the method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return _response(NO_ROUTE)
    refusal = titled(error.status_code, "method_not_allowed", "Method not allowed")
    return _response(replace(refusal, headers=error.headers or {}))


def _on_exception(request: Request, error: Exception) -> Response:
    return _response(INTERNAL)


def _response(refusal: Refusal) -> Response:
    return Response(orjson.dumps(refusal.body), refusal.status, refusal.headers, "application/json")
