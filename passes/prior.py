"""What is known of a layer's inputs without calibration data: behind an activation, and in images, they have means.

Errors of the weights of one row then add up in its output, unless they are made up for (SQuant, arXiv 2202.07471)."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from nomul.ir.graph import Node, Value, Weight
from nomul.ir.op import Kind
from nomul.passes.layers import ENCODABLE, Layer

POINTS = 2048
IMAGE = 9.0  # neighbouring pixels are alike: a correlation of 0.9
NEGLIGIBLE = 0.01  # power, as odd functions have it by rounding
_KEEP_CHANNELS = ("nn.max_pool2d", "nn.avg_pool2d", "ew.cast")


@dataclass(frozen=True)
class Prior:
    """power: the squared mean that inputs have in common, over their variance.

    means: [C] of the channels as the biases in front of the activation tell them, in any unit, or None."""

    power: float
    means: np.ndarray | None = None

    def hessian(self, columns: int) -> np.ndarray:
        """[K, K], mean of x x^T in units of the variance. columns: K, a multiple of C."""
        matrix = np.eye(columns) + self.power
        if self.means is not None:
            means = np.repeat(self.means, columns // len(self.means))
            matrix += np.outer(means, means) / np.mean(means**2)
        return matrix

    def __bytes__(self) -> bytes:
        """Equal for equal ones, for keys."""
        return np.array(self.power).tobytes() + (b"" if self.means is None else self.means.tobytes())


def prior_of(layer: Layer) -> Prior | None:
    """None where nothing is known, as for depthwise convolutions, whose rows have few weights.

    Behind an activation the common mean is that of normal numbers before it: a power of 0.23 for gelu, 0.47 for relu.
    A layer of several inputs gets what the one with the least mean has."""
    if "depthwise" in layer.roles or not layer.products:
        return None
    power = min(_power(_input(node), IMAGE if node.op == "nn.conv2d" else 0.0) for node in layer.products)
    if power < NEGLIGIBLE:
        return None
    means = _means(_input(layer.products[0])) if len(layer.products) == 1 else None
    fits = means is not None and int(layer.weight.shape[1]) == len(means) and means.any()
    return Prior(power, means if fits else None)


def _input(node: Node) -> Value:
    value = node.args[0]
    assert value is not None
    return value


def _power(value: Value, of_param: float) -> float:
    """Squared mean over variance. of_param: for inputs of the model."""
    node = value.producer
    if node is None:
        return of_param
    args = [arg for arg in node.args if arg is not None]
    if node.spec.kind is Kind.VIEW or node.op in (*_KEEP_CHANNELS, "view.concat"):
        return min((_power(arg, of_param) for arg in args), default=0.0)
    if not _is_activation(node):
        return 0.0
    normal = NormalDist()
    results = _behind(node, np.array([normal.inv_cdf((at + 0.5) / POINTS) for at in range(POINTS)]))
    power = results.mean() ** 2 / results.var() if results.var() > 0 else 0.0
    return float(power) if np.isfinite(power) else 0.0


def _means(value: Value) -> np.ndarray | None:
    """[C]: what the activation makes of the biases of the layer in front of it; None where they are not known."""
    node = value.producer
    if node is None:
        return None
    if node.op in _KEEP_CHANNELS:
        return _means(_input(node))
    before = _input(node).producer if _is_activation(node) else None
    bias = before.operand(2) if before is not None and before.op in ENCODABLE else None
    if not isinstance(bias, Weight) or bias.type.encoding is not None or not bias.fields:
        return None
    means = _behind(node, bias.array().astype(np.float64))
    return means if np.isfinite(means).all() else None


def _is_activation(node: Node) -> bool:
    args = [arg for arg in node.args if arg is not None]
    return node.spec.kind is Kind.ELEMENTWISE and len(args) == 1 and args[0].dtype.is_float


def _behind(node: Node, numbers: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(node.spec.function(numbers.astype(np.float32), **node.attrs), np.float64)
