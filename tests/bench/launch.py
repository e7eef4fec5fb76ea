"""Run a command to its end on a core, and write down what it cost: `launch.py RESULT CORE END_AFTER_S COMMAND...`.

A process of its own, and a small one: the system says of a child's peak memory at least what its parent had when it
started it. The result is JSON; CORE is - to pin nothing. After END_AFTER_S seconds the command gets a SIGTERM; 0 is
never. It imports nothing but the standard library, so that `python -I -S` can run it.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def main(result: str, core: str, end_after_s: str, *command: str) -> None:
    """Run the command, and write the result."""
    started_at, started = time.time(), time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            if core != "-" and sys.platform == "linux":
                os.sched_setaffinity(0, {int(core)})
            os.execvp(command[0], command)
        finally:
            os._exit(127)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGTERM))
    signal.setitimer(signal.ITIMER_REAL, float(end_after_s))
    _, status, usage = os.wait4(pid, 0)
    found = {
        "code": os.waitstatus_to_exitcode(status),
        "started_at": started_at,
        "seconds": time.monotonic() - started,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
    }
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
