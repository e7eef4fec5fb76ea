"""The `batchchat` command; `python -m batchchat` is the same. Answers `--help` before anything is imported."""

import os
import sys


def main() -> None:
    """Run the command line."""
    if sys.argv[1:] in (["-h"], ["--help"]):
        from batchchat.usage import USAGE

        try:
            sys.stdout.write(USAGE)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader has seen enough; the interpreter must not try to flush again at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    from batchchat.cli import main as run_command

    run_command(prog_name="batchchat")


if __name__ == "__main__":
    main()
