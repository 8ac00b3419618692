"""How to draw one node of each op: `recipes()` maps op names to functions that add the op to a graph being drawn.

A recipe returns None where no value drawn so far suits it. Element-wise ops need no recipe: signatures say enough.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nomul.ir.dim import Dim
from nomul.ir.graph import Value
from nomul.ir.types import DType

if TYPE_CHECKING:
    from fuzz.graphs import Sketch

Recipe = Callable[["Sketch"], Value | None]
Accepts = Callable[[Value], bool]
_RECIPES: dict[str, Recipe] = {}


def recipe(*ops: str, x: Accepts | None = None) -> Callable[[Callable[..., Value | None]], None]:
    """Declare how to draw a node of these ops: `function(sketch, op)`, or, with x, `function(sketch, op, operand)` for
    one of the values drawn so far that x accepts, where there is one."""

    def declare(function: Callable[..., Value | None]) -> None:
        def draw(sketch: Sketch, op: str) -> Value | None:
            if x is None:
                return function(sketch, op)
            operand = sketch.pick(x)
            return None if operand is None else function(sketch, op, operand)

        for op in ops:
            _RECIPES[op] = lambda sketch, op=op: draw(sketch, op)

    return declare


def recipes() -> dict[str, Recipe]:
    return dict(_RECIPES)


def floating(value: Value) -> bool:
    return value.dtype.is_float


def numeric(value: Value) -> bool:
    return value.dtype is not DType.BOOL


def ranked(least: int, most: int = 9, kind: Accepts = lambda v: True) -> Accepts:
    """Values with so many axes and of this kind."""
    return lambda v: least <= v.type.rank <= most and kind(v)


def known(axis: int, accepts: Accepts) -> Accepts:
    """Of the accepted values those whose size on an axis is a number."""
    return lambda v: accepts(v) and v.shape[axis].value is not None


def any_axis(sketch: Sketch, x: Value) -> int:
    return sketch.integer(0, x.type.rank - 1)


# -- reductions, normalisation -----------------------------------------------------------------------------------
def reduce(sketch: Sketch, op: str, x: Value) -> Value | None:
    axes = tuple(sorted(sketch.subset(range(x.type.rank))))
    return sketch.add(op, x, axes=axes, keepdims=sketch.flag())


recipe("reduce.sum", "reduce.prod", "reduce.max", "reduce.min", x=ranked(1, kind=numeric))(reduce)
recipe("reduce.mean", x=ranked(1, kind=floating))(reduce)
recipe("reduce.any", "reduce.all", x=ranked(1, kind=lambda v: not numeric(v)))(reduce)


@recipe("reduce.argmax", "reduce.argmin", x=ranked(1, kind=numeric))
def search(sketch: Sketch, op: str, x: Value) -> Value | None:
    return sketch.add(op, x, axis=any_axis(sketch, x), keepdims=sketch.flag())


@recipe("reduce.cumsum", x=ranked(1, kind=numeric))
def scan(sketch: Sketch, op: str, x: Value) -> Value | None:
    return sketch.add(op, x, axis=any_axis(sketch, x))


@recipe("nn.softmax", "nn.log_softmax", x=ranked(1, kind=floating))
def softmax(sketch: Sketch, op: str, x: Value) -> Value | None:
    return sketch.add(op, x, axis=any_axis(sketch, x))


@recipe("nn.hadamard", x=known(-1, ranked(1, kind=floating)))
def hadamard(sketch: Sketch, op: str, x: Value) -> Value | None:
    width = int(x.shape[-1])
    return None if width % 2 else sketch.add(op, x, block=width & -width)


@recipe("nn.layer_norm", "nn.rms_norm", x=known(-1, ranked(1, kind=floating)))
def norm(sketch: Sketch, op: str, x: Value) -> Value | None:
    width = int(x.shape[-1])
    extra = [sketch.weight(x.dtype, width) for _ in range(sketch.integer(0, 2 if op == "nn.layer_norm" else 1))]
    return sketch.add(op, x, *extra, eps=1e-3)


@recipe("nn.group_norm", "nn.batch_norm", x=known(1, ranked(3, kind=floating)))
def channel_norm(sketch: Sketch, op: str, x: Value) -> Value | None:
    channels = int(x.shape[1])
    if op == "nn.batch_norm":
        parts = [sketch.weight(x.dtype, channels) for _ in range(3)]
        return sketch.add(op, x, *parts, sketch.weight(x.dtype, channels, positive=True))
    groups = sketch.one_of([g for g in range(1, channels + 1) if channels % g == 0])
    return sketch.add(op, x, groups=groups, eps=1e-3)


# -- products ----------------------------------------------------------------------------------------------------
@recipe("nn.linear", x=known(-1, ranked(1, kind=floating)))
def linear(sketch: Sketch, op: str, x: Value) -> Value | None:
    outputs = sketch.integer(1, 9)
    bias = [sketch.weight(x.dtype, outputs)] if sketch.flag() else []
    return sketch.add(op, x, sketch.weight(x.dtype, outputs, int(x.shape[-1])), *bias)


@recipe("nn.matmul", x=ranked(2, kind=floating))
def matmul(sketch: Sketch, op: str, x: Value) -> Value | None:
    y = sketch.pick(lambda v: v.dtype is x.dtype and v.type.rank == 2 and v.shape[0] == x.shape[-1])
    if y is None:
        rank = x.type.rank
        y = sketch.add("view.transpose", x, perm=(*range(rank - 2), rank - 1, rank - 2))
    return y and sketch.add(op, x, y)


@recipe("nn.attention", x=known(2, ranked(4, 4, floating)))
def attention(sketch: Sketch, op: str, x: Value) -> Value | None:
    key = x
    if sketch.flag():
        key = sketch.add("view.slice", x, axis=2, start=0, stop=1) or x
    mask = []
    if sketch.flag():
        square = (x.shape[1], x.shape[1])
        kind = sketch.one_of([(x.dtype, -1.5), (DType.BOOL, 1.0)])
        mask = [sketch.add("make.full", shape=square, value=kind[1], dtype=kind[0])]
    rules = {"causal": sketch.flag(), "window": sketch.one_of([0, 2]), "softcap": sketch.one_of([0.0, 2.0])}
    return sketch.add(op, x, key, key, *mask, scale=0.5, block=sketch.one_of([1, 2]), **rules)


@recipe("nn.linear_attention", x=known(2, ranked(4, 4, floating)))
def linear_attention(sketch: Sketch, op: str, x: Value) -> Value | None:
    return sketch.add(op, x, x, x, map=sketch.one_of(["elu", "relu", "softmax"]), causal=sketch.flag(), eps=1e-3)


@recipe("nn.delta_attention", x=known(2, ranked(4, 4, floating)))
def delta_attention(sketch: Sketch, op: str, x: Value) -> Value | None:
    unit = sketch.add("nn.softmax", x, axis=3)
    rates = sketch.add("make.full", shape=x.shape[:3], value=0.5, dtype=x.dtype)
    return sketch.add(op, unit, unit, x, rates, sketch.add("ew.neg", unit) if sketch.flag() else None)


@recipe("nn.hamming_attention", x=known(2, ranked(4, 4, floating)))
def hamming_attention(sketch: Sketch, op: str, x: Value) -> Value | None:
    bits = [float(sketch.flag()) for _ in "qk"]
    codes = [sketch.add("make.full", shape=x.shape, value=bit, dtype=DType.BOOL) for bit in bits]
    return sketch.add(op, *codes, x, normalise=False)


# -- images ------------------------------------------------------------------------------------------------------
class Image:
    """A rank 4 value in a drawn layout. size: the largest kernel that fits both of its sizes."""

    def __init__(self, sketch: Sketch, x: Value) -> None:
        self.layout = sketch.one_of([name for name in ("nchw", "nhwc") if x.shape[_channel(name)].value is not None])
        self.channels = int(x.shape[_channel(self.layout)])
        self.sizes = x.shape[2:] if self.layout == "nchw" else x.shape[1:3]
        self.size = min(3, *(sketch.least(size) for size in self.sizes))


def _channel(layout: str) -> int:
    return 1 if layout == "nchw" else 3


def imagelike(value: Value) -> bool:
    sizes = (value.shape[1], value.shape[3]) if value.type.rank == 4 else ()
    return floating(value) and any(size.value is not None for size in sizes)


@recipe("nn.conv2d", x=imagelike)
def convolve(sketch: Sketch, op: str, x: Value) -> Value | None:
    image = Image(sketch, x)
    groups = sketch.one_of([1, image.channels])
    weight = sketch.weight(x.dtype, groups * sketch.integer(1, 3), image.channels // groups, image.size, image.size)
    pads = tuple(sketch.integer(0, 1) for _ in range(4))
    strides = (sketch.integer(1, 2), sketch.integer(1, 2))
    return sketch.add(op, x, weight, strides=strides, pads=pads, groups=groups, layout=image.layout)


@recipe("nn.conv_transpose2d", x=imagelike)
def convolve_back(sketch: Sketch, op: str, x: Value) -> Value | None:
    image = Image(sketch, x)
    weight = sketch.weight(x.dtype, image.channels, sketch.integer(1, 3), 2, 2)
    strides = (sketch.integer(1, 2), sketch.integer(1, 2))
    return sketch.add(op, x, weight, strides=strides, layout=image.layout)


@recipe("nn.max_pool2d", "nn.avg_pool2d", x=imagelike)
def pool(sketch: Sketch, op: str, x: Value) -> Value | None:
    image = Image(sketch, x)
    return sketch.add(op, x, kernel=(image.size, image.size), strides=(sketch.integer(1, 2),) * 2, layout=image.layout)


@recipe("nn.resize2d", x=imagelike)
def resize(sketch: Sketch, op: str, x: Value) -> Value | None:
    image = Image(sketch, x)
    mode = sketch.one_of(["nearest", "linear", "cubic"])
    coordinates = sketch.one_of(["half_pixel", "asymmetric", "align_corners"])
    size = tuple(s * 2 for s in image.sizes)
    return sketch.add(op, x, size=size, mode=mode, coordinates=coordinates, layout=image.layout)


# -- indices -----------------------------------------------------------------------------------------------------
@recipe("index.gather", x=ranked(1))
def gather(sketch: Sketch, op: str, x: Value) -> Value | None:
    return sketch.add(op, x, sketch.indices(*sketch.small_shape()), axis=any_axis(sketch, x))


@recipe("index.gather_elements", x=ranked(1))
def gather_elements(sketch: Sketch, op: str, x: Value) -> Value | None:
    axis = any_axis(sketch, x)
    where = sketch.add("make.full", shape=x.shape, value=float(sketch.integer(-1, 0)), dtype=DType.I64)
    return where and sketch.add(op, x, where, axis=axis)


@recipe("index.gather_nd", x=ranked(1))
def gather_nd(sketch: Sketch, op: str, x: Value) -> Value | None:
    depth = sketch.integer(1, x.type.rank)
    return sketch.add(op, x, sketch.indices(sketch.integer(1, 3), depth))


@recipe("index.scatter_nd", x=ranked(1, kind=numeric))
def scatter_nd(sketch: Sketch, op: str, x: Value) -> Value | None:
    updates = sketch.add("make.full", shape=(Dim.of(1), *x.shape[1:]), value=1.0, dtype=x.dtype)
    reduction = sketch.one_of(["none", "add", "mul", "max", "min"])
    return updates and sketch.add(op, x, sketch.indices(1, 1), updates, reduction=reduction)


@recipe("index.scatter_elements", x=ranked(2, 2, numeric))
def scatter_elements(sketch: Sketch, op: str, x: Value) -> Value | None:
    updates = sketch.add("make.full", shape=(Dim.of(1), Dim.of(1)), value=1.0, dtype=x.dtype)
    reduction = sketch.one_of(["none", "add", "mul", "max", "min"])
    indices = sketch.indices(1, 1)
    return updates and sketch.add(op, x, indices, updates, axis=sketch.integer(0, 1), reduction=reduction)


@recipe("index.top_k", x=ranked(1, kind=numeric))
def top_k(sketch: Sketch, op: str, x: Value) -> Value | None:
    axis = sketch.integer(0, x.type.rank - 1)
    return sketch.add(op, x, k=sketch.integer(1, sketch.least(x.shape[axis])), axis=axis, largest=sketch.flag())


# -- tensors from sizes ------------------------------------------------------------------------------------------
@recipe("make.full")
def full(sketch: Sketch, op: str) -> Value | None:
    shape = sketch.shape(sketch.integer(0, 3))
    return sketch.add(op, shape=shape, value=float(sketch.integer(0, 2)), dtype=sketch.dtype())


@recipe("make.iota")
def iota(sketch: Sketch, op: str) -> Value | None:
    return sketch.add(op, size=sketch.size(), start=sketch.integer(-2, 2), step=sketch.one_of([1, 2, -1]))


@recipe("make.size")
def size(sketch: Sketch, op: str) -> Value | None:
    return sketch.add(op, size=sketch.size() + 1)


# -- views -------------------------------------------------------------------------------------------------------
@recipe("view.reshape", x=ranked(1))
def reshape(sketch: Sketch, op: str, x: Value) -> Value | None:
    at = sketch.integer(0, x.type.rank - 1)
    size, kind = x.shape[at], sketch.one_of(["merge", "split", "one"])
    if kind == "merge" and at + 1 < x.type.rank:
        return sketch.add(op, x, shape=(*x.shape[:at], size * x.shape[at + 1], *x.shape[at + 2 :]))
    if kind == "split" and size.value is not None and int(size) % 2 == 0:
        return sketch.add(op, x, shape=(*x.shape[:at], Dim.of(2), size // 2, *x.shape[at + 1 :]))
    return sketch.add(op, x, shape=(*x.shape[:at], Dim.of(1), *x.shape[at:])) if x.type.rank < 5 else None


@recipe("view.transpose", x=ranked(2))
def transpose(sketch: Sketch, op: str, x: Value) -> Value | None:
    return sketch.add(op, x, perm=sketch.order(x.type.rank))


@recipe("view.expand", x=ranked(0, 3))
def expand(sketch: Sketch, op: str, x: Value) -> Value | None:
    shape = tuple(sketch.size() if size == 1 else size for size in x.shape)
    return sketch.add(op, x, shape=(sketch.size(), *shape) if sketch.flag() else shape)


@recipe("view.slice", x=ranked(1))
def slice_(sketch: Sketch, op: str, x: Value) -> Value | None:
    axis = any_axis(sketch, x)
    size, least = x.shape[axis], sketch.least(x.shape[axis])
    start = sketch.integer(0, least - 1)
    if sketch.flag():
        return sketch.add(op, x, axis=axis, start=size - 1, stop=Dim.of(start - 1), step=-sketch.integer(1, 2))
    stop = size if sketch.flag() else Dim.of(sketch.integer(start + 1, least))
    return sketch.add(op, x, axis=axis, start=Dim.of(start), stop=stop, step=sketch.integer(1, 3))


@recipe("view.concat", x=ranked(1))
def concat(sketch: Sketch, op: str, x: Value) -> Value | None:
    axis = any_axis(sketch, x)
    rest = lambda v: [v.dtype, v.type.rank, *(s for i, s in enumerate(v.shape) if i != axis)]  # noqa: E731
    other = sketch.pick(lambda v: rest(v) == rest(x)) or x
    return sketch.add(op, x, other, axis=axis)


@recipe("view.pad", x=ranked(1, 4))
def pad(sketch: Sketch, op: str, x: Value) -> Value | None:
    mode = sketch.one_of(["constant", "edge", "reflect", "wrap"])
    most = [min(2, sketch.least(size) - (mode == "reflect")) for size in x.shape]
    before, after = (tuple(Dim.of(sketch.integer(0, m)) for m in most) for _ in "ab")
    value = 1.0 if mode == "constant" else 0.0
    return sketch.add(op, x, before=before, after=after, mode=mode, value=value)
