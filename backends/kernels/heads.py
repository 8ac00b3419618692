"""What kernels of attention without softmax share: which groups they take, and rows of one head in scratch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tvm import tirx

from nomul.backends.frame import KernelFrame
from nomul.backends.group import Group
from nomul.backends.tir.body import index, let, loop
from nomul.backends.tir.output import column_pieces
from nomul.backends.tir.vectors import prefetch
from nomul.ir.dim import Dim
from nomul.ir.graph import Node, Value
from nomul.ir.op import Kind
from nomul.ir.types import DType
from nomul.ir.views import View, resolve

MEMBERS = 8  # heads side by side
LINE = 16  # elements of a cache line
_NEIGHBOURS = 4  # heads that a thread should take at least where rows come from memory: shorter runs take longer
_CACHED = 8 << 20  # bytes of operands that caches hold

Expr = Any


def refusal(group: Group) -> str | None:
    """Why kernels that read f32 or bool operands [B, S, H, D] by their rows do not serve this group, or None."""
    anchor = group.anchor
    assert anchor is not None
    operands = [value for value in anchor.args if value is not None]
    if len(group.func.returns) != 1 or group.func.returns[0].shape != anchor.result.shape:
        return "the result is not the attention's"
    if any(value.dtype not in (DType.F32, DType.BOOL) for value in (*operands, *group.func.returns)):
        return "operands are not f32"
    if any(value.shape[3].value is None or value.shape[2].value is None for value in operands):
        return "the size or the number of heads is symbolic"
    views = [resolve(value) for value in operands]
    if any(view is None for view in views):
        return "an operand is not an affine view"
    if any(view is not None and view.strides[3] != Dim.of(1) for view in views):
        return "the elements of a head are not neighbours"
    inside = {node for node in group.func.nodes if node.spec.kind is Kind.VIEW}
    if any(user not in inside and user is not anchor for node in inside for user, _ in node.result.users):
        return "the element-wise nodes read a view"
    return None


def head_view(value: Value | None) -> View:
    """How an operand is seen; of a group that is not refused."""
    assert value is not None
    view = resolve(value)
    assert view is not None
    return view


def shared_heads(anchor: Node) -> int:
    """Query heads that read one key head."""
    q, k = anchor.args[:2]
    assert q is not None and k is not None
    return int(q.shape[2]) // int(k.shape[2])


def grain(anchor: Node) -> int:
    """How many neighbouring heads a thread should take at least."""
    k = anchor.args[1]
    assert k is not None
    sizes = [arg.type.shape for arg in anchor.args if arg is not None]
    known = sum(4 * math.prod(size.value or 1 for size in shape) for shape in sizes)
    return min(_NEIGHBOURS, int(k.shape[2])) if known > _CACHED else 1


@contextmanager
def neighbours(frame: KernelFrame, inner: Expr | int, most: int) -> Iterator[tuple[Expr, Expr, Expr]]:
    """(outer, first inner, how many): the call's tiles, `inner` of each outer, by runs of at most `most` inner ones."""
    size = index(inner)
    first = let("first_outer", tirx.truncdiv(frame.begin, size))
    last = let("last_outer", tirx.truncdiv(frame.end - 1, size))
    with loop("outer", last - first + 1, first) as outer:
        low = let("low", tirx.max(frame.begin - outer * size, index(0)))
        high = let("high", tirx.min(frame.end - outer * size, size))
        with loop("run", tirx.truncdiv(high - low + (most - 1), index(most))) as run:
            place = let("inner", low + run * most)
            yield outer, place, let("members", tirx.min(index(most), high - place))


@contextmanager
def chunks(tokens: Expr, size: int) -> Iterator[tuple[Expr, Expr]]:
    """(first token, how many) of each run of at most `size` tokens."""
    with loop("chunk", tirx.truncdiv(tokens + (size - 1), index(size))) as chunk:
        first = let("first", chunk * size)
        yield first, let("count", tirx.min(index(size), tokens - first))


def share_of(total: Expr, eps: float) -> Expr:
    """f32: 1 / (total + eps), and 0 where that divisor is 0."""
    zero, one = tirx.FloatImm("float32", 0.0), tirx.FloatImm("float32", 1.0)
    divisor = let("divisor", total + tirx.FloatImm("float32", eps))
    return let("share", tirx.Select(tirx.EQ(divisor, zero), zero, one / divisor))


class HeadRows:
    """Rows of one operand [B, S, H, D] of one head. lanes: of the widest vectors to read them by."""

    def __init__(self, frame: KernelFrame, value: Value | None, lanes: int) -> None:
        self.frame, self.view, self.lanes = frame, head_view(value), lanes
        assert value is not None
        self.tokens, self.size = value.shape[1], int(value.shape[3])
        self.padded = -(-self.size // lanes) * lanes
        self.buffer = frame.buffer(self.view.source)
        self.stride, self.across = (frame.size(stride) for stride in self.view.strides[1:3])

    def base(self, batch: Expr, head: Expr, token: Expr) -> Expr:
        """Where the row of a token begins in `buffer`."""
        size, strides = self.frame.size, self.view.strides
        start = size(self.view.offset) + batch * size(strides[0]) + head * size(strides[2])
        return let("base", start + token * self.stride)

    @contextmanager
    def rows(
        self, base: Expr, count: Expr, members: Expr, step: int = 1, tokens: int = 1
    ) -> Iterator[tuple[Expr, Expr, Expr]]:
        """(member, row, where it begins in `buffer`) of `count` rows from `base` on, each for so many heads, `step`
        heads and `tokens` tokens apart: in the order in which they stand in memory."""
        across, down = let("across", self.across * step), let("down", self.stride * tokens)
        with loop("row", count) as row, loop("member", members) as member:
            yield member, row, let("source", base + row * down + member * across)

    def pieces(self, lanes: int = 0) -> list[tuple[Any, int]]:
        """Blocks of code that cover a row by vectors of so many lanes, and smaller ones behind them: (context that
        gives the offset, lanes)."""
        lanes = lanes or self.lanes
        return column_pieces(Dim.of(self.size), lanes, -(-self.size // lanes) * lanes, index(self.size))

    def prefetch(self, base: Expr, row: Expr, element: Expr) -> None:
        """Bring the line of an element of a row into the second-level cache."""
        prefetch(self.buffer, base + row * self.stride + element, 1, 2)
