"""Element-wise nodes behind a walk along lines read it with 0 on axes of size 1."""

from __future__ import annotations

import numpy as np

import nomul
from nomul.ir import interpreter
from nomul.ir.parser import parse_module

BEHIND_LOG_SOFTMAX = """\
nomul.ir 1
dim M in [1, 64]
func @main(%x: f32[1, M, 9], %b: f32[1, M, 1]) -> (f32[1, M, 9]) {
  %s = nn.log_softmax %x {axis=2} : f32[1, M, 9]
  %y = ew.add %s, %b : f32[1, M, 9]
  return %y
}
"""


def test_the_unit_axis_in_front() -> None:
    module = parse_module(BEHIND_LOG_SOFTMAX)
    generator = np.random.default_rng(0)
    inputs = [generator.standard_normal(shape, np.float32) for shape in ((1, 5, 9), (1, 5, 1))]
    (given,) = nomul.compile(module)(*inputs)
    np.testing.assert_allclose(given, interpreter.run(module, *inputs)[0], atol=1e-5)
