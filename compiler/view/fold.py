"""Folds the nodes of a function into a tree by the module path of their source layers, so that a graph of thousands of
nodes opens as a handful of boxes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nomul.ir.graph import Node

MOST_CHILDREN = 120  # of one box; more are folded into runs of nodes that follow each other
FEW = 12
RUN = 40  # nodes in such a run, at least
Tree = list[Any]  # [label, child, child, ...]: a child is the position of a node or another tree


@dataclass
class _Group:
    label: str
    leaves: list[int] = field(default_factory=list)
    groups: dict[str, _Group] = field(default_factory=dict)


def fold(nodes: Sequence[Node]) -> Tree:
    """The tree of all nodes by position; children stand in the order of their first node. The root has no label.

    Few nodes are not folded: mostly they are a private function, whose nodes are all of one place."""
    if len(nodes) <= FEW:
        return ["", *range(len(nodes))]
    root = _Group("")
    for position, node in enumerate(nodes):
        group = root
        for segment in module_path(node.loc):
            group = group.groups.setdefault(segment, _Group(segment))
        group.leaves.append(position)
    return _tree(root)


def module_path(loc: str | None) -> list[str]:
    """The modules around a source layer: `/enc/layer.0/q/Add` (ONNX: the last is the operator), `enc.layer.0.q:add`
    (PyTorch: the operator stands behind the colon), or dotted names. A number goes with the word before it."""
    if not loc:
        return []
    if "/" in loc:
        return [part for part in loc.split("/") if part][:-1]
    return re.split(r"\.(?!\d+(?:\.|$))", loc.partition(":")[0])


def _tree(group: _Group) -> Tree:
    """Chains of single groups become one, groups of one node the node itself."""
    children: list[tuple[int, Any]] = [(position, position) for position in group.leaves]
    for inner in group.groups.values():
        tree = _tree(inner)
        alone = tree[1] if len(tree) == 2 else None
        if isinstance(alone, list):
            tree = [f"{tree[0]}/{alone[0]}", *alone[1:]]
        children.append((_first(tree), alone if isinstance(alone, int) else tree))
    children.sort(key=lambda child: child[0])
    return [group.label, *_in_runs([child for _, child in children])]


def _in_runs(children: list[Any]) -> list[Any]:
    """The children, or where they are too many, groups of those that follow each other."""
    if len(children) <= MOST_CHILDREN:
        return children
    size = max(RUN, -(-len(children) // MOST_CHILDREN))
    return [_run(children[start : start + size]) for start in range(0, len(children), size)]


def _run(children: list[Any]) -> Any:
    first, last = children[0], children[-1]
    if first is last:
        return first
    if isinstance(first, list) and isinstance(last, list):
        return [f"{first[0]} … {last[0]}", *children]
    return [f"nodes {_first(first)} to {_last(last)}", *children]


def _first(tree: Any) -> int:
    """The position of the first node."""
    return tree if isinstance(tree, int) else _first(tree[1])


def _last(tree: Any) -> int:
    """The position of the last node of the last child."""
    return tree if isinstance(tree, int) else _last(tree[-1])
