"""Evaluates nodes with constant operands during the import, by the operator's own function and the interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np

from nomul.frontend.onnx.entry import Entry, Scope
from nomul.frontend.onnx.node import SourceNode
from nomul.frontend.onnx.registry import Handler
from nomul.ir.builder import Builder
from nomul.ir.graph import Constant, Func, Node, Value, Weight
from nomul.ir.interpreter import evaluate_node

MAX_OPERANDS = 1 << 22  # numbers; larger weights are left to the compiler's own constant folding
MAX_GROWTH = 1 << 16  # a result may have this many numbers, or as many as the operands
_FAMILIES = ("ew", "view", "index", "reduce", "make")


def try_fold(handler: Handler, node: SourceNode) -> Any:
    """The results as arrays and entries, or None where an operand is not constant or the result would be large."""
    if not node.operands or not all(operand is None or _constant(operand) for operand in node.operands):
        return None
    if any(attribute.HasField("g") for attribute in node.attributes.values()):
        return None  # nodes of a subgraph are folded one by one
    limit = sum(int(entry.type.numel) for entry in node.operands if isinstance(entry, Entry))
    if limit > MAX_OPERANDS:
        return None
    outer, func = node.scope, Func("fold")
    node.scope = Scope(Builder(func))
    try:
        results = handler(node)
    finally:
        node.scope = outer
    listed = results if isinstance(results, tuple) else (results,)
    if not any(isinstance(item, Value) for item in listed):
        return results
    arrays = _evaluate(func, max(limit, MAX_GROWTH))
    return None if arrays is None else tuple(_known(item, arrays) for item in listed)


def _constant(operand: Any) -> bool:
    return isinstance(operand, Entry) and operand.is_constant


def _evaluate(func: Func, limit: int) -> dict[Value, np.ndarray] | None:
    """Every value of a function without parameters; None where one is too large or costly."""
    arrays: dict[Value, np.ndarray] = {}
    for node in func.nodes:
        if not _is_cheap(node, limit):
            return None
        operands = [None if arg is None else _read(arg, arrays) for arg in node.args]
        arrays.update(zip(node.results, evaluate_node(node, operands, {}), strict=True))
    return arrays


def _is_cheap(node: Node, limit: int) -> bool:
    sizes = [result.type.numel.value for result in node.results]
    return node.op.split(".")[0] in _FAMILIES and all(size is not None and size <= limit for size in sizes)


def _read(value: Value, arrays: dict[Value, np.ndarray]) -> np.ndarray:
    if isinstance(value, Constant):
        return np.asarray(value.value, value.dtype.numpy)
    return value.array() if isinstance(value, Weight) else arrays[value]


def _known(item: Any, arrays: dict[Value, np.ndarray]) -> Any:
    return _read(item, arrays) if isinstance(item, Value) else item
