"""Softmax attention with every rule about places, bias and cap: each kernel against the interpreter, on every level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from kernel_harness import CompiledKernel, close, compile_kernels, every_level, level, make_group, reference

from nomul.backends.registry import all_kernels
from nomul.ir.dim import Dim
from nomul.ir.types import Tensor

FLASH, FEW, GENERIC = "nn.attention/f32/flash", "nn.attention/f32/few", "any/f32/generic"


@dataclass(frozen=True)
class Form:
    """extra: which optional operands it has.  queries: 0 where they are as many as the dim S."""

    attrs: dict[str, Any]
    extra: tuple[str, ...] = ()
    queries: int = 0
    heads: tuple[int, int] = (2, 1)

    def __str__(self) -> str:
        return ",".join([*(f"{k}={v}" for k, v in self.attrs.items()), *self.extra]) or "plain"


CAUSAL = {"causal": True}
FORMS = [
    Form({"window": 20}),
    Form(CAUSAL | {"window": 5}),
    Form(CAUSAL | {"block": 16}),
    Form(CAUSAL | {"block": 3, "offset": Dim.of("P"), "softcap": 2.0}),
    Form(CAUSAL | {"prefix": Dim.of("P")}),
    Form(CAUSAL | {"offset": Dim.of("P"), "window": 70}, ("mask",)),
    Form({}, ("relative",), heads=(3, 3)),
    Form(CAUSAL, ("relative", "lengths")),
    Form({"softcap": 5.0}, ("lengths",)),
    Form({}, ("tiles",)),
    Form(CAUSAL | {"tile": 128}, ("tiles", "relative")),
]
FEW_FORMS = [
    Form(CAUSAL | {"offset": Dim.of("P"), "window": 70}, ("mask",), 1),
    Form(CAUSAL | {"offset": Dim.of("P"), "block": 4, "softcap": 2.0}, ("relative", "lengths"), 3),
    Form({"window": 6, "prefix": Dim.of(3)}, ("lengths",), 8),
]
SIZES = [{"B": 2, "S": 130, "T": 131, "P": 3}, {"B": 1, "S": 1, "T": 1, "P": 5}, {"B": 1, "S": 65, "T": 200, "P": 70}]


MANY = {"B": 1, "S": 299, "T": 301, "P": 3}  # ten tiles of queries a head, eight of which go side by side


def group_of(form: Form) -> Any:
    heads, groups = form.heads
    queries = Dim.of(form.queries or "S")
    size = form.attrs.get("tile", 64)
    tiles = [(extent + (size - 1)) // size for extent in (queries, Dim.of("T"))]
    types = {
        "q": Tensor.of("f32", "B", queries, heads, 12),
        "k": Tensor.of("f32", "B", "T", groups, 12),
        "v": Tensor.of("f32", "B", "T", groups, 9),
        "mask": Tensor.of("bool", "B", 1, queries, "T"),
        "relative": Tensor.of("f32", heads, queries + Dim.of("T") - 1),
        "lengths": Tensor.of("i64", "B"),
        "tiles": Tensor.of("bool", "B", 1, *tiles),
    }
    given = ["q", "k", "v", *form.extra]

    def build(b: Any, *params: Any) -> Any:
        by_name = dict(zip(given, params, strict=True))
        operands = [by_name.get(name) for name in types]
        return b.nn.attention(*operands, scale=0.4, **form.attrs)

    return make_group(build, *(types[name] for name in given))


def arrays_of(form: Form, kernel: CompiledKernel, dims: dict[str, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    arrays = []
    for name, param in zip(("q", "k", "v", *form.extra), kernel.group.func.params, strict=True):
        shape = [size.evaluate(dims) for size in param.shape]
        drawn = rng.standard_normal(shape)
        lengths = np.array([0, dims["T"] + 4])[: dims["B"]] if dims["B"] > 1 else np.array([dims["T"] // 2])
        made = {"mask": drawn > -1, "tiles": drawn > 0, "lengths": lengths}.get(name, drawn)
        arrays.append(np.asarray(made).astype(param.dtype.numpy))
    return arrays


def check(kernels: list[CompiledKernel], forms: list[Form], pieces: int) -> None:
    for kernel, form in zip(kernels, forms, strict=True):
        for dims in SIZES:
            arrays = arrays_of(form, kernel, dims)
            used = {name: dims[name] for name in kernel.group.dims}
            expected = reference(kernel.group, arrays, used)[0]
            assert np.isfinite(expected).all()
            close(kernel(*arrays, dims=used, pieces=pieces)[0], expected, 5e-6)


def check_neighbours(kernel: CompiledKernel, form: Form) -> None:
    """Results are right, and the same whether tiles go side by side or each by itself."""
    arrays = arrays_of(form, kernel, MANY)
    used = {name: MANY[name] for name in kernel.group.dims}
    together = kernel(*arrays, dims=used)[0]
    close(together, reference(kernel.group, arrays, used)[0], 5e-6)
    for pieces in (3, kernel.built.tiles.evaluate(used)):
        np.testing.assert_array_equal(kernel(*arrays, dims=used, pieces=pieces)[0], together)


@pytest.mark.parametrize("on", every_level())
def test_blocks_of_queries(on: str) -> None:
    kernels = compile_kernels(all_kernels()[FLASH], [group_of(form) for form in FORMS], level(on))
    check(kernels, FORMS, 2)
    for kernel, form in zip(kernels, FORMS, strict=True):
        check_neighbours(kernel, form)


@pytest.mark.parametrize("on", every_level())
def test_few_queries(on: str) -> None:
    kernels = compile_kernels(all_kernels()[FEW], [group_of(form) for form in FEW_FORMS], level(on))
    check(kernels, FEW_FORMS, 1)


@pytest.mark.parametrize("on", every_level()[:1])
def test_one_query_at_a_time(on: str) -> None:
    forms = [*FORMS, *FEW_FORMS]
    kernels = compile_kernels(all_kernels()[GENERIC], [group_of(form) for form in forms], level(on))
    check(kernels, forms, 3)


def test_tiles_must_be_made_of_blocks() -> None:
    group = group_of(Form({"tile": 32}, ("tiles",)))
    assert all_kernels()[FLASH].accepts(group) == "the tiles of 32 tokens are not made of blocks of 64"
