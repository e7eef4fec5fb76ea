"""Budgets: worst cases are set aside, settled by replies, and never exceed the limit in sum."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchchat.records import ChatRequest, Completion, Failure, Media, Price, Progress, Usage
from batchchat.send.budget.account import Account, BudgetState
from batchchat.send.budget.ledger import Budget
from batchchat.send.budget.worst_case import (
    FIRST_IMAGE,
    FIRST_MARGIN,
    FIRST_OVERHEAD,
    FIRST_OVERSHOOT,
    KNOWN_AFTER,
    LEAST_OVERHEAD,
    MARGIN,
    UNSEEN_FILE,
    WorstCase,
    size_of,
)
from batchchat.send.http.transport import Reply
from batchchat.send.limits.concurrency import Concurrency
from batchchat.send.reply.failures import may_be_billed
from batchchat.send.state.row import Pending
from batchchat.send.state.row_cost import NOTHING, WITHOUT_LIMIT, Amount, RowCost, Size
from batchchat.send.state.turn import Turn
from batchchat.send.structured.judge import Structure, body_for
from tests.scheduled import schedule_over
from tests.send.scheduler.test_scheduler import HANG_S, MemoryStore
from tests.send.scheduler.test_turns import FITS, requests, said

PRICE = Price(input=1.0, output=4.0)
UNKNOWN = Failure("connect", "the connection broke before the reply was whole", is_outcome_unknown=True)
TURNED_AWAY = Failure("rate_limit", "slow down", 429)


def request_of(text: str = "hello", media: tuple[Media, ...] = (), **fields: Any) -> ChatRequest:
    """Return a request with `max_tokens` of 100, unless `fields` say otherwise."""
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 100, **fields}
    content = json.dumps({name: value for name, value in body.items() if value is not None}).encode()
    count = fields.get("n")
    return ChatRequest(b"k", content, "1", media, choice_count=count if isinstance(count, int) else 1)


def known_size(request: ChatRequest) -> Size:
    """Return the size of a request that has one."""
    size = size_of(request)
    assert isinstance(size, Size)
    return size


def worst_of(**fields: Any) -> Amount:
    """Return the worst case of one request, before anything is known."""
    return WorstCase(lambda _: PRICE).request(known_size(request_of(**fields)), Turn())


def spending_of(limit: Amount, *, has_schema: bool = False) -> Account:
    """Return an account whose store knows everything at once."""
    spending = Account(Budget(limit), WorstCase(lambda _: PRICE, has_schema))
    spending.budget.tell(WITHOUT_LIMIT)  # type: ignore[union-attr]
    spending.has_told()
    return spending


def completion(prompt: int, completed: int) -> Completion:
    """Return an answer that took so many tokens."""
    return Completion("yes", usage=Usage(prompt, completed))


REPLY = Reply(200, {}, b"{}", 0.01)


def row_of(request: ChatRequest, turn: Turn | None = None) -> Pending:
    """Return a row whose cost is counted."""
    return Pending(request, turn=turn or Turn(), cost=RowCost(request))


def cost_of(row: Pending) -> RowCost:
    """Return what a row's requests may cost."""
    assert row.cost is not None
    return row.cost


def entry(account: Account, row: Pending, *, is_quiet: bool) -> BudgetState | Failure:
    """Ask whether a row's next request may start."""
    return account.entry(cost_of(row), row.turn, row.told_tokens, is_quiet=is_quiet)


def start(account: Account, row: Pending) -> None:
    """Start a row's next request."""
    account.start(cost_of(row), row.turn, row.told_tokens)


def settle(account: Account, row: Pending, reply: Reply | None, read: Completion | Failure) -> None:
    """Take what came of a row's request, as the run does."""
    is_billed = may_be_billed(read, reply.status if reply else None)
    account.settle(cost_of(row), row.turn, read, may_be_billed=is_billed)


def release(account: Account, row: Pending) -> None:
    """Free what is still set aside for a row."""
    account.release(cost_of(row))


# The sums


@dataclass
class Bill:
    """An endpoint's own account of a run: what it worked on, whatever became of the reply."""

    usd: float = 0.0
    tokens: float = 0.0
    in_flight: list[tuple[Pending, Usage]] = field(default_factory=list)


STEPS = dict.fromkeys(["start", "tell", "told"], 20) | {
    "answer": 6,
    "unknown": 4,
    "refuse": 2,
    "no usage": 2,
    "kill": 1,
}


@pytest.mark.slow
@settings(max_examples=40)
@given(seed=st.integers(0, 10**9), limit=st.integers(10_000, 60_000), has_schema=st.booleans())
def test_whatever_happens_the_bill_stays_within_the_budget(seed: int, limit: int, has_schema: bool) -> None:
    """Starts, replies, losses, commits on their way, kills: neither the run nor its store ever knows of less."""
    chance = Random(seed)
    limits = Amount(limit * 2e-6, float(limit))
    spending, bill, stored = Account(Budget(limits), WorstCase(lambda _: PRICE, has_schema)), Bill(), NOTHING
    on_its_way: Amount | None = None
    for name in chance.choices(list(STEPS), list(STEPS.values()), k=1_200):
        budget = spending.budget
        assert budget is not None
        if name == "start" and len(bill.in_flight) < 4:
            pending = row_of(request_of("x" * chance.randint(1, 500)))
            if entry(spending, pending, is_quiet=False) is BudgetState.OPEN:
                start(spending, pending)
                size = len(pending.request.body)
                usage = Usage(chance.randint(size // 2, size), chance.randint(50, 100))
                bill.in_flight.append((pending, usage))
        elif name == "tell" and on_its_way is None:
            spending.tell(chance.randint(0, 2))
            noted = spending.noted(Progress())
            on_its_way = budget.before + Amount(noted.held_usd, noted.held_tokens)
        elif name == "told" and on_its_way is not None:
            stored, on_its_way = on_its_way, None
            spending.has_told()
        elif name == "kill":
            bill.usd += sum(cost(usage).usd for _, usage in bill.in_flight)
            bill.tokens += sum(cost(usage).tokens for _, usage in bill.in_flight)
            bill.in_flight.clear()
            stored = chance.choice([stored, on_its_way or stored])
            on_its_way = None
            spending = Account(Budget(limits, stored), WorstCase(lambda _: PRICE, has_schema))
        elif bill.in_flight and name in ("answer", "unknown", "refuse", "no usage"):
            pending, usage = bill.in_flight.pop(chance.randrange(len(bill.in_flight)))
            if name != "refuse":
                bill.usd += cost(usage).usd
                bill.tokens += cost(usage).tokens
            results: dict[str, Completion | Failure] = {
                "answer": Completion("yes", usage=usage),
                "no usage": Completion("yes"),
                "unknown": UNKNOWN,
                "refuse": TURNED_AWAY,
            }
            result = results[name]
            settle(spending, pending, None if isinstance(result, Failure) else REPLY, result)
            release(spending, pending)
        gone = Amount(bill.usd, bill.tokens)
        for _, usage in bill.in_flight:
            gone += cost(usage)
        assert spending.budget is not None
        accounts = [limits, spending.budget.total, stored, *([on_its_way] if on_its_way else [])]
        assert all(gone.is_within(account * (1 + 1e-9)) for account in accounts)
        assert spending.budget.total.is_within(limits * (1 + 1e-9))


def cost(usage: Usage) -> Amount:
    """Return what the endpoint bills for a usage."""
    prompt, completed = usage.prompt_tokens or 0, usage.completion_tokens or 0
    return Amount((prompt * PRICE.input + completed * PRICE.output) / 1e6, prompt + completed)


def test_reply_frees_what_was_set_aside_beyond_its_cost() -> None:
    """A second request fits only after the first one has shown that it cost less than it might have."""
    worst = worst_of()
    spending = spending_of(Amount(worst.usd * 1.5, worst.tokens * 1.5))
    first, second = row_of(request_of()), row_of(request_of())
    assert entry(spending, first, is_quiet=True) is BudgetState.OPEN
    start(spending, first)
    assert entry(spending, second, is_quiet=False) is BudgetState.WAIT
    settle(spending, first, REPLY, completion(10, 5))
    release(spending, first)
    assert spending.budget is not None
    assert spending.budget.total == Amount((10 * 1.0 + 5 * 4.0) / 1e6, 15.0)
    assert entry(spending, second, is_quiet=True) is BudgetState.OPEN


@pytest.mark.parametrize(
    ("reply", "result", "is_kept"),
    [
        (None, UNKNOWN, True),
        (REPLY, Failure("server", "upstream failed", 500), True),
        (REPLY, Completion("no usage"), True),
        (Reply(500, {}, b"", 0.01), Failure("server", "internal error", 500), False),
        (Reply(429, {}, b"", 0.01), TURNED_AWAY, False),
        (None, Failure("connect", "refused"), False),
    ],
)
def test_what_may_have_been_billed_stays_charged(
    reply: Reply | None, result: Completion | Failure, *, is_kept: bool
) -> None:
    """A lost reply, an error within a good one and a reply without usage stay charged; refusals cost nothing."""
    spending, pending = spending_of(Amount(1.0, 1e9)), row_of(request_of())
    entry(spending, pending, is_quiet=True)
    start(spending, pending)
    settle(spending, pending, reply, result)
    release(spending, pending)
    assert spending.budget is not None
    assert spending.budget.total == (worst_of() if is_kept else NOTHING)


def test_budget_is_over_only_when_nothing_can_free_more() -> None:
    """While anything is in flight the next row waits; after that there is a reason, with figures and what to do."""
    spending = spending_of(Amount(1e-6, 1e9))
    assert entry(spending, row_of(request_of()), is_quiet=False) is BudgetState.WAIT
    assert entry(spending, row_of(request_of()), is_quiet=True) is BudgetState.OVER
    name, reason = spending.end
    assert name == "budget_usd"
    assert reason.startswith("limits.budget_usd: $0 of $1e-06 are spent, and the next row may take $")


def test_request_waits_for_the_store_to_know_of_it() -> None:
    """Nothing is sent of which a kill would leave no trace; one more commit lets it go."""
    spending, pending = Account(Budget(Amount(1.0, 1e9)), WorstCase(lambda _: PRICE)), row_of(request_of())
    assert entry(spending, pending, is_quiet=True) is BudgetState.TELL
    spending.tell(free_slots=1)
    assert entry(spending, pending, is_quiet=True) is BudgetState.TELL
    spending.has_told()
    assert entry(spending, pending, is_quiet=True) is BudgetState.OPEN
    noted = spending.noted(Progress())
    assert noted.held_usd == pytest.approx(worst_of().usd)
    assert noted.held_tokens == worst_of().tokens


def test_kill_counts_little_as_gone_that_was_never_sent() -> None:
    """The store is told of a tenth of what is left beforehand, however many slots are free, or of one request."""
    worst = worst_of()
    for affordable, told in ((40, 4), (2, 1)):
        spending = Account(
            Budget(Amount(worst.usd * affordable, worst.tokens * affordable)), WorstCase(lambda _: PRICE)
        )
        entry(spending, row_of(request_of()), is_quiet=True)
        spending.tell(free_slots=500)
        noted = spending.noted(Progress())
        assert noted.held_usd == pytest.approx(worst.usd * told)
        assert noted.held_tokens == worst.tokens * told


def test_few_start_before_a_first_reply_shows_what_one_costs() -> None:
    """An endpoint may add more to each prompt than anyone thinks: at first a tenth of the budget is at stake."""
    worst = worst_of()
    spending = spending_of(Amount(worst.usd * 40, worst.tokens * 40))
    pendings = [row_of(request_of()) for _ in range(10)]
    for pending in pendings:
        if entry(spending, pending, is_quiet=False) is BudgetState.OPEN:
            start(spending, pending)
    assert sum(cost_of(pending).charge is not None for pending in pendings) == 4
    settle(spending, pendings[0], REPLY, completion(10, 5))
    assert entry(spending, pendings[9], is_quiet=False) is BudgetState.OPEN


# The worst case of a request


def test_worst_case_is_every_byte_and_every_token_that_is_allowed() -> None:
    """As many tokens as the body has bytes, what may be added, and all completions at their limit."""
    body_bytes = len(request_of(n=3).body)
    tokens = (body_bytes + FIRST_OVERHEAD, 3 * (100 + FIRST_OVERSHOOT))
    assert worst_of(n=3) == Amount((tokens[0] * 1.0 + tokens[1] * 4.0) / 1e6, sum(tokens))


def test_dearer_cached_tokens_are_the_worst_case() -> None:
    """Nobody knows before whether the endpoint finds a prompt in its cache."""
    size = known_size(request_of())
    dear = WorstCase(lambda _: Price(1.0, 4.0, cached_input=2.0)).request(size, Turn())
    assert dear.usd - worst_of().usd == pytest.approx((size.prompt_tokens + FIRST_OVERHEAD) / 1e6)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"max_tokens": None}, "the request has no max_tokens"),
        ({"max_tokens": "100"}, "max_tokens is '100'"),
        ({"max_tokens": 0}, "max_tokens is '0'"),
        ({"max_tokens": True}, "max_tokens is 'True'"),
        ({"max_completion_tokens": -5}, "max_tokens is '-5'"),
    ],
)
def test_request_whose_cost_has_no_bound_fails_alone(fields: dict[str, Any], said: str) -> None:
    """A row may fill in its own limit, and get it wrong; it is not sent, and says why."""
    failure = entry(spending_of(Amount(1.0, 1e9)), row_of(request_of(**fields)), is_quiet=True)
    assert isinstance(failure, Failure)
    assert failure.kind == "template"
    assert failure.message.startswith(said)


def test_row_of_a_model_without_price_fails_under_a_budget_of_dollars_alone() -> None:
    """Tokens can be counted without a price, dollars cannot."""
    prices = {"known": PRICE}.get
    for limit, is_refused in ((Amount(1.0, 1e9), True), (Amount(WITHOUT_LIMIT.usd, 1e9), False)):
        spending = Account(Budget(limit), WorstCase(prices))
        assert isinstance(entry(spending, row_of(request_of()), is_quiet=True), Failure) == is_refused
        assert entry(spending, row_of(request_of(model="known")), is_quiet=True) is BudgetState.TELL


@pytest.mark.parametrize(("above", "is_dearer"), [(50, True), (100_000, False)])
def test_prompt_that_may_be_long_costs_what_long_ones_cost(above: int, *, is_dearer: bool) -> None:
    """Some prices rise with the length of the prompt; where the most that it may have is above that, they hold."""
    size = known_size(request_of())
    tiered = WorstCase(lambda _: Price(1.0, 4.0, longer=((above, Price(2.0, 8.0)),))).request(size, Turn())
    assert tiered.usd == pytest.approx(worst_of().usd * (2 if is_dearer else 1))


def test_picture_counts_as_tokens_and_not_as_bytes() -> None:
    """Neither base64 nor a URL says how many tokens a picture takes; a file that the endpoint fetches may be any."""
    data = "data:image/png;base64," + "A" * 400_000
    for url in (data, "https://example.org/a.png"):
        part = {"type": "image_url", "image_url": {"url": url}}
        size = known_size(request_of(messages=[{"role": "user", "content": [part, part]}]))
        assert (size.images, size.prompt_tokens < 1_000) == (2, True)
        assert WorstCase(lambda _: PRICE).request(size, Turn()).tokens > 2 * FIRST_IMAGE
    video = {"type": "video_url", "video_url": {"url": "https://example.org/a.mp4"}}
    assert known_size(request_of(messages=[{"role": "user", "content": [video]}])).prompt_tokens > UNSEEN_FILE


def test_bounds_follow_what_replies_show() -> None:
    """A hidden prompt of 5,000 tokens is seen at once; when enough is known, nothing is added that was not seen."""
    size = known_size(request_of())
    quiet, loud = WorstCase(lambda _: PRICE), WorstCase(lambda _: PRICE)
    loud.learn(size, Turn(), Usage(5_000, 150), worst_of())
    beyond = 5_000 - size.prompt_tokens
    at_first = (MARGIN + FIRST_MARGIN / 2) * beyond
    assert loud.request(size, Turn()).tokens == size.prompt_tokens + at_first + 100 + MARGIN * 50
    for _ in range(KNOWN_AFTER):
        quiet.learn(size, Turn(), Usage(8, 2), worst_of())
    assert quiet.request(size, Turn()).tokens == size.prompt_tokens + LEAST_OVERHEAD + 100


def test_caution_wanes_with_each_reply() -> None:
    """A budget for some thirty short rows has no room for that of the first one."""
    size, worst_case = known_size(request_of()), WorstCase(lambda _: PRICE)
    bounds = []
    for _ in range(8):
        bounds.append(worst_case.request(size, Turn()).tokens - size.prompt_tokens - 100 - FIRST_OVERSHOOT)
        worst_case.learn(size, Turn(), Usage(8, 2), worst_of())
    assert bounds == sorted(bounds, reverse=True)
    assert (bounds[0], bounds[-1]) == (FIRST_OVERHEAD, LEAST_OVERHEAD)


@given(st.lists(st.tuples(st.integers(1, 4_000), st.floats(0.05, 1.0)), min_size=1, max_size=80), st.integers(0, 1_000))
def test_constant_addition_to_prompts_of_any_length_stays_within_the_bound(
    rows: list[tuple[int, float]], hidden: int
) -> None:
    """Long prompts hide what is added, as they have fewer tokens than bytes; a short one must not exceed it.

    How much that is nobody knows before the first reply.
    """
    worst_case = WorstCase(lambda _: PRICE)
    for number, (length, tokens_per_byte) in enumerate(rows):
        size = known_size(request_of("x" * length))
        actual = hidden + int(length * tokens_per_byte) + 1
        is_first = number == 0
        assert actual + 100 <= worst_case.request(size, Turn()).tokens or (is_first and hidden > FIRST_OVERHEAD)
        worst_case.learn(size, Turn(), Usage(actual, 100), worst_of())


def test_cost_beyond_the_bound_is_expected_of_the_next_one() -> None:
    """A fee for each request, which no price has, is in every bound after the first reply that tells it."""
    spending, pending = spending_of(Amount(1.0, 1e9)), row_of(request_of())
    entry(spending, pending, is_quiet=True)
    start(spending, pending)
    settle(spending, pending, REPLY, Completion("yes", usage=Usage(10, 5, cost_usd=0.02)))
    assert spending.budget is not None
    assert spending.budget.spent.usd == 0.02
    start(spending, pending)
    assert spending.budget.reserved.usd > 0.02


# The turns of a ladder

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}


@given(st.lists(st.sampled_from(["stop", "length"]), min_size=3, max_size=3), st.integers(1, 400), st.integers(0, 2))
def test_all_turns_together_stay_within_what_was_set_aside_for_the_row(
    reasons: list[str], max_tokens: int, mode: int
) -> None:
    """Answers that are cut, wrong, or both, in each way to ask: each as long as may be, a token for each byte."""
    structure, request = Structure(SCHEMA), request_of(max_tokens=max_tokens, response_format=FORMAT)
    spending, pending = spending_of(Amount(1e3, 1e12), has_schema=True), row_of(request, turn=Turn(mode=mode))
    assert spending.budget is not None
    start(spending, pending)
    set_aside, billed, turns = spending.budget.reserved.usd, 0.0, 0
    for reason in reasons:
        body = body_for(request.body, pending.turn)
        allowed = json.loads(body)["max_tokens"]
        usage = Usage(len(body), allowed)
        said = Completion("x" * allowed, finish_reason=reason, usage=usage)
        billed += cost(usage).usd
        settle(spending, pending, REPLY, said)
        judged = structure.judge(said, request.body, pending.turn)
        turns += 1
        if not isinstance(judged, Turn):
            break
        pending.turn, pending.last = judged, (said, REPLY)
        assert entry(spending, pending, is_quiet=False) is BudgetState.OPEN
        start(spending, pending)
    assert turns > 1
    assert billed <= set_aside


def test_later_turns_keep_what_was_set_aside_and_the_last_frees_it() -> None:
    """Another row cannot take what a row needs for its correction."""
    spending, pending = spending_of(Amount(1.0, 1e9), has_schema=True), row_of(request_of())
    assert spending.budget is not None
    start(spending, pending)
    charge = cost_of(pending).charge
    assert charge is not None
    later = charge.later
    settle(spending, pending, REPLY, completion(10, 5))
    assert spending.budget.reserved.usd == pytest.approx(later.usd)
    assert later.usd > 2 * worst_of().usd
    release(spending, pending)
    assert spending.budget.reserved.usd == pytest.approx(0.0)


# The schedule


class BilledStore(MemoryStore):
    """A store that says how many tokens it knows to be gone, or that may be."""

    @property
    def known_tokens(self) -> float:
        """What the last commit said."""
        last = self.progress[-1]
        return last.held_tokens + last.prompt_tokens + last.completion_tokens


def run_within(
    tokens: float, send: Callable[[], Reply], store: MemoryStore, *, rows: int, structure: Structure | None
) -> Progress:
    """Run a job under a budget, one row's request at a time for each of four slots."""

    async def sent(_: ChatRequest, __: bytes, ___: bool) -> Reply:
        return send()

    account = Account(Budget(Amount(math.inf, tokens)), WorstCase(lambda _: PRICE, structure is not None))
    schedule = schedule_over(
        [requests(rows, max_tokens=20)],
        store,
        sent,
        Concurrency(4, 0.0),
        account=account,
        endpoint={"structure": structure},
        max_attempts=3,
        grace_s=HANG_S,
    )
    return asyncio.run(asyncio.wait_for(schedule.run(), HANG_S))


def test_store_knows_of_what_may_be_spent_before_it_is_sent() -> None:
    """After a kill at any moment, what is billed is within what the last commit said."""
    store, billed = BilledStore(), 0

    def send() -> Reply:
        nonlocal billed
        billed += 10
        assert billed <= store.known_tokens
        return said(FITS)

    assert run_within(100_000, send, store, rows=60, structure=None).rows_answered == 60


def test_answered_row_frees_what_was_set_aside_for_its_corrections() -> None:
    """Eight corrections would fill the budget; fifty rows that need none fit."""
    progress = run_within(40_000, lambda: said(FITS), MemoryStore(), rows=50, structure=Structure(SCHEMA))
    assert progress.rows_answered == 50
