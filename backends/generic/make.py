"""Tensors made from sizes alone."""

from __future__ import annotations

from tvm import tirx

from nomul.backends.emit import Expr, Index
from nomul.backends.frame import index_constant
from nomul.backends.generic import element
from nomul.backends.generic.pull import Pull
from nomul.ir.graph import Node
from nomul.ir.types import DType


@element("make.full")
def full(pull: Pull, node: Node, index: Index) -> Expr:
    dtype = node.result.dtype
    return tirx.const(dtype.numpy.type(node.attrs["value"]).item(), pull.type(dtype))


@element("make.iota")
def iota(pull: Pull, node: Node, index: Index) -> Expr:
    return _converted(index[0] * index_constant(node.attrs["step"]) + pull.size(node.attrs["start"]), pull, node)


@element("make.size")
def size(pull: Pull, node: Node, index: Index) -> Expr:
    return _converted(pull.size(node.attrs["size"]), pull, node)


def _converted(number: Expr, pull: Pull, node: Node) -> Expr:
    dtype = node.result.dtype
    if dtype is DType.BOOL:
        return tirx.NE(number, index_constant(0))
    return number if dtype is DType.I64 else tirx.Cast(pull.type(dtype), number)
