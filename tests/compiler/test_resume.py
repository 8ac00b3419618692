"""A module at level "exec" compiles to the same bytes as the module that it came from, source facts aside."""

from __future__ import annotations

import numpy as np

from nomul.ir.builder import Builder
from nomul.ir.graph import Func, Module, Value, Weight
from nomul.ir.types import Tensor
from nomul.options import Options
from nomul.pipeline import lower_to_plan


def small_module() -> Module:
    module = Module(dims={"S": (1, 64)})
    func = module.add_func(Func("main", [Value("x", Tensor.of("f32", "S", 32))]))
    weight = module.add_weight(Weight.dense("w", np.linspace(-1, 1, 1024, dtype=np.float32).reshape(32, 32)))
    builder = Builder(func)
    hidden = builder.ew.gelu(builder.nn.linear(func.params[0], weight))
    func.returns = [builder.nn.softmax(hidden, axis=1), builder.view.reshape(hidden, shape=("S", 4, 8)), func.params[0]]
    return module


def test_resume_from_exec_gives_the_same_plan() -> None:
    options = Options(targets=("host",))
    first = lower_to_plan(small_module(), options)
    assert first.module.level == "exec"
    again = lower_to_plan(first.module, options)
    assert again.plan == first.plan
