"""Takes mean errors out of an encoded module: biases of layers and betas of norms make up for what is wrong by then.

Bias correction (Nagel 2019, arXiv 1906.04721); for norms the deviation-aware correction of D2Quant (arXiv 2602.02546).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nomul.ir.encodings.terms import EncodedArray
from nomul.ir.graph import Constant, Module, Node, Value, Weight
from nomul.ir.interpreter import bind_dims, evaluate_node
from nomul.passes.calibrate import Batch
from nomul.passes.graph_tools import exchange
from nomul.passes.layers import ENCODABLE

MOST_BATCHES = 32  # of the calibration data; their values are in memory together


class _Run:
    """One module on one batch, node by node."""

    def __init__(self, module: Module, batch: Batch) -> None:
        params = module.main.params
        self.dims: Mapping[str, int] = bind_dims(module, [param.type for param in params], batch)
        self.values: dict[Value, np.ndarray] = dict(zip(params, batch, strict=True))

    def step(self, node: Node) -> None:
        operands = [None if arg is None else self._read(arg) for arg in node.args]
        self.values.update(zip(node.results, evaluate_node(node, operands, self.dims), strict=True))

    def _read(self, value: Value) -> np.ndarray | EncodedArray:
        if isinstance(value, Constant):
            return np.asarray(value.value, value.dtype.numpy)
        if isinstance(value, Weight):
            return value.encoded() if value.type.encoding else value.array()
        return self.values[value]

    def forget(self, values: Sequence[Value]) -> None:
        for value in values:
            self.values.pop(value, None)


def correct_means(plain: Module, encoded: Module, batches: Sequence[Batch]) -> int:
    """Changes `encoded`, whose nodes are those of `plain`, so that on the batches every encoded layer and every layer
    norm with a beta of its own has the mean that it has in `plain`, channel by channel and in order of execution: what
    later ones see is corrected. Layers without a bias get one. The result: how many were corrected."""
    runs = [(_Run(plain, batch), _Run(encoded, batch)) for batch in batches[:MOST_BATCHES]]
    nodes = list(zip(plain.main.nodes, encoded.main.nodes, strict=True))
    last = [_last_uses([pair[side] for pair in nodes]) for side in (0, 1)]
    corrected = 0
    for at, (expected, given) in enumerate(nodes):
        for pair in runs:
            pair[0].step(expected)
            pair[1].step(given)
        if _can_correct(given):
            axis = _channel_axis(given)
            error = _mean_error(runs, expected.result, given.result, axis)
            _add_bias(encoded, given, error)
            shape = (-1,) + (1,) * (given.result.type.rank - 1 - axis)
            for _, run in runs:
                run.values[given.result] = run.values[given.result] + error.reshape(shape)
            corrected += 1
        for pair in runs:
            for side, run in enumerate(pair):
                run.forget(last[side].get(at, []))
    return corrected


def _last_uses(nodes: Sequence[Node]) -> dict[int, list[Value]]:
    """By position of a node, the values that no later one reads."""
    last: dict[Value, int] = {}
    for at, node in enumerate(nodes):
        last.update(dict.fromkeys((*node.results, *(arg for arg in node.args if arg is not None)), at))
    ends: dict[int, list[Value]] = {}
    for value, at in last.items():
        ends.setdefault(at, []).append(value)
    return ends


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


def _mean_error(runs: Sequence[tuple[_Run, _Run]], expected: Value, given: Value, axis: int) -> np.ndarray:
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
