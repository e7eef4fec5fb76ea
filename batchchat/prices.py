"""What a job's model costs: from the job itself, from its provider, or from published prices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from batchchat.job.job import Endpoint, Job, is_loopback
from batchchat.records import Price
from batchchat.send.http.price_list import listed_prices

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice, TieredPrices

_UNSOLD = frozenset({"ollama", "vllm", "llamacpp", "local"})
"""Providers on one's own machine, which nobody publishes a price for."""
_PARTIAL = ("requests_kcount", "output_reasoning_mtok")
"""What published prices have for models that are billed by more than prompt and completion tokens."""
MOST_MODELS = 1_024
"""Names of models whose published prices are kept at hand; rows may name any."""

Published = Callable[[str], Price | None]


class Prices:
    """What each model costs that a job's rows may name; all that takes long happens as it is made."""

    def __init__(self, job: Job, api_key: str | None) -> None:
        self._model = model = None if job.request.model_varies else job.request.model
        self._given = _given(job)
        self._listed: Mapping[str, Price] = {}
        self._published: Published = _nothing
        if self._given is not None:
            return
        self._listed = _listed(job.endpoint, api_key, model)
        if model is None or model not in self._listed:
            self._published = _published(job.endpoint)

    @property
    def one(self) -> Price | None:
        """What the job's one model costs; None where nobody says, or where each row names its own."""
        return self._given if self._model is None else self.of(self._model)

    def of(self, model: str) -> Price | None:
        """Return what a model costs; None where nobody says."""
        return self._given or self._listed.get(model) or self._published(model)


def price_of(job: Job, api_key: str | None) -> Price | None:
    """Return what the job's one model costs; None where nobody says, or where each row names its own.

    What the job says wins; then comes what Oxen says of the model, if it is asked there with a key, which takes a
    request of at most some seconds; then what providers publish.
    """
    return Prices(job, api_key).one


def _given(job: Job) -> Price | None:
    if job.price is None:
        return None
    given, model = job.price, "" if job.request.model_varies else job.request.model
    return Price(given.input, given.output, given.cached_input, source="price in the job", model=model, is_given=True)


def _listed(endpoint: Endpoint, api_key: str | None, model: str | None) -> Mapping[str, Price]:
    if endpoint.provider_or_default != "oxen" or api_key is None:
        return {}
    return listed_prices(endpoint.resolved_base_url, api_key, model)


def _published(endpoint: Endpoint) -> Published:
    """Return what finds the published price of a model of the endpoint's provider, or of whom its host belongs to.

    Oxen serves the models of many; each costs what its own provider asks.
    """
    provider, host = endpoint.provider_or_default, urlsplit(endpoint.resolved_base_url).hostname or ""
    if provider in _UNSOLD or (provider is None and is_loopback(host)):
        return _nothing
    # Here, as it takes a quarter of a second, and only this needs it.
    import genai_prices

    url = endpoint.resolved_base_url if provider is None else None
    named = None if provider == "oxen" else provider

    @lru_cache(MOST_MODELS)
    def find(model: str) -> Price | None:
        wanted = genai_prices.Usage()  # of nothing: only the prices are of interest
        try:
            if url is not None:
                found = genai_prices.calc_price(wanted, model, provider_api_url=url)
            else:
                found = genai_prices.calc_price(wanted, model, provider_id=named)
        except LookupError:
            return None
        return _price(found.model_price, f"published price of {found.provider.name} (genai-prices)", model)

    return find


def _nothing(_: str) -> Price | None:
    return None


def _price(found: ModelPrice, source: str, model: str) -> Price | None:
    """Return published prices as one; None where tokens are not all that is billed."""
    prompt, completion, cached = found.input_mtok, found.output_mtok, found.cache_read_mtok
    if prompt is None or completion is None or any(getattr(found, name) is not None for name in _PARTIAL):
        return None

    def above(start: int) -> Price:
        cached_input = None if cached is None else _tier(cached, start)
        return Price(_tier(prompt, start), _tier(completion, start), cached_input, source, model)

    starts: set[int] = {tier.start for side in (prompt, completion, cached) for tier in getattr(side, "tiers", ())}
    return replace(above(-1), longer=tuple((start, above(start)) for start in sorted(starts)))


def _tier(price: Decimal | TieredPrices, start: int) -> float:
    """Return what holds for prompts of more tokens than `start`."""
    if isinstance(price, Decimal):
        return float(price)
    below = [tier.price for tier in price.tiers if tier.start <= start]
    return float(below[-1] if below else price.base)
