"""What is still to be asked and what that takes, as values, as a few lines, or as one JSON object; and prices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from batchchat.records import Price
from batchchat.show.printable import dollars, on_one_line

ADD_A_PRICE = "add price: {input, output} to the job, in USD per million tokens"


@dataclass(frozen=True, slots=True)
class Figure:
    """A number, and `source`, where it comes from; None where nothing tells. `low` to `high` is a 90 % interval."""

    value: float | None
    source: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows that were asked to learn from: `rows` in all, of which `asked` just now, for `cost_usd`, and `failed`."""

    rows: int
    asked: int
    failed: int
    cost_usd: float | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is still to be asked of a job; its rows are told apart by why they need no request of their own.

    `rows_failed_before` are those whose failure stands, `rows_identical` those whose request another row makes.
    """

    job: str
    rows_total: int
    rows_answered: int
    rows_failed_before: int
    rows_identical: int
    rows_unaskable: int
    requests: Figure
    input_tokens: Figure
    output_tokens: Figure
    cost_usd: Figure
    minutes: Figure
    sample: Sample | None = None


def as_object(estimate: Estimate) -> dict[str, Any]:
    """Return the estimate as the object that `--json` prints; keys are only ever added."""
    return asdict(estimate)


def as_text(estimate: Estimate) -> str:
    """Return the estimate for people: a line for each figure."""
    lines = [f"{estimate.job}: {_in_short(estimate)}", f"requests: {_said(estimate.requests, _count)}"]
    if estimate.requests.value:
        lines += [
            f"input: {_said(estimate.input_tokens, _short, ' tokens')}",
            f"output: {_said(estimate.output_tokens, _short, ' tokens')}",
            f"cost: {_said(estimate.cost_usd, dollars)}",
            f"time: {_said(estimate.minutes, _minutes)}",
        ]
    if estimate.sample is not None:
        lines.append(_sampled(estimate.sample))
    return "\n".join(on_one_line(line) for line in lines)


def _in_short(estimate: Estimate) -> str:
    if not estimate.requests.value:
        return "nothing is left to ask"
    cost = estimate.cost_usd.value
    return "still to be asked" if cost is None else f"about {dollars(cost)} for what is still to be asked"


def _sampled(sample: Sample) -> str:
    if not sample.asked:
        return f"sample: its {sample.rows:,} rows were asked before; nothing was sent"
    cost = "at an unknown price" if sample.cost_usd is None else f"for {dollars(sample.cost_usd)}"
    known = f", {sample.rows - sample.asked:,} more were asked before" if sample.rows > sample.asked else ""
    failed = f", {sample.failed:,} failed" if sample.failed else ""
    return f"sample: {sample.asked:,} rows were asked {cost}, and are kept{known}{failed}"


def _said(figure: Figure, shown: Callable[[float], str], unit: str = "") -> str:
    if figure.value is None:
        return f"unknown: {figure.source}"
    if figure.low is None or figure.high is None:
        return f"{shown(figure.value)}{unit}: {figure.source}"
    return f"{shown(figure.value)}{unit} (90 %: {shown(figure.low)} to {shown(figure.high)}): {figure.source}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _short(value: float) -> str:
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= 0.9995 * size:
            digits = 2 if value < 9.995 * size else 1 if value < 99.95 * size else 0
            return f"{value / size:,.{digits}f}{unit}"
    return f"{value:,.0f}"


def _minutes(value: float) -> str:
    if value < 1:
        return "less than a minute"
    if value < 90:
        return f"about {value:.0f} min"
    return f"about {value / 60:,.1f} h"


def price_line(price: Price | None) -> str:
    """Return what a job's tokens cost, in words."""
    if price is None:
        return f"price: unknown; {ADD_A_PRICE}"
    cached = "" if price.cached_input is None else f" ({_rate(price.cached_input)} from the cache)"
    return f"price: {_rate(price.input)}{cached} / {_rate(price.output)} per million tokens ({price.source})"


def _rate(usd: float) -> str:
    return f"${usd:,.10g}"
