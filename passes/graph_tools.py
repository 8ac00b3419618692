"""Small questions about values and nodes that rules and passes share."""

from __future__ import annotations

from typing import TypeGuard

import numpy as np

from nomul.ir.graph import Constant, Func, Module, Node, Value, Weight
from nomul.ir.op import Kind
from nomul.ir.types import DType


def number(value: Value | None) -> float | None:
    """The number of a numeric literal, or None; for an f32 the shortest that rounds to it, as a reader expects."""
    if isinstance(value, Constant) and value.dtype is not DType.BOOL:
        exact = float(value.value)
        shortest = float(str(np.float32(exact)))
        return shortest if value.dtype is DType.F32 else exact
    return None


def is_known(value: Value | None) -> bool:
    """A literal or a weight."""
    return isinstance(value, Constant | Weight)


def is_dense(value: Value | None) -> TypeGuard[Weight]:
    """A weight without encoding, whose numbers rules may change."""
    return isinstance(value, Weight) and value.type.encoding is None


def produced_by(value: Value | None, *ops: str) -> Node | None:
    """The node that makes the value where it is one of these ops."""
    node = value.producer if value is not None else None
    return node if node is not None and node.op in ops else None


def only_user(func: Func, value: Value) -> Node | None:
    """The one node that uses the value (in one or more operands), where nothing else does and it is not returned."""
    nodes = {node for node, _ in value.users}
    if len(nodes) != 1 or any(value is returned for returned in func.returns):
        return None
    return next(iter(nodes))


def is_elementwise(node: Node | None) -> bool:
    return node is not None and node.spec.kind is Kind.ELEMENTWISE


def is_view(node: Node | None) -> bool:
    return node is not None and node.spec.kind is Kind.VIEW


def is_heavy(node: Node) -> bool:
    """Has a kernel of its own."""
    return node.spec.kind in (Kind.ANCHOR, Kind.OTHER)


def short_op(node: Node) -> str:
    """The op's name without its family."""
    return node.op.rsplit(".", 1)[-1]


def exchange(module: Module, old: Weight, new: Weight) -> None:
    """Put a weight in the place of another of the same name."""
    for func in module.funcs.values():
        for node, position in [use for use in old.users if use[0] in func.nodes]:
            func.set_args(node, (*node.args[:position], new, *node.args[position + 1 :]))
    module.weights[old.name] = new
