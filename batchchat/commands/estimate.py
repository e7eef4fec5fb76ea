"""What a job's next run will ask, and what that takes: from its checkpoint, and from a sample if one is wanted.

All rows are passed over, and told apart as `run` would: what is answered, what failed for good, what makes the same
request as another row, what makes none.

A sample of N rows is one row from each of N equal parts of what no run has asked yet: in each, the one with the
smallest key, which is as good as at random, and the same one whenever the command is given again; so a second time
nothing is sent. How it speaks for the rest, and for its 90 % interval, is said in `extrapolation`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from statistics import fmean

from batchchat.checkpoint.distinct_requests import Counted, DistinctRequests, taken_census
from batchchat.checkpoint.salvage import salvaged_copy
from batchchat.checkpoint.store import Checkpoint, open_checkpoint
from batchchat.commands.plan import Plan, chunks, opened, remembering
from batchchat.commands.run import ask_aside
from batchchat.engines.budget_of import known_prices
from batchchat.engines.in_process import Asking, endpoint_of
from batchchat.errors import CheckpointDamagedError, CheckpointMissingError
from batchchat.estimate.extrapolation import Others
from batchchat.estimate.figures import Known, Measured, figures
from batchchat.job.job import Request
from batchchat.prices import Prices, price_of
from batchchat.records import Answer, ChatRequest, Chunk, FailedRow, Outcome, Price, Settled
from batchchat.send.budget.cost import cost_usd
from batchchat.send.limits.token_estimate import max_tokens_of
from batchchat.show.estimate import Estimate, Figure, Sample
from batchchat.show.progress import shown

MEASURED = 1_000
"""Answers, at most, that are looked at."""

OPEN, ANSWERED, FAILED = "open", "answered", "failed"
"""How requests stand: still to be asked, or settled."""
SAMPLED = {ANSWERED: "sampled", FAILED: "failed in a sample"}
"""How they stand when no run settled them."""
SETTLED = (ANSWERED, FAILED, *SAMPLED.values())


def estimate(
    plan: Plan, api_key: str | None, *, retries_errors: bool | Collection[str] = False, is_fresh: bool = False
) -> Estimate:
    """Return what a run would still ask, with the options of one; sends nothing, and takes no lock.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        InputError: nor can the input.
    """
    price = price_of(plan.job, api_key)
    with ExitStack() as stack:
        census = stack.enter_context(taken_census())
        plan, checkpoint = stack.enter_context(_as_it_is(plan))
        unaskable = _take(plan, census, _standings(None if is_fresh else checkpoint, retries_errors=retries_errors))
        known = Known()
        if checkpoint is not None:
            measured = census.some(MEASURED, (OPEN,) if is_fresh else SETTLED)
            known = _known(plan, checkpoint, sizes=measured, price=price)
        return _estimate(plan, price, census=census, unaskable=unaskable, known=known)


def sampled(plan: Plan, api_key: str | None, count: int) -> Estimate:
    """Ask a sample of `count` rows for real, keep their answers, and return what a run would ask beyond that.

    Raises:
        BatchchatError: as `run`.
    """
    prices = known_prices(plan.job, api_key)
    price = prices.one
    with ExitStack() as stack:
        census = stack.enter_context(taken_census())
        checkpoint = stack.enter_context(opened(plan))
        plan = stack.enter_context(remembering(plan))
        unaskable = _take(plan, census, _standings(checkpoint, notes_samples=True))
        chosen = census.spread(count, (OPEN, *SAMPLED.values()))
        known_before = checkpoint.find(chosen)
        unasked = {key for key in chosen if known_before.get(key) is None}
        reached = _ask(plan, api_key, prices=prices, checkpoint=checkpoint, keys=unasked)
        outcomes = dict(zip(chosen, checkpoint.outcomes(chosen), strict=True))
        census.move([key for key, one in outcomes.items() if isinstance(one, Answer)], ANSWERED)
        census.move(
            [key for key, one in outcomes.items() if isinstance(one, FailedRow) and not one.is_transient], FAILED
        )
        known = _known(plan, checkpoint, sizes=list(census.sizes(chosen).items()), price=price)
        known = replace(known, is_sample=True, reached=reached or known.reached)
        sample = _sample(outcomes, unasked, price)
        return replace(_estimate(plan, price, census=census, unaskable=unaskable, known=known), sample=sample)


@contextmanager
def _as_it_is(plan: Plan) -> Iterator[tuple[Plan, Checkpoint | None]]:
    """Open what there is of a checkpoint, to read; without one, media are only looked at, and none counts as another's.

    Another process may run the job meanwhile.
    """
    with ExitStack() as stack:
        try:
            checkpoint = stack.enter_context(open_checkpoint(plan.checkpoint_path, is_read_only=True))
        except CheckpointMissingError:
            media = replace(plan.prompt.media, look_only=True)
            yield replace(plan, prompt=replace(plan.prompt, media=media)), None
            return
        except CheckpointDamagedError as damage:
            plan = replace(plan, checkpoint_path=stack.enter_context(salvaged_copy(plan.checkpoint_path, damage)))
            checkpoint = stack.enter_context(open_checkpoint(plan.checkpoint_path, is_read_only=True))
        yield stack.enter_context(remembering(plan, is_read_only=True)), checkpoint


def _take(plan: Plan, census: DistinctRequests, standings: Callable[[Sequence[bytes]], dict[bytes, str]]) -> int:
    """Count the requests of all rows; return how many rows make none."""
    unaskable = 0
    allowed = _allowed(plan.job.request)
    for chunk in chunks(plan):
        unaskable += chunk.failed_row_count
        found = standings([request.key for request in chunk.requests])
        census.count(
            Counted(
                request.key,
                size_bytes=request.sent_bytes,
                max_tokens=allowed(request),
                standing=found.get(request.key, OPEN),
            )
            for request in chunk.requests
        )
    return unaskable


def _allowed(request: Request) -> Callable[[ChatRequest], int | None]:
    """Return what tells the tokens that a request allows its completions; only what varies is looked up in each."""
    extra = request.model_extra or {}
    wanted = extra.get("max_completion_tokens", extra.get("max_tokens"))
    if wanted is None:
        return lambda _: None
    if isinstance(wanted, int):
        return lambda one: wanted * one.choice_count
    return lambda one: (tokens := max_tokens_of(one.body)) and tokens * one.choice_count


def _standings(
    checkpoint: Checkpoint | None, *, retries_errors: bool | Collection[str] = False, notes_samples: bool = False
) -> Callable[[Sequence[bytes]], dict[bytes, str]]:
    """Return what tells how keys stand that are not to be asked."""

    def standings(keys: Sequence[bytes]) -> dict[bytes, str]:
        if checkpoint is None:
            return {}
        known = checkpoint.find(keys, retries_final=retries_errors)
        settled = {
            key: ANSWERED if is_answered else FAILED for key, is_answered in known.items() if is_answered is not None
        }
        if notes_samples and settled:
            settled |= {key: SAMPLED[settled[key]] for key in checkpoint.made_outside_runs(list(settled))}
        return settled

    return standings


def _ask(plan: Plan, api_key: str | None, prices: Prices, checkpoint: Checkpoint, keys: set[bytes]) -> int:
    """Ask some of a job's requests; return how many of them were allowed in flight at last."""
    if not keys:
        return 0
    with shown(f"{plan.job.name} (sample)", len(keys), is_quiet=False) as observe:
        asking = Asking(plan.job, api_key, checkpoint=checkpoint, structure=plan.structure, prices=prices)
        progress = ask_aside(asking, _only(plan, keys), row_count=len(keys), observe=observe)
    return progress.concurrency


def _only(plan: Plan, keys: set[bytes]) -> Iterator[Chunk]:
    """Yield the requests of some keys, each once."""
    missing = set(keys)
    for chunk in chunks(plan):
        requests = {request.key: request for request in chunk.requests if request.key in missing}
        missing -= requests.keys()
        if requests:
            yield Chunk(list(requests.values()))
        if not missing:
            return


def _known(plan: Plan, checkpoint: Checkpoint, sizes: Sequence[tuple[bytes, int]], price: Price | None) -> Known:
    """Return what the outcomes of some requests tell; where they tell nothing, what any stored answers do."""
    outcomes = checkpoint.outcomes([key for key, _ in sizes])
    measured = [_measured(size, one, price) for (_, size), one in zip(sizes, outcomes, strict=True)]
    answers = [one for one in outcomes if isinstance(one, Answer)] or checkpoint.some_answers(MEASURED)
    last_run = checkpoint.last_run()
    completions = [one.completion.usage.completion_tokens for one in answers]
    return Known(
        measured=tuple(one for one in measured if one is not None),
        earlier=tuple(tokens for tokens in completions if tokens is not None),
        latency_s=fmean(one.latency_s for one in answers) if answers else None,
        settled=checkpoint.remembered(*endpoint_of(plan.job)) or Settled(),
        reached=last_run.progress.concurrency if last_run else 0,
    )


def _measured(size_bytes: int, outcome: Outcome | None, price: Price | None) -> Measured | None:
    """Return what a request took; a failure for which nothing was reported took nothing, others are not known."""
    if outcome is None or (isinstance(outcome, FailedRow) and outcome.is_transient):
        return None
    if outcome.completion is None:
        return Measured(size_bytes, 0, 0, 0.0)
    usage = outcome.completion.usage
    if usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    return Measured(size_bytes, usage.prompt_tokens, usage.completion_tokens, cost_usd(price, usage))


def _sample(outcomes: dict[bytes, Outcome | None], asked: set[bytes], price: Price | None) -> Sample:
    """Return what became of a sample; a cost that is known in part is not known."""
    failed = sum(1 for outcome in outcomes.values() if not isinstance(outcome, Answer))
    made = [outcomes[key] for key in asked]
    costs = [cost_usd(price, one.completion.usage) for one in made if one is not None and one.completion is not None]
    known = [cost for cost in costs if cost is not None]
    return Sample(
        len(outcomes), asked=len(asked), failed=failed, cost_usd=math.fsum(known) if len(known) == len(costs) else None
    )


def _estimate(plan: Plan, price: Price | None, census: DistinctRequests, unaskable: int, known: Known) -> Estimate:
    to_ask = census.totals(OPEN)
    answered, failed = (
        census.totals(one).row_count + census.totals(SAMPLED[one]).row_count for one in (ANSWERED, FAILED)
    )
    others = Others(to_ask.count, to_ask.size_bytes)
    found = figures(plan.job, price, others=others, max_tokens=to_ask.max_tokens, known=known)
    total, identical = plan.source.total_rows, to_ask.row_count - to_ask.count
    counted = (
        (answered, "answered already"),
        (failed, "failed for good"),
        (identical, "identical to another"),
    )
    reasons = [f"{count:,} {said}" for count, said in (*counted, (unaskable, "that cannot be asked")) if count]
    return Estimate(
        job=plan.job.name,
        rows_total=total,
        rows_answered=answered,
        rows_failed_before=failed,
        rows_identical=identical,
        rows_unaskable=unaskable,
        requests=Figure(to_ask.count, ", ".join([f"{total:,} rows", *reasons])),
        input_tokens=found.input_tokens,
        output_tokens=found.output_tokens,
        cost_usd=found.cost_usd,
        minutes=found.minutes,
    )
