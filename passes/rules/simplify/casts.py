"""Conversions: those that change nothing go, those in a chain become one. Index arithmetic moves into the index."""

from __future__ import annotations

from nomul.ir.dim import Dim
from nomul.ir.graph import Constant, Node, Value
from nomul.ir.types import DType
from nomul.passes.graph_tools import produced_by
from nomul.passes.rule import NodeRule, Rewriter

_INTEGER_BITS = {DType.I64: 63, DType.I32: 31, DType.I16: 15, DType.I8: 7, DType.U8: 8, DType.BOOL: 1}
_EXACT_BITS = {DType.F64: 53, DType.F32: 24, DType.F16: 11, DType.BF16: 8}


class CastToItself(NodeRule):
    """cast(x) to the dtype of x -> x."""

    ops = ("ew.cast",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        return node.args[0] if node.args[0] is not None and node.args[0].type == node.result.type else None


class CastOfCast(NodeRule):
    """cast(cast(x, wide), t) -> cast(x, t) where `wide` holds every value of x."""

    ops = ("ew.cast",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        inner = produced_by(node.args[0], "ew.cast")
        if inner is None or inner.args[0] is None:
            return None
        if not holds(inner.result.dtype, inner.args[0].dtype):
            return None
        return g.ew.cast(inner.args[0], dtype=node.result.dtype)


def holds(wide: DType, narrow: DType) -> bool:
    """Whether every value of `narrow` is one of `wide`, so that a detour over it changes nothing."""
    if wide is narrow:
        return True
    if narrow.is_float:
        order = {DType.F16: DType.F32, DType.BF16: DType.F32, DType.F32: DType.F64}
        return wide in (order.get(narrow), DType.F64)
    if wide.is_float:
        return _INTEGER_BITS[narrow] <= _EXACT_BITS[wide]
    signed_fits = narrow is DType.BOOL or wide is not DType.U8
    return wide is not DType.BOOL and signed_fits and _INTEGER_BITS[narrow] <= _INTEGER_BITS[wide]


class CountedArithmetic(NodeRule):
    """iota + c -> iota from another start, iota * c -> iota of another step, for integers."""

    ops = ("ew.add", "ew.mul", "ew.sub")

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        iota, c = produced_by(node.args[0], "make.iota"), node.args[1]
        if iota is None or node.result.dtype not in (DType.I64, DType.I32):
            return None
        size = produced_by(c, "make.size")
        given = size.attrs["size"] if size else Dim.of(int(c.value)) if isinstance(c, Constant) else None
        if given is None:
            return None
        start, step = iota.attrs["start"], iota.attrs["step"]
        if node.op == "ew.mul":
            if given.value is None or given.value == 0:
                return None
            return g.make.iota(**(iota.attrs | {"start": start * given, "step": step * given.value}))
        return g.make.iota(**(iota.attrs | {"start": start + (given if node.op == "ew.add" else -given)}))


class CastOfMaker(NodeRule):
    """cast(full) and cast(iota) -> made in that dtype."""

    ops = ("ew.cast",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        maker = produced_by(node.args[0], "make.full", "make.iota")
        dtype = node.result.dtype
        if maker is None or (maker.op == "make.iota" and dtype is DType.BOOL):
            return None
        if not holds(dtype, DType.I32 if maker.op == "make.iota" else maker.result.dtype) and maker.op == "make.full":
            return None
        if maker.op == "make.iota" and dtype not in (DType.I64, DType.I32, DType.F64):
            return None
        return g.op(maker.op, **(maker.attrs | {"dtype": dtype}))
