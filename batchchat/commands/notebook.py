"""`batchchat.run` for Python programs and notebooks: a job in, a polars frame out, also inside a running event loop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchchat.commands.plan import prepare
from batchchat.commands.run import RunOptions
from batchchat.commands.run import run as run_plan
from batchchat.commands.summary import ended_object, notify
from batchchat.engines.in_process import StopSwitch
from batchchat.errors import InterruptedRunError
from batchchat.job.api_key import api_key
from batchchat.job.file import LoadedJob, job_from_mapping, load_job
from batchchat.runs import RunSummary
from batchchat.write.frame_output import Collector

if TYPE_CHECKING:
    import polars as pl

    from batchchat.send.http.transport import AsyncBaseTransport


WAKE_UP_S = 0.5
"""Seconds after which a waiting cell looks for Ctrl-C: the system may give the signal to another thread."""


def run(
    job: str | os.PathLike[str] | Mapping[str, Any],
    frame: pl.DataFrame | pl.LazyFrame | None,
    transport: AsyncBaseTransport | None,
) -> pl.DataFrame:
    """Run a job as `batchchat.run` documents it."""
    loaded = job_from_mapping(job, Path.cwd()) if isinstance(job, Mapping) else load_job(Path(job))
    options = RunOptions(transport=transport)

    def call() -> pl.DataFrame:
        return _run(loaded, frame, options)

    return _in_own_thread(call, options.stop_switch) if _is_in_event_loop() else call()


def _run(loaded: LoadedJob, frame: pl.DataFrame | pl.LazyFrame | None, options: RunOptions) -> pl.DataFrame:
    try:
        plan = prepare(loaded, frame)
        collector = Collector(plan.output, plan.source.schema)
        _notify(loaded, run_plan(plan, api_key(loaded), options, collector))
    except BaseException as error:
        _notify(loaded, error)
        raise
    return collector.frame()


def _notify(loaded: LoadedJob, ended: RunSummary | BaseException) -> None:
    if problem := notify(loaded.job, ended_object(ended, loaded.job.name)):
        logging.getLogger("batchchat").warning(problem)


def _is_in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _in_own_thread(call: Callable[[], pl.DataFrame], stop_switch: StopSwitch) -> pl.DataFrame:
    """Call in a thread of its own, which can have its own event loop; an interrupt of this one stops the run."""
    with ThreadPoolExecutor(1, "batchchat") as thread:
        future = thread.submit(call)
        is_interrupted = False
        while not future.done():
            try:
                wait([future], WAKE_UP_S)
            except KeyboardInterrupt:
                is_interrupted = True
                stop_switch.stop(InterruptedRunError(signal.SIGINT))
        if is_interrupted and future.exception() is None:
            raise InterruptedRunError(signal.SIGINT)  # it came while the output was being written
        return future.result()
