"""Which element-wise nodes behind a heavy node run inside its kernel, on each output tile while it is hot."""

from __future__ import annotations

from dataclasses import dataclass, field

from nomul.ir.graph import Func, Node, Value
from nomul.passes.base import Miss
from nomul.passes.graph_tools import is_elementwise

LONGEST = 24  # nodes looked at to close one diamond


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


def epilogue(func: Func, anchor: Node, taken: set[Node]) -> Epilogue:
    """Element-wise nodes of the anchor's shape that depend on it and leave one value behind, as many as possible."""
    positions = {node: index for index, node in enumerate(func.nodes)}
    found = Epilogue(anchor.result)
    while True:
        try:
            nodes, value = _next_step(func, found.value, taken, positions)
        except _End as end:
            if any(is_elementwise(user) for user, _ in found.value.users):
                found.end = str(end)
            return found
        found.nodes |= nodes
        found.value = value


def _next_step(func: Func, value: Value, taken: set[Node], positions: dict[Node, int]) -> tuple[set[Node], Value]:
    """The fewest nodes behind `value` after which again exactly one value is used outside, and that value."""
    region: set[Node] = set()
    inside: set[Value] = {value}
    while len(region) < LONGEST:
        returned = next((inner for inner in inside if any(inner is kept for kept in func.returns)), None)
        if returned is not None:
            raise _End(f"{returned} is an output")
        waiting = {user for inner in inside for user, _ in inner.users} - region
        if not waiting:
            raise _End(f"nobody uses {value}")
        node = min(waiting, key=positions.__getitem__)
        _check(node, value, taken)
        region.add(node)
        inside.add(node.result)
        if _open_values(inside, region) == [node.result]:
            return region, node.result
    raise _End(f"{LONGEST} nodes behind {value} do not join again")


def _check(node: Node, value: Value, taken: set[Node]) -> None:
    if not is_elementwise(node):
        raise _End(f"{node.op} uses {value} too")
    if node in taken:
        raise _End(f"{node.op} is in another kernel already")
    if node.result.shape != value.shape:
        raise _End(f"{node.op} makes {node.result.type} of {value.type}")


def _open_values(inside: set[Value], region: set[Node]) -> list[Value]:
    """Values with users outside the region, or (the last) with none in it."""
    return [v for v in inside if not v.users or any(user not in region for user, _ in v.users)]
