"""What a row's next request adds to its own body."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchchat.records import NO_USAGE, Usage


@dataclass(frozen=True, slots=True)
class Turn:
    """What a row's next request adds to its own body.

    `mode` is how the schema is asked for: 0 as the job wrote it, 1 in the prompt beside `json_object`, 2 in the prompt
    alone. `said` are the messages added at the end: the text that did not fit, and the correction. `max_tokens` takes
    the place of the body's own limit; 0 leaves that, as more was refused. `usage` is what the earlier turns cost.
    """

    mode: int = 0
    said: tuple[Mapping[str, Any], ...] = ()
    max_tokens: int | None = None
    usage: Usage = NO_USAGE
