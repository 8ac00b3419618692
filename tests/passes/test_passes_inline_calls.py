"""Modules whose @main mixes calls and other nodes compile like those without calls."""

from __future__ import annotations

import numpy as np
from artifacts import results_by_level
from pass_graphs import apply

import nomul
from nomul.ir.graph import Module
from nomul.ir.interpreter import run
from nomul.ir.parser import parse_module
from nomul.ir.text import print_module
from nomul.passes.group import is_grouped
from nomul.passes.random_inputs import random_inputs

MIXED = """nomul.ir 1
dim S in [1, 9]
func @main(%x: f32[S, 8]) -> (f32[S, 8], f32[S, 8]) {
  %a = ew.exp %x : f32[S, 8]
  %b = call @outer(%a) : f32[S, 8]
  %c = call @inner(%b) : f32[S, 8]
  %d = ew.add %c, %x : f32[S, 8]
  return %d, %b
}
func @outer(%x: f32[S, 8]) -> (f32[S, 8]) {
  %c = nn.softmax %x {axis=1} : f32[S, 8]
  %y = call @inner(%c) : f32[S, 8]
  return %y
}
func @inner(%x: f32[S, 8]) -> (f32[S, 8]) {
  %a = nn.rms_norm %x : f32[S, 8]
  %b = ew.mul %a, %x : f32[S, 8]
  return %b
}
"""
ONLY_CALLS = """nomul.ir 1
func @main(%x: f32[3, 8]) -> (f32[3, 8]) {
  %b = call @two_heavy(%x) : f32[3, 8]
  return %b
}
func @two_heavy(%x: f32[3, 8]) -> (f32[3, 8]) {
  %a = nn.softmax %x {axis=1} : f32[3, 8]
  %b = nn.softmax %a {axis=0} : f32[3, 8]
  return %b
}
"""


def compare(module: Module) -> None:
    inputs = random_inputs(module, dict.fromkeys(module.dims, 5), np.random.default_rng(0))
    for results in results_by_level(module, inputs).values():
        for result, expected in zip(results, run(module, *inputs), strict=True):
            np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-6)


def test_calls_at_any_depth_are_inlined() -> None:
    out = apply(parse_module(MIXED), "inline_calls")
    assert out.fired == {"outer": 1, "inner": 2}
    assert [op for op in out.ops if op == "call"] == [] and list(out.module.funcs) == ["main"]
    assert out.module.main.returns[1].name == "b"


def test_a_mixed_module_compiles() -> None:
    compare(parse_module(MIXED))


def test_a_function_that_is_no_group_is_inlined() -> None:
    module = parse_module(ONLY_CALLS)
    assert not is_grouped(module)
    compare(module)


def test_a_grouped_module_stays_as_it_is() -> None:
    lowered = nomul.lower(parse_module(MIXED))
    lowered.after = ""
    assert is_grouped(lowered)
    out = apply(lowered, "inline_calls", "group")
    assert not out.fired and print_module(out.module) == print_module(lowered)
