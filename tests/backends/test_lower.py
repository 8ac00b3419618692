"""From functions to objects: several symbols, nothing undefined, equal bytes for equal functions, readable dumps."""

from __future__ import annotations

import re
from typing import Any

import pytest

from nomul.backends.frame import KernelFrame
from nomul.backends.lower import lower_to_object
from nomul.backends.select import choose
from nomul.backends.target import find_targets
from nomul.backends.tir.body import index, loop, opaque, store
from nomul.ir.types import Tensor
from tests.kernel_harness import every_level, level, level_names, link, make_group


def doubled(name: str) -> Any:
    """result[i] = 2 * x[i] for the tiles."""
    group = make_group(lambda b, x: b.ew.mul(x, 2.0), Tensor.of("f32", "S"))
    with KernelFrame(group, level(name)) as frame, loop("i", frame.end - frame.begin, frame.begin) as i:
        (param,) = group.func.params
        store(frame.buffer(frame.results[0]), i, frame.buffer(param)[i] * 2.0)
    return frame.function


@pytest.mark.parametrize("name", every_level())
def test_several_symbols_in_one_object(name: str) -> None:
    function = doubled(name)
    found = link({"first": function, "second": function}, level(name))
    assert set(found) == {"first", "second"}


def test_equal_functions_give_equal_bytes() -> None:
    name = level_names()[0]
    assert lower_to_object({"k": doubled(name)}, level(name)) == lower_to_object({"k": doubled(name)}, level(name))


def test_dumps_show_the_code() -> None:
    name = level_names()[0]
    texts: dict[str, str] = {}
    functions = {"first_kernel": doubled(name), "second_kernel": doubled(name)}
    plain = lower_to_object(functions, level(name))
    shown = lower_to_object(functions, level(name), lambda symbol, kind, text: texts.update({f"{symbol}.{kind}": text}))
    assert shown == plain  # looking changes nothing
    assert set(texts) == {f"{symbol}.{kind}" for symbol in functions for kind in ("tir", "ll", "s")}
    for file, text in texts.items():
        own, other = ("first", "second") if file.startswith("first") else ("second", "first")
        assert f"{own}_kernel" in text and f"{other}_kernel" not in text, file
    assert "ret i32 0" in texts["first_kernel.ll"] and "!dbg" not in texts["first_kernel.ll"]


@pytest.mark.parametrize("name", every_level())
def test_opaque_zero_needs_no_memset(name: str) -> None:
    group = make_group(lambda b, x: b.ew.mul(x, 2.0), Tensor.of("f32", "S"))
    with KernelFrame(group, level(name)) as frame:
        zero = opaque(frame.begin, 0.0)
        with loop("i", frame.size(group.func.params[0].shape[0]) * index(1)) as i:
            store(frame.buffer(frame.results[0]), i, zero)
    link({"k": frame.function}, level(name))


@pytest.mark.parametrize("name", ["apple-m1", "rpi5", "arm-linux", "riscv64-linux"])
def test_code_for_other_machines_is_cut_at_its_functions(name: str) -> None:
    texts: dict[str, str] = {}
    target = find_targets((name,))[0]
    group = make_group(lambda b, x: b.ew.exp(x), Tensor.of("f32", "S"))
    function = choose(group, (target,)).built[0].function
    lower_to_object(
        {"first": function, "second": function}, target, lambda *part: texts.update({f"{part[0]}.{part[1]}": part[2]})
    )
    symbols = ("first", "second", "first_shared")  # equal functions share their code
    assert set(texts) == {f"{symbol}.{kind}" for symbol in symbols for kind in ("tir", "ll", "s")}
    for symbol in symbols:
        code, others = texts[f"{symbol}.s"], [f"{other}:" for other in symbols if other != symbol]
        assert f"{symbol}:" in code and not any(re.search(rf"\b{other}", code) for other in others)
        assert ".loc" not in code and len(code.splitlines()) > (40 if symbol == "first_shared" else 4)
        assert texts[f"{symbol}.ll"].startswith("define ") and texts[f"{symbol}.ll"].endswith("}\n")
