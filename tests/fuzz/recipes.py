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
_RECIPES: dict[str, Recipe] = {}


def recipe(*ops: str) -> Callable[[Callable[[Sketch, str], Value | None]], None]:
    def declare(function: Callable[[Sketch, str], Value | None]) -> None:
        for op in ops:
            _RECIPES[op] = lambda sketch, op=op: function(sketch, op)

    return declare


def recipes() -> dict[str, Recipe]:
    return dict(_RECIPES)


def floating(value: Value) -> bool:
    return value.dtype.is_float


def numeric(value: Value) -> bool:
    return value.dtype is not DType.BOOL


# -- reductions, normalisation -----------------------------------------------------------------------------------
@recipe("reduce.sum", "reduce.prod", "reduce.max", "reduce.min", "reduce.mean", "reduce.any", "reduce.all")
def reduce(sketch: Sketch, op: str) -> Value | None:
    accepts = {"mean": floating, "any": lambda v: not numeric(v), "all": lambda v: not numeric(v)}
    x = sketch.pick(lambda v: v.type.rank >= 1 and accepts.get(op[7:], numeric)(v))
    if x is None:
        return None
    axes = tuple(sorted(sketch.subset(range(x.type.rank))))
    return sketch.add(op, x, axes=axes, keepdims=sketch.flag())


@recipe("reduce.argmax", "reduce.argmin")
def search(sketch: Sketch, op: str) -> Value | None:
    x = sketch.pick(lambda v: v.type.rank >= 1 and numeric(v))
    return x and sketch.add(op, x, axis=sketch.integer(0, x.type.rank - 1), keepdims=sketch.flag())


@recipe("reduce.cumsum")
def scan(sketch: Sketch, op: str) -> Value | None:
    x = sketch.pick(lambda v: v.type.rank >= 1 and numeric(v))
    return x and sketch.add(op, x, axis=sketch.integer(0, x.type.rank - 1))


@recipe("nn.softmax", "nn.log_softmax")
def softmax(sketch: Sketch, op: str) -> Value | None:
    x = sketch.pick(lambda v: v.type.rank >= 1 and floating(v))
    return x and sketch.add(op, x, axis=sketch.integer(0, x.type.rank - 1))


@recipe("nn.layer_norm", "nn.rms_norm")
def norm(sketch: Sketch, op: str) -> Value | None:
    x = sketch.pick(lambda v: v.type.rank >= 1 and floating(v) and v.shape[-1].value is not None)
    if x is None:
        return None
    width = int(x.shape[-1])
    extra = [sketch.weight(x.dtype, width) for _ in range(sketch.integer(0, 2 if op == "nn.layer_norm" else 1))]
    return sketch.add(op, x, *extra, eps=1e-3)


@recipe("nn.group_norm", "nn.batch_norm")
def channel_norm(sketch: Sketch, op: str) -> Value | None:
    x = sketch.pick(lambda v: v.type.rank >= 3 and floating(v) and v.shape[1].value is not None)
    if x is None:
        return None
    channels = int(x.shape[1])
    if op == "nn.batch_norm":
        parts = [sketch.weight(x.dtype, channels) for _ in range(3)]
        return sketch.add(op, x, *parts, sketch.weight(x.dtype, channels, positive=True))
    groups = sketch.one_of([g for g in range(1, channels + 1) if channels % g == 0])
    return sketch.add(op, x, groups=groups, eps=1e-3)


# -- products ----------------------------------------------------------------------------------------------------
@recipe("nn.linear")
def linear(sketch: Sketch, op: str) -> Value | None:
    x = sketch.pick(lambda v: v.type.rank >= 1 and floating(v) and v.shape[-1].value is not None)
    if x is None:
        return None
    outputs = sketch.integer(1, 9)
    bias = [sketch.weight(x.dtype, outputs)] if sketch.flag() else []
    return sketch.add(op, x, sketch.weight(x.dtype, outputs, int(x.shape[-1])), *bias)


@recipe("nn.matmul")
def matmul(sketch: Sketch, op: str) -> Value | None:
    x = sketch.pick(lambda v: v.type.rank >= 2 and floating(v))
    if x is None:
        return None
    y = sketch.pick(lambda v: v.dtype is x.dtype and v.type.rank == 2 and v.shape[0] == x.shape[-1])
    if y is None:
        rank = x.type.rank
        y = sketch.add("view.transpose", x, perm=(*range(rank - 2), rank - 1, rank - 2))
    return y and sketch.add(op, x, y)


@recipe("nn.attention")
def attention(sketch: Sketch, op: str) -> Value | None:
    x = sketch.pick(lambda v: v.type.rank == 4 and floating(v) and v.shape[2].value is not None)
    if x is None:
        return None
    key = x
    if sketch.flag():
        key = sketch.add("view.slice", x, axis=2, start=0, stop=1) or x
    mask = []
    if sketch.flag():
        square = (x.shape[1], x.shape[1])
        kind = sketch.one_of([(x.dtype, -1.5), (DType.BOOL, 1.0)])
        mask = [sketch.add("make.full", shape=square, value=kind[1], dtype=kind[0])]
    return sketch.add(op, x, key, key, *mask, scale=0.5, causal=sketch.flag())


# -- images ------------------------------------------------------------------------------------------------------
def _image(sketch: Sketch) -> tuple[Value, str, int, int] | None:
    """A rank 4 value, a layout, its channels, and the largest kernel that fits all its sizes."""
    x = sketch.pick(lambda v: v.type.rank == 4 and floating(v))
    if x is None:
        return None
    layout = sketch.one_of(["nchw", "nhwc"])
    channel, spatial = (1, (2, 3)) if layout == "nchw" else (3, (1, 2))
    if x.shape[channel].value is None:
        return None
    return x, layout, int(x.shape[channel]), min(3, *(sketch.least(x.shape[axis]) for axis in spatial))


@recipe("nn.conv2d")
def convolve(sketch: Sketch, op: str) -> Value | None:
    found = _image(sketch)
    if found is None:
        return None
    x, layout, channels, size = found
    groups = sketch.one_of([1, channels])
    weight = sketch.weight(x.dtype, groups * sketch.integer(1, 3), channels // groups, size, size)
    pads = tuple(sketch.integer(0, 1) for _ in range(4))
    strides = (sketch.integer(1, 2), sketch.integer(1, 2))
    return sketch.add(op, x, weight, strides=strides, pads=pads, groups=groups, layout=layout)


@recipe("nn.conv_transpose2d")
def convolve_back(sketch: Sketch, op: str) -> Value | None:
    found = _image(sketch)
    if found is None:
        return None
    x, layout, channels, _ = found
    weight = sketch.weight(x.dtype, channels, sketch.integer(1, 3), 2, 2)
    strides = (sketch.integer(1, 2), sketch.integer(1, 2))
    return sketch.add(op, x, weight, strides=strides, layout=layout)


@recipe("nn.max_pool2d", "nn.avg_pool2d")
def pool(sketch: Sketch, op: str) -> Value | None:
    found = _image(sketch)
    if found is None:
        return None
    x, layout, _, size = found
    return sketch.add(op, x, kernel=(size, size), strides=(sketch.integer(1, 2),) * 2, layout=layout)


@recipe("nn.resize2d")
def resize(sketch: Sketch, op: str) -> Value | None:
    found = _image(sketch)
    if found is None:
        return None
    x, layout, _, _ = found
    sizes = x.shape[2:] if layout == "nchw" else x.shape[1:3]
    mode = sketch.one_of(["nearest", "linear", "cubic"])
    coordinates = sketch.one_of(["half_pixel", "asymmetric", "align_corners"])
    return sketch.add(op, x, size=tuple(s * 2 for s in sizes), mode=mode, coordinates=coordinates, layout=layout)


# -- indices -----------------------------------------------------------------------------------------------------
def _indexed(sketch: Sketch) -> tuple[Value, int] | None:
    x = sketch.pick(lambda v: v.type.rank >= 1)
    return x and (x, sketch.integer(0, x.type.rank - 1))


@recipe("index.gather")
def gather(sketch: Sketch, op: str) -> Value | None:
    found = _indexed(sketch)
    if found is None:
        return None
    return sketch.add(op, found[0], sketch.indices(*sketch.small_shape()), axis=found[1])


@recipe("index.gather_elements")
def gather_elements(sketch: Sketch, op: str) -> Value | None:
    found = _indexed(sketch)
    if found is None:
        return None
    x, axis = found
    where = sketch.add("make.full", shape=x.shape, value=float(sketch.integer(-1, 0)), dtype=DType.I64)
    return where and sketch.add(op, x, where, axis=axis)


@recipe("index.gather_nd")
def gather_nd(sketch: Sketch, op: str) -> Value | None:
    found = _indexed(sketch)
    if found is None:
        return None
    depth = sketch.integer(1, found[0].type.rank)
    return sketch.add(op, found[0], sketch.indices(sketch.integer(1, 3), depth))


@recipe("index.scatter_nd")
def scatter_nd(sketch: Sketch, op: str) -> Value | None:
    x = sketch.pick(lambda v: v.type.rank >= 1 and numeric(v))
    if x is None:
        return None
    updates = sketch.add("make.full", shape=(Dim.of(1), *x.shape[1:]), value=1.0, dtype=x.dtype)
    reduction = sketch.one_of(["none", "add", "mul", "max", "min"])
    return updates and sketch.add(op, x, sketch.indices(1, 1), updates, reduction=reduction)


@recipe("index.scatter_elements")
def scatter_elements(sketch: Sketch, op: str) -> Value | None:
    x = sketch.pick(lambda v: v.type.rank == 2 and numeric(v))
    if x is None:
        return None
    updates = sketch.add("make.full", shape=(Dim.of(1), Dim.of(1)), value=1.0, dtype=x.dtype)
    reduction = sketch.one_of(["none", "add", "mul", "max", "min"])
    indices = sketch.indices(1, 1)
    return updates and sketch.add(op, x, indices, updates, axis=sketch.integer(0, 1), reduction=reduction)


@recipe("index.top_k")
def top_k(sketch: Sketch, op: str) -> Value | None:
    x = sketch.pick(lambda v: v.type.rank >= 1 and numeric(v))
    if x is None:
        return None
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
@recipe("view.reshape")
def reshape(sketch: Sketch, op: str) -> Value | None:
    x = sketch.pick(lambda v: v.type.rank >= 1)
    if x is None:
        return None
    at = sketch.integer(0, x.type.rank - 1)
    size, kind = x.shape[at], sketch.one_of(["merge", "split", "one"])
    if kind == "merge" and at + 1 < x.type.rank:
        return sketch.add(op, x, shape=(*x.shape[:at], size * x.shape[at + 1], *x.shape[at + 2 :]))
    if kind == "split" and size.value is not None and int(size) % 2 == 0:
        return sketch.add(op, x, shape=(*x.shape[:at], Dim.of(2), size // 2, *x.shape[at + 1 :]))
    return sketch.add(op, x, shape=(*x.shape[:at], Dim.of(1), *x.shape[at:])) if x.type.rank < 5 else None


@recipe("view.transpose")
def transpose(sketch: Sketch, op: str) -> Value | None:
    x = sketch.pick(lambda v: v.type.rank >= 2)
    return x and sketch.add(op, x, perm=sketch.order(x.type.rank))


@recipe("view.expand")
def expand(sketch: Sketch, op: str) -> Value | None:
    x = sketch.pick(lambda v: v.type.rank <= 3)
    if x is None:
        return None
    shape = tuple(sketch.size() if size == 1 else size for size in x.shape)
    return sketch.add(op, x, shape=(sketch.size(), *shape) if sketch.flag() else shape)


@recipe("view.slice")
def slice_(sketch: Sketch, op: str) -> Value | None:
    found = _indexed(sketch)
    if found is None:
        return None
    x, axis = found
    size, least = x.shape[axis], sketch.least(x.shape[axis])
    start = sketch.integer(0, least - 1)
    if sketch.flag():
        return sketch.add(op, x, axis=axis, start=size - 1, stop=Dim.of(start - 1), step=-sketch.integer(1, 2))
    stop = size if sketch.flag() else Dim.of(sketch.integer(start + 1, least))
    return sketch.add(op, x, axis=axis, start=Dim.of(start), stop=stop, step=sketch.integer(1, 3))


@recipe("view.concat")
def concat(sketch: Sketch, op: str) -> Value | None:
    found = _indexed(sketch)
    if found is None:
        return None
    x, axis = found
    rest = lambda v: [v.dtype, v.type.rank, *(s for i, s in enumerate(v.shape) if i != axis)]  # noqa: E731
    other = sketch.pick(lambda v: rest(v) == rest(x)) or x
    return sketch.add(op, x, other, axis=axis)


@recipe("view.pad")
def pad(sketch: Sketch, op: str) -> Value | None:
    x = sketch.pick(lambda v: 1 <= v.type.rank <= 4)
    if x is None:
        return None
    mode = sketch.one_of(["constant", "edge", "reflect", "wrap"])
    most = [min(2, sketch.least(size) - (mode == "reflect")) for size in x.shape]
    before, after = (tuple(Dim.of(sketch.integer(0, m)) for m in most) for _ in "ab")
    value = 1.0 if mode == "constant" else 0.0
    return sketch.add(op, x, before=before, after=after, mode=mode, value=value)
