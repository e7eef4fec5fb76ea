"""Decide whether and when to try again, by tenacity's strategies.

The waits are exponential with full jitter (uniform between nothing and the ceiling), which spreads a burst of failures;
a server's own Retry-After (RFC 9110, section 10.2.3) is a floor under them.
"""

from tenacity import RetryCallState, Retrying
from tenacity.stop import stop_after_attempt
from tenacity.wait import wait_random_exponential

from batchchat.records import Failure

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0

_BACKOFF = wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S)
_RETRYING = Retrying()


def wait_s(failure: Failure, attempt: int) -> float:
    """Return the seconds to wait after the failure of attempt number `attempt`, counted from 1.

    They are no fewer than the server asked for, plus a tenth as jitter. The first time the server is taken at its word;
    when that did not help, the backoff counts too.
    """
    backoff_s = _BACKOFF(_after(attempt))
    if failure.retry_after_s is None:
        return backoff_s
    wished_s = failure.retry_after_s + min(backoff_s, 0.1 * failure.retry_after_s + 0.05)
    return wished_s if attempt == 1 else max(wished_s, backoff_s)


def next_wait_s(failure: Failure, attempt: int, max_attempts: int) -> float | None:
    """Return the seconds before a row's next charged attempt; None if `attempt` was its last."""
    return None if stop_after_attempt(max_attempts)(_after(attempt)) else wait_s(failure, attempt)


def _after(attempt: int) -> RetryCallState:
    """Return what tenacity's strategies read: how many attempts were made."""
    state = RetryCallState(_RETRYING, fn=None, args=(), kwargs={})
    state.attempt_number = attempt
    return state
