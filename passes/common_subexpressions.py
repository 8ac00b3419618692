"""Merges nodes that compute the same from the same."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from nomul.ir.graph import Constant, Module, Node, Value, Weight
from nomul.passes.base import Pass, Report
from nomul.passes.dead_code import erase_dead


class CommonSubexpressions(Pass):
    """Equal op, operands and attributes: one node. Operands of commutative ops are compared in either order.

    Equal constants are one weight first: tiny ones and those of integers (indices and masks that exporters repeat), but
    not parameters, whose names people know."""

    name = "common_subexpressions"

    def run(self, module: Module, report: Report) -> None:
        _share_weights(module)
        for func in module.funcs.values():
            seen: dict[Hashable, Node] = {}
            for node in list(func.nodes):
                first = seen.setdefault(_key(node), node)
                if first is node:
                    continue
                for old, new in zip(node.results, first.results, strict=True):
                    func.replace_all(old, new)
                erase_dead(func, [node])
                report.fire(node.op)


TINY = 64  # bytes


def _share_weights(module: Module) -> None:
    seen: dict[Hashable, Weight] = {}
    for weight in module.weights.values():
        size = sum(array.nbytes for array in weight.fields.values())
        if not weight.fields or (size > TINY and weight.dtype.is_float):
            continue
        data = tuple((name, np.ascontiguousarray(array).tobytes()) for name, array in sorted(weight.fields.items()))
        first = seen.setdefault((weight.type, data), weight)
        if first is not weight:
            for func in module.funcs.values():
                func.replace_all(weight, first)


def _key(node: Node) -> Hashable:
    operands = [_operand_key(arg) for arg in node.args]
    if node.spec.commutative:
        operands.sort(key=hash)
    return node.op, tuple(operands), tuple(sorted(node.attrs.items()))


def _operand_key(value: Value | None) -> Hashable:
    if isinstance(value, Constant):
        return repr(value.value), value.dtype
    return None if value is None else id(value)
