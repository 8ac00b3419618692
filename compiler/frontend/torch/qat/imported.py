"""The import of a module that was trained with fake encodings: its weights are stored as they were trained."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from nomul.frontend.common import NomulWarning
from nomul.frontend.torch.qat.prepare import Trained
from nomul.ir.graph import Module, Weight
from nomul.ir.types import Tensor
from nomul.passes.graph_tools import exchange
from nomul.passes.layers import ENCODABLE, refusal


def store_trained(module: Module, trained: Sequence[Trained]) -> Module:
    """Put the trained fields into the place of the dense weights of the same names."""
    for given in trained:
        name = next((name for name in given.names if name in module.weights), given.names[0])
        weight = module.weights.get(name)
        reason = "the graph does not have it" if weight is None else refusal(weight)
        if weight is None or reason:
            warnings.warn(f"@{name} stays f32, not {given.encoding}: {reason}", NomulWarning, stacklevel=4)
            continue
        for node, _ in weight.users:
            if node.op in ENCODABLE:
                node.attrs |= {"act": given.act, "act_levels": given.levels}
        twin = Weight(name, Tensor(weight.dtype, weight.shape, given.encoding), given.fields)
        exchange(module, weight, twin)
    return module
