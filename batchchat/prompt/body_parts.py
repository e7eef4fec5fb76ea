"""The tree of a template -> its pieces, where it is nothing but text and columns, as most of a prompt is.

Such a template needs no engine to be rendered.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from jinja2 import nodes

ROW = "row"
"""The name under which a template finds the whole row: `{{ row["order id"] }}`."""

_OF_JINJA = frozenset({ROW, "self"})
"""Names that do not stand for a column of that name, if there is one."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The value of a column, or without one the `text` itself."""

    text: str
    column: str | None = None


def plain_pieces(tree: nodes.Template, columns: Collection[str]) -> list[Piece] | None:
    """Return the pieces in order; None for a template that does more, such as a filter or a loop."""
    found = list(_pieces(tree, columns))
    return None if None in found else [piece for piece in found if piece is not None]


def _pieces(tree: nodes.Template, columns: Collection[str]) -> Iterator[Piece | None]:
    for output in tree.body:
        if not isinstance(output, nodes.Output):
            yield None
            return
        for node in output.nodes:
            if isinstance(node, nodes.TemplateData):
                yield Piece(node.data)
            else:
                column = _column(node)
                yield Piece("", column) if column in columns else None


def _column(node: nodes.Node) -> str | None:
    """Return the name that `x`, `row.x` or `row["x"]` asks for, None where it is any other expression."""
    if isinstance(node, nodes.Name):
        return None if node.name in _OF_JINJA else node.name
    if not isinstance(node, (nodes.Getattr, nodes.Getitem)) or not _is_row(node.node):
        return None
    if isinstance(node, nodes.Getattr):
        return node.attr
    return node.arg.value if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str) else None


def _is_row(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) and node.name == ROW
