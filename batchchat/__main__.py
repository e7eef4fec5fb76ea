"""The `batchchat` command; `python -m batchchat` is the same."""

import os
import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line, and leave with its exit code."""
    _occupy_standard_streams()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C amid the imports ends it without a traceback
    from batchchat.cli import main as run_command

    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run_command(prog_name="batchchat")
    except SystemExit as end:
        _leave(end.code if isinstance(end.code, int) else int(end.code is not None))
    _leave(0)


def _occupy_standard_streams() -> None:
    """Let no file of ours get the number of a standard stream that is closed: a library's last words go there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one


def _leave(code: int) -> NoReturn:
    """Flush the standard streams, and leave without taking the interpreter down piece by piece.

    pyarrow's threads may still let go of Python objects at that moment, which ends in an abort now and then.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:  # full, or the reader has seen enough
            code = code or int(stream is sys.stdout)  # of data, which standard error has none of
    os._exit(code)


if __name__ == "__main__":
    main()
