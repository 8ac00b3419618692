"""What an encoded layer gets, and how it comes into the module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nomul.ir.encodings import Encoding
from nomul.ir.encodings.grouped import Grouped
from nomul.ir.graph import Module, Weight
from nomul.ir.types import Tensor
from nomul.passes.accuracy import accuracy
from nomul.passes.choice import PLAIN, Rule
from nomul.passes.fit import Fitter, find_fitter
from nomul.passes.fit_layers import Fit, Job
from nomul.passes.graph_tools import exchange
from nomul.passes.layers import Layer
from nomul.passes.prior import prior_of

FEW_BITS = 6  # of weights, below which convolutions without calibration data lose most of what they do
LEAST_RANGE = 1e-6  # of inputs, where calibration saw nothing but zeros


@dataclass(frozen=True)
class Plan:
    """What one layer gets. bias: that can take care of the mean error, or None."""

    layer: Layer
    rule: Rule
    encoding: Encoding
    bias: Weight | None

    @property
    def weight(self) -> Weight:
        return self.layer.weight

    @property
    def fitter(self) -> Fitter:
        """Where another encoding stands in for the one of the rule, the fitter is that one's default."""
        named = self.rule.fitter if type(self.encoding) is type(self.rule.encoding) else None
        return find_fitter(named, self.encoding)

    @property
    def coarse(self) -> bool:
        """Whether its weights get few bits."""
        return self.encoding.bits_per_weight(shape_of(self.weight)) < FEW_BITS

    @property
    def by_block(self) -> bool:
        """Whether its rule asks for it, and the fitter can."""
        return self.rule.by_block and self.fitter.by_block

    def twin(self, fit: Fit) -> Weight:
        """The encoded weight."""
        return Weight(self.weight.name, Tensor(self.weight.dtype, self.weight.shape, self.encoding), fit.fields)

    def job(self, context: bytes, start: bool) -> Job:
        """start: for the layer by itself, from which a block learns. Sparse weights gain nothing from what is known of
        inputs: errors of what is dropped are too large to be made up for."""
        fitter = find_fitter(None, self.encoding) if start else self.fitter
        prior = prior_of(self.layer) if self.coarse and isinstance(self.encoding, Grouped) else None
        return Job(self.weight, self.encoding, fitter, self.bias is not None, context, prior=prior)


def shape_of(weight: Weight) -> tuple[int, ...]:
    return tuple(int(size) for size in weight.shape)


def bias_of(layer: Layer) -> Weight | None:
    """The bias of a layer where it is a dense weight of this layer alone, and one mean error fits all channels."""
    if len(layer.products) != 1 or len(layer.products[0].args) < 3 or "depthwise" in layer.roles:
        return None
    bias = layer.products[0].args[2]
    return bias if isinstance(bias, Weight) and len(bias.users) == 1 and bias.type.encoding is None else None


def apply(module: Module, plan: Plan, fit: Fit) -> None:
    """Puts the encoded weight, and the bias that goes with it, into their places."""
    exchange(module, module.weights[plan.weight.name], plan.twin(fit))
    bias = fit.bias
    if bias is None and plan.bias is not None and fit.mean is not None:
        error = (plan.weight.array() - plan.twin(fit).array()).reshape(len(plan.twin(fit).array()), -1)
        bias = plan.bias.array() + error.astype(np.float64) @ fit.mean
    if bias is not None and plan.bias is not None:
        name = plan.bias.name
        exchange(module, module.weights[name], Weight.dense(name, bias.astype(plan.bias.dtype.numpy)))
    for node in plan.layer.products:
        node.attrs |= _act(plan.rule, fit)


def facts(plan: Plan, fit: Fit) -> dict[str, Any]:
    """Of the layer for reports, what it lost among them."""
    return {
        "name": plan.weight.name,
        "loc": plan.layer.loc,
        "roles": list(plan.layer.roles),
        "encoding": str(plan.encoding),
        "fitter": plan.fitter.name,
        "act": plan.rule.act if plan.layer.products else PLAIN,
        "bits": round(plan.encoding.bits_per_weight(shape_of(plan.weight)), 4),
        "bytes": sum(array.nbytes for array in fit.fields.values()),
        "weights": accuracy(plan.weight.array(), plan.twin(fit).array()).as_json(),
    }


def _act(rule: Rule, fit: Fit) -> dict[str, str | float]:
    """Attributes of a node. A fixed scale is that of the largest input that calibration saw (a layer that it did not
    reach takes scales by row)."""
    if rule.act == PLAIN:
        return {"act": PLAIN}
    if rule.act != "i8-static" or fit.largest is None:
        return {"act": "i8", "act_levels": rule.levels}
    scale = float(np.float32(max(fit.largest, LEAST_RANGE) / rule.levels))
    return {"act": rule.act, "act_scale": scale, "act_levels": rule.levels}
