"""The tree of a template -> the same, counting what it loops over, compares, slices and joins; and what is constant.

Jinja compiles these to Python's own operators, where no function of the environment would be asked. It does not know
how much is allowed.
"""

from collections.abc import Iterator
from typing import Any

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from batchchat.prompt.filters import CONCATENATED, COUNTED, SLICED, WEIGHED


class CountingTransformer(NodeTransformer):
    """Puts the hidden filters of `filters.py` into a tree, which is changed in place; Jinja calls it by node types."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        """Count the rounds."""
        self.generic_visit(node)
        node.iter = _filtered(node.iter, COUNTED)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        """Count the text of `~`."""
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), CONCATENATED)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        """Count a slice; a single item goes by the environment."""
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = (node.arg.start, node.arg.stop, node.arg.step)
        return _filtered(node.node, SLICED, [bound or nodes.Const(None, lineno=node.lineno) for bound in bounds])

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        """Count what is compared, at every depth."""
        self.generic_visit(node)
        node.expr = _weighed(node.expr)
        for operand in node.ops:
            operand.expr = _weighed(operand.expr)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:  # noqa: N802
        """Count the key of a mapping: a tuple of tuples is hashed as deep as it goes."""
        self.generic_visit(node)
        node.key = _weighed(node.key)
        return node

    def visit_Call(self, node: nodes.Call) -> nodes.Node:  # noqa: N802
        """Count what `*` and `**` unpack."""
        return self._with_counted_arguments(node)

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:  # noqa: N802
        """Count what `*` and `**` unpack."""
        return self._with_counted_arguments(node)

    def visit_Test(self, node: nodes.Test) -> nodes.Node:  # noqa: N802
        """Count what `*` and `**` unpack."""
        return self._with_counted_arguments(node)

    def _with_counted_arguments(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        node.dyn_args = node.dyn_args and _filtered(node.dyn_args, COUNTED)
        node.dyn_kwargs = node.dyn_kwargs and _filtered(node.dyn_kwargs, COUNTED)
        return node  # type: ignore[no-any-return]


def _filtered(node: Any, name: str, args: list[nodes.Expr] | None = None) -> nodes.Filter:
    return nodes.Filter(node, name, args or [], [], None, None, lineno=node.lineno)


def _weighed(node: nodes.Expr) -> nodes.Expr:
    return node if isinstance(node, nodes.Const) else _filtered(node, WEIGHED)


_MOVING = (nodes.Name, nodes.NSRef, nodes.Call)


def constants(tree: nodes.Node) -> Iterator[nodes.Expr]:
    """Yield the largest expressions that are the same for every row, plain literals excepted."""
    for node in tree.iter_child_nodes():
        if isinstance(node, (nodes.Const, nodes.TemplateData)):
            continue
        if isinstance(node, nodes.Expr) and not isinstance(node, (nodes.Literal, nodes.Slice)) and _is_constant(node):
            yield node
        else:
            yield from constants(node)


def _is_constant(node: nodes.Expr) -> bool:
    inner = [node, *node.find_all(nodes.Expr)]
    # A filter without a value is that of a `{% filter %}` block.
    return not any(isinstance(one, _MOVING) or (isinstance(one, nodes.Filter) and not one.node) for one in inner)
