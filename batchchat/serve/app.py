"""Route the embedded endpoint's requests, and decide on each by settings, limits and faults.

In turn: the key (401), the body (400, 404), an injected fault, credits (402), limits (429), the answer. Every route is
there twice: at Oxen's path, and at that of most others. Nothing here awaits between reading a request and deciding on
it, so that limits and counts need no lock.
"""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from batchchat.serve.answer.completion import Completed, complete
from batchchat.serve.answer.stream import events_of
from batchchat.serve.delivery import Delivery, EventStream
from batchchat.serve.faults import Fault, FaultPlan, fault_delivery, refused_delivery, spoilt
from batchchat.serve.quota import Quota
from batchchat.serve.request.errors import (
    INTERNAL,
    NO_CREDITS,
    NO_ROUTE,
    UNAUTHENTICATED,
    Refusal,
    RefusedError,
    model_not_found,
    rate_limited,
    refused,
    titled,
)
from batchchat.serve.request.models import is_known_model, model_list, model_object
from batchchat.serve.request.request import ChatRequest, read_request
from batchchat.serve.request_log import Entry, WriteEntry, forget_entry
from batchchat.serve.settings import ServeSettings

MAX_BODY_BYTES = 128 * 1024 * 1024
BASE_PATH = "/api/ai"
OTHER_PATH = "/v1"

Respond = Callable[[ChatRequest, Completed], Delivery | EventStream | None]
"""Replies to a request in the place of the endpoint, or leaves it to the endpoint with None."""


@dataclass(frozen=True, slots=True)
class _Reply:
    """What was decided on a request: what to send, when, and what the ledger says of it; `fault` is a name."""

    delivery: Delivery | EventStream
    at: float
    delay_s: float = 0.0
    fault: str | None = None
    completed: Completed | None = None


def create_app(
    settings: ServeSettings, write_entry: WriteEntry = forget_entry, respond: Respond | None = None
) -> Starlette:
    """Return the ASGI application of an embedded endpoint, with counts and limits of its own.

    `respond` may reply to a request otherwise; such a reply suffers no faults and counts for no limit.
    """
    chat, models = _ChatCompletions(settings, write_entry, respond), _Models(settings)
    routes = [
        route
        for path in (BASE_PATH, OTHER_PATH)
        for route in (
            Route(f"{path}/chat/completions", chat.respond, methods=["POST"]),
            Route(f"{path}/models", models.listed, methods=["GET"]),
            Route(f"{path}/models/search", models.listed, methods=["GET"]),
            Route(f"{path}/models/{{name:path}}", models.described, methods=["GET"]),
        )
    ]
    handlers = {HTTPException: _on_http_exception, RefusedError: _on_refused, Exception: _on_exception}
    app = Starlette(routes=routes, exception_handlers=handlers)
    # Oxen has no such route with a slash at its end; redirecting would hide a wrong base URL.
    app.router.redirect_slashes = False
    return app


def _check_key(settings: ServeSettings, headers: Mapping[str, str]) -> None:
    if settings.api_key is None:
        return
    scheme, _, key = headers.get("authorization", "").partition(" ")
    is_right = hmac.compare_digest(key.strip().encode("latin-1"), settings.api_key.encode())
    if scheme.casefold() != "bearer" or not is_right:
        raise RefusedError(UNAUTHENTICATED)


class _Models:
    """`GET /models` and below: what can be asked."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._created = int(time.time())

    async def listed(self, request: Request) -> Response:
        """Return the models, of one developer or found by a search, if the query says so."""
        _check_key(self._settings, request.headers)
        query = request.query_params
        listed = model_list(self._created, query.get("developer_name", ""), query.get("search", ""))
        return Response(orjson.dumps(listed), media_type="application/json")

    async def described(self, request: Request) -> Response:
        """Return one model."""
        name = request.path_params["name"]
        _check_key(self._settings, request.headers)
        if not is_known_model(name):
            raise RefusedError(model_not_found(name))
        return Response(orjson.dumps(model_object(name, self._created)), media_type="application/json")


class _ChatCompletions:
    """`POST /chat/completions` of one server: its limits, its faults and how many answers it has given."""

    def __init__(self, settings: ServeSettings, write_entry: WriteEntry, respond: Respond | None) -> None:
        self._settings = settings
        self._write_entry = write_entry
        self._respond = respond
        self._faults = FaultPlan(settings.fault_rate, settings.seed)
        self._quota = Quota(settings.requests_per_minute, settings.tokens_per_minute)
        self._credits = settings.credits
        # The same request gives the same reply for as long as the server runs.
        self._created = int(time.time())
        self._unix_zero = time.time() - time.monotonic()

    async def respond(self, request: Request) -> Delivery | EventStream:
        """Return the reply to one request, after its latency, with its entry in the ledger."""
        try:
            body = await _whole_body(request)
        except ClientDisconnect:
            # Nobody is left to hear the reply, and a request that never came whole is none.
            return refused_delivery(INTERNAL)
        reply = self._reply(body, request.headers, time.monotonic())
        if reply.delay_s > 0:
            await asyncio.sleep(reply.delay_s)
        # The digest of a large body takes a while, and a load test keeps no ledger.
        if self._write_entry is not forget_entry:
            self._write_entry(self._entry(reply, body))
        return reply.delivery

    def _reply(self, body: bytes | None, headers: Mapping[str, str], now: float) -> _Reply:
        try:
            _check_key(self._settings, headers)
            if body is None:
                raise RefusedError(
                    titled(413, "invalid_params", "Request body too large", f"{MAX_BODY_BYTES} bytes at most")
                )
            return self._answer(read_request(body), body, now)
        except RefusedError as error:
            return _Reply(refused_delivery(error.refusal), now)

    def _answer(self, chat: ChatRequest, body: bytes, now: float) -> _Reply:
        if self._respond is not None:
            completed = complete(chat, self._created)
            delivery = self._respond(chat, completed)
            if delivery is not None:
                return _Reply(delivery, now, self._settings.latency_s, fault=chat.model, completed=completed)
        has_faults = self._settings.fault_rate > 0
        fault = self._faults.draw(hashlib.blake2b(body, digest_size=16).digest()) if has_faults else None
        if fault is not None and not fault.is_answered:
            return _Reply(fault_delivery(fault, is_streamed=chat.is_streamed), now, fault=fault.name)
        completed = complete(chat, self._created)
        at = self._admitted_at(completed.total_tokens, now)
        reply = _Reply(_delivery(chat, completed), at, at - now + self._settings.latency_s, completed=completed)
        return _spoilt(reply, fault) if fault else reply

    def _admitted_at(self, tokens: int, now: float) -> float:
        """Return when an answer of so many tokens may start, and count it. Raises RefusedError with 400, 402 or 429."""
        if self._credits == 0:
            raise RefusedError(NO_CREDITS)
        if not self._quota.fits_ever(tokens):
            limit = self._settings.tokens_per_minute
            raise refused(f"the request needs {tokens} tokens; the limit a minute is {limit:g}")
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
            fault=fault,
            delivered=completed is not None and fault in (None, "slow"),
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


def _delivery(chat: ChatRequest, completed: Completed) -> Delivery | EventStream:
    if chat.is_streamed:
        return EventStream(events_of(completed.reply, has_usage=chat.has_usage_chunk))
    return Delivery(200, orjson.dumps(completed.reply))


def _spoilt(reply: _Reply, fault: Fault) -> _Reply:
    delay_s = reply.delay_s + (fault.wait_s if fault.name == "slow" else 0)
    return replace(reply, delivery=spoilt(reply.delivery, fault), delay_s=delay_s, fault=fault.name)


def _on_http_exception(request: Request, error: Exception) -> Response:
    """Say in Oxen's shape what Starlette found wrong with the route or the method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return _response(NO_ROUTE)
    refusal = titled(error.status_code, "method_not_allowed", "Method not allowed")
    return _response(replace(refusal, headers=error.headers or {}))


def _on_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return _response(error.refusal)


def _on_exception(request: Request, error: Exception) -> Response:
    return _response(INTERNAL)


def _response(refusal: Refusal) -> Response:
    return Response(orjson.dumps(refusal.body), refusal.status, refusal.headers, "application/json")
