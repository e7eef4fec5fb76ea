"""What replies cost, in dollars."""

from collections.abc import Callable
from dataclasses import replace

import orjson

from batchchat.records import NO_USAGE, Completion, Failure, Price, Usage

PER_MILLION = 1_000_000.0
MOST_NAMED, LONGEST_NAME = 3, 80
"""Models without a price that notes name, and characters of each."""


def _unknown(_: str) -> Price | None:
    return None


class Costs:
    """What one run's replies cost; `price_of` says what a model's tokens do.

    `model` is the one that all rows ask, None where each row names its own. With `is_free`, nobody is told that a price
    is not known; nor without any name.
    """

    def __init__(
        self,
        price_of: Callable[[str], Price | None] = _unknown,
        model: str | None = "",
        *,
        is_free: bool = False,
    ) -> None:
        self._price_of = price_of
        self._model = model
        self._price = None if model is None else price_of(model)
        self._is_free = is_free
        self._unpriced: dict[str, None] = {}

    def priced(self, read: Completion | Failure, body: bytes) -> Completion | Failure:
        """Return what a reply to a request says, with what it cost where that can be known."""
        usage = read.usage
        if usage is NO_USAGE:  # none was billed
            return read
        model = _model_of(body) if self._model is None else self._model
        price = self._price_of(model) if self._model is None else self._price
        cost = cost_usd(price, usage)
        if price is None and cost is None and model and len(self._unpriced) < MOST_NAMED:
            self._unpriced[model] = None
        return read if cost == usage.cost_usd else replace(read, usage=replace(usage, cost_usd=cost))

    @property
    def notes(self) -> tuple[str, ...]:
        """What to tell the user of models whose price nobody knows."""
        return () if self._is_free else tuple(map(_note, self._unpriced))


def _note(model: str) -> str:
    wanted = "`price: {input: .., output: ..}`, in USD per million tokens"
    return f"no price is known for {model[:LONGEST_NAME]}, so cost_usd is null; add {wanted}, to the job to have it"


def _model_of(body: bytes) -> str:
    return str(orjson.loads(body)["model"])


def cost_usd(price: Price | None, usage: Usage) -> float | None:
    """Return what a reply cost: at a price that the job gives, else what it says itself, else at a known price.

    None where nothing of it is known. A prompt of no tokens is one that was not counted.
    """
    at_price = _at_price(price, usage)
    if usage.cost_usd is None or (price is not None and price.is_given and at_price is not None):
        return at_price
    return usage.cost_usd


def _at_price(price: Price | None, usage: Usage) -> float | None:
    if price is None or not usage.prompt_tokens or usage.completion_tokens is None:
        return None
    prompt_tokens = usage.prompt_tokens
    price = next((longer for above, longer in reversed(price.longer) if prompt_tokens > above), price)
    cached = min(usage.cached_tokens or 0, prompt_tokens)
    cached_price = price.input if price.cached_input is None else price.cached_input
    fresh = (prompt_tokens - cached) * price.input
    return (fresh + cached * cached_price + usage.completion_tokens * price.output) / PER_MILLION
