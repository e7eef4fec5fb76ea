"""The most that a row's requests can cost; arithmetic only, but for what replies teach it.

No tokenizer that works on bytes makes more tokens of a text than it has bytes. What an endpoint adds, a chat template
or a prompt of its own, is no more than the smallest prompt that it ever counted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from batchchat.json_values import items_of, mapping_of, read_json
from batchchat.records import ChatRequest, Price, Usage
from batchchat.send.budget.cost import PER_MILLION, cost_usd
from batchchat.send.state.row_cost import NOTHING, Amount, Size
from batchchat.send.state.turn import Turn
from batchchat.send.structured.judge import MAX_CORRECTION, more_tokens

Prices = Callable[[str], Price | None]
"""What tokens of a model cost, by its name; None where nobody knows."""

KNOWN_AFTER = 32
"""Usages of a model after which it is taken to have shown what it adds."""
MARGIN = 1.25
"""By how much what was seen may be exceeded."""
FIRST_MARGIN = 1.0
"""What is added to that before anything was seen, and less with each reply."""
FIRST_OVERHEAD, LEAST_OVERHEAD = 256.0, 16.0
FIRST_OVERSHOOT = 16.0
"""Tokens that an endpoint may add to a prompt, and to a completion beyond its limit, before anything is known."""
FIRST_IMAGE, LEAST_IMAGE = 50_000.0, 6_000.0
LEAST_FILE, UNSEEN_FILE = 32_000.0, 1_000_000.0
"""Tokens of an image, of a video or other file that goes along, and of one that only the endpoint fetches."""
FILE_BYTES_PER_TOKEN = 40
PROMPTED_TOKENS = 200.0
"""What a schema takes beside its own bytes, where it goes into the prompt."""
CORRECTION_TOKENS = 4.0 * MAX_CORRECTION + 200.0
"""What a correction takes; a character has four bytes at most."""
RETOLD = 2.0
"""Tokens of an answer that is told again, for each that the model made of it."""


def size_of(request: ChatRequest) -> Size | str:
    """Return a request's size, or in words why its cost has no bound."""
    body = mapping_of(read_json(request.body))
    limits = [body[name] for name in ("max_tokens", "max_completion_tokens") if body.get(name) is not None]
    if not limits:
        return "the request has no max_tokens, and without one its cost has no bound"
    wrong = [limit for limit in limits if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1]
    if wrong:
        return f"max_tokens is {str(wrong[0])[:50]!r}, and the cost has a bound only by a whole number above 0"
    counts = [count for count in (body.get("n"), body.get("best_of")) if isinstance(count, int) and count > 0]
    tokens, images = float(len(request.body)), 0
    for message in items_of(body.get("messages")):
        for part in items_of(mapping_of(message).get("content")):
            kind, embedded_bytes, is_fetched = _part(mapping_of(part))
            images += kind == "image"
            tokens -= embedded_bytes
            tokens += 0.0 if kind != "file" else UNSEEN_FILE if is_fetched else _file_tokens(embedded_bytes)
    files = [one for one in request.media if not one.mime_type.startswith("image/")]
    tokens += sum(_file_tokens(one.size_bytes) - LEAST_FILE for one in files)
    return Size(str(body.get("model")), tokens, images, max(limits), max((request.choice_count, *counts)))


def _file_tokens(size_bytes: int) -> float:
    return max(LEAST_FILE, size_bytes / FILE_BYTES_PER_TOKEN)


def _part(part: Mapping[str, Any]) -> tuple[str, int, bool]:
    """Return of a message's part whether it is text, an image or a file, its embedded bytes, and if it is fetched."""
    if part.get("type") in (None, "text", "refusal"):
        return "text", 0, False
    texts = [text for value in part.values() for text in _texts(value)]
    embedded_bytes = sum(len(text) for text in texts if text.startswith("data:"))
    if not embedded_bytes and part.get("type") == "input_audio":
        embedded_bytes = sum(len(text) for text in texts if len(text) > 1_000)  # base64, without a scheme
    is_fetched = any(text.startswith(("http://", "https://")) for text in texts)
    return "image" if part.get("type") == "image_url" else "file", embedded_bytes, is_fetched


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [text for text in mapping_of(value).values() if isinstance(text, str)]


@dataclass(slots=True)
class Shown:
    """What replies of one model have shown: the most that it went beyond, and the smallest prompt that it counted."""

    usages: int = 0
    least_prompt: float = 0.0
    beyond_prompt: float = 0.0
    beyond_completion: float = 0.0
    beyond_usd: float = 0.0
    largest_image: float = 0.0

    @property
    def is_known(self) -> bool:
        """Whether it has shown enough."""
        return self.usages >= KNOWN_AFTER

    @property
    def overhead(self) -> float:
        """Tokens that are added to a prompt, at most."""
        # Few replies prove little, but each much more than none: a small budget has no room for more caution.
        first = max(LEAST_OVERHEAD, FIRST_OVERHEAD / (1 + self.usages) ** 2)
        margin = MARGIN + FIRST_MARGIN / (1 + self.usages)
        return max(first, margin * self.beyond_prompt, MARGIN * self.least_prompt)

    @property
    def overshoot(self) -> float:
        """Tokens by which a completion exceeds its limit, at most."""
        return max(0.0 if self.is_known else FIRST_OVERSHOOT, MARGIN * self.beyond_completion)

    @property
    def image(self) -> float:
        """Tokens of an image, at most."""
        if not self.is_known or not self.largest_image:
            return max(FIRST_IMAGE, MARGIN * self.largest_image)
        return max(LEAST_IMAGE, MARGIN * self.largest_image)


@dataclass(slots=True)
class WorstCase:
    """One run's bounds; `has_schema` says that an answer may be asked for again, as `judge.py` does."""

    prices: Prices
    has_schema: bool = False
    _shown: dict[str, Shown] = field(default_factory=dict)

    def request(self, size: Size, turn: Turn, told_tokens: int | None = None) -> Amount:
        """Return the most that a row's next request costs; `told_tokens` took the answer that it tells again."""
        shown = self._of(size.model)
        tokens = self._prompt(size, _said_tokens(turn, told_tokens)), turn.max_tokens or size.max_tokens
        return self._amount(size, *tokens) + Amount(MARGIN * shown.beyond_usd)

    def later(self, size: Size, turn: Turn) -> Amount:
        """Return the most that all requests cost which may follow from the reply to a row's next one."""
        if not self.has_schema:
            return NOTHING
        said = _said_tokens(turn, None) if turn.said else None
        return self._later(size, turn.max_tokens or size.max_tokens, said, has_more=turn.max_tokens is not None)

    def _later(self, size: Size, max_tokens: int, said: float | None, *, has_more: bool) -> Amount:
        """Return the most costly way on: more tokens for an answer that was cut, a correction, or both in any order."""
        most = NOTHING
        if not has_more:
            more = more_tokens(size.max_tokens)
            follows = self._amount(size, self._prompt(size, said or 0.0), more)
            most = follows + self._later(size, more, said, has_more=True)
        if said is None:
            told = RETOLD * (max_tokens + self._of(size.model).overshoot) + CORRECTION_TOKENS
            follows = self._amount(size, self._prompt(size, told), max_tokens)
            way = follows + self._later(size, max_tokens, told, has_more=has_more)
            most = Amount(max(most.usd, way.usd), max(most.tokens, way.tokens))
        return most

    def _prompt(self, size: Size, said: float) -> float:
        shown = self._of(size.model)
        prompted = PROMPTED_TOKENS if self.has_schema else 0.0
        return size.prompt_tokens + size.images * shown.image + shown.overhead + prompted + said

    def _amount(self, size: Size, prompt_tokens: float, max_tokens: float) -> Amount:
        completion_tokens = (max_tokens + self._of(size.model).overshoot) * size.choices
        price = self.prices(size.model)
        usd = 0.0
        if price is not None:
            tiers = [price, *(longer for above, longer in price.longer if prompt_tokens > above)]
            usd = max(_most(tier, prompt_tokens, completion_tokens) for tier in tiers)
        return Amount(usd, prompt_tokens + completion_tokens)

    def cost(self, size: Size, usage: Usage, worst: Amount) -> Amount:
        """Return what a reply cost, where it says so; what it does not say is as bad as it can be."""
        usd = cost_usd(self.prices(size.model), usage) if usage.prompt_tokens != 0 else usage.cost_usd
        if usage.prompt_tokens and usage.completion_tokens is not None:
            tokens = float(usage.prompt_tokens + usage.completion_tokens)
        else:
            tokens = worst.tokens
        return Amount(worst.usd if usd is None else max(0.0, usd), tokens)

    def learn(self, size: Size, turn: Turn, usage: Usage, worst: Amount) -> None:
        """Take a reply's usage into account: what was beyond a bound is within the next one."""
        shown = self._shown.setdefault(size.model, Shown())
        if usage.cost_usd is not None:
            shown.beyond_usd = max(shown.beyond_usd, usage.cost_usd - worst.usd)
        if not usage.prompt_tokens or usage.completion_tokens is None:
            return
        prompt, completion = float(usage.prompt_tokens), float(usage.completion_tokens)
        bare = self._prompt(size, _said_tokens(turn, None)) - shown.overhead
        shown.beyond_prompt = max(shown.beyond_prompt, prompt - bare)
        asked = (turn.max_tokens or size.max_tokens) * size.choices
        shown.beyond_completion = max(shown.beyond_completion, (completion - asked) / size.choices)
        if size.images:
            shown.largest_image = max(shown.largest_image, prompt / size.images)
        shown.least_prompt = min(shown.least_prompt, prompt) if shown.usages else prompt
        shown.usages += 1

    def _of(self, model: str) -> Shown:
        return self._shown.get(model) or Shown()


def _said_tokens(turn: Turn, told_tokens: int | None) -> float:
    """Return the tokens of what a turn says, at most: its bytes, or what the model made them of and a correction."""
    if not turn.said:
        return 0.0
    said_bytes = sum(len(str(one.get("content")).encode()) + 64 for one in turn.said)
    return said_bytes if told_tokens is None else min(said_bytes, RETOLD * told_tokens + CORRECTION_TOKENS)


def _most(price: Price, prompt_tokens: float, completion_tokens: float) -> float:
    input_price = max(price.input, price.cached_input or 0.0)
    return (prompt_tokens * input_price + completion_tokens * price.output) / PER_MILLION
