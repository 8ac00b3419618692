"""Evaluates nodes whose operands are known at compile time; `Rewriter` folds what rules build, this folds one node."""

from __future__ import annotations

import numpy as np

from nomul.ir.graph import Constant, Func, Module, Node, Value, Weight
from nomul.ir.interpreter import evaluate_node, type_shape
from nomul.ir.op import Kind
from nomul.ir.types import DType, Tensor

SMALL = 1 << 20  # bytes: results up to this size are always folded
GROWTH = 2  # larger ones only up to this multiple of the operands' size


def known_array(value: Value | None) -> np.ndarray | None:
    """The data of a literal or of a weight without encoding; None where it is not known."""
    if isinstance(value, Constant):
        return np.asarray(value.value, value.dtype.numpy)
    if isinstance(value, Weight) and value.type.encoding is None and value.fields:
        return value.array()
    return None


def fold(module: Module, func: Func, node: Node, name: str = "") -> Value | None:
    """The result of `node` as a weight or literal, and the node erased; None (and no change) where it cannot be folded.

    Not folded: several results, unknown operands, results much larger than operands (`SMALL`, `GROWTH`)."""
    if node.spec.kind is Kind.STRUCTURE or len(node.results) != 1 or not node.args:
        return None
    arrays = [None if arg is None else known_array(arg) for arg in node.args]
    if any(arg is not None and array is None for arg, array in zip(node.args, arrays, strict=True)):
        return None
    if not worth_folding(node.result.type, sum(array.nbytes for array in arrays if array is not None)):
        return None
    (array,) = evaluate_node(node, arrays, {})
    wanted = name or weight_name(node)
    known = as_known(module, array, wanted)
    func.replace_all(node.result, known)
    func.erase(node)
    take_name(module, known, wanted)
    return known


def worth_folding(type: Tensor, operand_bytes: int) -> bool:
    """Whether a constant result of this type is small enough to be stored."""
    if not all(size.is_constant for size in type.shape):
        return False
    return int(np.prod(type_shape(type, {}), dtype=np.int64)) * type.dtype.bytes <= max(SMALL, GROWTH * operand_bytes)


def as_known(module: Module, array: np.ndarray, name: str) -> Value:
    """A literal for a single number without axes, else a weight of the module."""
    if array.ndim == 0:
        return Constant(array.item(), DType.from_numpy(array.dtype))
    return module.add_weight(Weight.dense(name, np.ascontiguousarray(array)))


def take_name(module: Module, value: Value, wanted: str) -> None:
    """Give a new weight the name of the weight that it replaces, once nobody uses that one any more."""
    old = module.weights.get(wanted)
    if not isinstance(value, Weight) or old is None or old is value or old.users:
        return
    if any(old is returned for func in module.funcs.values() for returned in func.returns):
        return
    del module.weights[value.name]
    module.remove_weight(old)
    value.name = wanted
    module.weights[wanted] = value


def weight_name(node: Node) -> str:
    """A folded weight is named after the weight that it came from."""
    source = next((arg for arg in node.args if isinstance(arg, Weight)), None)
    return source.name if source is not None else node.result.name
