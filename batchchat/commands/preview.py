"""The first rows of a job as the requests they make, and their answers when they are sent."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

import orjson

from batchchat.commands.plan import Plan, opened, prepare, prepared_rows
from batchchat.commands.run import ask_aside
from batchchat.engines.budget_of import known_prices
from batchchat.engines.in_process import Asking
from batchchat.job.api_key import api_key
from batchchat.job.file import LoadedJob
from batchchat.prompt.media.folder import MediaError, build
from batchchat.records import Answer, ChatRequest, Chunk, Failure, Outcome, Row


def preview(loaded: LoadedJob, count: int, *, sends: bool) -> list[dict[str, Any]]:
    """Return an object for each of the first rows: `row`, `url`, `request`, and `answer` or `error` if there is one.

    Raises:
        BatchchatError: as `prepare`; with `sends` as `run`.
    """
    plan = prepare(loaded)
    rows = list(islice(prepared_rows(plan), count))
    outcomes = _send(loaded, plan, rows) if sends else {}
    endpoint = plan.job.endpoint
    url = "the embedded endpoint" if endpoint.is_embedded else f"{endpoint.resolved_base_url}/chat/completions"
    return [_shown(url, row, made=_built(plan, made), outcomes=outcomes) for row, made in rows]


def _built(plan: Plan, made: ChatRequest | Failure) -> ChatRequest | Failure:
    """Return a request with the body that is sent: local images and videos in their places."""
    if isinstance(made, Failure) or not made.media:
        return made
    try:
        return replace(made, body=build(made, made.body, plan.prompt.media.max_bytes))
    except MediaError as error:
        return Failure("media", str(error))


def _send(loaded: LoadedJob, plan: Plan, rows: list[tuple[Row, ChatRequest | Failure]]) -> dict[bytes, Outcome | None]:
    requests = [made for _, made in rows if isinstance(made, ChatRequest)]
    key = api_key(loaded)
    prices = known_prices(plan.job, key)
    with opened(plan) as checkpoint:
        asking = Asking(plan.job, key, checkpoint=checkpoint, structure=plan.structure, prices=prices)
        ask_aside(asking, iter([Chunk(requests)]), len(requests))
        keys = [request.key for request in requests]
        return dict(zip(keys, checkpoint.outcomes(keys), strict=True))


def _shown(url: str, row: Row, made: ChatRequest | Failure, outcomes: dict[bytes, Outcome | None]) -> dict[str, Any]:
    if isinstance(made, Failure):
        return {"row": row.name, "error": made}
    shown = {"row": row.name, "url": url, "request": orjson.Fragment(made.body)}
    outcome = outcomes.get(made.key)
    if outcome is None:
        return shown
    return (
        {**shown, "answer": outcome.completion} if isinstance(outcome, Answer) else {**shown, "error": outcome.failure}
    )
