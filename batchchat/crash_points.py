"""Places at which a test can kill the process, named by an environment variable; nothing happens without it.

`BATCHCHAT_CRASH_AT=before-commit:3` kills at the third time that a thread comes by `before-commit`, as `kill -9` would:
no handler runs, and nothing is flushed.
"""

import os
import signal
from collections import Counter

VARIABLE = "BATCHCHAT_CRASH_AT"

_passes: Counter[str] = Counter()


def crash_point(name: str) -> None:
    """Kill this process, if it is to crash here, and now."""
    wanted, _, count = os.environ.get(VARIABLE, "").partition(":")
    if name != wanted:
        return
    _passes[name] += 1
    if _passes[name] >= int(count or 1):
        os.kill(os.getpid(), signal.SIGKILL)
