"""What many requests will take, from what a few of them took.

The quantity is taken to follow a straight line in the size where the few are enough to see one: at least ten, with a
correlation of 0.5. Else prompts are taken to be proportional to the size (a ratio estimator), and completions to be
alike (a mean). The interval is Student's, over what the few differ from that, and allows for the others' own scatter as
well as for the fit's: for n of N requests in a random sample that is the usual correction for a finite population.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

FEWEST_FOR_A_LINE = 10
CLEAR_CORRELATION = 0.5
CONFIDENCE = 0.9
"""How often the truth is to be within an interval."""


@dataclass(frozen=True, slots=True)
class Others:
    """The requests that a quantity is wanted for: how many, and their sizes together, in bytes."""

    count: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Fit:
    """A quantity as `base + slope * size`; `spread` is how widely the known sizes scatter, 0 where they do not count.

    `count` requests were known, of `mean_size` bytes; `parameters` were found out from them.
    """

    base: float
    slope: float
    count: int
    mean_size: float
    spread: float
    parameters: int

    def at(self, size_bytes: float) -> float:
        """Return what one request of a size is expected to take."""
        return self.base + self.slope * size_bytes

    def total(self, others: Others) -> float:
        """Return what requests are expected to take together."""
        return max(0.0, self.base * others.count + self.slope * others.size_bytes)

    def uncertainty(self, others: Others) -> float:
        """Return the variance of the fit at the others' mean size, in parts of the scatter's variance."""
        mean = others.size_bytes / others.count
        if self.spread:
            return 1 / self.count + (mean - self.mean_size) ** 2 / self.spread
        return (mean / self.mean_size if self.slope else 1.0) ** 2 / self.count


def fit(sizes: Sequence[float], values: Sequence[float], *, is_proportional: bool) -> Fit:
    """Return how values follow sizes (each above 0); at least one is known.

    Where that is no clear line, they are proportional, or all alike.
    """
    count, mean_size, mean = len(sizes), fmean(sizes), fmean(values)
    spread = sum((size - mean_size) ** 2 for size in sizes)
    scatter = sum((value - mean) ** 2 for value in values)
    together = sum((size - mean_size) * (value - mean) for size, value in zip(sizes, values, strict=True))
    if count >= FEWEST_FOR_A_LINE and together > CLEAR_CORRELATION * math.sqrt(spread * scatter) > 0:
        slope = together / spread
        return Fit(mean - slope * mean_size, slope, count, mean_size, spread, 2)
    if is_proportional:
        return Fit(0.0, mean / mean_size, count, mean_size, 0.0, 1)
    return Fit(mean, 0.0, count, mean_size, 0.0, 1)


def margin(residuals: Sequence[float], fits: Sequence[Fit], others: Others) -> float | None:
    """Return how far the others' total may be from the fits', either way; None where too few are known to say.

    `residuals` are what the known requests took beyond the fits, of which the total is a sum.
    """
    freedom = len(residuals) - max(one.parameters for one in fits)
    if freedom < 1:
        return None
    if not others.count:
        return 0.0
    variance = sum(residual**2 for residual in residuals) / freedom
    uncertainty = max(one.uncertainty(others) for one in fits)
    return student(freedom) * math.sqrt(variance * (others.count**2 * uncertainty + others.count))


def student(freedom: int) -> float:
    """Return how many standard errors the interval reaches either way: Student's quantile, by Fisher's expansion.

    It is 1 % low at two degrees of freedom and 12 % at one, and exact to four digits from ten on.
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return math.fsum(term / math.pow(freedom, power) for power, term in enumerate(terms))
