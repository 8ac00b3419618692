"""Element-wise ops as TIR expressions, and the evaluation of a fused chain of them for one element (or vector of them).

The rule of each op is in `backends/elements/`, one file a family. Rules work on *compute* values: f16 and bf16 are held
as f32 (memory formats are converted by `backends/storage.py`), bool as TIR's bool; everything else as itself. All
functions here emit statements into the current IRBuilder frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from tvm import tirx

from nomul.backends.expressions import bind
from nomul.backends.group import Group
from nomul.ir.dim import Dim
from nomul.ir.graph import Constant, Node, Value
from nomul.ir.op import Kind
from nomul.ir.registry import Registry
from nomul.ir.types import DType

Expr = Any  # a tvm PrimExpr; tvm has no type stubs
Index = tuple[Expr, ...]
Load = Callable[[Value, Index], Expr]
Rule = Callable[..., Expr]  # (node, *operands) -> result

_COMPUTE = {
    DType.F64: "float64",
    DType.F32: "float32",
    DType.F16: "float32",
    DType.BF16: "float32",
    DType.I64: "int64",
    DType.I32: "int32",
    DType.I16: "int16",
    DType.I8: "int8",
    DType.U8: "uint8",
    DType.BOOL: "bool",
}


def compute_type(dtype: DType, lanes: int = 1) -> str:
    """TIR's name of the type in which values of `dtype` are computed."""
    name = _COMPUTE[dtype]
    return name if lanes == 1 else f"{name}x{lanes}"


def lanes_of(value: Expr) -> int:
    return int(value.ty.dtype.lanes)


def widen(value: Expr, lanes: int) -> Expr:
    """A scalar repeated over the lanes; a vector as it is."""
    return tirx.Broadcast(value, lanes) if lanes > 1 and lanes_of(value) == 1 else value


_RULES: Registry[str, Rule] = Registry("nomul.backends.elements", "the rule of {}")


def rule(op: str) -> Callable[[Rule], Rule]:
    """Declare how one element of an op's result is computed from the operands' elements."""
    return _RULES.declare(op)


@cache
def rules() -> dict[str, Rule]:
    """The rule of every element-wise op."""
    return _RULES.all()


def emit(node: Node, args: Sequence[Expr]) -> Expr:
    """The result of one element-wise node for compute values of its operands (of any lanes; scalars are repeated)."""
    lanes = max((lanes_of(arg) for arg in args), default=1)
    return bind(rules()[node.op](node, *(widen(arg, lanes) for arg in args)))


def literal(constant: Constant) -> Expr:
    return tirx.const(constant.value, compute_type(constant.dtype))


def broadcast_index(index: Index, shape: tuple[Dim, ...]) -> Index:
    """The place in an operand of `shape` that belongs to the place `index` of a result that it broadcasts to."""
    tail = index[len(index) - len(shape) :]
    return tuple(zero() if size == Dim.of(1) else place for size, place in zip(shape, tail, strict=True))


def zero() -> Expr:
    return tirx.const(0, "int64")


class Epilogue:
    """The element-wise nodes behind an anchor. anchor_result: the value that the kernel computes itself."""

    def __init__(self, group: Group, anchor_result: Value) -> None:
        self.group = group
        self.anchor_result = anchor_result
        (self.result,) = group.func.returns

    def apply(self, accumulator: Expr, index: Index, load: Load) -> Expr:
        """One element (or vector) of the group's result. accumulator: the anchor's element at `index`, a compute value;
        load(param, index): an element of another parameter, of whose shape `index` is an index."""
        return evaluate(self.result, index, load, {self.anchor_result: accumulator})


def evaluate(value: Value, index: Index, load: Load, known: dict[Value, Expr] | None = None) -> Expr:
    """The element of `value` at `index`, through the element-wise nodes that make it.

    known: values already computed at this very index. Raises KeyError for a node that is not element-wise."""
    found: dict[tuple[Value, tuple[object, ...]], Expr] = {}

    def visit(current: Value, place: Index) -> Expr:
        if isinstance(current, Constant):
            return literal(current)
        if known and current in known and len(place) == len(index):
            return known[current]
        key = (current, index_key(place))
        if key not in found:
            found[key] = compute(current, place)
        return found[key]

    def compute(current: Value, place: Index) -> Expr:
        node = current.producer
        if node is None:
            return bind(load(current, place))
        if node.spec.kind is not Kind.ELEMENTWISE:
            raise KeyError(f"{node.op} is not element-wise")
        return emit(node, [visit(arg, broadcast_index(place, arg.shape)) for arg in node.args if arg is not None])

    return visit(value, index)


class Same:
    """A TVM expression as a dictionary key: equal is the same node (TVM's == builds an expression)."""

    __slots__ = ("part",)

    def __init__(self, part: Expr) -> None:
        self.part = part

    def __hash__(self) -> int:
        return hash(self.part)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and bool(self.part.same_as(other.part))


def index_key(index: Index) -> tuple[object, ...]:
    """A key for dictionaries that tells two indices apart by the identity of their parts."""
    return tuple(part.value if isinstance(part, tirx.IntImm) else Same(part) for part in index)
