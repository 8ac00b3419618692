"""Strides of chains of views, compared with those that numpy gives the same chain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomul.ir.builder import Builder
from nomul.ir.dim import Dim
from nomul.ir.graph import Func, Value
from nomul.ir.interpreter import evaluate_node
from nomul.ir.types import Tensor
from nomul.ir.views import chain_view, resolve, view_chain

SHAPES = ((2, 3, 4), (6, 4), (24,), (2, 12), (1, 6, 1, 4), (2, 3, 2, 2), (4, 6))


def source(*shape: int | str) -> tuple[Builder, Value]:
    func = Func("main", [Value("x", Tensor.of("f32", *shape))])
    return Builder(func), func.params[0]


def extend(build: Builder, value: Value, draw: st.DataObject) -> Value:
    """One more view, drawn."""
    kind = draw.draw(st.sampled_from(["transpose", "slice", "expand", "reshape"]))
    rank = value.type.rank
    if kind == "transpose":
        return build.view.transpose(value, perm=tuple(draw.draw(st.permutations(range(rank)))))
    if kind == "slice":
        axis = draw.draw(st.integers(0, rank - 1))
        start = draw.draw(st.integers(0, int(value.shape[axis]) - 1))
        step = draw.draw(st.integers(1, 2))
        return build.view.slice(value, axis=axis, start=start, stop=int(value.shape[axis]), step=step)
    if kind == "expand":
        return build.view.expand(value, shape=(3, *value.shape)) if rank < 5 else value
    count = int(value.type.numel)
    fitting = [shape for shape in SHAPES if np.prod(shape) == count] + [(count,), (count, 1)]
    return build.view.reshape(value, shape=draw.draw(st.sampled_from(fitting)))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_strides_find_the_elements(draw: st.DataObject) -> None:
    build, x = source(*draw.draw(st.sampled_from(SHAPES)))
    value = x
    for _ in range(draw.draw(st.integers(1, 5))):
        value = extend(build, value, draw)
    array = np.arange(int(x.type.numel), dtype=np.float32).reshape([int(size) for size in x.shape])
    results = {x: array}
    for node in build.func.nodes:
        (results[node.result],) = evaluate_node(node, [results[node.args[0]]], {})
    view = resolve(value)
    if view is None:  # then it is a reshape of elements that do not lie in order
        assert any(node.op == "view.reshape" for node in build.func.nodes)
        return
    places = np.full(results[value].shape, int(view.offset))
    for axis, stride in enumerate(view.strides):
        shape = [1] * places.ndim
        shape[axis] = -1
        places += np.arange(places.shape[axis]).reshape(shape) * int(stride)
    np.testing.assert_array_equal(array.reshape(-1)[places], results[value])


def test_reshapes_without_copies_are_found() -> None:
    build, x = source("B", "S", 8, 16)
    heads = build.view.transpose(build.view.reshape(x, shape=("B", "S", 128)), perm=(1, 0, 2))
    view = chain_view(view_chain(heads))
    assert view is not None and view.strides == (Dim.of(128), Dim.of("S") * 128, Dim.of(1))


@pytest.mark.parametrize("shape", [("B", 128), ("B", 16, 8)])
def test_merging_scattered_axes_has_no_strides(shape: tuple[int | str, ...]) -> None:
    build, x = source("B", 8, 16)
    swapped = build.view.transpose(x, perm=(0, 2, 1))
    value = build.view.reshape(build.view.slice(swapped, axis=1, start=0, stop=16), shape=shape)
    assert (resolve(value) is None) == (len(shape) == 2)


def test_only_views_are_followed() -> None:
    build, x = source(4, 6)
    value = build.view.transpose(build.ew.exp(x), perm=(1, 0))
    assert resolve(value) is None and resolve(x) is not None
    assert [node.op for node in view_chain(value)] == ["view.transpose"]
