"""Attention of binary codes: the sums of values of one head stand in scratch."""

from __future__ import annotations

from math import pi

from tvm import tirx

from nomul.backends.emit import Expr, Index
from nomul.backends.expressions import bind, constant, fma, intrinsic
from nomul.backends.frame import index_constant
from nomul.backends.generic import line
from nomul.backends.generic.head_line import head_line
from nomul.backends.generic.pull import Line, Pull
from nomul.backends.generic.view import operand_shape
from nomul.ir.graph import Node


@line("nn.hamming_attention")
def hamming_attention(pull: Pull, node: Node) -> Line:
    """A line is all of one head."""
    return head_line(pull, node, _Head)


class _Head:
    """Sums [M, E] of values, a row of the result before it is divided, and its length."""

    def __init__(self, pull: Pull, node: Node, batch: Expr, head: Expr) -> None:
        self.pull, self.node, self.batch, self.head = pull, node, batch, head
        self.dtype = pull.type(node.result.dtype)
        _, tokens, _, bits = operand_shape(node)
        width = node.result.shape[3]
        self.tokens, self.bits, self.width = (pull.size(size) for size in (tokens, bits, width))
        self.sums, self.row = pull.strip(self.dtype, bits * width), pull.strip(self.dtype, width)
        self.length = pull.strip(self.dtype, width - width + 1)
        self.nothing = tirx.const(0.0, self.dtype)

    def _chosen(self, operand: int, token: Expr, bit: Expr, sum: Expr, value: Expr) -> Expr:
        is_set = self.pull.operand(self.node, operand, (self.batch, token, self.head, bit))
        return tirx.Select(is_set, sum + value, sum)

    def _value(self, token: Expr, place: Expr) -> Expr:
        return self.pull.operand(self.node, 2, (self.batch, token, self.head, place))

    def begin(self) -> None:
        """Sums over all keys."""
        with self.pull.loops(self.bits, self.width) as (bit, place):

            def chosen(sum: Expr, inner: Index) -> Expr:
                return self._chosen(1, inner[0], bit, sum, self._value(inner[0], place))

            total = bind(self.pull.fold([self.tokens], self.nothing, chosen))
            self.sums.write(bind(bit * self.width + place), total)

    def ask(self, query: Expr) -> None:
        """The row of a query, and its length."""
        with self.pull.loops(self.width) as (place,):

            def chosen(sum: Expr, inner: Index) -> Expr:
                return self._chosen(0, query, inner[0], sum, self.sums.read(bind(inner[0] * self.width + place)))

            far = bind(self.pull.fold([self.bits], self.nothing, chosen))
            half = bind(self._value(query, place) * constant(far, 0.5))
            self.row.write(place, fma(far, constant(far, 1 / pi), half))
        if not self.node.attrs["normalise"]:
            return

        def square(sum: Expr, inner: Index) -> Expr:
            value = self.row.read(inner[0])
            return fma(value, value, sum)

        squares = bind(self.pull.fold([self.width], self.nothing, square))
        length = bind(intrinsic("llvm.sqrt", squares))
        self.length.write(index_constant(0), tirx.Select(length > self.nothing, length, constant(length, 1.0)))

    def result(self, place: Expr) -> Expr:
        value = self.row.read(place)
        return bind(value / self.length.read(index_constant(0))) if self.node.attrs["normalise"] else value
