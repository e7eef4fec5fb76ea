"""Let signals end a command by an exception."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

from batchchat.errors import STOPPING_SIGNALS, InterruptedRunError, StopSignal

if TYPE_CHECKING:
    from types import FrameType


def let_signals_raise() -> None:
    """Let a signal to stop end the command by an exception, so that temporary files go."""

    def handler(number: int, _: FrameType | None) -> None:
        # A second one must not interrupt the tidying up; where the first was swallowed, there is none.
        if not isinstance(sys.exc_info()[1], StopSignal | InterruptedRunError):
            raise StopSignal(number)

    for number in STOPPING_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` lets SIGHUP be ignored
            signal.signal(number, handler)
