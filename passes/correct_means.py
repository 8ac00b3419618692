"""Takes mean errors out of an encoded module: biases of layers and betas of norms make up for what is wrong by then.

Bias correction (Nagel 2019, arXiv 1906.04721); for norms the deviation-aware correction of D2Quant (arXiv 2602.02546).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nomul.ir.graph import Module, Node, Value, Weight
from nomul.passes.calibrate import Batch
from nomul.passes.graph_tools import exchange
from nomul.passes.layers import ENCODABLE
from nomul.passes.side_by_side import Run

MOST_BATCHES = 32  # of the calibration data; their values are in memory together


def correct_means(plain: Module, encoded: Module, batches: Sequence[Batch]) -> int:
    """Changes `encoded`, whose nodes are those of `plain`, so that on the batches every encoded layer and every layer
    norm with a beta of its own has the mean that it has in `plain`, channel by channel and in order of execution: what
    later ones see is corrected. Layers without a bias get one. The result: how many were corrected."""
    runs = [(Run(plain, batch), Run(encoded, batch)) for batch in batches[:MOST_BATCHES]]
    corrected = 0
    for expected, given in zip(plain.main.nodes, encoded.main.nodes, strict=True):
        for pair in runs:
            for run in pair:
                run.step()
        if _can_correct(given):
            axis = _channel_axis(given)
            error = _mean_error(runs, expected.result, given.result, axis)
            _add_bias(encoded, given, error)
            shape = (-1,) + (1,) * (given.result.type.rank - 1 - axis)
            for _, run in runs:
                run.values[given.result] = run.values[given.result] + error.reshape(shape)
            corrected += 1
        for pair in runs:
            for run in pair:
                run.forget()
    return corrected


def _can_correct(node: Node) -> bool:
    """Whether it has, or may get, a vector that is added to its channels and is nobody else's."""
    bias = node.operand(2)
    if bias is not None and not (isinstance(bias, Weight) and len(bias.users) == 1 and bias.type.encoding is None):
        return False
    if node.op == "nn.layer_norm":
        return bias is not None
    weight = node.args[1] if node.op in ENCODABLE else None
    return weight is not None and weight.type.encoding is not None


def _channel_axis(node: Node) -> int:
    return 1 if node.attrs.get("layout") == "nchw" else node.result.type.rank - 1


def _mean_error(runs: Sequence[tuple[Run, Run]], expected: Value, given: Value, axis: int) -> np.ndarray:
    """f32 [channels]"""
    total, rows = np.zeros(int(given.shape[axis])), 0
    for plain, encoded in runs:
        wide = plain.values[expected].astype(np.float64) - encoded.values[given]
        flat = np.moveaxis(wide, axis, -1).reshape(-1, len(total))
        total += flat.sum(axis=0)
        rows += len(flat)
    return (total / max(rows, 1)).astype(np.float32)


def _add_bias(module: Module, node: Node, error: np.ndarray) -> None:
    bias = node.operand(2)
    if isinstance(bias, Weight):
        array = bias.array()
        exchange(module, bias, Weight.dense(bias.name, (array + error).astype(array.dtype)))
        return
    assert node.args[1] is not None
    added = module.add_weight(Weight.dense(f"{node.args[1].name}.bias", error))
    module.main.set_args(node, (node.args[0], node.args[1], added))
