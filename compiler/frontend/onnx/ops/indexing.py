"""Reading and writing by index, and tensors made from sizes."""

from __future__ import annotations

import numpy as np

from nomul.frontend.common import BAD_NODE, DATA_DEPENDENT
from nomul.frontend.onnx.formula import Counter, counter
from nomul.frontend.onnx.node import SourceNode
from nomul.frontend.onnx.registry import onnx_op
from nomul.frontend.onnx.tensors import ir_dtype
from nomul.ir.dim import Dim, ceil_div, product
from nomul.ir.graph import Value
from nomul.ir.types import DType


@onnx_op("Constant")
def constant(n: SourceNode) -> np.ndarray:
    for name, dtype in (("value", None), ("value_float", np.float32), ("value_int", np.int64)):
        if name in n.attributes:
            return np.asarray(n.attr(name), dtype)
    for name, list_dtype in (("value_floats", np.float32), ("value_ints", np.int64)):
        if name in n.attributes:
            return np.asarray(n.attr(name), list_dtype)
    n.unsupported("only constants of numbers are supported")


@onnx_op("ConstantOfShape")
def constant_of_shape(n: SourceNode) -> Value:
    fill = n.attr("value", np.zeros(1, np.float32)).reshape(())
    shape = tuple(n.need_sizes(0, "the shape of a constant"))
    return n.b.make.full(shape=shape, value=float(fill), dtype=DType.from_numpy(fill.dtype))


@onnx_op("Range")
def range_(n: SourceNode) -> Value | np.ndarray:
    """Constants give a constant; symbolic bounds with a constant step count by a symbolic size."""
    known = [n.constant(index) for index in range(3)]
    if all(number is not None for number in known):
        start, limit, step = (number.reshape(()).item() for number in known if number is not None)
        if step == 0 or abs(limit - start) / abs(step) > 1 << 20:
            n.fail(BAD_NODE, f"a range from {start} to {limit} by {step}")
        return np.arange(start, limit, step, dtype=n.dtype().numpy)
    start_size, limit_size, step_size = (n.need_sizes(index, "a bound of a range")[0] for index in range(3))
    if step_size.value is None or step_size == 0:
        n.unsupported("the step of a range must be constant")
    step = int(step_size)
    extent = limit_size - start_size if step > 0 else start_size - limit_size
    count = n.clamp(ceil_div(extent, abs(step)), Dim.of(0), ceil_div(extent, abs(step)))
    return n.b.make.iota(size=count, start=start_size, step=step, dtype=n.dtype())


@onnx_op("EyeLike")
def eye_like(n: SourceNode) -> Value:
    rows, columns = n.shape()
    dtype = ir_dtype(n.attr("dtype"), "the result") if "dtype" in n.attributes else n.dtype()
    row = n.reshape(n.b.make.iota(size=rows), (rows, 1))
    offset = n.b.ew.sub(n.b.make.iota(size=columns), row)
    return n.cast(n.b.ew.eq(offset, n.attr("k", 0)), dtype)


@onnx_op("Gather")
def gather(n: SourceNode) -> Value:
    """A constant place is a slice: no gather at run time."""
    x, axis = n.tensor(), n.axis(n.attr("axis", 0))
    indices, size = n.constant(1), n.shape()[axis]
    if indices is not None and size.value is not None and ((indices >= size.value) | (indices < -size.value)).any():
        n.fail(BAD_NODE, f"an index is outside the axis of size {size}")
    if indices is not None and indices.size == 1:
        place = Dim.of(int(indices.reshape(())))
        place = place + size if int(place) < 0 else place
        row = n.slice(x, axis, place, place + 1)
        return n.reshape(row, (*x.shape[:axis], *n.shape(1), *x.shape[axis + 1 :]))
    counted = counter(n.value(1))
    rows = _counted_rows(n, x, axis, counted) if counted is not None else None
    return rows or n.b.index.gather(x, n.tensor(1), axis=axis)


def _counted_rows(n: SourceNode, x: Value, axis: int, index: Counter) -> Value | None:
    """Rows whose numbers are known: one row for all, or consecutive ones, without a gather."""
    low, size = index.offset, x.shape[axis]
    low = low + size if low.bounds(n.importer.ranges)[1] < 0 else low
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    shape = n.shape(1)
    if index.is_uniform:
        if not n.at_most(low + 1, size):
            n.fail(BAD_NODE, f"index {low} is outside the axis of size {size}")
        row = n.reshape(n.slice(x, axis, low, low + 1), (*before, *[Dim.of(1)] * len(shape), *after))
        return n.expand(row, (*before, *shape, *after))
    if not index.counts_on or low.bounds(n.importer.ranges)[0] < 0:
        return None
    high = low + product(shape)
    if high != size and not n.at_most(high, size):
        n.fail(BAD_NODE, f"an index is outside the axis of size {size}")
    return n.reshape(n.slice(x, axis, low, high), (*before, *shape, *after))


@onnx_op("GatherElements")
def gather_elements(n: SourceNode) -> Value:
    uniform = n.uniform_operand(0)
    if uniform is not None:
        return n.full(n.shape(1), uniform, n.dtype())
    return n.b.index.gather_elements(n.tensor(), n.tensor(1), axis=n.axis(n.attr("axis", 0)))


@onnx_op("GatherND")
def gather_nd(n: SourceNode) -> Value:
    return n.b.index.gather_nd(n.tensor(), n.tensor(1), batch_dims=n.attr("batch_dims", 0))


@onnx_op("ScatterND")
def scatter_nd(n: SourceNode) -> Value:
    return n.b.index.scatter_nd(*n.values(), reduction=n.attr("reduction", "none"))


@onnx_op("ScatterElements", "Scatter")
def scatter_elements(n: SourceNode) -> Value:
    axis, reduction = n.axis(n.attr("axis", 0)), n.attr("reduction", "none")
    return n.b.index.scatter_elements(*n.values(), axis=axis, reduction=reduction)


@onnx_op("TopK")
def top_k(n: SourceNode) -> tuple[Value, Value]:
    k = n.need_sizes(1, "k")[0] if n.opset >= 10 else Dim.of(n.need_attr("k"))
    axis = n.axis(n.attr("axis", -1))
    n.at_most(k, n.shape()[axis])
    made = n.b.node("index.top_k", n.tensor(), k=k, axis=axis, largest=bool(n.attr("largest", 1)))
    return made.results[0], made.results[1]


@onnx_op("OneHot")
def one_hot(n: SourceNode) -> Value:
    """Compare indices, wrapped once, with 0 ... depth - 1."""
    b, depth = n.b, n.need_sizes(1, "the depth")[0]
    axis = n.axis(n.attr("axis", -1), n.rank() + 1)
    indices = n.cast(n.value(), DType.I64)
    size = int(depth) if depth.is_constant else b.make.size(size=depth)
    indices = b.ew.where(b.ew.lt(indices, 0), b.ew.add(indices, size), indices)
    shape = (*n.shape()[:axis], Dim.of(1), *n.shape()[axis:])
    places = n.reshape(b.make.iota(size=depth), [depth if i == axis else Dim.of(1) for i in range(len(shape))])
    off, on = (n.reshape(n.slice(n.tensor(2), 0, i, i + 1), ()) for i in (0, 1))
    return b.ew.where(b.ew.eq(n.reshape(indices, shape), places), on, off)


@onnx_op("NonZero")
def non_zero(n: SourceNode) -> np.ndarray:
    """Of constants only: the number of results depends on the data."""
    numbers = n.constant(0)
    if numbers is None:
        n.fail(DATA_DEPENDENT, "the shape of its result depends on the data that the model is given")
    return np.stack(np.nonzero(numbers)).astype(np.int64)


@onnx_op("Compress")
def compress(n: SourceNode) -> Value:
    """By a constant condition only."""
    x, axis = n.tensor(), n.attr("axis")
    kept = np.flatnonzero(n.need_constant(1, "the condition")).astype(np.int64)
    if axis is None:
        x, axis = n.reshape(x, (x.type.numel,)), 0
    return n.b.index.gather(x, n.weight(kept, "kept"), axis=n.axis(axis, x.type.rank))
