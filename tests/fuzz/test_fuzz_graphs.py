"""Random graphs through the parts of the IR: text form, verifier, interpreter, clone, weights file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from fuzz.graphs import Drawn, modules
from fuzz.recipes import recipes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nomul.ir.graph import Module
from nomul.ir.interpreter import run
from nomul.ir.op import Kind, all_ops
from nomul.ir.parser import parse_module
from nomul.ir.structure import inline_call
from nomul.ir.text import print_module
from nomul.ir.verifier import verify
from nomul.ir.weights_file import load_weights, save_weights

# Only passes make these: of layers with an `act` (tests/backends/test_encoded.py draws them), and of attention.
QUANTISED = ("nn.quantise", "nn.quantised_linear", "nn.quantised_conv2d", "nn.quantised_attention")
MADE_BY_PASSES = (*QUANTISED, "nn.attention_parts", "nn.attention_merge")
FUZZ = settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def test_every_op_can_be_drawn() -> None:
    known = recipes()
    drawable = (Kind.ELEMENTWISE, Kind.STRUCTURE, Kind.COMPOSED)  # calls come from outlining
    wanted = [name for name, spec in all_ops().items() if spec.kind not in drawable and name not in MADE_BY_PASSES]
    assert [name for name in wanted if name not in known] == []
    assert [name for name in known if name not in all_ops()] == []


def read_back(drawn: Drawn) -> None:
    verify(drawn.module)
    text = print_module(drawn.module)
    assert print_module(parse_module(text)) == text


@settings(FUZZ, max_examples=200)
@given(modules())
def test_text_form(drawn: Drawn) -> None:
    read_back(drawn)


@pytest.mark.slow
@settings(FUZZ, max_examples=10_000)
@given(modules())
def test_text_form_of_many(drawn: Drawn) -> None:
    read_back(drawn)


@FUZZ
@given(modules(12), st.data())
def test_text_form_with_any_names(drawn: Drawn, data: st.DataObject) -> None:
    module = drawn.module
    for func in module.funcs.values():
        for value in func.values():
            func.rename(value, data.draw(st.text(min_size=1, max_size=8)))
    for node in module.main.nodes:
        node.loc = data.draw(st.none() | st.text(max_size=12))
    text = print_module(module)
    again = parse_module(text)
    assert print_module(again) == text
    assert [value.name for value in again.main.values()] == [value.name for value in module.main.values()]


@FUZZ
@given(modules())
def test_copies_compute_the_same(drawn: Drawn) -> None:
    expected = run(drawn.module, *drawn.inputs)
    _same(run(drawn.module, *drawn.inputs), expected)
    copy = drawn.module.clone()
    verify(copy)
    _same(run(copy, *drawn.inputs), expected)
    _same(run(_through_files(drawn.module), *drawn.inputs), expected)
    assert print_module(copy) == print_module(drawn.module)


@FUZZ
@given(modules())
def test_inlined_calls_compute_the_same(drawn: Drawn) -> None:
    module = drawn.module.clone()
    for node in [node for node in module.main.nodes if node.op == "call"]:
        inline_call(module, module.main, node)
    verify(module)
    assert all(node.op != "call" for node in module.main.nodes)
    _same(run(module, *drawn.inputs), run(drawn.module, *drawn.inputs))


def _through_files(module: Module) -> Module:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_weights(module, path)
        again = parse_module(print_module(module))
        load_weights(again, path)
    return again


def _same(results: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]) -> None:
    for result, value in zip(results, expected, strict=True):
        assert result.dtype == value.dtype
        np.testing.assert_array_equal(result, value)


@FUZZ
@given(modules(10))
def test_a_clone_is_independent(drawn: Drawn) -> None:
    before = print_module(drawn.module)
    copy = drawn.module.clone()
    main = copy.main
    for node in reversed(list(main.nodes)):
        if not any(r.users or any(r is v for v in main.returns) for r in node.results):
            main.erase(node)
    for value in list(main.values()):
        main.rename(value, "renamed")
    main.returns = main.returns[:1]
    verify(drawn.module)
    assert print_module(drawn.module) == before
