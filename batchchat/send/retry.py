"""Whether and when to try again, by tenacity's policies; never sleeps, and knows no queue.

The waits are exponential with full jitter (uniform between nothing and the ceiling), which spreads a burst of failures;
a server's own Retry-After (RFC 9110, section 10.2.3) is a floor under them.
"""

import math
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from tenacity import RetryCallState, Retrying
from tenacity.stop import stop_after_attempt
from tenacity.wait import wait_base, wait_random_exponential

from batchchat.records import Failure

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
LONGEST_HINT_S = 3_600.0
"""A server that asks for more than an hour is asked again after one."""


class wait_at_least_retry_after(wait_base):  # noqa: N801 -- tenacity names its policies like functions
    """Another policy's wait, but no shorter than what the failed attempt's server asked for, plus a tenth as jitter.

    The first time the server's wish is taken at its word; when that did not help, the other policy's wait counts too.
    """

    def __init__(self, otherwise: wait_base) -> None:
        self.otherwise = otherwise

    def __call__(self, retry_state: RetryCallState) -> float:
        """Return seconds to wait."""
        wait_s = self.otherwise(retry_state)
        failure = retry_state.outcome.result() if retry_state.outcome else None
        if not isinstance(failure, Failure) or failure.retry_after_s is None:
            return wait_s
        wished_s = failure.retry_after_s + min(wait_s, 0.1 * failure.retry_after_s + 0.05)
        return wished_s if retry_state.attempt_number == 1 else max(wished_s, wait_s)


_RETRYING = Retrying()  # a state wants its owner; the policies read only the state
_WAIT = wait_at_least_retry_after(wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S))


def wait_s(failure: Failure, attempt: int) -> float:
    """Return the seconds to wait after the failure of attempt number `attempt`, counted from 1."""
    return _WAIT(_state(failure, attempt))


def is_last(attempt: int, max_attempts: int) -> bool:
    """Whether attempt number `attempt` was the last that the row gets."""
    return bool(stop_after_attempt(max_attempts)(_state(None, attempt)))


def _state(failure: Failure | None, attempt: int) -> RetryCallState:
    state = RetryCallState(_RETRYING, fn=None, args=(), kwargs={})
    state.attempt_number = attempt
    state.set_result(failure)
    return state


def retry_after_s(headers: Mapping[str, str], unix_now: float) -> float | None:
    """Return the seconds that a reply asks to wait, or None.

    `retry-after-ms` (milliseconds) wins over `retry-after` (seconds, or an HTTP date read against `unix_now`). What is
    negative, past, or not a number is no wish; a wish beyond an hour counts as an hour.
    """
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name)
        seconds = None if text is None else _seconds(text, unit_s, unix_now)
        if seconds is not None and seconds >= 0:
            return min(seconds, LONGEST_HINT_S)
    return None


def _seconds(text: str, unit_s: float, unix_now: float) -> float | None:
    try:
        number = float(text)
    except ValueError:
        pass
    else:
        return number * unit_s if math.isfinite(number) else None
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - unix_now
    except (ValueError, OverflowError):
        return None
