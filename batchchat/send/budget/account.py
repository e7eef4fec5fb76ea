"""What a run's requests may cost and did cost, under its budget.

Without a budget it lets everything pass.
"""

from __future__ import annotations

import math
from dataclasses import replace
from enum import Enum

from batchchat.records import NO_USAGE, Completion, Failure, Progress
from batchchat.send.budget.ledger import Budget, larger, smaller
from batchchat.send.budget.worst_case import WorstCase, size_of
from batchchat.send.state.row_cost import NOTHING, WITHOUT_LIMIT, Amount, Reserved, RowCost
from batchchat.send.state.turn import Turn

FIRST_SHARE = 0.1
"""Share of what is left that may be under way until a first reply shows how good the bounds are."""
ALLOWED_SHARE = 0.1
"""Share of what is left that the store is told of before it is needed: after a kill it counts as gone, sent or not."""


class BudgetState(Enum):
    """Whether a row's next request may start."""

    OPEN = "it may"
    WAIT = "when replies have shown what others cost"
    TELL = "when the store knows that so much more may be gone"
    OVER = "never: there is not enough left"


class Account:
    """One run's account; `budget` None: there is no limit, and nothing is counted."""

    def __init__(self, budget: Budget | None = None, worst_case: WorstCase | None = None) -> None:
        self.budget = budget
        self._worst_case = worst_case or WorstCase(lambda _: None)
        self._largest = self._next = NOTHING
        self._has_reply = False

    def entry(self, cost: RowCost, turn: Turn, told_tokens: int | None, *, is_quiet: bool) -> BudgetState | Failure:
        """Return whether a row's next request may start; a Failure where its cost has no bound.

        `told_tokens` took the answer that the turn tells again. `is_quiet` says that nothing is in flight or on its way
        to the store.
        """
        budget = self.budget
        if budget is None:
            return BudgetState.OPEN
        worst = self._worst(cost, turn, told_tokens)
        if isinstance(worst, str):
            return Failure("template", f"{worst}; limits.budget_usd and limits.budget_tokens need that")
        kept = cost.charge.later if cost.charge else NOTHING
        more = worst.whole.without(kept)
        self._largest, self._next = larger(self._largest, more), more
        if not budget.fits(more):
            return BudgetState.OVER if is_quiet else BudgetState.WAIT
        if not self._has_reply and not self._is_first_share(more, budget):
            return BudgetState.WAIT
        return BudgetState.OPEN if budget.is_covered(more) else BudgetState.TELL

    def _is_first_share(self, more: Amount, budget: Budget) -> bool:
        """Whether a request may start that no reply came before: one always may."""
        is_first = budget.reserved == NOTHING
        return is_first or (budget.reserved + more).is_within((budget.left + budget.reserved) * FIRST_SHARE)

    def _worst(self, cost: RowCost, turn: Turn, told_tokens: int | None) -> Reserved | str:
        if cost.size is None:
            size = size_of(cost.request)
            if not isinstance(size, str) and self._lacks_price(size.model):
                size = f"no price is known for the model {size.model[:100]!r}"
            if isinstance(size, str):
                return size
            cost.size = size
        now = self._worst_case.request(cost.size, turn, told_tokens)
        return Reserved(now, self._worst_case.later(cost.size, turn))

    def _lacks_price(self, model: str) -> bool:
        assert self.budget is not None
        return self.budget.limit.usd < WITHOUT_LIMIT.usd and self._worst_case.prices(model) is None

    def start(self, cost: RowCost, turn: Turn, told_tokens: int | None) -> None:
        """Set the worst case of a row aside, of which nothing has been sent yet or a turn is to be."""
        if self.budget is None:
            return
        worst = self._worst(cost, turn, told_tokens)
        assert not isinstance(worst, str)
        self.release(cost)
        self.budget.reserve(worst.whole)
        cost.charge = worst

    def settle(self, cost: RowCost, turn: Turn, read: Completion | Failure, *, may_be_billed: bool) -> None:
        """Take what a row's request cost; what may follow from a completion stays set aside until `release`.

        `may_be_billed`: a failure came after a model may have worked.
        """
        charge, budget = cost.charge, self.budget
        if budget is None or charge is None or cost.size is None:
            return
        if isinstance(read, Completion) or read.usage != NO_USAGE:
            self._has_reply = True
            known = self._worst_case.cost(cost.size, read.usage, charge.now)
            self._worst_case.learn(cost.size, turn, usage=read.usage, worst=charge.now)
            budget.spend(charge.now, known)
        elif may_be_billed:
            budget.hold(charge.now)
        else:
            budget.give_back(charge.now)
        cost.charge = replace(charge, now=NOTHING)
        if isinstance(read, Failure):
            self.release(cost)

    def abandon(self, cost: RowCost) -> None:
        """Keep as gone what was set aside for a request of which nothing more will be known."""
        if self.budget is not None and cost.charge is not None and cost.charge.now != NOTHING:
            self.budget.hold(cost.charge.now)
            cost.charge = replace(cost.charge, now=NOTHING)
            self.release(cost)

    def release(self, cost: RowCost) -> None:
        """Free what is still set aside for a row."""
        if self.budget is not None and cost.charge is not None:
            self.budget.give_back(cost.charge.whole)
            cost.charge = None

    def close(self) -> None:
        """Free what is set aside for rows that a stop left on the way: nothing of it was sent."""
        if self.budget is not None:
            self.budget.give_back(self.budget.reserved)

    # What the store knows

    def tell(self, free_slots: int) -> None:
        """Note that the store is about to be told; so many more requests may start until it is told again."""
        if self.budget is not None:
            budget, slots = self.budget, self._largest * max(0, free_slots)
            share = Amount(budget.left.usd * ALLOWED_SHARE, budget.left.tokens * ALLOWED_SHARE)
            budget.tell(smaller(slots, larger(self._largest, share)))

    def has_told(self) -> None:
        """Note that the store has the bound."""
        if self.budget is not None:
            self.budget.has_told()

    def noted(self, progress: Progress) -> Progress:
        """Return a run's progress with what may be gone beside what it says itself."""
        if self.budget is None:
            return progress
        counted = Amount(progress.cost_usd, progress.prompt_tokens + progress.completion_tokens)
        held = self.budget.told.without(counted)
        return replace(progress, held_usd=held.usd, held_tokens=math.ceil(held.tokens))

    @property
    def end(self) -> tuple[str, str]:
        """The key of `limits` that leaves no room for the next row, and in words how much is gone."""
        assert self.budget is not None
        budget, next_row = self.budget, self._next
        gone, unknown = budget.total, budget.held
        if (gone + next_row).usd > budget.limit.usd:
            name = "budget_usd"
            amounts = [_dollars(one.usd) for one in (gone, budget.limit, unknown, next_row)]
        else:
            name = "budget_tokens"
            amounts = [f"{one.tokens:,.0f} tokens" for one in (gone, budget.limit, unknown, next_row)]
        spent, limit, held, wanted = amounts
        aside = f" ({held} of it for requests whose outcome is unknown)" if unknown != NOTHING else ""
        return name, (
            f"limits.{name}: {spent} of {limit} are spent{aside}, and the next row may take {wanted};"
            f" raise limits.{name} or ask for fewer tokens (request.max_tokens), and the same command goes on"
        )


def _dollars(amount: float) -> str:
    return f"${amount:,.2f}" if amount >= 100 else f"${amount:,.4g}"
