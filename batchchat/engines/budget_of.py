"""What a job may spend: its budget, held against what earlier runs spent, and what must be known to keep to it."""

from __future__ import annotations

from collections.abc import Iterable

from batchchat.errors import JobError, Problem
from batchchat.job.file import LoadedJob
from batchchat.job.job import Job
from batchchat.prices import Prices
from batchchat.records import Price
from batchchat.runs import RunRecord
from batchchat.send.budget.account import Account
from batchchat.send.budget.cost import PER_MILLION
from batchchat.send.budget.ledger import Budget
from batchchat.send.budget.worst_case import Prices as PriceOf
from batchchat.send.budget.worst_case import WorstCase
from batchchat.send.state.row_cost import NOTHING, WITHOUT_LIMIT, Amount

LIMITS = ("max_tokens", "max_completion_tokens")


def require_max_tokens(loaded: LoadedJob) -> None:
    """Refuse a budget for requests whose completions have no limit.

    Raises:
        JobError: the request has no `max_tokens`.
    """
    job = loaded.job
    names = [name for name in ("budget_usd", "budget_tokens") if getattr(job.limits, name) is not None]
    extra = job.request.model_extra or {}
    if not names or any(extra.get(name) is not None for name in LIMITS):
        return
    raise loaded.problem(
        ("limits", names[0]),
        f"{getattr(job.limits, names[0]):,} cannot be kept to: a completion has no limit; add the most tokens that one"
        " may take, as request.max_tokens: 500 (or max_completion_tokens, where the endpoint wants that)",
    )


def known_prices(job: Job, api_key: str | None) -> Prices:
    """Return what the job's models cost, whatever is known of it where it does not matter.

    Raises:
        JobError: there is a budget of dollars, and no price; rows that name their model are looked at one by one.
    """
    prices = Prices(job, api_key)
    if job.limits.budget_usd is None or job.request.model_varies or prices.one is not None:
        return prices
    text = (
        f"${job.limits.budget_usd:,} cannot be kept to: no price is known for {job.request.model!r}; add what it costs,"
        " in USD per million tokens, as price: {input: 0.15, output: 0.60}, or use limits.budget_tokens"
    )
    raise JobError([Problem("", "limits.budget_usd", text)])


def spending_of(
    job: Job, prices: PriceOf, price: Price | None, runs: Iterable[RunRecord], *, has_schema: bool
) -> Account:
    """Return the account of a run under the job's budget, if it has one.

    `runs` are the runs of its checkpoint so far. Tokens of theirs whose price was not known count at the present price.
    """
    limits = job.limits
    if limits.budget_usd is None and limits.budget_tokens is None:
        return Account()
    limit = Amount(
        WITHOUT_LIMIT.usd if limits.budget_usd is None else limits.budget_usd,
        WITHOUT_LIMIT.tokens if limits.budget_tokens is None else float(limits.budget_tokens),
    )
    before = NOTHING
    for run in runs if limits.budget_scope == "job" else ():
        before += _spent(run, price)
    return Account(Budget(limit, before), WorstCase(prices, has_schema))


def _spent(run: RunRecord, price: Price | None) -> Amount:
    """Return the most that a run spent."""
    progress = run.progress
    tokens = progress.prompt_tokens + progress.completion_tokens
    usd = progress.cost_usd + progress.held_usd
    # Under a budget of dollars the worst case is in what was held. A run that cost nothing may be of an older version.
    is_unpriced = progress.held_usd == 0 and (progress.requests_unpriced > 0 or progress.cost_usd == 0)
    if is_unpriced and price is not None:
        input_price = max(price.input, price.cached_input or 0.0)
        usd += (progress.prompt_tokens * input_price + progress.completion_tokens * price.output) / PER_MILLION
    return Amount(usd, float(tokens + progress.held_tokens))
