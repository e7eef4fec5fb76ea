"""Turn a run's deadline into seconds from now."""

from datetime import datetime, time, timedelta, tzinfo


def seconds_until(deadline: float | time, now: datetime | None = None) -> float:
    """Return the seconds to a deadline: as many as it says, or those to the next such time of day, local time.

    `now` is a moment with its timezone, whose time of day is then meant; default: this one, here.
    """
    if not isinstance(deadline, time):
        return deadline
    zone: tzinfo | None = now.tzinfo if now is not None else None
    now = now or datetime.now().astimezone()
    moments = (datetime.combine(now.date() + timedelta(days), deadline, tzinfo=zone) for days in range(3))
    # With the offset that holds at each moment: clocks may change before it.
    return next(left_s for one in moments if (left_s := one.timestamp() - now.timestamp()) > 0)


def in_words(deadline: float | time) -> str:
    """Return what is reached at a deadline."""
    if isinstance(deadline, time):
        return f"it is {deadline:%H:%M}"
    hours, minutes, seconds = int(deadline // 3600), int(deadline % 3600 // 60), deadline % 60
    parts = (f"{hours} h" if hours else "", f"{minutes} min" if minutes else "", f"{seconds:.3g} s" if seconds else "")
    return f"{' '.join(filter(None, parts))} are over"
