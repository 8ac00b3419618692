"""Selection never takes a kernel that would ignore how a layer takes its input."""

from __future__ import annotations

from typing import Any

import pytest

from nomul.backends.group import Group
from nomul.backends.select import choose
from nomul.ir.builder import Builder
from nomul.ir.errors import NomulError
from nomul.ir.types import Tensor
from tests.kernel_harness import levels, make_group


def layer(op: str, x: Tensor, w: Tensor, **attrs: Any) -> Group:
    def build(b: Builder, x: Any, w: Any) -> Any:
        return b.op(op, x, w, **attrs)

    return make_group(build, x, w, weights=(1,))


@pytest.mark.parametrize("act", [{"act": "i8"}, {"act": "i8-static", "act_scale": 0.5}])
def test_kernels_for_float_activations_refuse_others(act: dict[str, Any]) -> None:
    shapes = {
        "nn.linear": (Tensor.of("f32", 3, 8), Tensor.of("f32", 4, 8)),
        "nn.conv2d": (Tensor.of("f32", 1, 8, 5, 5), Tensor.of("f32", 4, 8, 3, 3)),
    }
    for op, (x, w) in shapes.items():
        assert choose(layer(op, x, w), levels()).kernels
        with pytest.raises(NomulError, match="the input is quantised inside of the layer") as caught:
            choose(layer(op, x, w, **act), levels())
        assert caught.value.code == "NM401"
