"""What follows from a failure: for its row, and, for a rate limit or an outage, for all requests.

A failed row is asked again at no charge, is charged with an attempt, is given up, or ends the run. A rate limit, and an
endpoint that is down, close a gate behind which all requests wait. Only arithmetic: the caller waits.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from batchchat.errors import EndpointRefusedError
from batchchat.json_values import mapping_of, read_json
from batchchat.records import Failure
from batchchat.send.limits.cooldown import Cooldown
from batchchat.send.policy.backoff import LONGEST_WAIT_S, next_wait_s, wait_s
from batchchat.send.policy.rules import Rules, RunEndpoint, RunLimits
from batchchat.send.reply.failures import (
    ADVICE,
    PROXY_ADVICE,
    PROXY_REFUSAL,
    Verdict,
    is_overload,
    is_race,
    may_be_outage,
    verdict,
)
from batchchat.send.reply.retry_after import LONGEST_HINT_S
from batchchat.send.state.counts import Counts
from batchchat.send.state.row import Pending, RateLimitsAlone
from batchchat.send.state.slots import Slot
from batchchat.send.state.steps import RetryAt, Stop

UNREACHED_TRIES = 4
"""Failed probes in a row after which an endpoint that never answered counts as not there."""
REST_PATIENCE_S = 600.0
"""Seconds after which rows that all were tried, and are all that is left, are charged again: they may be poison."""
LARGEST_EXPONENT = 10
ONSET_S = 5.0
"""Seconds before an outage is known in which some may still pass, and others are charged for it already."""
MOST_CHARGES = 512
"""Rows remembered of those, so that large requests do not fill the memory."""
UNSENT_IN_A_ROW = 3
"""Requests in a row that could not be sent, after which an endpoint that had answered counts as down."""
OUTAGE_ROWS = 20
"""Rows that fail one after the other, with nothing in between, as they would if the endpoint were down: it is."""
LONE_RATE_LIMITS = 10
"""Rate limits in a row that meet one row alone, while others get through, after which that row is given up."""
LATE_REFUSAL_S = 1.0
LONGEST_RATE_WAIT_S = 8.0
"""Seconds between two bursts of rate limits whose end the endpoint does not tell: asking costs one request."""
FIRST_RATE_WAIT = 0.2
"""Share of a first retry's wait that a first burst is worth: what is in flight was cut, and the pace with it."""
SHORTEST_CUT_S = 0.9
CUTS_ALIKE = 3
CUT_SPREAD = 0.05
"""Three requests in a row that are cut off after the same time, within a twentieth: a proxy's time limit."""


@dataclass(frozen=True, slots=True)
class Charge:
    """Count the attempt; `is_final` says that another would bring nothing else, `kind` what it is after all."""

    is_final: bool
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Give the row up."""


class Cause(Enum):
    """Why the endpoint turned a request away."""

    ROW = "the row is too large for every limit: others get through"
    NOISE = "the endpoint refuses a share of all requests, whatever their pace"
    CONCURRENCY = "too many requests were in flight"
    RATE = "too many requests or tokens were sent in a time"


@dataclass(frozen=True, slots=True)
class Charged:
    """A row that was charged for what may be an outage: when it last was, and how often."""

    row: Pending
    at: float
    count: int


class FailurePolicy:
    """One run's trouble with its endpoint."""

    def __init__(self, endpoint: RunEndpoint, limits: RunLimits, rules: Rules, counts: Counts) -> None:
        self._endpoint = endpoint
        self._rates = limits.rates
        self._concurrency = limits.concurrency
        self._rules = rules
        self._counts = counts
        self._rate_cooldown = Cooldown()
        self._outage_cooldown = Cooldown()
        self._forgiven = (-math.inf, 0)  # when the last refusal that may be chance started, among how many
        self._burst_cause = Cause.RATE  # of the latest burst
        self._is_wait_told = False  # whether the endpoint named the time of the present burst's wait
        self._unsent_in_a_row = 0
        self._streak: dict[int, Charged] = {}  # rows charged for what may be an outage, since anything last passed
        self._lately: dict[int, Charged] = {}  # and those charged just before that
        self._believes_rows = False
        self._cuts_s: deque[float] = deque(maxlen=CUTS_ALIKE)
        self._notes: dict[str, None] = dict.fromkeys(rules.notes)

    @property
    def opens_at(self) -> float:
        """Monotonic time before which no request may start."""
        return max(self._rate_cooldown.opens_at, self._outage_cooldown.opens_at)

    @property
    def is_holding(self) -> bool:
        """Whether the endpoint is taken to be down, and only one probe may be under way."""
        return self._outage_cooldown.burst_count > 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What to tell the user."""
        return tuple(self._notes)

    def pass_through(self, started_at: float) -> None:
        """Note a reply that shows that the endpoint works and that no limit holds."""
        self._note_reached(started_at)
        self._counts.passed += 1
        self._rate_cooldown.pass_through(started_at)

    def _note_reached(self, started_at: float) -> None:
        self._counts.has_reached = True
        self._unsent_in_a_row = 0
        self._note_lately(self._streak)
        self._streak = {}
        self._outage_cooldown.pass_through(started_at)

    def may_be_outage(self, row: Pending, now: float) -> bool:
        """Return whether a row was charged for what may still turn out to be an outage."""
        lately = self._lately.get(id(row))
        return id(row) in self._streak or (lately is not None and now - lately.at < ONSET_S)

    def charge(self, row: Pending, failure: Failure, now: float, *, is_final: bool) -> RetryAt | GiveUp | Stop:
        """Count an attempt of a row; return when it is tried again, if it is."""
        row.attempts += 1
        seconds = None if is_final else next_wait_s(failure, row.attempts, self._rules.tries(failure.kind))
        if seconds is not None:
            return RetryAt(now + seconds)
        if failure.kind == "protocol" and not self._counts.has_completion:
            # Nothing that came back was ever a chat completion: this is not such an endpoint.
            return _refused(no_such_endpoint(failure))
        return GiveUp()

    def follow(
        self, row: Pending, slot: Slot, failure: Failure, now: float, *, is_rest_tried: bool = False
    ) -> RetryAt | Charge | GiveUp | Stop:
        """Return what follows from the failure of the request that a row had in a slot.

        `is_rest_tried` says that every row without an outcome has been asked before.
        """
        row.wants_new_connection = is_race(failure)
        if row.wants_new_connection:
            return RetryAt(now)  # it may have been billed, but is nobody's fault
        started_at = slot.started_at
        self._note_cut(failure, now - started_at)
        self._counts.has_reached |= failure.status is not None or failure.is_outcome_unknown
        decided = verdict(failure)
        if decided is Verdict.HOLD:
            return self._on_unavailable(failure, started_at, now)
        if is_overload(failure):
            self._concurrency.on_overload(started_at, now)
        # Replies that are none, from the start, are another kind of server's; errors may be of a server on its way up.
        has_worked = self._counts.has_completion or failure.kind != "protocol"
        if decided is Verdict.RETRY and may_be_outage(failure, has_worked=has_worked):
            if is_rest_tried and now - self._outage_cooldown.troubled_since > REST_PATIENCE_S:
                self._believe_rows()
            return self._on_possible_outage(row, failure, started_at=started_at, now=now)
        if decided is Verdict.CUT:
            self._note_reached(started_at)
            return self._on_rate_limit(row, slot, failure=failure, now=now)
        self.pass_through(started_at)
        if decided is not Verdict.FATAL:
            return Charge(is_final=decided is not Verdict.RETRY)
        if self._may_be_an_echo(row, failure):
            return Charge(is_final=True, kind="bad_request")
        is_its_own_model = failure.kind == "not_found" and self._endpoint.model_varies and self._counts.has_completion
        return Charge(is_final=True) if is_its_own_model else _refused(_refusal(failure))

    def _may_be_an_echo(self, row: Pending, failure: Failure) -> bool:
        """Whether the words that refuse the job may be the row's own: where others were answered, or of another model.

        A sentence that names the model that was asked for is the endpoint's.
        """
        if not failure.is_by_words:
            return False
        model = mapping_of(read_json(row.request.body)).get("model")
        if failure.kind == "not_found" and isinstance(model, str) and model in failure.message:
            return False
        return self._counts.has_completion or (failure.kind == "not_found" and "specify a model" not in failure.message)

    # Rate limits

    def _on_rate_limit(self, row: Pending, slot: Slot, failure: Failure, now: float) -> RetryAt | GiveUp | Stop:
        cooldown, before = self._rate_cooldown, self._burst_cause
        is_new = cooldown.is_new_burst(slot.started_at)
        match self._classify_and_slow_down(row, slot, failure=failure, now=now, is_new=is_new):
            case Cause.ROW:  # it waits alone, and holds up nobody
                alone = row.rate_limits_alone.count if row.rate_limits_alone else 0
                return GiveUp() if alone > LONE_RATE_LIMITS else RetryAt(now + wait_s(failure, alone))
            case Cause.NOISE:
                return RetryAt(now + wait_s(failure, 1))
            case Cause.CONCURRENCY:
                # Fewer will be in flight as some of these are answered: nobody else need wait for that.
                cooldown.close(now, 0.0, is_new=is_new)
                return RetryAt(now + wait_s(failure, 1))
            case Cause.RATE:
                is_wait_news = failure.retry_after_s is not None and not self._is_wait_told
                if is_new or before is Cause.CONCURRENCY or is_wait_news:
                    self._is_wait_told = failure.retry_after_s is not None
                    cooldown.close(now, self._rate_wait_s(failure), is_new=is_new)
                return self._unless_too_long(failure, now)

    def _classify_and_slow_down(self, row: Pending, slot: Slot, *, failure: Failure, now: float, is_new: bool) -> Cause:
        """Return why a request was turned away; the pace or the number in flight is cut accordingly."""
        row.rate_limits_alone = row.rate_limits_alone or RateLimitsAlone()
        is_alone = row.rate_limits_alone.note(self._counts.passed, self._counts.rate_limited)
        self._counts.rate_limited += 1
        if is_alone:
            return Cause.ROW
        if is_new and _is_short(failure) and self._is_noise(slot, now):
            return Cause.NOISE
        if self._slow_down(slot, now, is_new=is_new):
            self._burst_cause = Cause.RATE
        elif is_new:
            may_pass = not self._rate_cooldown.burst_count and _is_short(failure)
            self._burst_cause = Cause.CONCURRENCY if may_pass else Cause.RATE
        return self._burst_cause

    def _unless_too_long(self, failure: Failure, now: float) -> RetryAt | Stop:
        """Return when the rate limit is over, unless that is later than the job waits for."""
        troubled_s, wished_s = now - self._rate_cooldown.troubled_since, failure.retry_after_s or 0.0
        if troubled_s > self._rules.max_outage_s:
            reason = f"the endpoint's limit did not lift for {troubled_s:,.0f} s: {failure.message}; try later"
        elif troubled_s + wished_s > self._rules.max_outage_s:
            lifts = f"lifts in {wished_s:,.0f} s{' or more' if wished_s >= LONGEST_HINT_S else ''}"
            reason = f"the endpoint's limit {lifts}, later than {_ALLOWED}: {failure.message}"
        else:
            return RetryAt(self._rate_cooldown.opens_at)
        return _refused(reason)

    def _is_noise(self, slot: Slot, now: float) -> bool:
        """Return whether a refusal has nothing to do with how much is asked, or is too rare to mean anything."""
        if not self._rates.is_chance(slot.started_at, now, slot.among):
            return False
        self._forgiven = slot.started_at, slot.among
        if self._rates.is_noisy:
            self._concurrency.forget_refusals()
        return True

    def _slow_down(self, slot: Slot, now: float, *, is_new: bool) -> bool:
        """Cut the pace or the number in flight; return whether it is the pace."""
        concurrency, in_flight = self._concurrency, slot.among
        forgiven_at, forgiven_among = self._forgiven
        if slot.started_at - forgiven_at < now - slot.started_at:
            in_flight = min(in_flight, forgiven_among)  # it was the first of them
        if now - slot.started_at > LATE_REFUSAL_S:
            in_flight = concurrency.limit  # it is not by what was under way at its start that it was judged
        level = in_flight if concurrency.may_be_too_many(in_flight) else 0
        is_rate = self._rates.on_refusal(slot.started_at, now, level, is_new=is_new)
        if is_new:
            concurrency.on_rate_limit(now, 0 if is_rate else in_flight)
        return is_rate

    def _rate_wait_s(self, failure: Failure) -> float:
        """Return how long a burst of rate limits closes the gate: one request asks first when it opens again."""
        count = self._rate_cooldown.burst_count
        wished_s = wait_s(failure, count + 1)
        if failure.retry_after_s is not None:
            return wished_s
        return min(wished_s, LONGEST_RATE_WAIT_S) if count else FIRST_RATE_WAIT * wished_s

    # Outages

    def _on_unavailable(self, failure: Failure, started_at: float, now: float) -> RetryAt | Charge | Stop:
        """Hold for an endpoint that cannot be reached; a single such failure among replies may be chance."""
        is_unsent = failure.status is None
        self._unsent_in_a_row += is_unsent
        is_chance = is_unsent and self._counts.passed > 0 and self._unsent_in_a_row < UNSENT_IN_A_ROW
        if is_chance and not self.is_holding:
            return RetryAt(now + wait_s(failure, self._unsent_in_a_row))
        self._refund(now)
        return self._hold(failure, started_at, now)

    def _on_possible_outage(
        self, row: Pending, failure: Failure, started_at: float, now: float
    ) -> RetryAt | Charge | Stop:
        """Count the attempt, until so many rows have met the same that it is the endpoint and not they.

        A row that failed before, while others passed, is no witness: it may be poison.
        """
        self._counts.passed += 1
        self._rate_cooldown.pass_through(started_at)
        before = self._streak.get(id(row))
        is_witness = before is not None or not (row.attempts or row.has_failed_before)
        charged = Charged(row, now, (before.count if before else 0) + 1)
        if is_witness and not self._believes_rows:
            self._streak[id(row)] = charged
            if len(self._streak) >= OUTAGE_ROWS:
                row.attempts += 1  # which the refund takes back
                self._refund(now)
        if len(self._streak) >= OUTAGE_ROWS:
            return self._hold(failure, started_at, now)
        if self.is_holding:
            self._close(failure, started_at, now)
        if id(row) not in self._streak:
            self._note_lately({id(row): charged})
        return Charge(is_final=False)

    def _note_lately(self, charged: Mapping[int, Charged]) -> None:
        self._lately.update(charged)
        if len(self._lately) > MOST_CHARGES:
            newest = sorted(self._lately.items(), key=lambda item: item[1].at)[-MOST_CHARGES // 2 :]
            self._lately = dict(newest)

    def _believe_rows(self) -> None:
        """From now on take failures for the rows' own: nothing else is left by which to know."""
        self._believes_rows = True
        self._streak.clear()
        self._lately.clear()
        self._outage_cooldown = Cooldown()

    def _refund(self, now: float) -> None:
        """Take back what rows were charged for an outage before it was known to be one."""
        lately = [one for key, one in self._lately.items() if now - one.at < ONSET_S and key not in self._streak]
        for one in (*lately, *self._streak.values()):
            one.row.attempts = max(0, one.row.attempts - one.count)
        self._lately.clear()
        self._streak = {key: replace(one, count=0) for key, one in self._streak.items()}

    def _hold(self, failure: Failure, started_at: float, now: float) -> RetryAt | Charge | Stop:
        cooldown, max_outage_s = self._outage_cooldown, self._rules.max_outage_s
        self._close(failure, started_at, now)
        is_known = self._counts.has_completion or self._rules.waits_for_first
        is_known = is_known or (self._endpoint.reached != "" and self._endpoint.reached == self._endpoint.base_url)
        # One that never did anything but crash may do so for ever; one that a gateway speaks for is only down.
        is_known = is_known or (self._counts.has_reached and may_be_outage(failure, has_worked=False))
        is_known = is_known or failure.kind == "unavailable"
        if not is_known and cooldown.burst_count >= UNREACHED_TRIES:
            what = f"brings nothing but errors ({failure.status})" if failure.status else "is not there"
            return _refused(f"the endpoint {what}: {failure.message}; {ADVICE['connect']}")
        down_s, reset_s = now - cooldown.troubled_since, failure.retry_after_s or 0.0
        if down_s >= max_outage_s:
            return _refused(f"the endpoint has been down for {down_s:,.0f} s, as long as {_ALLOWED}: {failure.message}")
        if down_s + reset_s > max_outage_s:
            return _refused(f"the endpoint is back in {reset_s:,.0f} s, later than {_ALLOWED}: {failure.message}")
        if is_known:
            self._notes[f"waiting for the endpoint, with one probe at a time: {failure.message}"] = None
        return RetryAt(cooldown.opens_at)

    def _close(self, failure: Failure, started_at: float, now: float) -> None:
        """Let everybody wait for the next probe: longer after each, but never past the end of the patience."""
        cooldown = self._outage_cooldown
        is_new = cooldown.is_new_burst(started_at)
        if not is_new and failure.retry_after_s is None:
            return
        left_s = self._rules.max_outage_s - max(0.0, now - cooldown.troubled_since)
        interval_s = 0.0
        if is_new:
            interval_s = min(LONGEST_WAIT_S, 0.5 * 2 ** min(cooldown.burst_count, LARGEST_EXPONENT), max(left_s, 0.1))
        cooldown.close(now, max(interval_s, failure.retry_after_s or 0.0), is_new=is_new)

    def _note_cut(self, failure: Failure, elapsed_s: float) -> None:
        """Notice a time limit between here and the endpoint, which would be paid for with every attempt."""
        is_cut = failure.is_outcome_unknown and (failure.kind == "connect" or failure.status in (502, 504))
        if not is_cut or elapsed_s < SHORTEST_CUT_S:
            return
        self._cuts_s.append(elapsed_s)
        longest_s = max(self._cuts_s)
        if len(self._cuts_s) == CUTS_ALIKE and min(self._cuts_s) >= (1 - CUT_SPREAD) * longest_s:
            if not any(note.startswith(_PROXY) for note in self._notes):
                self._notes[f"{_PROXY} after about {longest_s:.3g} s each: {_PROXY_ADVICE}"] = None
            self._cuts_s.clear()


def _refused(reason: str) -> Stop:
    return Stop(EndpointRefusedError(reason))


def _is_short(failure: Failure) -> bool:
    return (failure.retry_after_s or 0.0) <= LONGEST_RATE_WAIT_S


_ALLOWED = "limits.max_outage allows"
_PROXY = f"{CUTS_ALIKE} requests in a row were cut off"
_PROXY_ADVICE = (
    "that looks like the time limit of a proxy in between, and what it cuts off may be billed;"
    " stream the replies (request.stream: true) or ask for fewer tokens (request.max_tokens)"
)


def refusal_of_rows(failure: Failure, count: int) -> str:
    """Return why a job ends whose rows are refused one after the other."""
    return (
        f"the endpoint refused {count} rows in a row ({failure.status}): {failure.message}; that looks like a mistake"
        " in the job: check request in the job file, or, if these rows are to blame, leave them out with input.where"
    )


def no_such_endpoint(failure: Failure) -> str:
    """Return why a job ends that never got anything like an answer."""
    return f"the endpoint refuses the job: {failure.message}; {ADVICE['protocol']}"


def _refusal(failure: Failure) -> str:
    advice = PROXY_ADVICE if failure.status == PROXY_REFUSAL else ADVICE.get(failure.kind)
    who = "proxy" if failure.status == PROXY_REFUSAL else "endpoint"
    return f"the {who} refuses the job ({failure.status}): {failure.message}{f'; {advice}' if advice else ''}"
