"""What follows from a failure, for its row and for everybody; by the clock of the test."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batchchat.records import ChatRequest, Failure
from batchchat.send.limits.concurrency import Concurrency
from batchchat.send.limits.rate_limits import RateLimits
from batchchat.send.policy.failure_policy import (
    OUTAGE_ROWS,
    REST_PATIENCE_S,
    UNREACHED_TRIES,
    UNSENT_IN_A_ROW,
    Charge,
    FailurePolicy,
    GiveUp,
)
from batchchat.send.policy.rules import Rules, RunEndpoint, RunLimits
from batchchat.send.reply.failures import CLOSED_WHILE_IDLE
from batchchat.send.state.counts import Counts
from batchchat.send.state.row import Pending
from batchchat.send.state.steps import RetryAt, Stop
from tests.scheduled import never, slot_at

REFUSED = Failure("connect", "cannot connect to api:443: Connection refused")
RESET = Failure("connect", "the connection broke before the reply was whole", is_outcome_unknown=True)
RACE = replace(RESET, code=CLOSED_WHILE_IDLE)
GATEWAY = Failure("server", "upstream is gone", 503)
CRASH = Failure("server", "internal error", 500)
BAD_KEY = Failure("auth", "Invalid API key", 401)
BAD_ROW = Failure("bad_request", "this row", 400)
LIMIT = Failure("rate_limit", "slow down", 429)
LOADING = Failure("unavailable", "Loading model", 503)


class World:
    """A run's trouble, with a clock of its own; each failure is that of a request that started just now."""

    def __init__(
        self,
        *,
        has_worked: bool = True,
        max_outage_s: float = 600.0,
        waits_for_first: bool = False,
        reached: str = "",
    ) -> None:
        self.counts = Counts()
        endpoint = RunEndpoint(send=never, base_url="https://api/v1", reached=reached)
        limits = RunLimits(rates=RateLimits(None, None), concurrency=Concurrency(64, 0.0))
        rules = Rules(max_attempts=6, grace_s=30.0, max_outage_s=max_outage_s, waits_for_first=waits_for_first)
        self.trouble = FailurePolicy(endpoint, limits, rules, self.counts)
        self.now = 100.0
        self.rows: dict[str, Pending] = {}
        if has_worked:
            self.answer()

    def answer(self) -> None:
        """Answer a request that started just now."""
        self.counts.has_completion = True
        self.trouble.pass_through(self.now)

    def fail(
        self, row: str, failure: Failure, *, took_s: float = 0.0, is_rest_tried: bool = False
    ) -> RetryAt | Charge | GiveUp | Stop:
        """Let a row fail, as the schedule does: one that is charged has one more attempt."""
        pending = self.rows.setdefault(row, Pending(ChatRequest(row.encode(), b"{}", row)))
        step = self.trouble.follow(pending, slot_at(self.now - took_s), failure, self.now, is_rest_tried=is_rest_tried)
        pending.attempts += isinstance(step, Charge)
        return step

    def is_holding(self) -> bool:
        """Whether the pool waits for an endpoint that is down."""
        return self.trouble.is_holding

    def wait(self) -> float:
        """Go on to the moment at which the pool may ask again; return how long that took."""
        waited_s = max(0.0, self.trouble.opens_at - self.now)
        self.now += waited_s
        return waited_s

    @property
    def attempts(self) -> int:
        """How many attempts all rows are charged."""
        return sum(pending.attempts for pending in self.rows.values())


# An endpoint that is down


def test_connections_that_were_closed_just_before_are_nobodys_fault() -> None:
    """The row is asked again at once, however often it happens; nothing is charged, and nobody waits."""
    world = World()
    assert [world.fail("a", RACE) for _ in range(2 * OUTAGE_ROWS)] == [RetryAt(world.now)] * 2 * OUTAGE_ROWS
    assert not world.is_holding()
    assert not world.attempts


def test_one_request_that_cannot_be_sent_is_chance() -> None:
    """Where others get through, nobody waits for one that did not, and nothing is charged."""
    world = World()
    for _ in range(5):
        assert isinstance(world.fail("a", REFUSED), RetryAt)
        assert not world.is_holding()
        world.answer()
    assert world.attempts == 0


def test_several_in_a_row_that_cannot_be_sent_hold_everybody() -> None:
    """The endpoint is down: one probe at a time, at growing intervals, and no attempt is charged."""
    world = World()
    for number in range(UNSENT_IN_A_ROW):
        assert not world.is_holding()
        assert isinstance(world.fail(str(number), REFUSED), RetryAt)
    assert world.is_holding()
    waits = []
    for _ in range(9):
        waits.append(world.wait())
        assert isinstance(world.fail("a", REFUSED), RetryAt)
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    world.wait()
    world.answer()
    assert not world.is_holding()
    assert world.attempts == 0


def test_outage_beyond_the_patience_ends_the_job() -> None:
    """The last probe is made when the patience ends, and then the job does."""
    world = World(max_outage_s=20.0)
    began = world.now
    while isinstance(step := world.fail("a", REFUSED), RetryAt):
        world.wait()
    assert isinstance(step, Stop)
    assert str(step.reason).startswith(
        "the endpoint has been down for 20 s, as long as limits.max_outage allows: cannot"
    )
    assert world.now - began == pytest.approx(20.0, abs=31.0)


@pytest.mark.parametrize(
    ("waits_for_first", "reached", "is_over"),
    [(False, "", True), (True, "", False), (False, "https://api/v1", False), (False, "https://other/v1", True)],
)
def test_endpoint_that_never_answered_is_waited_for_when_told(
    waits_for_first: bool, reached: str, is_over: bool
) -> None:
    """Nobody wants to wait an hour for a mistyped address, unless he says so; one that answered last night is right."""
    world = World(has_worked=False, waits_for_first=waits_for_first, reached=reached)
    for _ in range(UNREACHED_TRIES - 1):
        assert isinstance(world.fail("a", REFUSED), RetryAt)
        world.wait()
    assert isinstance(world.fail("a", REFUSED), Stop) == is_over


def test_loading_model_holds_at_once() -> None:
    """A server that says that it is not ready says so to everybody, and has been reached."""
    world = World(has_worked=False)
    for _ in range(UNREACHED_TRIES + 2):
        assert isinstance(world.fail("a", LOADING), RetryAt)
        assert world.is_holding()
        world.wait()
    assert world.trouble.notes == ("waiting for the endpoint, with one probe at a time: Loading model",)


def test_quota_is_waited_for_until_it_comes_back() -> None:
    """A known reset within the patience is the next probe; one beyond it ends the job at once."""
    world = World()
    assert isinstance(world.fail("a", Failure("unavailable", "per day", 429, retry_after_s=300.0)), RetryAt)
    assert world.wait() == 300.0
    step = World().fail("a", Failure("unavailable", "per day", 429, retry_after_s=7_200.0))
    assert isinstance(step, Stop)
    assert str(step.reason) == "the endpoint is back in 7,200 s, later than limits.max_outage allows: per day"


@pytest.mark.parametrize("failure", [GATEWAY, RESET, CRASH])
def test_rows_that_fail_one_after_the_other_are_an_outage(failure: Failure) -> None:
    """Nothing gets through any more: all wait, and what rows were charged before that was known is taken back."""
    world = World()
    for number in range(OUTAGE_ROWS - 1):
        assert world.fail(str(number), failure) == Charge(is_final=False)
    assert world.fail("0", failure) == Charge(is_final=False)
    assert world.attempts == OUTAGE_ROWS
    assert isinstance(world.fail("last", failure), RetryAt)
    assert world.is_holding()
    assert world.attempts == 0
    for _ in range(5):
        world.wait()
        assert isinstance(world.fail("0", failure), RetryAt)
    assert world.attempts == 0


def test_few_rows_that_always_fail_are_their_own_trouble() -> None:
    """Poison rows are charged each time, though nothing else is left to be asked."""
    world = World()
    for _ in range(6):
        for row in "abcde":
            assert world.fail(row, GATEWAY) == Charge(is_final=False)
    assert not world.is_holding()


def test_anything_that_gets_through_between_is_no_outage() -> None:
    """Forty rows may fail, when others pass."""
    world = World()
    for number in range(2 * OUTAGE_ROWS):
        assert isinstance(world.fail(str(number), GATEWAY), Charge)
        if number % 10 == 0:
            world.answer()
    assert not world.is_holding()


def test_crashes_before_anything_worked_end_the_job_soon() -> None:
    """An endpoint that answers 500 from the start may do so for ever: no row is failed for it, and few are asked."""
    world = World(has_worked=False)
    step: RetryAt | Charge | GiveUp | Stop = Charge(is_final=False)
    for number in range(2 * OUTAGE_ROWS):
        step = world.fail(str(number), CRASH)
        world.wait()
        if isinstance(step, Stop):
            break
    assert isinstance(step, Stop)
    assert str(step.reason).startswith("the endpoint brings nothing but errors (500): internal error; ")
    assert len(world.rows) < OUTAGE_ROWS + UNREACHED_TRIES
    assert world.attempts == 0


def test_rows_that_an_earlier_run_gave_up_are_no_witnesses() -> None:
    """Poison of last night is asked again tonight, alone: that is no outage."""
    world = World()
    for row in range(3 * OUTAGE_ROWS):
        pending = world.rows[str(row)] = Pending(ChatRequest(b"", b"{}", ""), has_failed_before=True)
        for attempt in range(3):
            assert world.fail(str(row), GATEWAY) == Charge(is_final=False)
            assert pending.attempts == attempt + 1
    assert not world.is_holding()


def test_rows_that_failed_while_others_passed_are_no_witnesses() -> None:
    """Scattered poison rows, asked again at the end of the table, are poison still."""
    world = World()
    for row in range(2 * OUTAGE_ROWS):
        world.fail(str(row), GATEWAY)
        world.answer()
    for row in range(2 * OUTAGE_ROWS):
        assert world.fail(str(row), GATEWAY) == Charge(is_final=False)
    assert not world.is_holding()


def test_tried_rows_that_are_all_that_is_left_are_believed_in_the_end() -> None:
    """They may be poison that stood last: after a while they are charged, and the job ends by itself."""
    world = World(max_outage_s=7_200.0)
    for number in range(OUTAGE_ROWS):
        world.fail(str(number), GATEWAY, is_rest_tried=True)
    began = world.now
    while world.is_holding() and world.now - began < 2 * REST_PATIENCE_S:
        world.wait()
        step = world.fail("0", GATEWAY, is_rest_tried=True)
    assert step == Charge(is_final=False)
    assert REST_PATIENCE_S < world.now - began < REST_PATIENCE_S + 60
    for number in range(OUTAGE_ROWS):
        assert world.fail(str(number), GATEWAY, is_rest_tried=True) == Charge(is_final=False)


def test_outage_amid_the_table_is_waited_for_to_the_end() -> None:
    """While rows wait that were never asked, the endpoint's failures are not the rows'."""
    world = World(max_outage_s=7_200.0)
    for number in range(OUTAGE_ROWS):
        world.fail(str(number), GATEWAY)
    while isinstance(step := world.fail("0", GATEWAY), RetryAt):
        world.wait()
    assert isinstance(step, Stop)
    assert str(step.reason).startswith("the endpoint has been down for 7,200 s")


def test_very_long_outage_is_only_long() -> None:
    """Thousands of probes are no reason to fail."""
    world = World(max_outage_s=86_400.0)
    for _ in range(2_000):
        assert isinstance(world.fail("a", LOADING), RetryAt)
        assert world.wait() <= 30.0


def test_limit_that_lifts_too_late_ends_the_job_at_once() -> None:
    """As with a quota: a wait that the job does not allow is not begun."""
    world = World(max_outage_s=5.0)
    step = world.fail("a", Failure("rate_limit", "slow down", 429, retry_after_s=100.0))
    assert isinstance(step, Stop)
    assert str(step.reason) == "the endpoint's limit lifts in 100 s, later than limits.max_outage allows: slow down"


def test_resets_at_the_start_of_an_outage_are_taken_back() -> None:
    """What was in flight breaks, and then nothing can be sent: no row has lost an attempt."""
    world = World()
    for number in range(8):
        world.fail(str(number), RESET)
    assert world.attempts == 8
    for number in range(UNSENT_IN_A_ROW):
        world.fail(str(number), REFUSED)
    assert world.is_holding()
    assert world.attempts == 0


def test_rows_charged_as_an_outage_begins_are_refunded() -> None:
    """At its onset some answers still come in between; what others were charged just then is taken back too."""
    world = World()
    for number in range(10):
        world.fail(str(number), GATEWAY)
        world.answer()
    assert world.attempts == 10
    world.now += 1.0
    for number in range(100, 100 + OUTAGE_ROWS):
        world.fail(str(number), GATEWAY)
    assert world.is_holding()
    assert world.attempts == 0
    world.wait()
    assert isinstance(world.fail("3", GATEWAY), RetryAt)


def test_rows_that_failed_long_before_an_outage_keep_their_charge() -> None:
    """That was their own trouble, and while the outage lasts they are not charged for more."""
    world = World()
    for number in range(10):
        world.fail(str(number), GATEWAY)
        world.answer()
    world.now += 60.0
    for number in range(100, 100 + OUTAGE_ROWS):
        world.fail(str(number), GATEWAY)
    assert world.attempts == 10
    world.wait()
    assert isinstance(world.fail("3", GATEWAY), RetryAt)
    assert world.attempts == 10


def test_endpoint_half_back_is_probed_and_charged() -> None:
    """While something before it answers for a backend that is down, probes stay rare, and poison rows end."""
    world = World()
    for number in range(UNSENT_IN_A_ROW):
        world.fail(str(number), REFUSED)
    waits = []
    for _ in range(4):
        waits.append(world.wait())
        assert world.fail("a", GATEWAY) == Charge(is_final=False)
    assert waits == [0.5, 1.0, 2.0, 4.0]
    assert world.is_holding()


# What ends the job, or only the row


def test_refusal_of_the_job_ends_it() -> None:
    """With the provider's words, and what to do."""
    step = World().fail("a", BAD_KEY)
    assert isinstance(step, Stop)
    assert str(step.reason).startswith("the endpoint refuses the job (401): Invalid API key; ")


def test_refusal_of_a_row_is_final() -> None:
    """Another attempt would bring nothing else."""
    assert World().fail("a", BAD_ROW) == Charge(is_final=True)


def test_rate_limit_that_never_lifts_ends_the_job() -> None:
    """It is no outage, but patience has the same end."""
    world = World(max_outage_s=60.0)
    step: RetryAt | Charge | GiveUp | Stop = RetryAt(0.0)
    while isinstance(step, RetryAt):
        world.fail("b", LIMIT)
        step = world.fail("a", LIMIT)
        world.wait()
        world.now += 1.0
    assert isinstance(step, Stop)
    assert "did not lift" in str(step.reason)


# Words that may be an echo


def world_asking(model: str, *, has_worked: bool = True) -> World:
    """Return a world with a row `a` whose request names a model."""
    world = World(has_worked=has_worked)
    body = b'{"model":"%s","messages":[{"role":"user","content":"..."}]}' % model.encode()
    world.rows["a"] = Pending(ChatRequest(b"a", body, "a"))
    return world


@pytest.mark.parametrize("has_worked", [False, True])
@pytest.mark.parametrize(
    "message", ["Model not found: gpt-99", "The model `gpt-99` does not exist", "Invalid model: gpt-99"]
)
def test_sentence_with_the_model_that_was_asked_for_ends_the_job(message: str, has_worked: bool) -> None:
    """It is the endpoint's own, whatever was answered before."""
    step = world_asking("gpt-99", has_worked=has_worked).fail("a", Failure("not_found", message, 400, is_by_words=True))
    assert isinstance(step, Stop)


@pytest.mark.parametrize("has_worked", [False, True])
def test_sentence_about_another_model_is_the_rows(has_worked: bool) -> None:
    """A provider that answers with nothing but the prompt says nothing about the job."""
    failure = Failure("not_found", "Model not found: my-favourite", 400, is_by_words=True)
    assert world_asking("gpt-99", has_worked=has_worked).fail("a", failure) == Charge(is_final=True, kind="bad_request")


@pytest.mark.parametrize("kind", ["credits", "auth"])
def test_sentence_about_money_or_keys_is_doubted_after_an_answer(kind: str) -> None:
    """Before any answer it ends the job; later it may be an echo, and more than one must say so."""
    failure = Failure(kind, "Your credit balance is too low to access it", 400, is_by_words=True)
    assert isinstance(world_asking("m", has_worked=False).fail("a", failure), Stop)
    assert world_asking("m").fail("a", failure) == Charge(is_final=True, kind="bad_request")
    assert isinstance(world_asking("m").fail("a", Failure(kind, "x", 400)), Stop)


# Cuts


@pytest.mark.parametrize(
    "failure", [RESET, Failure("server", "bad gateway", 502, is_outcome_unknown=True)], ids=["reset", "502"]
)
def test_three_cuts_after_the_same_time_are_a_proxys(failure: Failure) -> None:
    """It is named once, with the time and what helps."""
    world = World()
    for took_s in (60.2, 61.0, 60.5, 60.1, 60.2, 60.3):
        world.fail("a", failure, took_s=took_s)
        world.answer()
    assert len(world.trouble.notes) == 1
    assert world.trouble.notes[0].startswith("3 requests in a row were cut off after about 61 s each: ")
    assert "request.stream" in world.trouble.notes[0]


@pytest.mark.parametrize("times", [(60.0, 50.0, 60.0, 40.0), (0.6, 0.6, 0.6), (60.0, 60.0)])
def test_other_cuts_are_chance(times: tuple[float, ...]) -> None:
    """Different times, or none at all, are no time limit."""
    world = World()
    for took_s in times:
        world.fail("a", RESET, took_s=took_s)
        world.answer()
    assert world.trouble.notes == ()


def test_own_time_limit_is_no_proxys() -> None:
    """What this side gave up was not cut by another."""
    world = World()
    for _ in range(5):
        world.fail("a", Failure("timeout", "no whole reply within 60 s", is_outcome_unknown=True), took_s=60.0)
        world.answer()
    assert world.trouble.notes == ()
