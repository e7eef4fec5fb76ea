"""How a run asks for answers that fit the job's schema: what one row learns about the endpoint holds for all.

The rungs are those of `judge.py`; this holds which of them the run stands on.
"""

from dataclasses import replace

import orjson

from batchchat.records import NO_USAGE, Completion, Failure, added
from batchchat.send.reply.reply import shown_message
from batchchat.send.state.row import Pending
from batchchat.send.state.turn import Turn
from batchchat.send.structured.judge import Structure, body_for

_NOTES = {
    1: "the endpoint does not take response_format json_schema; the schema goes into the prompt, with json_object",
    2: "the endpoint takes no response_format; the schema goes into the prompt",
}


class FormatFallback:
    """The rung that a run stands on; without a structure every completion is as good as it is.

    Where rows name their model (`model_varies`), each model has a rung of its own.
    """

    def __init__(self, structure: Structure | None, *, model_varies: bool = False) -> None:
        self._structure = structure
        self._model_varies = model_varies
        self._modes: dict[str, int] = {}

    def body(self, row: Pending) -> bytes:
        """Return the body of a row's next request, its media still to be put in."""
        if self._structure is None:
            return row.request.body
        mode = self._modes.get(self._model(row), 0) if self._modes else 0
        if row.turn.mode < mode:
            row.turn = replace(row.turn, mode=mode)
        return body_for(row.request.body, row.turn)

    def judge(self, completion: Completion, row: Pending) -> Completion | Turn | Failure:
        """Return what follows from a reply: its completion as an answer, one more turn, or why neither helps."""
        if self._structure is None:
            is_first = row.turn.usage is NO_USAGE
            return completion if is_first else replace(completion, usage=added(row.turn.usage, completion.usage))
        judged = self._structure.judge(completion, row.request.body, row.turn)
        if isinstance(judged, Completion) and judged.parsed is not None:
            self._learn(row)
        return judged

    def _learn(self, row: Pending) -> None:
        """Note that the row's way to ask brings answers; the first to do so is the run's way.

        A refusal alone decides nothing: it may be of that row, whose words it quotes.
        """
        model = self._model(row)
        if model not in self._modes:
            self._modes[model] = row.turn.mode

    def fallback(self, failure: Failure, row: Pending) -> Turn | None:
        """Return another way to ask when the endpoint refuses this one, or None."""
        return self._structure.fallback(failure, row.turn) if self._structure else None

    def resume(self, row: Pending, failure: Failure) -> Completion | Turn | Failure | None:
        """Return what follows from the row's last reply when the turn after it was refused; None without one."""
        if self._structure is None or row.last is None:
            return None
        judged = self._structure.resume(row.last[0], row.request.body, row.turn)
        if not isinstance(judged, Failure):
            return judged
        message = shown_message(f"{judged.message}; a correction was refused: {failure.message}")
        return replace(judged, message=message)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to tell the user of the rungs that are not the first."""
        return tuple(
            f"{_NOTES[mode]} (model {model})" if model else _NOTES[mode]
            for model, mode in self._modes.items()
            if mode in _NOTES
        )

    def _model(self, row: Pending) -> str:
        return str(orjson.loads(row.request.body)["model"]) if self._model_varies else ""
