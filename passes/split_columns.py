"""Takes layers with `split` weights apart: a layer of the salient columns, and one of all others."""

from __future__ import annotations

import numpy as np

from nomul.ir.builder import Builder
from nomul.ir.dim import Dim
from nomul.ir.encodings.split import Split
from nomul.ir.graph import Func, Module, Node, Value, Weight
from nomul.ir.types import Tensor
from nomul.passes.base import Pass, Report

_LAYERS = {"nn.linear": 1, "nn.quantised_linear": 2}  # ops, and the operand that is the weights
_SIDES = ("value", "rest")  # the first one's layer has no bias


class SplitColumns(Pass):
    """Both sides have encodings with kernels of their own. The columns of the input are gathered for each; of
    quantised inputs those of the integers, so that both layers share the scales. Convolutions stay as they are: their
    columns are places of windows, which only the kernel has."""

    name = "split_columns"

    def run(self, module: Module, report: Report) -> None:
        for node in list(module.main.nodes):
            weight = node.args[_LAYERS[node.op]] if node.op in _LAYERS else None
            if isinstance(weight, Weight) and isinstance(weight.type.encoding, Split) and weight.fields:
                _take_apart(module, module.main, node, weight, weight.type.encoding)
                report.fire(node.op)


def _take_apart(module: Module, func: Func, node: Node, weight: Weight, encoding: Split) -> None:
    place = _LAYERS[node.op]
    x, bias = node.args[0], node.args[place + 1] if len(node.args) > place + 1 else None
    assert x is not None
    build = Builder(func, before=node, loc=node.loc)
    sums = []
    for side, columns in zip(_SIDES, _columns(weight, encoding), strict=True):
        index = module.add_weight(Weight.dense(f"{weight.name}.{side}_columns", columns))
        part = build.index.gather(x, index, axis=x.type.rank - 1)
        if side == "rest" and encoding.columns:
            scale = weight.fields["column_scale"].astype(x.dtype.numpy)
            part = build.ew.mul(part, module.add_weight(Weight.dense(f"{weight.name}.column_scale", scale)))
        own = module.add_weight(_side(weight, encoding, side))
        operands: list[Value | None] = [part, *node.args[1:place], own, bias if side == "rest" else None]
        sums.append(build.op(node.op, *operands, **node.attrs))
    total, name = build.ew.add(*sums), node.result.name
    func.replace_all(node.result, total)
    func.erase(node)
    func.rename(total, name)


def _columns(weight: Weight, encoding: Split) -> tuple[np.ndarray, np.ndarray]:
    """i64: those that are salient, and the others."""
    salient = weight.fields["salient"].astype(np.int64)
    return salient, np.setdiff1d(np.arange(int(weight.shape[1]), dtype=np.int64), salient)


def _side(weight: Weight, encoding: Split, side: str) -> Weight:
    """The weights of one side, which are stored as those of its encoding."""
    prefix = f"{side}_"
    rows, columns = encoding.side_shapes(tuple(int(size) for size in weight.shape))[prefix]
    fields = {name.removeprefix(prefix): field for name, field in weight.fields.items() if name.startswith(prefix)}
    type = Tensor(weight.dtype, (Dim.of(rows), Dim.of(columns)), encoding.sides[prefix])
    return Weight(f"{weight.name}.{side}", type, fields)
