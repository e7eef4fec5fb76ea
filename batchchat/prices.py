"""What a job's model costs: from the job itself, from its provider, or from published prices.

What passes in is a job, and its key where there is one; what comes out is a price, or None. It does not know tokens.
"""

from __future__ import annotations

from batchchat.job import Job
from batchchat.records import Price


def price_of(job: Job, api_key: str | None) -> Price | None:
    """Return what the job's model costs; None where nobody says."""
    if job.price is not None:
        given = job.price
        return Price(given.input, given.output, given.cached_input, source="price in the job", model=job.request.model)
    return None
