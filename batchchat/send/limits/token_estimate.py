"""What a request will cost in tokens, learned from the usage of this job's own replies.

The prompt follows from the size, by a ratio for each class of sizes: a photo's base64 has hundreds of bytes for each of
its tokens and text has four, and their requests differ as much in size, so neither spoils the other's ratio. The
completion is one that nine of ten requests stay below.
"""

import math

from batchchat.json_values import mapping_of, read_json
from batchchat.records import Settled, Usage

FIRST_BYTES_PER_TOKEN = 3.0
FIRST_COMPLETION_TOKENS = 1_024.0
"""Before any usage is known: more than most requests take, since too much is given back and too little is refused."""
QUANTILE = 0.9
MEMORY = 512
"""Completions after which those before count half."""
REFRESH = 16
SMOOTHING = 0.05
BITS_PER_CLASS = 2
"""Requests of which none is four times as large as the smallest share a ratio."""
STEPS_PER_OCTAVE = 4
STEPS = 24 * STEPS_PER_OCTAVE


class TokenEstimate:
    """The two things learned: bytes for each token of a prompt, and tokens of a completion."""

    def __init__(self, before: Settled | None = None) -> None:
        self._first_ratio = (before.bytes_per_token if before else None) or FIRST_BYTES_PER_TOKEN
        self._ratios: dict[int, float] = {}
        self._seen: dict[int, int] = {}
        self._counts = [0.0] * STEPS
        self._count = 0.0
        self._since_refresh = 0
        self._first_completion = before.completion_tokens if before else None
        self._completion: float | None = self._first_completion

    @property
    def bytes_per_token(self) -> float | None:
        """The ratio of the sizes that came most often; None before any usage."""
        return self._ratios[max(self._seen, key=lambda size: self._seen[size])] if self._seen else None

    @property
    def completion_tokens(self) -> float | None:
        """What nine of ten completions stay below; None before any usage."""
        return self._completion

    def tokens(self, body_bytes: int, max_tokens: int | None = None) -> float:
        """Return the tokens to reserve for a request that is sent as `body_bytes` and allows `max_tokens`."""
        completion = self._completion
        if completion is None:
            completion = FIRST_COMPLETION_TOKENS if max_tokens is None else float(max_tokens)
        elif max_tokens is not None:
            completion = min(completion, max_tokens)
        return body_bytes / self._ratio(body_bytes) + completion

    def learn(self, body_bytes: int, usage: Usage) -> None:
        """Follow a reply's usage; what it does not report teaches nothing."""
        if usage.prompt_tokens:
            size, ratio = _size_class(body_bytes), body_bytes / usage.prompt_tokens
            known = self._ratios.get(size, ratio)
            self._ratios[size] = known + SMOOTHING * (ratio - known)
            self._seen[size] = self._seen.get(size, 0) + 1
        if usage.completion_tokens is not None:
            self._learn_completion(usage.completion_tokens)

    def _ratio(self, body_bytes: int) -> float:
        size = _size_class(body_bytes)
        known = self._ratios.get(size)
        if known is not None or not self._ratios:
            return known or self._first_ratio
        return self._ratios[min(self._ratios, key=lambda other: abs(other - size))]

    def _learn_completion(self, tokens: int) -> None:
        self._counts[min(STEPS - 1, _step(tokens))] += 1
        self._count += 1
        self._since_refresh += 1
        if self._completion is self._first_completion or self._since_refresh >= REFRESH:
            self._since_refresh = 0
            self._completion = self._quantile()
        if self._count >= 2 * MEMORY:
            self._counts = [count / 2 for count in self._counts]
            self._count /= 2

    def _quantile(self) -> float:
        left = QUANTILE * self._count
        for step, count in enumerate(self._counts):
            left -= count
            if left <= 0:
                return float(2 ** ((step + 1) / STEPS_PER_OCTAVE) - 1)
        return float(2 ** (STEPS / STEPS_PER_OCTAVE))


def _size_class(body_bytes: int) -> int:
    return body_bytes.bit_length() // BITS_PER_CLASS


def _step(tokens: int) -> int:
    return int(STEPS_PER_OCTAVE * math.log2(max(0, tokens) + 1))


def max_tokens_of(body: bytes) -> int | None:
    """Return the tokens that a request allows its completion, if it says so."""
    fields = mapping_of(read_json(body))
    allowed = fields.get("max_completion_tokens", fields.get("max_tokens"))
    return allowed if isinstance(allowed, int) and allowed > 0 else None
