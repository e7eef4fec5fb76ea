"""The event loop of a run: the endpoint, the way to it, the schedule, and the signals that stop it."""

from __future__ import annotations

import asyncio
import functools
import resource
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from batchchat.checkpoint.store import Checkpoint
from batchchat.engines.budget_of import spending_of
from batchchat.errors import STOPPING_SIGNALS, BatchchatError, CheckpointError, InterruptedRunError, StorageError
from batchchat.job.deadline import in_words, seconds_until
from batchchat.job.job import Job, Limits
from batchchat.prices import Prices
from batchchat.prompt.media.folder import MediaError, build
from batchchat.prompt.media.resize_process import image_process
from batchchat.records import ChatRequest, Chunk, Failure, Progress, Settled
from batchchat.runtime import undisturbed
from batchchat.send.budget.account import Account
from batchchat.send.budget.cost import Costs
from batchchat.send.http.deadline import TimeLimits
from batchchat.send.http.transport import Reply, Transport
from batchchat.send.limits.concurrency import Concurrency
from batchchat.send.limits.rate_limits import RateLimits
from batchchat.send.policy.rules import Rules, RunEndpoint, RunLimits, Send
from batchchat.send.scheduler.scheduler import Scheduler
from batchchat.send.structured.judge import Structure

if TYPE_CHECKING:
    from batchchat.send.http.transport import AsyncBaseTransport
    from batchchat.show.progress import Observer

BUILD_THREADS = 2
"""Threads that read images and make bodies of them: the hashing and coding go on without Python's lock."""

OWN_FILES = 96
"""Open files that a run may need beside its connections: input, checkpoint, output, media, libraries."""
FEWEST_FILES = 48
_MACOS_FILES = 10_240
"""What macOS allows at most, though it says that there is no limit."""


class StopSwitch:
    """Stops a run from another thread; thrown before the run has begun, it stops it at its start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._target: tuple[asyncio.AbstractEventLoop, Scheduler] | None = None
        self._reason: BatchchatError | None = None

    def stop(self, reason: BatchchatError) -> None:
        """Ask the run to stop; a second time, to leave at once."""
        with self._lock:
            is_urgent, self._reason = self._reason is not None, reason
            if self._target is not None:
                loop, schedule = self._target
                loop.call_soon_threadsafe(functools.partial(schedule.stop, reason, is_urgent=is_urgent))

    def connect(self, schedule: Scheduler | None) -> None:
        """Name the run to stop; None when there is none any more. Called in the run's event loop."""
        with self._lock:
            self._target = (asyncio.get_running_loop(), schedule) if schedule else None
            if schedule and self._reason:
                schedule.stop(self._reason)


def endpoint_of(job: Job) -> tuple[str, str]:
    """Return base URL and model, of which something is learned together; rows that name the model share that."""
    return job.endpoint.resolved_base_url, "" if job.request.model_varies else job.request.model


class Asking:
    """Asks everything that a feed brings and the checkpoint does not have; `progress` says how far it is."""

    def __init__(
        self,
        job: Job,
        api_key: str | None,
        checkpoint: Checkpoint,
        structure: Structure | None,
        prices: Prices,
        *,
        retries_final: bool | Collection[str] = False,
    ) -> None:
        self.job = job
        self._structure = structure
        self._prices = prices
        self.api_key = api_key
        self.checkpoint = checkpoint
        self._retries_final = retries_final
        self.progress = Progress()

    def ask(
        self,
        feed: Iterator[Chunk],
        observe: Observer,
        stop_switch: StopSwitch,
        instead: AsyncBaseTransport | None = None,
    ) -> None:
        """Ask all rows, `instead` of over connections through what the caller gives; return when each has its outcome.

        Raises:
            BatchchatError: the run was stopped; everything that was answered is in the checkpoint.
        """

        def observed(progress: Progress) -> None:
            self.progress = progress
            observe(progress)

        most = _affordable_connections() // (2 if self.job.endpoint.is_embedded else 1)
        with ExitStack() as stack:
            stack.enter_context(undisturbed())
            base_url = self.job.endpoint.resolved_base_url
            if self.job.endpoint.is_embedded:
                base_url = stack.enter_context(_embedded_endpoint())
            stack.callback(image_process.end)
            threads = stack.enter_context(ThreadPoolExecutor(BUILD_THREADS, "build"))
            runner = stack.enter_context(asyncio.Runner(loop_factory=_new_event_loop))
            limits = self.job.limits
            transport = Transport(base_url, api_key=self.api_key, limits=_time_limits(limits), transport=instead)
            send = _sender(transport, threads, self.job.input.max_media_bytes)
            store = _CheckpointStore(self.checkpoint, endpoint_of(self.job), retries_final=self._retries_final)
            endpoint = self._endpoint(send, transport.halt)
            runner.run(
                _run(
                    Scheduler(
                        feed,
                        store=store,
                        endpoint=endpoint,
                        limits=self._limits(most),
                        rules=self._rules(most),
                        observe=observed,
                    ),
                    transport,
                    stop_switch,
                )
            )

    def _costs(self) -> Costs:
        request = self.job.request
        model = None if request.model_varies else request.model
        return Costs(self._prices.of, model, is_free=self.job.endpoint.is_embedded)

    @property
    def limits_found(self) -> Settled:
        """What is known of the endpoint by now; nothing where it cannot be read."""
        with suppress(CheckpointError):
            return self.checkpoint.remembered(*endpoint_of(self.job)) or Settled()
        return Settled()

    def _endpoint(self, send: Send, halt: Callable[[], None]) -> RunEndpoint:
        before = self.checkpoint.last_run()
        return RunEndpoint(
            send=send,
            halt=halt,
            base_url=self.job.endpoint.resolved_base_url,
            reached=before.progress.reached if before else "",
            model_varies=self.job.request.model_varies,
            costs=self._costs(),
            structure=self._structure,
        )

    def _limits(self, most: int) -> RunLimits:
        """Return where the run starts from; `most` connections are what the system allows."""
        limits = self.job.limits
        settled = self.checkpoint.remembered(*endpoint_of(self.job)) or Settled()
        concurrency = Concurrency(
            limits.concurrency if limits.concurrency == "auto" else min(limits.concurrency, most),
            time.monotonic(),
            largest=min(limits.max_concurrency, most),
            remembered=settled.concurrency,
        )
        rates = RateLimits(limits.requests_per_minute, limits.tokens_per_minute, settled)
        return RunLimits(rates=rates, concurrency=concurrency, account=self._spending())

    def _rules(self, most: int) -> Rules:
        limits, deadline = self.job.limits, self.job.limits.deadline
        notes: tuple[str, ...] = ()
        if limits.concurrency != "auto" and limits.concurrency > most:
            said = f"limits.concurrency is {limits.concurrency}, but the system allows only {most} connections"
            notes = (f"{said} (ulimit -n); going on with {most}",)
        is_own_limit = limits.max_concurrency <= most
        return Rules(
            max_attempts=limits.max_attempts,
            grace_s=limits.grace_s,
            in_flight_bytes=int(limits.in_flight_bytes),
            max_outage_s=limits.max_outage,
            waits_for_first="max_outage" in limits.model_fields_set,
            deadline_s=None if deadline is None else seconds_until(deadline),
            deadline="" if deadline is None else in_words(deadline),
            max_error_rate=limits.max_error_rate,
            largest_name="limits.max_concurrency" if is_own_limit else "the system's open files (ulimit -n)",
            notes=notes,
        )

    def _spending(self) -> Account:
        has_schema, runs = self._structure is not None, self.checkpoint.runs()
        return spending_of(self.job, self._prices.of, price=self._prices.one, runs=runs, has_schema=has_schema)


async def _run(schedule: Scheduler, transport: Transport, stop_switch: StopSwitch) -> None:
    stop_switch.connect(schedule)
    # Large replies are read in a thread, but one at a time: several would keep Python's lock from the loop by turns.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1, "read"))
    try:
        with _stopped_by_signals(schedule):
            await schedule.run()
    finally:
        stop_switch.connect(None)
        await transport.aclose()


def _time_limits(limits: Limits) -> TimeLimits:
    whole_s = limits.timeout_s
    return TimeLimits(
        limits.connect_timeout_s,
        first_byte_s=limits.first_byte_timeout_s or whole_s,
        idle_s=limits.idle_timeout_s or whole_s,
        total_s=whole_s,
    )


def _affordable_connections() -> int:
    """Raise the open files allowed as far as the system lets us; return how many may be connections.

    Raises:
        StorageError: the system allows too few open files for any; libraries would abort the process.
    """
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(allowed, _MACOS_FILES) if most == resource.RLIM_INFINITY else most
    if allowed not in (wanted, resource.RLIM_INFINITY):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
        allowed = wanted
    if allowed != resource.RLIM_INFINITY and allowed < FEWEST_FILES:
        message = f"the system allows only {allowed} open files, and a run needs {FEWEST_FILES}; raise it (ulimit -n)"
        raise StorageError(message)
    return sys.maxsize if allowed == resource.RLIM_INFINITY else max(2, allowed - OWN_FILES)


def _sender(transport: Transport, threads: Executor, max_bytes: int) -> Send:
    """Return what builds a request's body, when it has media, and sends it."""

    async def build_and_send(request: ChatRequest, body: bytes, wants_new: bool) -> Reply | Failure | None:
        loop = asyncio.get_running_loop()
        try:
            body = await loop.run_in_executor(threads, build, request, body, max_bytes)
        except MediaError as error:
            return Failure("media", str(error))
        return await transport.send(body, choice_count=request.choice_count, wants_new=wants_new)

    def send(request: ChatRequest, body: bytes, wants_new: bool) -> Awaitable[Reply | Failure | None]:
        if request.media:
            return build_and_send(request, body, wants_new)
        return transport.send(body, choice_count=request.choice_count, wants_new=wants_new)

    return send


class _CheckpointStore:
    """The checkpoint as the schedule wants it."""

    def __init__(
        self, checkpoint: Checkpoint, endpoint: tuple[str, str], *, retries_final: bool | Collection[str]
    ) -> None:
        self.commit = checkpoint.commit
        self.remember = functools.partial(checkpoint.remember, *endpoint)
        self.find = functools.partial(checkpoint.find, retries_final=retries_final)


@contextmanager
def _stopped_by_signals(schedule: Scheduler) -> Iterator[None]:
    """Let a signal stop the schedule, and a Ctrl-C after it at once; a terminal that closes may send SIGHUP twice.

    Only the main thread gets signals. One that is ignored (`nohup`) stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in STOPPING_SIGNALS}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    received: list[int] = []

    def stop(number: int) -> None:
        schedule.stop(InterruptedRunError(number), is_urgent=bool(received) and number == signal.SIGINT)
        received.append(number)

    for number in before:
        loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


@contextmanager
def _embedded_endpoint() -> Iterator[str]:
    """Run the embedded endpoint for as long as the block lasts; its web stack is imported only for this."""
    from batchchat.serve.server import EmbeddedEndpoint
    from batchchat.serve.settings import ServeSettings

    with EmbeddedEndpoint(ServeSettings()) as endpoint:
        yield endpoint.base_url


def _new_event_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
