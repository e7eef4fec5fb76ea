"""What is known of a job's requests -> the figures of its estimate, each with where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from batchchat.estimate.extrapolation import Fit, Others, fit, margin
from batchchat.job.job import Job, Limits
from batchchat.records import Price, Settled
from batchchat.send.budget.cost import PER_MILLION
from batchchat.show.estimate import ADD_A_PRICE, Figure

GUESSED_BYTES_PER_TOKEN = 4.0
GUESSED_COMPLETION_TOKENS = 256.0
"""What a completion is taken for where nothing at all is known of it."""
NOTHING_SETTLED = Settled()
NOTICEABLE = 0.005
"""Share by which replies may cost other than the price says without a word about it."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one request took; `usd` is None where that is not known."""

    size_bytes: int
    prompt_tokens: int
    completion_tokens: int
    usd: float | None


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a job's requests.

    `measured` are some of this table's, a random sample of what is still to be asked where `is_sample` is set.
    `earlier` are completion tokens of answers that this table does not ask for. `latency_s` is a request's mean.
    `reached` is how many requests in flight the newest asking had come to, 0 where there was none.
    """

    measured: tuple[Measured, ...] = ()
    is_sample: bool = False
    earlier: tuple[int, ...] = ()
    latency_s: float | None = None
    settled: Settled = NOTHING_SETTLED
    reached: int = 0


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures for requests that are still to be asked."""

    input_tokens: Figure
    output_tokens: Figure
    cost_usd: Figure
    minutes: Figure


@dataclass(frozen=True, slots=True)
class _Extrapolation:
    """Measured requests with the lines through them, and the requests that they speak for."""

    measured: tuple[Measured, ...]
    prompts: Fit
    completions: Fit
    others: Others
    is_sample: bool

    def figure(self, value: float, source: str, residuals: list[float], fits: list[Fit]) -> Figure:
        reach = margin(residuals, fits, self.others) if self.is_sample else None
        return Figure(value, source) if reach is None else Figure(value, source, max(0.0, value - reach), value + reach)

    @property
    def whose(self) -> str:
        return "in the sample" if self.is_sample else "of this job that were asked already"


def figures(job: Job, price: Price | None, others: Others, max_tokens: int | None, known: Known) -> Figures:
    """Return the figures for `others`, which may complete `max_tokens` together, None where that is not limited."""
    if not others.count:
        nothing = Figure(0.0, "nothing is left to ask")
        return Figures(nothing, nothing, nothing, nothing)
    measured = known.measured
    if not measured:
        spent, said = _unmeasured_input(others, known.settled), _unmeasured_output(others, max_tokens, known)
        cost = _unmeasured_cost(price, spent, said)
    else:
        sizes = [one.size_bytes for one in measured]
        prompts = fit(sizes, [one.prompt_tokens for one in measured], is_proportional=True)
        completions = fit(sizes, [one.completion_tokens for one in measured], is_proportional=False)
        whole = _Extrapolation(measured, prompts, completions, others, known.is_sample)
        spent, said, cost = _input(whole), _output(whole), _cost(whole, price)
    tokens = (spent.value or 0) + (said.value or 0)
    return Figures(spent, said, cost, _minutes(job, others.count, tokens, known))


def _input(whole: _Extrapolation) -> Figure:
    line, measured = whole.prompts, whole.measured
    residuals = [one.prompt_tokens - line.at(one.size_bytes) for one in measured]
    tokens = sum(one.prompt_tokens for one in measured)
    ratio = sum(one.size_bytes for one in measured) / tokens if tokens else 0.0
    source = f"by size, {ratio:,.1f} bytes per token in {len(measured):,} rows {whole.whose}"
    return whole.figure(line.total(whole.others), source, residuals, [line])


def _output(whole: _Extrapolation) -> Figure:
    line, measured = whole.completions, whole.measured
    residuals = [one.completion_tokens - line.at(one.size_bytes) for one in measured]
    mean = fmean(one.completion_tokens for one in measured)
    source = f"{'by size, ' if line.slope else ''}a mean of {mean:,.1f} in {len(measured):,} rows {whole.whose}"
    return whole.figure(line.total(whole.others), source, residuals, [line])


def _cost(whole: _Extrapolation, price: Price | None) -> Figure:
    """Return the tokens' price, times what the measured requests cost by their own account, as with a cache."""
    priced = [one for one in whole.measured if one.usd is not None]
    if price is None and not priced:
        return Figure(None, f"the price is not known; {ADD_A_PRICE}")
    # Where only the replies tell what they cost, tokens are weighed alike.
    of_input, of_output = (price.input, price.output) if price else (1.0, 1.0)
    listed = sum(one.prompt_tokens * of_input + one.completion_tokens * of_output for one in priced)
    usd = [one.usd for one in priced if one.usd is not None]
    factor = sum(usd) / listed if listed else 1 / PER_MILLION
    prompts, completions = whole.prompts, whole.completions
    value = factor * (of_input * prompts.total(whole.others) + of_output * completions.total(whole.others))
    residuals = [
        cost - factor * (of_input * prompts.at(one.size_bytes) + of_output * completions.at(one.size_bytes))
        for one, cost in zip(priced, usd, strict=True)
    ]
    return whole.figure(value, _cost_source(price, factor * PER_MILLION), residuals, [prompts, completions])


def _cost_source(price: Price | None, factor: float) -> str:
    if price is None:
        return "what its replies say that they cost"
    if abs(factor - 1) <= NOTICEABLE:
        return price.source
    return f"{price.source}, times {factor:.2f} as its replies were (cached tokens, or a cost of their own)"


def _unmeasured_input(others: Others, settled: Settled) -> Figure:
    if settled.bytes_per_token:
        source = f"{settled.bytes_per_token:,.1f} bytes per token, as an earlier run of this job found"
        return Figure(others.size_bytes / settled.bytes_per_token, source)
    source = f"a guess of {GUESSED_BYTES_PER_TOKEN:.0f} bytes per token"
    return Figure(others.size_bytes / GUESSED_BYTES_PER_TOKEN, source)


def _unmeasured_output(others: Others, max_tokens: int | None, known: Known) -> Figure:
    if known.earlier:
        mean = fmean(known.earlier)
        value = mean * others.count if max_tokens is None else min(mean * others.count, max_tokens)
        return Figure(value, f"a mean of {mean:,.1f} in {len(known.earlier):,} answers that are kept of other rows")
    if max_tokens is not None:
        return Figure(max_tokens, f"at most max_tokens, {max_tokens / others.count:,.0f} a request")
    source = f"a guess of {GUESSED_COMPLETION_TOKENS:.0f} a request; max_tokens would bound it, --sample measure it"
    return Figure(GUESSED_COMPLETION_TOKENS * others.count, source)


def _unmeasured_cost(price: Price | None, spent: Figure, said: Figure) -> Figure:
    if price is None:
        return Figure(None, f"the price is not known; {ADD_A_PRICE}")
    usd = ((spent.value or 0) * price.input + (said.value or 0) * price.output) / PER_MILLION
    return Figure(usd, price.source)


def _minutes(job: Job, requests: int, tokens: float, known: Known) -> Figure:
    """Return how long it takes by the slowest of the limits that are known."""
    limits, settled = job.limits, known.settled
    rates = (
        (requests, limits.requests_per_minute, "limits.requests_per_minute {}"),
        (tokens, limits.tokens_per_minute, "limits.tokens_per_minute {}"),
        (requests, settled.requests_per_minute, "the endpoint's {} requests per minute, as an earlier run found"),
        (tokens, settled.tokens_per_minute, "the endpoint's {} tokens per minute, as an earlier run found"),
    )
    found = [(work / rate, said.format(f"{rate:,.0f}")) for work, rate, said in rates if rate]
    at_once, whose = _concurrency(limits, known)
    if at_once and known.latency_s:
        waves = requests / min(at_once, requests)
        said = f"{whose} {at_once:,} requests in flight, {known.latency_s:,.2g} s each as the stored answers took"
        found.append((waves * known.latency_s / 60, said))
    if not found:
        return Figure(None, "nothing was asked yet that tells how fast the endpoint is; --sample does, or a first run")
    return Figure(*max(found))


def _concurrency(limits: Limits, known: Known) -> tuple[int, str]:
    if limits.concurrency != "auto":
        return limits.concurrency, "limits.concurrency:"
    if known.settled.concurrency:
        return min(known.settled.concurrency, limits.max_concurrency), "the endpoint's settled"
    return min(known.reached, limits.max_concurrency), "at most, for it begins with"
