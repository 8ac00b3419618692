"""Factors for the columns of weights, and their inverses for the inputs: what smoothing and dual scales share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nomul.ir.builder import Builder
from nomul.ir.graph import Module, Value, Weight
from nomul.passes.base import Report
from nomul.passes.calibrate import Statistics
from nomul.passes.graph_tools import exchange, produced_by
from nomul.passes.transforms.base import Refused, Request, Transform, by_input
from nomul.passes.transforms.producers import producers

OCTAVES = 12  # factors stay within 2**-12 .. 2**12
_PEAK = 3.0  # a normalised channel is taken to reach so many deviations


class ColumnScaling(Transform):
    """x W^T = (x / s) (W s)^T with a positive s for each input channel, the same for all layers that read x. 1 / s goes
    into the weights of the norm or layer that makes x, through functions with f(s x) = s f(x) and one operand of a
    product; where that cannot be, x is multiplied by it."""

    def factors(self, group: Sequence[Request], seen: Mapping[str, Statistics]) -> np.ndarray | None:
        """s [channels] for layers of one input, or None where the weights are best as they are. Raises Refused."""
        raise NotImplementedError

    def refusal(self, request: Request) -> str | None:
        return None if request.encoding is not None else "its weights are not encoded"

    def apply(self, module: Module, requests: Sequence[Request], report: Report) -> dict[str, str]:
        seen = self.statistics(module, requests)
        refused: dict[str, str] = {}
        for group in by_input(requests):
            try:
                factors = self.factors(group, seen)
            except Refused as reason:
                refused |= {request.weight.name: str(reason) for request in group}
                continue
            if factors is not None:
                _scale(module, group, _bounded(factors), report)
        return refused


def _bounded(factors: np.ndarray) -> np.ndarray:
    """Positive, of the geometric mean 1, within limits."""
    logarithms = np.log2(np.where(factors > 0, factors, 1.0))
    return 2.0 ** (logarithms - logarithms.mean()).clip(-OCTAVES, OCTAVES)


def channel_axis(request: Request) -> int:
    """Of the input."""
    if request.node.op == "nn.linear" or request.node.attrs["layout"] == "nhwc":
        return request.input.type.rank - 1
    return 1


def by_channel(request: Request, columns: np.ndarray) -> np.ndarray:
    """[channels, taps] of an array [K]."""
    return columns.reshape(int(request.weight.shape[1]), -1)


def spread(request: Request, factors: np.ndarray) -> np.ndarray:
    """[K]: a number for each column of the weights, from one for each channel."""
    return np.repeat(factors, request.matrix.shape[1] // len(factors))


def _scale(module: Module, group: Sequence[Request], factors: np.ndarray, report: Report) -> None:
    axis, value = channel_axis(group[0]), group[0].input
    try:
        found = producers(module.main, value, (axis,), [one.node for one in group], "scale")
        found.absorb(module, lambda rows: rows / factors[:, None])
        report.fire("absorbed")
    except Refused:
        shape = (-1,) + (1,) * (value.type.rank - 1 - axis)
        _multiply(module, group, (1 / factors).astype(np.float32).reshape(shape))
        report.fire("multiplied")
    for request in group:
        array = (request.matrix * spread(request, factors)).astype(np.float32)
        weight = request.weight
        exchange(module, weight, Weight.dense(weight.name, array.reshape(weight.array().shape)))


def _multiply(module: Module, group: Sequence[Request], inverse: np.ndarray) -> None:
    """Layers of one input get the product of it and a weight."""
    first = min((request.node for request in group), key=module.main.nodes.index)
    weight = module.add_weight(Weight.dense(f"{group[0].weight.name}.input_scale", inverse))
    build = Builder(module.main, before=first, loc=first.loc)
    scaled = build.ew.mul(group[0].input, weight, name=f"{group[0].input.name}.scaled")
    for request in group:
        module.main.set_args(request.node, (scaled, *request.node.args[1:]))


def input_statistics(request: Request, seen: Mapping[str, Statistics]) -> Statistics:
    """From calibration; without it, what gamma and beta of a norm in front of the layer tell. Raises Refused."""
    if request.weight.name in seen:
        return seen[request.weight.name]
    norm = produced_by(request.input, "nn.layer_norm", "nn.rms_norm")
    if norm is None:
        raise Refused("nothing is known of its inputs: it needs calibration data")
    gamma, beta = (_vector(norm.args, position, default) for position, default in ((1, 1.0), (2, 0.0)))
    gamma, beta = np.broadcast_arrays(gamma, beta, np.empty(int(request.weight.shape[1])))[:2]
    return Statistics(np.diag(gamma**2) + np.outer(beta, beta), beta, _PEAK * np.abs(gamma) + np.abs(beta), 0)


def _vector(args: Sequence[Value | None], position: int, default: float) -> np.ndarray:
    weight = args[position] if position < len(args) else None
    return weight.array().astype(np.float64) if isinstance(weight, Weight) and weight.fields else np.array(default)
