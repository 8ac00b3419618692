"""Resampling of images: places are worked out in f64, as the definition does."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from nomul.backends.emit import Expr, Index
from nomul.backends.expressions import bind, intrinsic
from nomul.backends.frame import index_constant
from nomul.backends.generic import element
from nomul.backends.generic.convolve import image_index, image_sizes, layout_index
from nomul.backends.generic.pull import Pull
from nomul.ir.graph import Node

Tap = tuple[Expr, Expr]  # (place in the operand, share in f64)


@element("nn.resize2d")
def resize2d(pull: Pull, node: Node, index: Index) -> Expr:
    n, c, *place = image_index(node, index)
    rows, columns = (axis_taps(pull, node, axis, place[axis]) for axis in (0, 1))
    if len(rows) == len(columns) == 1:
        return pull.operand(node, 0, layout_index(node, n, c, rows[0][0], columns[0][0]))
    total = _wide(0.0)
    for row, row_share in rows:
        for column, column_share in columns:
            x = pull.operand(node, 0, layout_index(node, n, c, row, column))
            total = bind(total + tirx.Cast("float64", x) * (row_share * column_share))
    return tirx.Cast(pull.type(node.result.dtype), total)


def axis_taps(pull: Pull, node: Node, axis: int, i: Expr) -> list[Tap]:
    """The elements along one axis (0: height) of the operand that an output place takes from."""
    size = image_sizes(pull, node)[2 + axis]
    out = pull.size(node.attrs["size"][axis])
    place = bind(_place(node, axis, i, size, out))
    mode = node.attrs["mode"]
    if mode == "nearest":
        return [(_clamped(_ROUNDING[node.attrs["rounding"]](place), size), _wide(1.0))]
    base = bind(intrinsic("llvm.floor", place))
    part = bind(place - base)
    if mode == "linear":
        shares = [(0, _wide(1.0) - part), (1, part)]
    else:
        shares = _cubic(part, node.attrs["cubic_a"])
    return [(_clamped(base + _wide(offset), size), bind(share)) for offset, share in shares]


def _wide(value: float) -> Expr:
    return tirx.const(float(value), "float64")


def _place(node: Node, axis: int, i: Expr, size: Expr, out: Expr) -> Expr:
    """Where output place i lies on the operand's axis."""
    wide, half = tirx.Cast("float64", i), _wide(0.5)
    scales = node.attrs["scales"]
    scale = _wide(scales[axis]) if scales else tirx.Cast("float64", out) / tirx.Cast("float64", size)
    kind = node.attrs["coordinates"]
    if kind == "asymmetric":
        return wide / scale
    if kind == "align_corners":
        steps = tirx.max(out - index_constant(1), index_constant(1))
        return wide * tirx.Cast("float64", size - index_constant(1)) / tirx.Cast("float64", steps)
    centred = bind((wide + half) / scale - half)
    if kind == "pytorch_half_pixel":
        return tirx.Select(out > index_constant(1), centred, _wide(0.0))
    return centred


_ROUNDING: dict[str, Callable[[Expr], Expr]] = {
    "round_prefer_floor": lambda place: intrinsic("llvm.ceil", place - _wide(0.5)),
    "round_prefer_ceil": lambda place: intrinsic("llvm.floor", place + _wide(0.5)),
    "floor": lambda place: intrinsic("llvm.floor", place),
    "ceil": lambda place: intrinsic("llvm.ceil", place),
}


def _clamped(place: Expr, size: Expr) -> Expr:
    whole = bind(tirx.Cast("int64", place))
    return bind(tirx.max(tirx.min(whole, size - index_constant(1)), index_constant(0)))


def _cubic(t: Expr, a: float) -> list[tuple[int, Expr]]:
    """The four Keys (1981) shares around a place."""

    def near(d: Expr) -> Expr:
        return ((_wide(a + 2) * d - _wide(a + 3)) * d) * d + _wide(1.0)

    def far(d: Expr) -> Expr:
        return ((_wide(a) * d - _wide(5 * a)) * d + _wide(8 * a)) * d - _wide(4 * a)

    one = _wide(1.0)
    return [(-1, far(bind(t + one))), (0, near(t)), (1, near(bind(one - t))), (2, far(bind(_wide(2.0) - t)))]
