"""When Python looks for garbage: not through what stays, which takes some 50 ms each time.

For as long as it looks, nothing else goes on in the process: no event loop, no other thread.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

MADE_BETWEEN_LOOKS = 20_000
"""Objects more than were let go of, after which Python looks among the youngest; its own number is 700."""


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
    """Look within the block only among what is made there, and seldom: requests leave little that needs it."""
    frozen_before, thresholds = gc.get_freeze_count(), gc.get_threshold()
    gc.freeze()
    gc.set_threshold(MADE_BETWEEN_LOOKS, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        if not frozen_before:
            gc.unfreeze()
