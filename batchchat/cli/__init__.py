"""The click commands: arguments in, exit codes out; the only place that prints or exits.

Standard output is for data, everything else goes to standard error. Heavy modules are imported by the commands that
need them, so that `--help` and typing errors answer at once.
"""

from batchchat.cli import keeping, looking, run, scheduling, starting
from batchchat.cli.group import main

__all__ = ["keeping", "looking", "main", "run", "scheduling", "starting"]
