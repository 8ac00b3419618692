"""Which element-wise nodes behind a heavy node run inside its kernel, on each output tile while it is hot."""

from __future__ import annotations

from nomul.ir.graph import Func, Node, Value
from nomul.passes.graph_tools import is_elementwise

LONGEST = 24  # nodes looked at to close one diamond


def epilogue(func: Func, anchor: Node, taken: set[Node]) -> set[Node]:
    """Element-wise nodes of the anchor's shape that depend on it and leave one value behind, as many as possible."""
    positions = {node: index for index, node in enumerate(func.nodes)}
    group: set[Node] = set()
    value = anchor.result
    while True:
        step = _next_step(func, value, taken, positions)
        if step is None:
            return group
        nodes, value = step
        group |= nodes


def _next_step(
    func: Func, value: Value, taken: set[Node], positions: dict[Node, int]
) -> tuple[set[Node], Value] | None:
    """The fewest nodes behind `value` after which again exactly one value is used outside, and that value."""
    region: set[Node] = set()
    inside: set[Value] = {value}
    while len(region) < LONGEST:
        if any(inner is returned for returned in func.returns for inner in inside):
            return None
        waiting = {user for inner in inside for user, _ in inner.users} - region
        if not waiting:
            return None
        node = min(waiting, key=positions.__getitem__)
        if node in taken or not _fits(node, value):
            return None
        region.add(node)
        inside.add(node.result)
        if _open_values(inside, region) == [node.result]:
            return region, node.result
    return None


def _fits(node: Node, value: Value) -> bool:
    return is_elementwise(node) and node.result.shape == value.shape


def _open_values(inside: set[Value], region: set[Node]) -> list[Value]:
    """Values with users outside the region, or (the last) with none in it."""
    return [v for v in inside if not v.users or any(user not in region for user, _ in v.users)]
