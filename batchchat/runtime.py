"""What Python does by itself, kept from holding up the event loop: looking for garbage, and threads taking turns.

For as long as it looks for garbage, nothing else goes on in the process; through what stays that takes some 50 ms.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

MADE_BETWEEN_LOOKS = 20_000
"""Objects more than were let go of, after which Python looks among the youngest; its own number is 700."""

OWN_FROZEN = 1_000
"""Frozen objects up to which no program has frozen any: Python 3.12 keeps some hundred of its own there."""

TURN_S = 0.001
"""Seconds that a thread may keep Python's lock from others; its own number is five times as much. Each
thing that the loop has waited for is a turn, and a round has many: beside a thread that computes, all waits add up."""


@contextmanager
def importing() -> Iterator[None]:
    """Look for none within the block, and never for any among what was made there: modules stay."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Look within the block only among what is made there, and seldom: requests leave little that needs it.

    Threads take turns more often.
    """
    turn_s = sys.getswitchinterval()
    sys.setswitchinterval(TURN_S)
    frozen_before, thresholds = gc.get_freeze_count(), gc.get_threshold()
    gc.freeze()
    gc.set_threshold(MADE_BETWEEN_LOOKS, *thresholds[1:])
    try:
        yield
    finally:
        sys.setswitchinterval(turn_s)
        gc.set_threshold(*thresholds)
        if frozen_before <= OWN_FROZEN:
            gc.unfreeze()
