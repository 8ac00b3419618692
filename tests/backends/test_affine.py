"""Places through views: the reads of drawn chains of views, against the interpreter on numbered elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomul.backends.kernels.affine import Form, NeedsSplit, NotAffine, Space, unflatten
from nomul.backends.kernels.boxes import Box, part_of
from nomul.backends.kernels.nest import Part, collapsed, plan_tiles
from nomul.backends.kernels.terms import Read, no_heavy_node
from nomul.ir.builder import Builder
from nomul.ir.dim import Dim, product
from nomul.ir.graph import Value
from nomul.ir.types import Tensor
from tests.kernel_harness import make_group, reference

DIMS = {"S": 5, "T": 3}
S, T = Dim.of("S"), Dim.of("T")


def places(part: Part, form: Form) -> np.ndarray:
    """The value of a form for all loop indices, in the order of the part's places."""
    sizes = [size.evaluate(DIMS) for size in part.space.sizes]
    grid = np.meshgrid(*(np.arange(size) for size in sizes), indexing="ij") if sizes else []
    total = np.full(sizes, form.offset.evaluate(DIMS))
    for step, numbers in zip(form.steps, grid, strict=True):
        total = total + step.evaluate(DIMS) * numbers
    return total.reshape(-1)


def read_of(part: Part) -> Read:
    return next(term for term in part.terms if isinstance(term, Read))


def draw_view(data: Any, b: Builder, x: Value) -> Value:
    kind = data.draw(st.sampled_from(["transpose", "merge", "split", "slice", "expand", "flip", "neg"]))
    rank = len(x.shape)
    if kind == "transpose":
        return b.view.transpose(x, perm=tuple(data.draw(st.permutations(range(rank)))))
    axis = data.draw(st.integers(0, rank - 1))
    size = x.shape[axis]
    if kind == "merge" and axis + 1 < rank:
        return b.view.reshape(x, shape=(*x.shape[:axis], size * x.shape[axis + 1], *x.shape[axis + 2 :]))
    if kind == "split":
        parts = [part for part in (Dim.of(2), Dim.of(3), S, T) if _divides(part, size)]
        if parts:
            inner = data.draw(st.sampled_from(parts))
            return b.view.reshape(x, shape=(*x.shape[:axis], size // inner, inner, *x.shape[axis + 1 :]))
    if kind == "slice" and size.evaluate(DIMS) > 2:
        return b.view.slice(x, axis=axis, start=1, stop=size, step=data.draw(st.integers(1, 2)))
    if kind == "flip":
        return b.view.slice(x, axis=axis, start=size - 1, stop=-1, step=-1)
    if kind == "expand":
        return b.view.expand(b.view.reshape(x, shape=(*x.shape, 1)), shape=(*x.shape, 2))
    return b.ew.neg(x)


def _divides(divisor: Dim, size: Dim) -> bool:
    try:
        size // divisor
    except ValueError:
        return False
    return divisor != size and (size // divisor) * divisor == size


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_reads_of_drawn_views(data: Any) -> None:
    shape = data.draw(st.sampled_from([(4, "S", 6), ("S", "T"), (2, 3, "T", 4), (S * 2, 6), (1, "S", 1, 8)]))
    steps = data.draw(st.integers(1, 5))

    def build(b: Builder, x: Value) -> Value:
        for _ in range(steps):
            x = draw_view(data, b, x)
        return b.ew.neg(x)

    group = make_group(build, Tensor.of("i64", *shape), ranges={"S": (2, 64), "T": (2, 64)})
    try:
        part = part_of(group, Box.whole(group, no_heavy_node))
    except NotAffine:
        return
    numbers = np.arange(product(group.func.params[0].shape).evaluate(DIMS))
    x = numbers.reshape([size.evaluate(DIMS) for size in group.func.params[0].shape])
    expected = np.abs(reference(group, [x], DIMS)[0]).reshape(-1)
    result = np.empty(expected.shape, np.int64)
    result[places(part, part.place)] = places(part, read_of(part).place)
    np.testing.assert_array_equal(result, expected)
    loops = collapsed(part.space.sizes, part.forms)
    assert product([loop.size for loop in loops]) == product(part.space.sizes)
    assert plan_tiles(loops, group.ranges).tiles.evaluate(DIMS) >= 1


def test_a_reshape_that_joins_axes_splits_the_loop() -> None:
    """[3, S, 8] transposed to [S, 3, 8] and joined to [S, 24]: the loop over 24 must become 3 times 8."""
    group = make_group(
        lambda b, x: b.view.reshape(b.view.transpose(b.ew.neg(x), perm=(1, 0, 2)), shape=("S", 24)),
        Tensor.of("f32", 3, "S", 8),
    )
    part = part_of(group, Box.whole(group, no_heavy_node))
    assert [str(size) for size in part.space.sizes] == ["S", "3", "8"]
    assert [str(step) for step in read_of(part).place.steps] == ["8", "8*S", "1"]


def test_unflatten_splits_or_refuses() -> None:
    one = Form(Dim.of(0), (Dim.of(1),))
    with pytest.raises(NeedsSplit) as need:
        unflatten(one, (Dim.of(4), S), (S * 4,), {})
    assert (need.value.loop, need.value.inner) == (0, S)
    with pytest.raises(NotAffine, match="do not divide"):
        unflatten(one, (Dim.of(4), Dim.of(5)), (Dim.of(18),), {})
    with pytest.raises(NotAffine, match="unknown sign"):
        unflatten(Form(Dim.of(0), (S - T,)), (S * S,), (T,), {})


def test_runs_of_equal_strides_are_one_loop() -> None:
    sizes = (Dim.of(2), S, Dim.of(7))
    x = Form(Dim.of(0), (S * 7, Dim.of(7), Dim.of(1)))
    channel = Form(Dim.of(0), (Dim.of(0), Dim.of(0), Dim.of(1)))
    assert [str(loop.size) for loop in collapsed(sizes, [x])] == ["14*S"]
    assert [str(loop.size) for loop in collapsed(sizes, [x, channel])] == ["2*S", "7"]
    assert len(Space.of((Dim.of(1), Dim.of(1))).sizes) == 0
