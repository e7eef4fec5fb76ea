"""How a run asks for answers that fit the job's schema: what one row learns about the endpoint holds for all.

What passes in are completions and failures of rows; what comes out is what follows: an answer, one more turn, or a
failure. The rungs are those of `structured.py`; this holds which of them the run stands on.
"""

from dataclasses import replace

from batchchat.records import Completion, Failure
from batchchat.send.pacing import Pending
from batchchat.send.structured import Structure, Turn, body_for

_NOTES = {
    1: "the endpoint does not take response_format json_schema; the schema goes into the prompt, with json_object",
    2: "the endpoint takes no response_format; the schema goes into the prompt",
}


class Ladder:
    """The rung that a run stands on; without a structure every completion is as good as it is."""

    def __init__(self, structure: Structure | None) -> None:
        self._structure = structure
        self._mode = 0
        self._is_proven = False

    def body(self, pending: Pending) -> bytes:
        """Return the body of a row's next request, its media still to be put in."""
        if self._structure is None:
            return pending.request.body
        if pending.turn.mode < self._mode:
            pending.turn = replace(pending.turn, mode=self._mode)
        return body_for(pending.request.body, pending.turn)

    def judge(self, completion: Completion, pending: Pending) -> Completion | Turn | Failure:
        """Return what follows from a reply: its completion as an answer, one more turn, or why neither helps."""
        if self._structure is None:
            return completion
        judged = self._structure.judge(completion, pending.request.body, pending.turn)
        if isinstance(judged, Completion) and judged.parsed is not None and pending.turn.mode == self._mode:
            self._is_proven = True
        return judged

    def fallback(self, failure: Failure, pending: Pending) -> Turn | None:
        """Return another way to ask when the endpoint refuses this one, or None.

        The first refusal decides for the run, unless this way has already brought an answer: then it is the row's own.
        """
        turn = self._structure.fallback(failure, pending.turn) if self._structure else None
        if turn is not None and turn.mode > self._mode and not self._is_proven:
            self._mode = turn.mode
        return turn

    @property
    def note(self) -> str | None:
        """What to tell the user of the rung, when it is not the first."""
        return _NOTES.get(self._mode)
