"""Time limits of attempts: each ends at its own time, on one timer for all."""

import asyncio
import time

import pytest

from batchchat.send.http.deadline import Alarm, Deadline, TimeLimits

LIMITS = TimeLimits(connect_s=1, first_byte_s=1, idle_s=1, total_s=0.2)


async def attempt(alarm: Alarm, lasts_s: float, limits: TimeLimits = LIMITS) -> tuple[str, float]:
    """Return how an attempt ended that would last so long, and the seconds that it took."""
    started = time.monotonic()
    deadline = Deadline(limits, alarm)
    try:
        with deadline:
            deadline.on_written()
            await asyncio.sleep(lasts_s)
    except TimeoutError:
        return str(deadline), time.monotonic() - started
    return "in time", time.monotonic() - started


@pytest.mark.slow
def test_attempts_end_at_their_own_limits_and_those_in_time_at_none() -> None:
    """Attempts that begin one after the other end one after the other, and those that were done do not."""

    async def later(alarm: Alarm, starts_s: float, lasts_s: float) -> tuple[str, float]:
        await asyncio.sleep(starts_s)
        return await attempt(alarm, lasts_s)

    async def ends() -> list[tuple[str, float]]:
        alarm = Alarm()
        return await asyncio.gather(*(later(alarm, start / 100, 9 if start % 3 else 0.1) for start in range(12)))

    for number, (end, seconds) in enumerate(asyncio.run(ends())):
        assert end == ("no whole reply within 0.2 s" if number % 3 else "in time")
        assert (0.19 if number % 3 else 0.09) <= seconds < 5


@pytest.mark.slow
def test_alarm_that_rang_rings_for_later_attempts_too() -> None:
    """The timer is set anew."""

    async def ends() -> list[str]:
        alarm = Alarm()
        return [(await attempt(alarm, seconds))[0] for seconds in (9, 0.01, 9)]

    assert asyncio.run(ends()) == ["no whole reply within 0.2 s", "in time", "no whole reply within 0.2 s"]


@pytest.mark.parametrize("total_s", [0.2, 9])
def test_nearer_limit_ends_the_attempt_first(total_s: float) -> None:
    """A limit of a step has a timer of its own."""
    limits = TimeLimits(connect_s=1, first_byte_s=0.05, idle_s=1, total_s=total_s)
    end, seconds = asyncio.run(attempt(Alarm(), 9, limits))
    assert end == "no reply began within 0.05 s"
    assert 0.04 <= seconds < 5


def test_attempt_that_lingers_ends_when_that_is_over_unless_more_comes() -> None:
    """Lingering can be taken back."""

    async def lingering(*, goes_on: bool) -> str:
        deadline = Deadline(LIMITS, Alarm())
        try:
            with deadline:
                deadline.linger(0.02)
                if goes_on:
                    deadline.go_on()
                await asyncio.sleep(0.1)
        except TimeoutError:
            return "ended"
        return "in time"

    assert asyncio.run(lingering(goes_on=False)) == "ended"
    assert asyncio.run(lingering(goes_on=True)) == "in time"
