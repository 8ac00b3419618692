"""nn.linear against the interpreter on every level: odd shapes, encodings, epilogues; split ranges, guard pages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nomul.backends.group import Group
from nomul.backends.registry import all_kernels
from nomul.ir.builder import Builder
from nomul.ir.dim import Dim
from nomul.ir.encodings import get_encoding
from nomul.ir.types import DType, Tensor
from tests.kernel_harness import close, compile_kernel, every_level, level, level_names, make_group, reference

ROW_COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 11, 13, 23, 24, 25, 47, 49, 70)
RNG = np.random.default_rng(5)


def encoded(encoding: str | None, *shape: int) -> Tensor:
    sizes = tuple(Dim.of(size) for size in shape)
    return Tensor(DType.F32, sizes, get_encoding(encoding) if encoding else None)


def linear_group(
    rows: Any, depth: int, width: int, encoding: str | None = None, epilogue: Any = None, *more: Tensor
) -> Group:
    def build(b: Builder, x: Any, w: Any, bias: Any, *rest: Any) -> Any:
        y = b.nn.linear(x, w, bias)
        return epilogue(b, y, *rest) if epilogue else y

    types = (Tensor.of("f32", *rows, depth), encoded(encoding, width, depth), Tensor.of("f32", width), *more)
    return make_group(build, *types, ranges={"M": (1, 4096), "B": (1, 64)}, weights=(1, 2))


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("name", every_level())
@pytest.mark.parametrize(
    ("depth", "width", "encoding"),
    [
        (384, 96, None),
        (37, 45, None),
        (1, 1, None),
        (5, 16, None),
        (7, 24, None),
        (9, 8, None),
        (33, 88, None),
        (64, 50, "f16"),
        (37, 32, "f16"),
        (37, 70, "bf16"),
    ],
)
def test_shapes(name: str, depth: int, width: int, encoding: str | None) -> None:
    group = linear_group(("M",), depth, width, encoding)
    kernel = f"nn.linear/{encoding}/packed_{encoding}" if encoding else "nn.linear/f32/packed"
    run = compile_kernel(all_kernels()[kernel], group, level(name))
    w, bias = random(width, depth), random(width)
    for rows in ROW_COUNTS:
        x = random(rows, depth)
        for pieces in (1, 3):
            (got,) = run(x, w, bias, pieces=pieces)
            close(got, reference(group, [x, w, bias])[0], 1e-5)


def chain(b: Builder, y: Any, residual: Any, row: Any, scale: Any) -> Any:
    return b.ew.mul(b.ew.add(b.ew.gelu(y), residual), b.ew.add(row, scale))


def cheap(b: Builder, y: Any, residual: Any) -> Any:
    return b.ew.relu(b.ew.add(y, residual))


@pytest.mark.parametrize("name", every_level())
@pytest.mark.parametrize("width", [64, 39])
def test_epilogues(name: str, width: int) -> None:
    """gelu, a residual, an operand that repeats over the batch and the columns, and one scale per column."""
    full, row, scale = Tensor.of("f32", "B", "M", width), Tensor.of("f32", "M", 1), Tensor.of("f32", width)
    group = linear_group(("B", "M"), 29, width, None, chain, full, row, scale)
    run = compile_kernel(all_kernels()["nn.linear/f32/packed"], group, level(name))
    for batch, rows in ((1, 1), (3, 9), (2, 31)):
        shapes = ((batch, rows, 29), (width, 29), (width,), (batch, rows, width), (rows, 1), (width,))
        inputs = [random(*shape) for shape in shapes]
        close(run(*inputs, pieces=2)[0], reference(group, inputs)[0], 1e-5)


@pytest.mark.parametrize("name", every_level())
@pytest.mark.parametrize("width", [64, 39])
def test_residual_in_place(name: str, width: int) -> None:
    group = linear_group(("M",), 20, width, None, cheap, Tensor.of("f32", "M", width))
    kernel = all_kernels()["nn.linear/f32/packed"]
    run = compile_kernel(kernel, group, level(name))
    assert run.built.inplace == (3,)
    inputs = [random(31, 20), random(width, 20), random(width), random(31, width)]
    close(run(*inputs, inplace=3)[0], reference(group, inputs)[0], 1e-5)


@pytest.mark.parametrize("name", every_level())
def test_casts_to_half(name: str) -> None:
    group = linear_group(("M",), 20, 40, None, lambda b, y: b.ew.cast(y, dtype=DType.F16))
    run = compile_kernel(all_kernels()["nn.linear/f32/packed"], group, level(name))
    inputs = [random(9, 20), random(40, 20), random(40)]
    close(run(*inputs)[0], reference(group, inputs)[0], 1e-3)


@pytest.mark.parametrize("encoding", ["f16", "bf16"])
@pytest.mark.parametrize("name", every_level())
def test_special_half_weights(name: str, encoding: str) -> None:
    """Denormals, zeros of both signs, infinities and the largest numbers of the format are decoded exactly."""
    largest = 65504.0 if encoding == "f16" else 3e38
    values = np.array([0.0, -0.0, 6e-8, -5.9e-5, 1e-4, largest, np.inf, -np.inf], np.float32)
    group = linear_group(("M",), 1, 8, encoding)
    run = compile_kernel(all_kernels()[f"nn.linear/{encoding}/packed_{encoding}"], group, level(name))
    inputs = [np.ones((1, 1), np.float32), values[:, None], np.zeros(8, np.float32)]
    np.testing.assert_array_equal(run(*inputs)[0], reference(group, inputs)[0])


def test_large_row_counts_cover_all_blocks() -> None:
    """More rows than one cache block: every element is computed once, whatever the split."""
    group = linear_group(("M",), 600, 33)
    run = compile_kernel(all_kernels()["nn.linear/f32/packed"], group, level(level_names()[0]))
    x, w, bias = random(1200, 600), random(33, 600), random(33)
    close(run(x, w, bias, pieces=7)[0], reference(group, [x, w, bias])[0], 1e-5)


def test_refuses_with_a_reason() -> None:
    kernel = all_kernels()["nn.linear/f32/packed"]
    types = (Tensor.of("f32", 4, 8), Tensor.of("f32", 6, 8))
    assert kernel.accepts(make_group(lambda b, x, w: b.nn.linear(x, w), *types)) == (
        "the weights are not known when compiling"
    )


VIEWS = {
    "slice of wider rows": lambda b, x: b.view.slice(x, axis=2, start=8, stop=28),
    "first token": lambda b, x: b.view.reshape(
        b.view.slice(b.view.slice(x, axis=1, start=0, stop=1), axis=2, start=0, stop=20), shape=(x.shape[0], 20)
    ),
}


@pytest.mark.parametrize("name", every_level())
@pytest.mark.parametrize("view", VIEWS)
def test_reads_through_views(name: str, view: str) -> None:
    types = (Tensor.of("f32", "B", "M", 33), Tensor.of("f32", 40, 20), Tensor.of("f32", 40))
    group = make_group(lambda b, x, w, bias: b.nn.linear(VIEWS[view](b, x), w, bias), *types, weights=(1, 2))
    run = compile_kernel(all_kernels()["nn.linear/f32/packed"], group, level(name))
    for batch, rows in ((1, 1), (3, 9)):
        inputs = [random(batch, rows, 33), random(40, 20), random(40)]
        close(run(*inputs)[0], reference(group, inputs)[0], 1e-5)


def test_refuses_columns() -> None:
    types = (Tensor.of("f32", 8, 4), Tensor.of("f32", 6, 8))
    group = make_group(lambda b, x, w: b.nn.linear(b.view.transpose(x, perm=(1, 0)), w), *types, weights=(1,))
    assert all_kernels()["nn.linear/f32/packed"].accepts(group) == (
        "rows of the operand are not evenly spaced runs of elements"
    )


@pytest.mark.parametrize("name", every_level())
def test_one_column(name: str) -> None:
    """Rows are finished side by side: each with its own element of the residual, one bias for all."""
    group = linear_group(("M",), 20, 1, None, lambda b, y, z: b.ew.sigmoid(b.ew.add(y, z)), Tensor.of("f32", "M", 1))
    run = compile_kernel(all_kernels()["nn.linear/f32/packed"], group, level(name))
    for rows in (1, 15, 16, 41):
        inputs = [random(rows, 20), random(1, 20), random(1), random(rows, 1)]
        close(run(*inputs)[0], reference(group, inputs)[0], 1e-5)
