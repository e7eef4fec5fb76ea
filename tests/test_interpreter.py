"""When Python looks for garbage: what stays is not looked through, and what is made later still is."""

from __future__ import annotations

import gc
import subprocess
import sys
from contextlib import suppress

import pytest

from batchchat.runtime import undisturbed

pytestmark = pytest.mark.slow

IMPORTS = """
import gc
from batchchat.runtime import importing
looked = []
gc.callbacks.append(lambda phase, info: looked.append(phase))
gc.enable()
with importing():
    kept = [[number] for number in range(100_000)]
assert gc.isenabled()
print(len(looked), gc.get_freeze_count() > 100_000, kept in gc.get_objects())
"""


class Ring:
    """Something that only the collector frees."""

    freed = 0

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        """Count it."""
        Ring.freed += 1


def test_imports_are_not_looked_through() -> None:
    """Not meanwhile, and not afterwards; then the collector goes on with what comes."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["0", "True", "False"]


def test_only_what_is_new_is_looked_through() -> None:
    """A ring made within the block is freed there; one from before when the block has ended, even by an error."""
    gc.unfreeze()
    gc.collect()
    Ring.freed = 0
    Ring()
    with suppress(KeyError), undisturbed():
        Ring()
        gc.collect()
        assert Ring.freed == 1
        raise KeyError
    gc.collect()
    assert Ring.freed == 2


def test_what_was_frozen_before_stays_so() -> None:
    """A program that froze its own objects finds them frozen."""
    gc.freeze()
    try:
        with undisturbed():
            pass
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
