"""From functions to objects: several symbols, nothing undefined, equal bytes for equal functions, readable dumps."""

from __future__ import annotations

from typing import Any

import pytest

from nomul.backends.frame import KernelFrame
from nomul.backends.lower import lower_to_object, lower_to_text
from nomul.backends.tir.body import index, loop, opaque, store
from nomul.ir.types import Tensor
from tests.kernel_harness import level, level_names, link, make_group


def doubled(name: str) -> Any:
    """result[i] = 2 * x[i] for the tiles."""
    group = make_group(lambda b, x: b.ew.mul(x, 2.0), Tensor.of("f32", "S"))
    with KernelFrame(group, level(name)) as frame, loop("i", frame.end - frame.begin, frame.begin) as i:
        (param,) = group.func.params
        store(frame.buffer(frame.results[0]), i, frame.buffer(param)[i] * 2.0)
    return frame.function


@pytest.mark.parametrize("name", level_names())
def test_several_symbols_in_one_object(name: str) -> None:
    function = doubled(name)
    found = link({"first": function, "second": function}, level(name))
    assert set(found) == {"first", "second"}


def test_equal_functions_give_equal_bytes() -> None:
    name = level_names()[0]
    assert lower_to_object({"k": doubled(name)}, level(name)) == lower_to_object({"k": doubled(name)}, level(name))


def test_dumps_show_the_code() -> None:
    name = level_names()[0]
    text = lower_to_text(doubled(name), level(name), "my_kernel")
    assert set(text) == {"tir", "ll", "s"}
    assert all("my_kernel" in part for part in text.values())


@pytest.mark.parametrize("name", level_names())
def test_opaque_zero_needs_no_memset(name: str) -> None:
    group = make_group(lambda b, x: b.ew.mul(x, 2.0), Tensor.of("f32", "S"))
    with KernelFrame(group, level(name)) as frame:
        zero = opaque(frame.begin, 0.0)
        with loop("i", frame.size(group.func.params[0].shape[0]) * index(1)) as i:
            store(frame.buffer(frame.results[0]), i, zero)
    link({"k": frame.function}, level(name))
