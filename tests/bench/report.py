"""What a scenario found out: tables, targets, and what is drawn; and how it stands in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """Cells by rows, under their headings."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Target:
    """What was to be reached, and what was."""

    what: str
    figure: str
    target: str
    is_met: bool


@dataclass(frozen=True)
class Bars:
    """A value for each name, to be drawn as bars."""

    title: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Lines:
    """Values by the second for each name, to be drawn as lines; `level` is drawn as what they should reach."""

    title: str
    values: Mapping[str, Sequence[float]]
    level: float


@dataclass(frozen=True)
class Report:
    """A scenario's name, what it did, and what it found."""

    name: str
    what: str
    tables: Sequence[Table]
    targets: Sequence[Target]
    plots: Sequence[Bars | Lines] = field(default=())


def as_markdown(report: Report) -> str:
    """Return the report as a section of Markdown."""
    parts = [f"## {report.name}", report.what, *(_table(table) for table in report.tables)]
    if report.targets:
        parts.append(_table(_targets(report.targets)))
    return "\n\n".join(parts)


def _targets(targets: Iterable[Target]) -> Table:
    rows = [(one.what, one.figure, one.target, "met" if one.is_met else "NOT MET") for one in targets]
    return Table(("measured", "figure", "target", ""), rows)


def _table(table: Table) -> str:
    marks = ["---", *("---:" for _ in table.headings[1:])]
    lines = (f"| {' | '.join(cells)} |" for cells in (table.headings, marks, *table.rows))
    return "\n".join(lines)
