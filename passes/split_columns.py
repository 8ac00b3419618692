"""Takes layers with `split` weights apart: a layer of the salient columns, and one of all others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomul.ir.builder import Builder
from nomul.ir.dim import Dim
from nomul.ir.encodings.split import Split
from nomul.ir.graph import Func, Module, Node, Value, Weight
from nomul.ir.types import Tensor
from nomul.passes.base import Pass, Report

# ops, and the operand that is the weights
_LAYERS = {"nn.linear": 1, "nn.conv2d": 1, "nn.quantised_linear": 2, "nn.quantised_conv2d": 2}
_SIDES = ("value", "rest")


class SplitColumns(Pass):
    """Both sides have encodings with kernels of their own. The columns of the input are gathered for each; of
    quantised inputs those of the integers, so that both layers share the scales. Layers of one weight share both sides.
    So are those of 1 x 1 convolutions in nhwc; others stay as they are: their columns are places of windows, which only
    the kernel has. So do layers whose quantised inputs scales of columns would multiply."""

    name = "split_columns"

    def run(self, module: Module, report: Report) -> None:
        sides: dict[Weight, tuple[_Side, _Side]] = {}
        for node in list(module.main.nodes):
            weight = _split_weight(node)
            if weight is not None:
                if weight not in sides:
                    sides[weight] = _sides(module, weight)
                _take_apart(module.main, node, *sides[weight])
                report.fire(node.op)


@dataclass(frozen=True)
class _Side:
    """columns: i64, of the input.  scale: by which these are multiplied first, or None.

    weight: [N, columns], of a convolution [N, columns, 1, 1]."""

    columns: Weight
    scale: Weight | None
    weight: Weight


def _split_weight(node: Node) -> Weight | None:
    """The weight of a layer that can be taken apart, or None."""
    weight = node.args[_LAYERS[node.op]] if node.op in _LAYERS else None
    if not isinstance(weight, Weight) or not isinstance(weight.type.encoding, Split) or not weight.fields:
        return None
    if weight.type.encoding.columns and node.op.startswith("nn.quantised"):
        return None
    return weight if weight.type.rank == 2 or _columns_are_channels(node, weight) else None


def _columns_are_channels(node: Node, weight: Weight) -> bool:
    """Whether a convolution multiplies the last axis of its input, pixel by pixel."""
    is_pixel = all(size.value == 1 for size in weight.shape[2:])
    return is_pixel and node.attrs["groups"] == 1 and node.attrs["layout"] == "nhwc"


def _take_apart(func: Func, node: Node, value: _Side, rest: _Side) -> None:
    """The layer of the salient columns has no bias."""
    place = _LAYERS[node.op]
    x, bias = node.args[0], node.operand(place + 1)
    assert x is not None
    build = Builder(func, before=node, loc=node.loc)
    sums = []
    for side, own_bias in ((value, None), (rest, bias)):
        part = build.index.gather(x, side.columns, axis=x.type.rank - 1)
        if side.scale is not None:
            part = build.ew.mul(part, side.scale)
        operands: list[Value | None] = [part, *node.args[1:place], side.weight, own_bias]
        sums.append(build.op(node.op, *operands, **node.attrs))
    total, name = build.ew.add(*sums), node.result.name
    func.replace_all(node.result, total)
    func.erase(node)
    func.rename(total, name)


def _sides(module: Module, weight: Weight) -> tuple[_Side, _Side]:
    """The salient columns, and all others."""
    encoding = weight.type.encoding
    assert isinstance(encoding, Split)
    value, rest = (_side(module, weight, encoding, name) for name in _SIDES)
    return value, rest


def _side(module: Module, weight: Weight, encoding: Split, name: str) -> _Side:
    """The weights of one side are stored as those of its encoding."""
    columns, scale = weight.fields["salient"].astype(np.int64), None
    if name == "rest":
        columns = np.setdiff1d(np.arange(int(weight.shape[1]), dtype=np.int64), columns)
        if encoding.columns:
            factors = weight.fields["column_scale"].astype(weight.dtype.numpy)
            scale = module.add_weight(Weight.dense(f"{weight.name}.column_scale", factors))
    index = module.add_weight(Weight.dense(f"{weight.name}.{name}_columns", columns))
    prefix = f"{name}_"
    shape = encoding.side_shapes(tuple(int(size) for size in weight.shape))[prefix]
    fields = {field.removeprefix(prefix): data for field, data in weight.fields.items() if field.startswith(prefix)}
    sizes = (*map(Dim.of, shape), *weight.shape[2:])
    type = Tensor(weight.dtype, sizes, encoding.sides[prefix])
    return _Side(index, scale, module.add_weight(Weight(f"{weight.name}.{name}", type, fields)))
