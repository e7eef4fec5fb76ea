"""What Oxen's models API says that models cost, asked once before a run."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx

from batchchat.json_values import items_of, mapping_of, number_of, read_json
from batchchat.records import Price
from batchchat.send.http.transport import proxy_for

TIMEOUT_S = 5.0


def listed_prices(base_url: str, api_key: str, model: str | None) -> Mapping[str, Price]:
    """Return what a model costs, or, for None, all models; empty where the endpoint does not say.

    It follows no redirect, and raises nothing. Proxies and certificates are those of the requests that follow.
    """
    path = "models" if model is None else f"models/{quote(model, safe='')}"
    data = read_json(_fetched(f"{base_url}/{path}", api_key))
    if model is not None:
        price = _price(mapping_of(data), model)
        return {} if price is None else {model: price}
    objects = {str(one.get("id")): one for one in items_of(mapping_of(data).get("data")) if isinstance(one, dict)}
    prices = {name: _price(one, name) for name, one in objects.items()}
    return {name: price for name, price in prices.items() if price is not None}


def _fetched(url: str, api_key: str) -> bytes:
    """Return the body of a reply, or nothing."""
    headers = {"authorization": f"Bearer {api_key}", "accept": "application/json", "user-agent": "batchchat"}
    # The environment's certificates count, but not its .netrc, and its proxies as for every other request.
    try:
        response = httpx.get(
            url,
            headers=headers,
            verify=httpx.create_ssl_context(),
            proxy=proxy_for(httpx.URL(url)),
            trust_env=False,
            timeout=TIMEOUT_S,
        )
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
        return b""  # what is wrong with the way there, the first request says
    return response.content if response.status_code == httpx.codes.OK else b""


def _price(model: Mapping[str, Any], name: str) -> Price | None:
    """Return the price that a model object tells, None for one that is not by token."""
    pricing = mapping_of(model.get("pricing"))
    if pricing.get("method", "token") != "token":
        return None
    prompt, completion = (_dollars(pricing.get(f"{side}_cost_per_token")) for side in ("input", "output"))
    if prompt is None or completion is None:
        return None
    return Price(prompt * 1_000_000, completion * 1_000_000, source="Oxen's models API", model=name)


def _dollars(value: Any) -> float | None:
    """Return a price per token, which may be text."""
    number = number_of(value)
    return None if number is None or number < 0 else number
