"""What replies cost, in dollars; arithmetic only.

What passes in are the tokens that a reply reports and the price of its model; what comes out are dollars, or None where
either is not known. It does not know where a price is from.
"""

from batchchat.records import Price, Usage

PER_MILLION = 1_000_000.0


def cost_usd(price: Price | None, usage: Usage) -> float | None:
    """Return what a reply cost: what it says itself, else its tokens at the price; None where neither is known."""
    if usage.cost_usd is not None:
        return usage.cost_usd
    if price is None or usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    cached = min(usage.cached_tokens or 0, usage.prompt_tokens)
    cached_price = price.input if price.cached_input is None else price.cached_input
    fresh = (usage.prompt_tokens - cached) * price.input
    return (fresh + cached * cached_price + usage.completion_tokens * price.output) / PER_MILLION
