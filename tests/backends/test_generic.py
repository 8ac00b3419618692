"""Every op through the generic kernel against the interpreter: sizes known and symbolic, odd, tiles in pieces."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
from generic_attention import ATTENTION
from kernel_harness import (
    CompiledKernel,
    close,
    compile_kernels,
    level,
    level_names,
    make_group,
    random_array,
    reference,
)

from nomul.backends.emit import rules as element_rules
from nomul.backends.generic import rules
from nomul.backends.registry import all_kernels
from nomul.ir import interpreter
from nomul.ir.dim import Dim
from nomul.ir.op import Kind, all_ops
from nomul.ir.types import DType, Tensor

SIZES = {"A": 3, "B": 5, "C": 7, "D": 17, "H": 9, "W": 11}
OTHER_SIZES = [{"A": 1, "B": 1, "C": 2, "D": 1, "H": 4, "W": 5}, {"A": 2, "B": 9, "C": 4, "D": 70, "H": 6, "W": 33}]
Maker = Callable[[dict[str, int], np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Case:
    """types: `f32[A, B]`, sizes by name.  attrs: texts with `=` in front are sizes.  inputs: by position, for operands
    that need more than moderate random numbers."""

    op: str
    types: tuple[str, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    inputs: dict[int, Maker] = field(default_factory=dict)
    tolerance: float = 1e-5

    def __str__(self) -> str:
        return f"{self.op}({', '.join(self.types)}; {self.attrs})".replace(" ", "")


def parse(text: str, sizes: dict[str, int] | None) -> Tensor:
    dtype, inner = text.rstrip("]").split("[")
    shape = [part.strip() for part in inner.split(",") if part.strip()]
    known = [int(s) if s.isdigit() else (sizes[s] if sizes else s) for s in shape]
    return Tensor.of(dtype, *known)


def fixed(value: Any, sizes: dict[str, int] | None) -> Any:
    """An attribute with names of sizes replaced; `Dim` strings are marked by a leading `=`."""
    if isinstance(value, tuple):
        return tuple(fixed(item, sizes) for item in value)
    if isinstance(value, str) and value.startswith("="):
        names = {name: Dim.of(sizes[name] if sizes else name) for name in SIZES}
        return eval(value[1:], {"__builtins__": {}}, names)
    return value


def group_of(case: Case, sizes: dict[str, int] | None) -> Any:
    attrs = {name: fixed(value, sizes) for name, value in case.attrs.items()}
    types = [parse(text, sizes) for text in case.types]

    def build(b: Any, *xs: Any) -> Any:
        node = b.node(case.op, *xs, **attrs)
        return tuple(node.results)

    return make_group(build, *types)


def inputs_of(case: Case, sizes: dict[str, int], seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    arrays = []
    for position, text in enumerate(case.types):
        maker = case.inputs.get(position)
        type = parse(text, sizes)
        array = maker(sizes, rng) if maker else random_array(type, {}, rng)
        arrays.append(array.astype(type.dtype.numpy))
    return arrays


# -- element-wise ops: from their signatures -------------------------------------------------------------------
ATTRIBUTES: dict[str, list[dict[str, Any]]] = {
    "ew.cast": [{"dtype": dtype} for dtype in DType],
    "ew.clip": [{"low": -0.5, "high": 0.5}, {"low": 1.0}, {}],
    "ew.gelu": [{}, {"approximate": "tanh"}],
}
CLASSES = {
    "f": ["f32", "f16", "bf16", "f64"],
    "n": ["f32", "i64", "i32", "i16", "i8", "u8", "f16", "f64"],
    "b": ["bool"],
    "t": ["f32", "i64", "bool", "u8"],
}
SPECIAL = np.array([0, -0.0, 1, -1, 2.5, -2.5, 0.5, np.inf, -np.inf, np.nan, 100, -100, 1e-3, 3e38])


def elementwise_cases() -> list[Case]:
    cases = []
    for name, spec in all_ops().items():
        if spec.kind is not Kind.ELEMENTWISE:
            continue
        letters = [operand.pattern.element for operand in spec.operands]
        for dtype in CLASSES[letters[-1]]:
            shapes = ["[A, D]", "[D]", "[A, 1]"][-len(letters) :] if len(letters) > 1 else ["[A, D]"]
            types = tuple(f"{'bool' if letter == 'b' else dtype}{s}" for letter, s in zip(letters, shapes, strict=True))
            for attrs in ATTRIBUTES.get(name, [{}]):
                tame = name == "ew.cast" and dtype != "bool" and attrs["dtype"].is_integer  # outside: not defined
                inputs = {} if tame else _makers(types)
                cases.append(Case(name, types, attrs, inputs, 4e-3 if "16" in dtype else 1e-6))
    return cases


def _makers(types: tuple[str, ...]) -> dict[int, Maker]:
    def special(position: int) -> Maker:
        def make(sizes: dict[str, int], rng: np.random.Generator) -> np.ndarray:
            type = parse(types[position], sizes)
            shape = interpreter.type_shape(type, {})
            if type.dtype is DType.BOOL:
                return rng.integers(0, 2, shape).astype(bool)
            if type.dtype.is_integer:
                low, high = (np.iinfo(type.dtype.numpy).min, np.iinfo(type.dtype.numpy).max)
                wild = rng.integers(low, high, shape, dtype=type.dtype.numpy, endpoint=True)
                return np.where(rng.random(shape) < 0.5, rng.integers(0, 4, shape), wild).astype(type.dtype.numpy)
            values = rng.standard_normal(shape) * 3
            return np.where(rng.random(shape) < 0.4, rng.choice(SPECIAL, shape), values)

        return make

    return {position: special(position) for position in range(len(types))}


# -- the other ops ---------------------------------------------------------------------------------------------
def indices(low: str, high: str, shape: str) -> Maker:
    """Indices in [low, high], both expressions over the sizes; some lie outside where the bounds do."""

    def make(sizes: dict[str, int], rng: np.random.Generator) -> np.ndarray:
        extent = tuple(eval(part, {"__builtins__": {}}, dict(sizes)) for part in shape.split(","))
        return rng.integers(eval(low, {}, dict(sizes)), eval(high, {}, dict(sizes)) + 1, extent)

    return make


def with_nan(sizes: dict[str, int], rng: np.random.Generator) -> np.ndarray:
    array = rng.standard_normal((sizes["A"], sizes["D"])).round(1)
    array[rng.random(array.shape) < 0.1] = np.nan
    return array


IMAGE = {"nchw": "f32[A, 6, H, W]", "nhwc": "f32[A, H, W, 6]"}


def image_cases() -> list[Case]:
    cases = []
    for layout, image in IMAGE.items():
        conv = {"strides": (2, 1), "pads": (1, 2, 0, 1), "dilations": (1, 2), "layout": layout}
        cases += [
            Case("nn.conv2d", (image, "f32[8, 6, 3, 2]", "f32[8]"), conv),
            Case("nn.conv2d", (image, "f32[12, 2, 2, 3]"), conv | {"groups": 3}),
            Case("nn.quantised_conv2d", (f"i8{image[3:]}", "f32[A]", "f32[12, 2, 2, 3]"), conv | {"groups": 3}),
            Case("nn.conv_transpose2d", (image, "f32[6, 5, 2, 2]", "f32[5]"), {"strides": (2, 2), "layout": layout}),
            Case(
                "nn.conv_transpose2d",
                (image, "f32[6, 2, 3, 3]"),
                {
                    "strides": (2, 3),
                    "pads": (1, 1, 0, 2),
                    "groups": 2,
                    "dilations": (2, 1),
                    "output_pads": (1, 0),
                    "layout": layout,
                },
            ),
        ]
        pool = {"kernel": (3, 2), "strides": (2, 2), "pads": (1, 1, 1, 0), "layout": layout}
        for extra in ({}, {"ceil": True}, {"dilations": (1, 2)}):
            cases.append(Case("nn.max_pool2d", (image,), pool | extra))
            for count in (False, True):
                cases.append(Case("nn.avg_pool2d", (image,), pool | extra | {"count_pads": count}))
        for mode in ("nearest", "linear", "cubic"):
            for coordinates in ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"):
                attrs = {"size": ("=H * 2", "=W + 3"), "mode": mode, "coordinates": coordinates, "layout": layout}
                cases.append(Case("nn.resize2d", (image,), attrs))
        for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
            attrs = {"size": ("=H * 2", "=W * 2"), "scales": (2.0, 2.0), "rounding": rounding, "layout": layout}
            cases.append(Case("nn.resize2d", (image,), attrs))
    return cases


def reduction_cases() -> list[Case]:
    cases = []
    for name in ("sum", "mean", "prod", "max", "min"):
        for axes, keepdims in (((2,), False), ((0, 2), True), ((0, 1, 2), False), ((1,), False), ((), False)):
            cases.append(Case(f"reduce.{name}", ("f32[A, B, D]",), {"axes": axes, "keepdims": keepdims}))
        if name != "mean":
            cases += [Case(f"reduce.{name}", (f"{t}[A, D]",), {"axes": (1,)}) for t in ("i64", "i32", "u8")]
        cases.append(Case(f"reduce.{name}", ("f16[A, D]",), {"axes": (0,)}, tolerance=2e-2))
    cases += [Case(f"reduce.{name}", ("bool[A, D]",), {"axes": (1,)}) for name in ("any", "all")]
    for name in ("argmax", "argmin"):
        for axis, keepdims in ((1, True), (0, False)):
            attrs = {"axis": axis, "keepdims": keepdims}
            cases += [
                Case(f"reduce.{name}", ("f32[A, D]",), attrs, {0: with_nan}),
                Case(f"reduce.{name}", ("i32[A, D]",), attrs),
            ]
    cases += [Case("reduce.cumsum", (f"{t}[A, B, D]",), {"axis": axis}) for t in ("f32", "i64") for axis in (0, 1, 2)]
    return cases


def index_cases() -> list[Case]:
    wild = indices("-2 * D", "2 * D", "C,B")
    nd = {1: indices("-1", "1", "A,C,2")}
    cases = [
        Case("index.gather", ("f32[A, D, B]", "i64[C, B]"), {"axis": 1}, {1: wild}),
        Case("index.gather", ("f32[D, B]", "i32[C, B]"), {"axis": 0}, {1: wild}),
        Case("index.gather", ("i64[D]", "i64[]"), {"axis": 0}),
        Case("index.gather_elements", ("f32[A, D]", "i64[A, C]"), {"axis": 1}, {1: indices("-D", "D", "A,C")}),
        Case("index.gather_nd", ("f32[A, B, D]", "i64[A, C, 2]"), {}, nd),
        Case(
            "index.gather_nd", ("f32[A, B, D]", "i64[A, C, 1]"), {"batch_dims": 1}, {1: indices("0", "B - 1", "A,C,1")}
        ),
        Case("index.top_k", ("f32[A, D]",), {"k": "=D", "axis": 1}, {0: with_nan}),
        Case("index.top_k", ("f32[A, D]",), {"k": 1, "axis": 1, "largest": False}, {0: with_nan}),
        Case("index.top_k", ("i32[D, B]",), {"k": "=D", "axis": 0}),
    ]
    for reduction in ("none", "add", "mul", "max", "min"):
        attrs = {"reduction": reduction}
        repeated = {1: indices("-D", "D - 1", "C,1")}
        types = ("f32[D, B]", "i64[C, 1]", "f32[C, B]")
        if reduction != "none":
            cases.append(Case("index.scatter_nd", types, attrs, repeated))
            cases.append(
                Case(
                    "index.scatter_elements",
                    ("i64[D, B]", "i32[C, B]", "i64[C, B]"),
                    attrs | {"axis": 0},
                    {1: indices("0", "D - 1", "C,B")},
                )
            )
        else:
            cases.append(
                Case(
                    "index.scatter_nd",
                    ("f32[D, B]", "i64[1, 1]", "f32[1, B]"),
                    attrs,
                    {1: indices("-D", "D - 1", "1,1")},
                )
            )
            cases.append(
                Case(
                    "index.scatter_elements",
                    ("f16[A, D]", "i64[A, D]", "f16[A, D]"),
                    attrs | {"axis": 1},
                    {1: lambda s, r: np.stack([r.permutation(s["D"]) for _ in range(s["A"])])},
                )
            )
    return cases


def view_cases() -> list[Case]:
    cases = [
        Case("view.reshape", ("f32[A, B, D]",), {"shape": ("=B", "=D * A")}),
        Case("view.reshape", ("f32[A, B, D]",), {"shape": ("=A", "=B * D")}),
        Case("view.reshape", ("i8[A, 12, D]",), {"shape": ("=A", 3, "=D", 4)}),
        Case("view.transpose", ("f32[A, B, D]",), {"perm": (2, 0, 1)}),
        Case("view.transpose", ("bool[A, B]",), {"perm": (1, 0)}),
        Case("view.expand", ("f32[B, 1]",), {"shape": ("=A", "=B", "=D")}),
        Case("view.slice", ("f32[A, 20, B]",), {"axis": 1, "start": 2, "stop": 17, "step": 4}),
        Case("view.slice", ("f32[A, D]",), {"axis": 1, "start": "=D - 1", "stop": -1, "step": -1}),
        Case("view.concat", ("f32[A, B]", "f32[A, D]", "f32[A, C]"), {"axis": 1}),
        Case("view.concat", ("i64[A, B]", "i64[C, B]"), {"axis": 0}),
    ]
    for mode in ("constant", "edge", "reflect", "wrap"):
        attrs = {"before": (0, "=B + 1"), "after": (2, 3), "mode": mode, "value": -1.5}
        cases.append(Case("view.pad", ("f32[A, B]",), attrs))
    return cases


def _large(sizes: dict[str, int], rng: np.random.Generator) -> np.ndarray:
    """Numbers whose squares are no f16."""
    return rng.standard_normal((sizes["A"], sizes["D"])) * 2000


def norm_cases() -> list[Case]:
    cases = []
    for dtype, tolerance in (("f32", 1e-5), ("f16", 5e-3), ("f64", 1e-10)):
        cases += [
            Case(
                "nn.layer_norm", (f"{dtype}[A, B, D]", f"{dtype}[D]", f"{dtype}[D]"), {"eps": 1e-5}, tolerance=tolerance
            ),
            Case("nn.rms_norm", (f"{dtype}[A, D]", f"{dtype}[D]"), {}, tolerance=tolerance),
            Case("nn.softmax", (f"{dtype}[A, B, D]",), {"axis": 1}, tolerance=tolerance),
        ]
    cases += [
        Case("nn.layer_norm", ("f16[A, D]",), {}, {0: _large}, 5e-3),
        Case("nn.rms_norm", ("f16[A, D]",), {}, {0: _large}, 5e-3),
        Case("nn.layer_norm", ("f32[A, D]",)),
        Case("nn.rms_norm", ("f32[A, D]",)),
        Case("nn.hadamard", ("f32[A, B, 24]",), {"block": 8}, tolerance=0),
        Case("nn.hadamard", ("f16[A, 24]",), {"block": 2}, tolerance=1e-3),
        Case("nn.group_norm", ("f32[A, 6, H, W]", "f32[6]", "f32[6]"), {"groups": 3}),
        Case("nn.group_norm", ("f32[A, 6, D]",), {"groups": 6}),
        Case("nn.batch_norm", ("f32[A, 6, D]", *["f32[6]"] * 4), {}, {4: lambda s, r: r.random(6) + 0.1}),
        Case("nn.softmax", ("f32[A, D]",), {"axis": 1}),
        Case("nn.log_softmax", ("f32[A, D, B]",), {"axis": 1}),
    ]
    return cases


def product_cases() -> list[Case]:
    cases = [
        Case("nn.linear", ("f32[A, B, D]", "f32[C, D]", "f32[C]")),
        Case("nn.linear", ("f64[D]", "f64[C, D]"), tolerance=1e-12),
        Case("nn.quantise", ("f32[A, B, D]",), {"lead": 2}),
        Case("nn.quantise", ("f16[A, B, D]",), {"lead": 1, "act": "i8-static", "act_scale": 0.02}),
        Case("nn.quantised_linear", ("i8[A, B, D]", "f32[A, B]", "f32[C, D]", "f32[C]")),
        Case("nn.matmul", ("f32[A, 1, B, D]", "f32[C, D, B]")),
        Case("nn.matmul", ("f16[B, D]", "f16[D, C]"), tolerance=1e-2),
        Case("nn.hamming_attention", ("bool[A, C, 2, 6]", "bool[A, C, 2, 6]", "f32[A, C, 2, 5]"), tolerance=1e-5),
    ]
    return [*cases, *(Case(*case) for case in ATTENTION)]


def make_cases() -> list[Case]:
    full = {"shape": (3, "=D"), "value": 2.0}
    iota = {"size": "=D", "start": "=B", "step": -2}
    return [
        *(Case("make.full", (), full | {"dtype": dtype}) for dtype in DType),
        *(Case("make.iota", (), iota | {"dtype": DType(dtype)}) for dtype in ("i64", "f32", "i32", "f16")),
        Case("make.size", (), {"size": "=2 * D + 1"}),
    ]


OTHERS = [
    *view_cases(), *make_cases(), *reduction_cases(), *index_cases(), *norm_cases(), *product_cases(), *image_cases()
]  # fmt: skip
ALL = [*elementwise_cases(), *OTHERS]


def test_every_op_has_a_rule_and_a_case() -> None:
    names = {name for name, spec in all_ops().items() if spec.kind not in (Kind.STRUCTURE, Kind.COMPOSED)}
    assert names == set(rules()) | set(element_rules()) == {case.op for case in ALL}


def check(kernel: CompiledKernel, case: Case, sizes: dict[str, int], dims: dict[str, int], pieces: int) -> None:
    arrays = inputs_of(case, sizes, seed=pieces)
    got = kernel(*arrays, dims=dims, pieces=pieces)
    for result, expected in zip(got, reference(kernel.group, arrays, dims), strict=True):
        close(result, expected, case.tolerance)


@cache
def known_kernels(on: str) -> dict[int, CompiledKernel]:
    """By position in ALL; levels take turns."""
    turn = level_names().index(on)
    mine = range(turn, len(ALL), len(level_names()))
    groups = [group_of(ALL[i], SIZES) for i in mine]
    return dict(zip(mine, compile_kernels(all_kernels()["any/f32/generic"], groups, level(on)), strict=True))


@cache
def symbolic_kernels() -> list[CompiledKernel]:
    groups = [group_of(case, None) for case in OTHERS]
    return compile_kernels(all_kernels()["any/f32/generic"], groups, level(level_names()[0]))


@pytest.mark.parametrize("number", range(len(ALL)), ids=lambda i: str(ALL[i]))
def test_known_sizes(number: int) -> None:
    kernels = known_kernels(level_names()[number % len(level_names())])
    check(kernels[number], ALL[number], SIZES, {}, 1)


@pytest.mark.parametrize("number", range(len(OTHERS)), ids=lambda i: str(OTHERS[i]))
def test_symbolic_sizes(number: int) -> None:
    kernel = symbolic_kernels()[number]
    for pieces, sizes in enumerate([SIZES, *OTHER_SIZES], 1):
        check(kernel, OTHERS[number], sizes, {name: sizes[name] for name in kernel.group.dims}, pieces)


def test_names_in_this_file_are_sizes() -> None:
    for case in ALL:
        for text in case.types:
            assert all(part.isdigit() or part in SIZES for part in re.findall(r"\w+", text.split("[")[1]))
