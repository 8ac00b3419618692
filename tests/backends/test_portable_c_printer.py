"""What the printer makes of a kernel: types as narrow as sizes allow, no overflow, errors that name a fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from kernel_harness import level, level_names, make_group

from nomul.backends.build import kernel_symbols
from nomul.backends.group import Group
from nomul.backends.portable_c.kernels import kernel_text, kernels_text
from nomul.backends.portable_c.targets import C_TARGETS, PORTABLE, find_c_target
from nomul.backends.registry import all_kernels
from nomul.backends.select import Selection, choose
from nomul.ir.dim import Range
from nomul.ir.errors import NomulError
from nomul.ir.types import Tensor


def group_of(build: Callable[..., Any], *types: str, ranges: Mapping[str, Range] | None = None) -> Group:
    parsed = []
    for text in types:
        dtype, _, inner = text.rstrip("]").partition("[")
        parsed.append(Tensor.of(dtype, *(int(s) if s.strip().isdigit() else s.strip() for s in inner.split(","))))
    return make_group(build, *parsed, ranges=ranges)


def printed(group: Group) -> str:
    """The kernel's body, without its interface."""
    text = kernel_text(group, choose(group, (PORTABLE,)).built[0], "k")
    return text.split("{\n", 1)[1]


def test_known_sizes_are_computed_in_32_bits() -> None:
    text = printed(group_of(lambda b, x: b.nn.softmax(x, axis=1), "f32[6, 70]"))
    assert "int64_t" not in text and "for (int32_t" in text


def test_sizes_that_need_more_are_computed_in_64_bits() -> None:
    group = group_of(lambda b, x: b.ew.exp(x), "f32[S, 8]", ranges={"S": (1, 2**40)})
    assert "for (int64_t v = tile_begin" in printed(group)
    group = group_of(lambda b, x: b.ew.exp(x), "f32[S, T]", ranges={"S": (1, 2**20), "T": (1, 2**20)})
    text = printed(group)
    assert "for (int32_t v = tile_begin" in text and "(int64_t)v * T" in text


def test_a_size_without_a_bound_is_computed_in_64_bits() -> None:
    group = group_of(lambda b, x: b.ew.exp(x), "f32[S, 8]", ranges={"S": (1, float("inf"))})
    assert "for (int64_t v = tile_begin" in printed(group)


def test_an_index_from_data_is_narrow_once_it_is_in_bounds() -> None:
    text = printed(group_of(lambda b, x, i: b.index.gather(x, i), "f32[7, 4]", "i64[5]"))
    assert "const int64_t *const x1_data" in text
    assert "uint64_t" not in text.replace("(uint64_t)", "", 2), "more than the sum with the size is wide"


def test_arithmetic_on_data_wraps_around_without_undefined_behaviour() -> None:
    assert "(int32_t)(0u - (uint32_t)" in printed(group_of(lambda b, x: b.ew.neg(x), "i32[6]"))
    assert "(int64_t)((uint64_t)" in printed(group_of(lambda b, x, y: b.ew.mul(x, y), "i64[6]", "i64[6]"))
    assert "(int8_t)((uint32_t)" in printed(group_of(lambda b, x, y: b.ew.add(x, y), "i8[6]", "i8[6]"))


def test_what_is_always_true_is_not_asked() -> None:
    inside = printed(group_of(lambda b, x, w: b.nn.conv2d(x, w), "f32[1, 2, 5, 5]", "f32[4, 2, 1, 1]"))
    assert "if (" not in inside
    padded = group_of(lambda b, x, w: b.nn.conv2d(x, w, pads=(1, 1, 1, 1)), "f32[1, 2, 5, 5]", "f32[4, 2, 3, 3]")
    assert "if (" in printed(padded)


def test_a_number_that_is_compared_with_itself_is_asked_for_nan() -> None:
    text = printed(group_of(lambda b, x: b.ew.eq(x, x), "f32[6]"))
    assert "!isnan(" in text and "==" not in text
    assert "= 1;" in printed(group_of(lambda b, x: b.ew.eq(x, x), "i32[6]"))


def test_names_that_c_keeps_are_changed() -> None:
    group = group_of(lambda b, x, y: b.ew.add(x, y), "f32[6]", "f32[6]")
    group.func.rename(group.func.params[0], "double")
    group.func.rename(group.func.params[1], "_Bool")
    text = kernel_text(group, choose(group, (PORTABLE,)).built[0], "k")
    assert "void *double_, void *v_Bool," in text


def test_only_generic_kernels_serve() -> None:
    choice = choose(group_of(lambda b, x: b.nn.softmax(x, axis=1), "f32[6, 70]"), (PORTABLE,))
    assert choice.is_generic
    assert all("portable C has no vectors" in reason for _, reason in choice.rejected) and choice.rejected


def test_all_kernels_without_a_form_in_c_are_named() -> None:
    selection = Selection((level(level_names()[0]),))
    for name in ("rms_norm", "softmax"):
        types = ["f32[6, 64]", "f32[64]"][: 2 if name == "rms_norm" else 1]
        attrs = {} if name == "rms_norm" else {"axis": 1}
        group = group_of(lambda b, *xs, op=name, attrs=attrs: b.node(f"nn.{op}", *xs, **attrs).result, *types)
        vectors = choose(group, selection.levels)
        assert not vectors.is_generic
        selection.choices[name] = vectors
    with pytest.raises(NomulError) as caught:
        kernels_text(selection, kernel_symbols(selection))
    messages = [problem.message for problem in caught.value.problems]
    assert [problem.code for problem in caught.value.problems] == ["NM405", "NM405"]
    assert "nn.rms_norm has no form in portable C" in messages[0] and "nn.softmax has no form" in messages[1]


def test_half_floats_are_converted_in_integers() -> None:
    text = printed(group_of(lambda b, x: b.ew.exp(x), "f16[6]"))
    assert "const uint16_t *const x0_data" in text and "Float16" not in text


def test_an_equal_kernel_is_printed_equally() -> None:
    group = group_of(lambda b, x: b.nn.softmax(x, axis=1), "f32[6, S]")
    kernel = all_kernels()["any/f32/generic"]
    texts = {kernel_text(group, kernel.build(group, PORTABLE), "k") for _ in range(2)}
    assert len(texts) == 1


def test_unknown_and_several_targets_are_refused() -> None:
    assert find_c_target(("host",)) is C_TARGETS["c"] and find_c_target(("cortex-m7",)).tools == "arm-none-eabi-"
    with pytest.raises(NomulError, match="'cortex-m9' is no target") as caught:
        find_c_target(("cortex-m9",))
    assert caught.value.code == "NM402" and "cortex-m7" in str(caught.value.help)
    with pytest.raises(NomulError, match="for one target"):
        find_c_target(("cortex-m7", "cortex-m55"))
