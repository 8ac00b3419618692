"""Forms fused groups: every kernel's work becomes a private function, and @main calls them one after the other.

A group is a heavy node (anchor or other) with the element-wise nodes behind it and the views or cheap nodes before it
that its kind allows, or, without a heavy node, a tree of element-wise nodes and views. Each group has one result that
leaves it (the results of its heavy node where there are several), so it is convex by construction. Reshapes of whole
tensors stay in @main: they cost nothing.
"""

from __future__ import annotations

import re

from nomul.ir.graph import Func, Module, Node, Weight
from nomul.ir.structure import outline
from nomul.passes.base import Pass, Report
from nomul.passes.epilogue import Joins, epilogue, joins_of
from nomul.passes.graph_tools import is_elementwise, is_heavy, short_op
from nomul.passes.prologue import absorb_tree, absorb_views

VIEW_OPERANDS = {
    "nn.attention": (0, 1, 2),
    "nn.attention_parts": (0, 1, 2),
    "nn.quantised_attention": (4,),
    "nn.linear_attention": (0, 1, 2, 3),
    "nn.hamming_attention": (0, 1, 2),
    "nn.matmul": (0, 1),
    "nn.linear": (0,),
}
UNGROUPED = ("view.reshape", "call")  # stay in @main
TREE_OPERANDS = {"view.concat": None, "view.pad": (0,), "index.gather": (1,)}  # None: all


class Group(Pass):
    """Outlines every node of @main but reshapes. Does nothing to a module that is grouped already; the calls of any
    other have been inlined (`inline_calls.py`)."""

    name = "group"

    def run(self, module: Module, report: Report) -> None:
        func = module.main
        if is_grouped(module):
            return
        taken: set[Node] = set()
        joins = joins_of(func)
        groups = [_heavy_group(func, node, taken, joins, report) for node in list(func.nodes) if is_heavy(node)]
        for node in reversed(list(func.nodes)):
            if node not in taken and node.op not in UNGROUPED and _is_needed(func, node):
                groups.append(_tree_group(func, node, taken))
        for group in groups:
            call = outline(module, func, group, group_name(group))
            report.fire(call.attrs["func"].split(".")[0])


def is_grouped(module: Module) -> bool:
    """Whether @main only calls functions that one kernel each can compute, and reshapes."""
    nodes = module.main.nodes
    called = [module.funcs[node.attrs["func"]] for node in nodes if node.op == "call"]
    plain = [node for node in nodes if node.op not in UNGROUPED]
    return bool(called) and not plain and all(_is_group(func) for func in called)


def _is_group(func: Func) -> bool:
    """At most one heavy node, no call, weights only as parameters, and results that one node makes."""
    uses_weights = any(isinstance(arg, Weight) for node in func.nodes for arg in node.args)
    makers = {value.producer for value in func.returns}
    heavy = [node for node in func.nodes if is_heavy(node)]
    return (
        len(makers) == 1
        and None not in makers
        and len(heavy) <= 1
        and not uses_weights
        and all(node.op != "call" for node in func.nodes)
    )


def _is_needed(func: Func, node: Node) -> bool:
    """False for a view whose users all took copies of it."""
    return any(r.users or any(r is value for value in func.returns) for r in node.results)


def _heavy_group(func: Func, node: Node, taken: set[Node], joins: Joins, report: Report) -> list[Node]:
    group = {node}
    taken.add(node)
    behind = _epilogue(func, node, taken, joins, report)
    group |= behind
    taken |= behind
    for other in _in_order(func, behind)[::-1]:
        absorb_tree(func, other, group, taken, views=False)
    for position, operand in enumerate(node.args):
        if operand is None:
            continue
        if position in VIEW_OPERANDS.get(node.op, ()):
            absorb_views(func, node, position, group, taken)
        elif _takes_trees(node, position):
            absorb_tree(func, node, group, taken, (position,), repeated=node.op == "index.gather")
    return _in_order(func, group)


def _epilogue(func: Func, node: Node, taken: set[Node], joins: Joins, report: Report) -> set[Node]:
    if len(node.results) > 1:
        return set()
    found = epilogue(func, node, taken, joins)
    miss = found.miss(node)
    if miss is not None:
        report.miss([miss])
    return found.nodes


def _takes_trees(node: Node, position: int) -> bool:
    if node.op.startswith("reduce.") and node.op not in ("reduce.cumsum",):
        return True
    positions = TREE_OPERANDS.get(node.op, ())
    return positions is None or position in positions


def _tree_group(func: Func, root: Node, taken: set[Node]) -> list[Node]:
    group = {root}
    taken.add(root)
    absorb_tree(func, root, group, taken)
    return _in_order(func, group)


def _in_order(func: Func, group: set[Node]) -> list[Node]:
    return [node for node in func.nodes if node in group]


def group_name(group: list[Node]) -> str:
    """The heaviest op and its layer, as `linear.encoder.0.query`."""
    heavy = [node for node in group if is_heavy(node)] or [n for n in group if is_elementwise(n)][-1:] or group[-1:]
    loc = re.sub(r"[^A-Za-z0-9_.]+", "_", heavy[0].loc or "").strip("._")
    return f"{short_op(heavy[0])}.{loc}" if loc else short_op(heavy[0])
