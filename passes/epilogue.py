"""Which element-wise nodes behind a heavy node run inside its kernel, on each output tile while it is hot."""

from __future__ import annotations

from dataclasses import dataclass, field

import networkx as nx

from nomul.ir.graph import Func, Node, Value
from nomul.ir.networkx_view import to_networkx
from nomul.passes.base import Miss
from nomul.passes.graph_tools import is_elementwise

Joins = dict[Node, Node | None]


@dataclass
class Epilogue:
    """nodes: element-wise nodes behind the anchor.  value: what leaves them.

    end: why an element-wise user of the value is not one of them, or None where there is no such user."""

    value: Value
    nodes: set[Node] = field(default_factory=set)
    end: str | None = None

    def miss(self, anchor: Node) -> Miss | None:
        """For `nomul why`."""
        if self.end is None:
            return None
        return Miss("epilogue", str(anchor.result), anchor.loc, self.end, str(self.value), 0.9)


class _End(Exception):
    """The epilogue ends here; the message says why."""


def joins_of(func: Func) -> Joins:
    """For each node the first node that everything computed from it passes through (its immediate post-dominator);
    None where there is none, as some of it is returned on the way."""
    graph = to_networkx(func)
    end = object()
    graph.add_node(end)  # a function may have no nodes
    for node in func.nodes:
        returned = any(value is result for value in func.returns for result in node.results)
        if returned or not any(result.users for result in node.results):
            graph.add_edge(node, end)
    found = nx.immediate_dominators(graph.reverse(copy=False), end)
    return {node: None if found[node] is end else found[node] for node in func.nodes}


def epilogue(func: Func, anchor: Node, taken: set[Node], joins: Joins) -> Epilogue:
    """Element-wise nodes of the anchor's shape that depend on it and leave one value behind, as many as possible."""
    found = Epilogue(anchor.result)
    while True:
        try:
            nodes, value = _next_step(func, found.value, taken, joins)
        except _End as end:
            if any(is_elementwise(user) for user, _ in found.value.users):
                found.end = str(end)
            return found
        found.nodes |= nodes
        found.value = value


def _next_step(func: Func, value: Value, taken: set[Node], joins: Joins) -> tuple[set[Node], Value]:
    """The nodes up to the one where all that is computed from `value` joins, and its result."""
    if any(value is returned for returned in func.returns):
        raise _End(f"{value} is an output")
    assert value.producer is not None
    join = joins[value.producer]
    region: set[Node] = set()
    todo = [user for user, _ in value.users]
    while todo:
        node = todo.pop(0)
        if node in region:
            continue
        _check(node, value, taken)
        region.add(node)
        if node is not join:
            todo += [user for user, _ in node.result.users]
    if join is None:
        raise _End(f"what is computed from {value} does not join again")
    return region, join.result


def _check(node: Node, value: Value, taken: set[Node]) -> None:
    if not is_elementwise(node):
        raise _End(f"{node.op} uses {value} too")
    if node in taken:
        raise _End(f"{node.op} is in another kernel already")
    if node.result.shape != value.shape:
        raise _End(f"{node.op} makes {node.result.type} of {value.type}")
