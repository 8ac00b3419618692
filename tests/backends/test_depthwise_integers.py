"""Depthwise convolutions with integer weights, inputs in eight bits or floats, against the interpreter on every level.

With all scales one, every sum is an integer that f32 holds, so that results must be equal to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest

from nomul.backends.dot_codes import encodings_with_codes
from nomul.backends.group import Group
from nomul.backends.lower import lower_to_object
from nomul.backends.registry import all_kernels
from nomul.backends.select import choose
from nomul.backends.target import find_target
from nomul.backends.tir import dot
from nomul.ir.syntax import parse_encoding
from nomul.ir.types import Tensor
from tests.backends.test_encoded import activations, type_of, weight
from tests.kernel_harness import CompiledKernel, close, every_level, level, levels_for, link, make_group, reference

VEX = "v3_vnni"  # AVX-VNNI: its instructions run here in the form of AVX-512
LEVELS = list(dict.fromkeys([*levels_for(*dot.USES), VEX]))
SIZES = {"N": (1, 3), "H": (4, 11), "W": (5, 67)}
NAMES = {"bytes": "depthwise_bytes", "exact": "depthwise_exact_floats", "floats": "depthwise_integers"}


class Case(NamedTuple):
    """image: [N, H, W, C].  attrs: of the convolution, strides, pads and dilations."""

    encoding: str
    image: tuple[Any, ...]
    kernel: tuple[int, int]
    attrs: dict[str, Any]

    def group(self, act: bool, function: str = "abs") -> Group:
        """function: element-wise work behind it."""
        channels = int(self.image[3])
        attrs = {"layout": "nhwc", "groups": channels, **self.attrs}
        w, bias = type_of(parse_encoding(self.encoding), channels, 1, *self.kernel), Tensor.of("f32", channels)
        scale = [Tensor.of("f32", self.image[0])] if act else []
        image = Tensor.of("i8" if act else "f32", *self.image)

        def build(b: Any, *xs: Any) -> Any:
            return getattr(b.ew, function)((b.nn.quantised_conv2d if act else b.nn.conv2d)(*xs, **attrs))

        position = 1 + act
        return make_group(build, image, *scale, w, bias, weights=(position, position + 1))

    def inputs(self, act: bool, turn: int) -> list[Any]:
        """All scales are one; images have different ones that are powers of two."""
        rng, channels = np.random.default_rng(turn), int(self.image[3])
        shape = tuple(SIZES[size][turn] if isinstance(size, str) else size for size in self.image)
        w = weight(parse_encoding(self.encoding), turn, channels, 1, *self.kernel, exact=True)
        scale = [2.0 ** np.arange(shape[0], dtype=np.float32)] if act else []
        image = activations(rng, True, *shape)
        return [image if act else image.astype(np.float32), *scale, w, rng.integers(-9, 9, channels).astype(np.float32)]


CASES = (
    Case("int8", (1, "H", "W", 16), (3, 3), {"pads": (1, 1, 1, 1)}),
    Case("int8", ("N", "H", "W", 33), (5, 5), {"pads": (2, 2, 2, 2), "strides": (2, 1)}),
    Case("int4", (1, 14, "W", 40), (3, 3), {"pads": (1, 1, 1, 1), "strides": (2, 2)}),
    Case("ternary<planes=2>", ("N", 9, "W", 8), (3, 5), {"pads": (1, 0, 2, 3), "strides": (1, 2)}),
    Case("bitplane<bits=3>", (1, 12, 41, 3), (3, 3), {"pads": (2, 2, 2, 2), "dilations": (2, 2)}),
    Case("codebook<entries=16>", (2, 7, 7, 24), (7, 7), {"pads": (3, 3, 3, 3)}),
    Case("ternary<planes=3, tied=1>", (1, 12, "W", 48), (1, 9), {"pads": (0, 4, 0, 4), "strides": (1, 3)}),
    Case("shift", (1, 13, 50, 17), (9, 9), {"pads": (8, 8, 8, 8), "dilations": (2, 3)}),
)


def compiled(on: str, kind: str, groups: Sequence[Group]) -> list[CompiledKernel]:
    """Kernels in one library; skips the test where this machine does not run the level."""
    if on == VEX and "v4_vnni" not in LEVELS:
        pytest.skip("this machine has no AVX-512 VNNI, whose 256-bit form stands for AVX-VNNI")
    target = find_target("x86-64-v3-vnni")[0] if on == VEX else level(on)
    runs_on = level("v4_vnni") if on == VEX else level(on)
    built = []
    for group in groups:
        (encoding,) = [param.type.encoding.name for param in group.func.params if param.type.encoding]
        assert group.anchor is not None
        found = all_kernels()[f"{group.anchor.op}/{encoding}/{NAMES[kind]}"]
        assert found.accepts(group) is None
        built.append(found.build(group, target))
    entries = link({f"k{i}": one.function for i, one in enumerate(built)}, runs_on)
    return [CompiledKernel(g, b, runs_on, entries[f"k{i}"]) for i, (g, b) in enumerate(zip(groups, built, strict=True))]


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("on", LEVELS)
def test_cases(on: str, kind: str) -> None:
    act = kind != "floats"
    cases = CASES if (on, kind) == (LEVELS[0], "bytes") else CASES[LEVELS.index(on) % 2 :: 3]
    for case, run in zip(cases, compiled(on, kind, [case.group(act) for case in cases]), strict=True):
        for turn in (0, 1):
            inputs = case.inputs(act, turn)
            for pieces in (1, 3):
                got, expected = run(*inputs, pieces=pieces)[0], reference(run.group, inputs)[0]
                np.testing.assert_array_equal(got, expected, err_msg=str(case))


@pytest.mark.parametrize("on", every_level())
def test_real_scales(on: str) -> None:
    """An epilogue that is too long for registers, and scales that are no whole numbers."""
    for act in (True, False):
        group = CASES[1].group(act, "gelu")
        choice = choose(group, (level(on),))
        quantised = "bytes" if on.startswith("v") else "exact"
        assert choice.label.endswith(NAMES[quantised if act else "floats"])
        inputs = CASES[1].inputs(act, 1)
        inputs[1 + act] = weight(parse_encoding("int8"), 5, 33, 1, 5, 5)
        inputs[0] = inputs[0] if act else inputs[0] / 100
        close(CompiledKernel(group, choice.built[0], level(on))(*inputs)[0], reference(group, inputs)[0], 2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_drawn(seed: int) -> None:
    """40 cases each: levels, encodings, sizes, strides, dilations, pads."""
    rng = np.random.default_rng(seed)
    texts = [
        "int8",
        "int4",
        "ternary<planes=2>",
        "bitplane<bits=2>",
        "codebook<entries=32>",
        "shift<terms=2, pack=sp2>",
    ]
    cases = []
    for _ in range(10):
        kernel, strides, dilations = (tuple(map(int, rng.integers(1, most, 2))) for most in (8, 4, 3))
        pads = tuple(int(rng.integers(0, dilations[axis % 2] * kernel[axis % 2])) for axis in range(4))
        image = (2, int(rng.integers(20, 30)), int(rng.integers(20, 50)), int(rng.integers(2, 50)))
        attrs = {"strides": strides, "dilations": dilations, "pads": pads}
        cases.append(Case(str(rng.choice(texts)), image, (kernel[0], kernel[1]), attrs))
    for kind in NAMES:
        runs = compiled(LEVELS[seed % len(LEVELS)], kind, [case.group(kind != "floats") for case in cases])
        for case, run in zip(cases, runs, strict=True):
            for turn in range(2):
                inputs = case.inputs(kind != "floats", turn)
                np.testing.assert_array_equal(run(*inputs, pieces=2)[0], reference(run.group, inputs)[0], str(case))


def test_largest_sums() -> None:
    """The largest products of all bytes, in either sign."""
    case = Case("int8", (1, 9, 20, 16), (9, 9), {"pads": (0, 0, 0, 0)})
    for on in (LEVELS[0], LEVELS[-2]):
        (run,) = compiled(on, "bytes", [case.group(True)])
        inputs = case.inputs(True, 0)
        fields = inputs[2].encoding.pack(-np.ones((16, 1, 9, 9), np.float32))
        inputs[2] = replace(inputs[2], fields=fields | {"scale": np.ones_like(fields["scale"])})
        for sign in (-127, 127):
            inputs[0][...] = sign
            np.testing.assert_array_equal(run(*inputs)[0], reference(run.group, inputs)[0])


def test_refusals() -> None:
    def reason(text: str, kernel: tuple[int, int] = (4, 4)) -> str | None:
        encoding = parse_encoding(text)
        group = Case(text, (1, 9, 9, 16), kernel, {}).group(True)
        return all_kernels()[f"nn.quantised_conv2d/{encoding.name}/depthwise_bytes"].accepts(group)

    assert reason("int8") is None
    assert reason("int8<group=4>") == "a kernel has several groups of weights"
    assert reason("int8<zero=1>") == "the weights are not integers of eight bits"
    assert reason("int8", (3, 17)) == "more than 15 taps along a row"
    assert reason("ternary<pack=3of4>") == "four trits in five bits are looked up, not multiplied"
    assert {"int8", "int4", "ternary", "bitplane"} <= set(encodings_with_codes())


def test_avx_vnni_is_assembled_without_avx512() -> None:
    (target,) = find_target("x86_64-linux+avxvnni")
    texts: list[str] = []
    function = all_kernels()["nn.quantised_conv2d/int8/depthwise_bytes"].build(CASES[0].group(True), target).function
    lower_to_object({"k": function}, target, lambda symbol, kind, text: texts.append(text if kind == "s" else ""))
    code = "\n".join(texts)
    assert "{vex}\tvpdpbusd" in code or "{vex} vpdpbusd" in code
    assert "zmm" not in code and "%ymm16" not in code and "%k1" not in code
