"""What a scenario found out, as a line of a table."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Line:
    """A line of the table: what was done, at which size, and what came of it."""

    what: str
    size: str
    figure: str


class Figures(Protocol):
    """A scenario's figures, and the seconds that it took."""

    @property
    def seconds(self) -> float:
        """How long the scenario took."""

    def lines(self) -> list[Line]:
        """Return the lines of the table."""

    def broken(self) -> list[str]:
        """Return the promises that were not kept, in words; none in a good run."""


def table(lines: Iterable[Line]) -> str:
    """Return lines as a table of Markdown."""
    rows = [f"| {line.what} | {line.size} | {line.figure} |" for line in lines]
    return "\n".join(["| what | size | figure |", "|---|---|---|", *rows])
