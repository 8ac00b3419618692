"""Fused groups through the generic kernel: prologues, epilogues, results that must be complete before they are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kernel_harness import close, compile_kernels, every_level, level, level_names, make_group, random_array, reference

from nomul.backends.registry import all_kernels
from nomul.ir.dim import Dim
from nomul.ir.types import Tensor

DIMS = {"S": 5, "T": 12, "D": 19}


def t(text: str) -> Tensor:
    dtype, _, inner = text.rstrip("]").partition("[")
    return Tensor.of(dtype, *(int(s) if s.strip().isdigit() else s.strip() for s in inner.split(",") if s.strip()))


def embedding(b: Any, ids: Any, table: Any, positions: Any, bias: Any) -> Any:
    return b.ew.add(b.ew.add(b.index.gather(table, ids), positions), bias)


def linear_gelu_residual(b: Any, x: Any, w: Any, bias: Any, residual: Any) -> Any:
    return b.ew.add(b.ew.gelu(b.nn.linear(x, w, bias)), residual)


def centred_then_norm(b: Any, x: Any, y: Any) -> Any:
    return b.ew.mul(b.nn.layer_norm(b.ew.add(x, y)), 2.0)


def mean_of_squares(b: Any, x: Any) -> Any:
    return b.ew.sqrt(b.reduce.mean(b.ew.mul(x, x), axes=(1,), keepdims=True))


def normalised_by_sum(b: Any, x: Any) -> Any:
    """The sum is read under another shape, so it must be staged."""
    return b.ew.div(x, b.reduce.sum(b.ew.abs(x), axes=(1,), keepdims=True))


def two_products(b: Any, x: Any, y: Any) -> Any:
    return b.nn.matmul(b.nn.matmul(x, y), x)


def transposed_softmax(b: Any, x: Any) -> Any:
    return b.view.transpose(b.nn.softmax(x, axis=1), perm=(1, 0))


def cumulated_positions(b: Any, mask: Any) -> Any:
    ones = b.ew.cast(mask, dtype="i64")
    return b.ew.sub(b.ew.mul(b.reduce.cumsum(ones, axis=1), ones), 1)


def scattered_then_scaled(b: Any, x: Any, indices: Any, updates: Any) -> Any:
    return b.ew.mul(b.index.scatter_nd(x, indices, updates, reduction="add"), 0.5)


def best_of_negated(b: Any, x: Any) -> Any:
    return tuple(b.node("index.top_k", b.ew.neg(x), k=3, axis=1).results)


def padded_product(b: Any, x: Any, y: Any) -> Any:
    before, after = (Dim.of(1), Dim.of(0)), (Dim.of(0), Dim.of(2))
    return b.view.pad(b.ew.mul(x, y), before=before, after=after, value=1.0)


def heads(b: Any, x: Any) -> Any:
    """[S, D * 3] -> slice -> [3, S, D / ...]: reshapes that split, transposes and slices in a chain."""
    y = b.view.reshape(x, shape=("S", 3, 4))
    y = b.view.transpose(y, perm=(1, 0, 2))
    y = b.view.slice(y, axis=2, start=1, stop=4)
    return b.ew.relu(b.view.reshape(y, shape=(Dim.of("S") * 9,)))


def silu_gate(b: Any, x: Any) -> Any:
    """A value that is used twice, in a diamond ten deep."""
    for _ in range(10):
        x = b.ew.mul(x, b.ew.sigmoid(x))
    return x


def half_mask(b: Any, x: Any, y: Any) -> Any:
    return b.ew.where(b.ew.gt(x, y), b.ew.cast(x, dtype="bf16"), b.ew.cast(0.0, dtype="bf16"))


def unlike_results(b: Any, x: Any) -> Any:
    return b.reduce.max(x, axes=(1,)), b.ew.neg(x)


def only_a_copy(b: Any, x: Any) -> Any:
    return b.view.reshape(x, shape=(Dim.of("S") * Dim.of("D"),))


def outer_sum(b: Any, x: Any, y: Any) -> Any:
    return b.ew.add(b.view.reshape(x, shape=("S", 1)), b.view.reshape(y, shape=(1, "D")))


GROUPS: list[tuple[Callable[..., Any], tuple[str, ...]]] = [
    (embedding, ("i64[S, T]", "f32[30, D]", "f32[T, D]", "f32[D]")),
    (linear_gelu_residual, ("f32[S, T]", "f32[D, T]", "f32[D]", "f32[S, D]")),
    (centred_then_norm, ("f32[S, D]", "f32[D]")),
    (mean_of_squares, ("f32[S, D]",)),
    (normalised_by_sum, ("f32[S, D]",)),
    (two_products, ("f32[S, D]", "f32[D, S]")),
    (transposed_softmax, ("f32[S, D]",)),
    (cumulated_positions, ("bool[S, T]",)),
    (scattered_then_scaled, ("f32[D, S]", "i64[T, 1]", "f32[T, S]")),
    (best_of_negated, ("f32[S, T]",)),
    (padded_product, ("f32[S, D]", "f32[S, 1]")),
    (heads, ("f32[S, 12]",)),
    (silu_gate, ("f32[S, D]",)),
    (half_mask, ("f32[S, D]", "f32[D]")),
    (unlike_results, ("f32[S, D]",)),
    (only_a_copy, ("f16[S, D]",)),
    (outer_sum, ("f32[S]", "f32[D]")),
]


@pytest.mark.parametrize("on", every_level())
def test_groups(on: str) -> None:
    groups = [make_group(build, *map(t, types)) for build, types in GROUPS]
    for (build, _), kernel in zip(
        GROUPS, compile_kernels(all_kernels()["any/f32/generic"], groups, level(on)), strict=True
    ):
        for pieces in (1, 3):
            rng = np.random.default_rng(pieces)
            dims = {name: size * pieces for name, size in DIMS.items()}
            arrays = [random_array(param.type, dims, rng) for param in kernel.group.func.params]
            results = kernel(*arrays, dims=dims, pieces=pieces)
            for got, expected in zip(results, reference(kernel.group, arrays, dims), strict=True):
                close(got, expected, 1e-5), build.__name__


def test_scatter_in_place() -> None:
    def build(b: Any, x: Any, indices: Any, updates: Any) -> Any:
        return b.index.scatter_nd(x, indices, b.ew.neg(updates))

    group = make_group(build, t("f32[D, S]"), t("i64[T, 1]"), t("f32[T, S]"))
    (kernel,) = compile_kernels(all_kernels()["any/f32/generic"], [group], level(level_names()[0]))
    assert kernel.built.inplace == (0,) and kernel.built.scratch == 0
    rng = np.random.default_rng(2)
    arrays = [rng.random((9, 3), "f4"), rng.permutation(9)[:4, None].astype("i8"), rng.random((4, 3), "f4")]
    close(kernel(*arrays, inplace=0)[0], reference(group, arrays)[0], 0)
    twice = make_group(lambda b, x, i: b.index.scatter_nd(x, i, x), t("f32[D, S]"), t("i64[D, 1]"))
    assert all_kernels()["any/f32/generic"].build(twice, level(level_names()[0])).inplace == ()


def test_encoded_weights_are_decoded() -> None:
    from nomul.ir.encodings import get_encoding

    for name in ("f16", "bf16"):
        weight = Tensor(t("f32[7, 9]").dtype, t("f32[7, 9]").shape, get_encoding(name))
        group = make_group(lambda b, x, w: b.nn.linear(x, w), t("f32[S, 9]"), weight, weights=[1])
        (kernel,) = compile_kernels(all_kernels()["any/f32/generic"], [group], level(level_names()[0]))
        rng = np.random.default_rng(0)
        arrays = [rng.standard_normal((4, 9)).astype("f4"), rng.standard_normal((7, 9)).astype("f4")]
        close(kernel(*arrays)[0], reference(group, arrays)[0], 1e-6)
