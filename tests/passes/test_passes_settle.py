"""Random graphs of views and cheap ops, whose rules move past each other: all phases settle and keep results."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pass_graphs import Graph

from nomul.ir.dim import Dim, product
from nomul.ir.graph import Module, Value
from nomul.ir.signature import TypeFault
from nomul.passes.runner import PassRunner
from nomul.phases import phases

Draw = np.random.Generator


def transpose(g: Graph, draw: Draw, x: Value) -> Value:
    return g.b.view.transpose(x, perm=tuple(int(axis) for axis in draw.permutation(x.type.rank)))


def merge(g: Graph, draw: Draw, x: Value) -> Value:
    at = int(draw.integers(0, max(x.type.rank - 1, 1)))
    return g.b.view.reshape(x, shape=(*x.shape[:at], product(x.shape[at : at + 2]), *x.shape[at + 2 :]))


def split(g: Graph, draw: Draw, x: Value) -> Value:
    at = int(draw.integers(0, x.type.rank))
    size = x.shape[at].value
    part = next((n for n in (2, 3) if size and size % n == 0), 1)
    return g.b.view.reshape(x, shape=(*x.shape[:at], x.shape[at] // part, Dim.of(part), *x.shape[at + 1 :]))


def add_equal(g: Graph, draw: Draw, x: Value) -> Value:
    alike = [value for value in g._func.values() if value.shape == x.shape]
    return g.b.ew.add(x, alike[int(draw.integers(0, len(alike)))])


def add_small(g: Graph, draw: Draw, x: Value) -> Value:
    at = int(draw.integers(0, x.type.rank))
    size = x.shape[at].value
    return g.b.ew.mul(x, g.weight("w", size or 1, *(1,) * int(x.type.rank - at - 1)))


def cut_and_join(g: Graph, draw: Draw, x: Value) -> Value:
    axis = int(draw.integers(0, x.type.rank))
    first = g.b.view.slice(x, axis=axis, stop=1)
    rest = g.b.view.slice(x, axis=axis, start=1, stop=x.shape[axis])
    return g.b.view.concat(g.b.ew.neg(rest), first, axis=axis)


def mean(g: Graph, draw: Draw, x: Value) -> Value:
    x = g.b.ew.abs(x)  # the mean of a normalised row would be rounding alone
    return g.b.reduce.mean(x, axes=(int(draw.integers(0, x.type.rank)),), keepdims=bool(draw.integers(0, 2)))


def grow(g: Graph, draw: Draw, x: Value) -> Value:
    axis = next((axis for axis, size in enumerate(x.shape) if size == 1), None)
    if axis is None:
        return g.b.ew.abs(x)
    return g.b.view.expand(x, shape=(*x.shape[:axis], Dim.of(3), *x.shape[axis + 1 :]))


def convolve(g: Graph, draw: Draw, x: Value) -> Value:
    channels = x.shape[1].value if x.type.rank == 4 else None
    return g.b.nn.conv2d(x, g.weight("c", 4, channels, 1, 1)) if channels else g.b.ew.relu(x)


STEPS: tuple[Callable[[Graph, Draw, Value], Value], ...] = (
    *(transpose,) * 3,
    merge,
    *(split,) * 2,
    *(add_equal,) * 3,
    *(add_small,) * 2,
    cut_and_join,
    mean,
    grow,
    *(convolve,) * 2,
    lambda g, draw, x: g.b.ew.tanh(x),
    lambda g, draw, x: g.b.nn.layer_norm(x),
    lambda g, draw, x: g.b.nn.softmax(x, axis=int(draw.integers(0, x.type.rank))),
)


def drawn(seed: int) -> Module:
    draw, g = np.random.default_rng(seed), Graph({"S": (1, 4)}, seed)
    values = [g.input("x", 2, 4, "S", 6), g.input("y", 2, 4, "S", 6)]
    for _ in range(int(draw.integers(4, 20))):
        x = values[-1 if draw.random() < 0.6 else int(draw.integers(0, len(values)))]
        try:
            made = STEPS[int(draw.integers(0, len(STEPS)))](g, draw, x)
        except TypeFault:
            continue
        if 0 < made.type.rank <= 6:
            values.append(made)
    return g.module(*values[-2:])


@pytest.mark.parametrize("start", range(0, 120, 30))
def test_random_views_settle(start: int) -> None:
    for seed in range(start, start + 30):
        PassRunner(check=True).run(drawn(seed), phases())


@pytest.mark.slow
def test_many_random_views_settle() -> None:
    for seed in range(1000, 3000):
        PassRunner(check=True).run(drawn(seed), phases())
