"""Rotates the inputs of linear layers by a Hadamard matrix, and the weights back: no weight stands out any more.

Q-Palette (arXiv 2509.20214), LRQ-DiT (arXiv 2508.03485), QuEST (arXiv 2502.05003)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nomul.ir.builder import Builder
from nomul.ir.graph import Module, Weight
from nomul.ir.ops.hadamard import rotated
from nomul.passes.base import Report
from nomul.passes.graph_tools import exchange
from nomul.passes.transforms.base import Refused, Request, Transform, by_input
from nomul.passes.transforms.producers import Producers, producers

SMALLEST = 4


class Rotate(Transform):
    """Inputs of linear layers are rotated by a Hadamard matrix, and their weights back.

    x W^T = (x H) (W H)^T. The rotation goes into the rows of the layer that makes x, where nothing but sums, views
    and attention stand between (values of an attention: within heads); else nn.hadamard computes it.

    block: channels that are mixed, a power of two; the largest that divides them, up to this one, is taken."""

    name = "rotate"
    options = {"block": 1024}

    def refusal(self, request: Request) -> str | None:
        if request.node.op != "nn.linear":
            return "it is no linear layer"
        if _block(request) < SMALLEST:
            return f"{int(request.weight.shape[1])} columns are no multiple of {SMALLEST}"
        return None

    def apply(self, module: Module, requests: Sequence[Request], report: Report) -> dict[str, str]:
        for group in by_input(requests):
            _rotate(module, group, report)
        return {}


def _block(request: Request) -> int:
    """The largest power of two that divides the columns, within the option."""
    columns, block = int(request.weight.shape[1]), 1
    while columns % (2 * block) == 0 and 2 * block <= request.options["block"]:
        block *= 2
    return block


def _rotate(module: Module, group: Sequence[Request], report: Report) -> None:
    """Layers of one input."""
    block = min(map(_block, group))
    absorbing = _absorbing(module, group)
    if absorbing is not None:
        while absorbing.unit % block:
            block //= 2
        absorbing.absorb(module, lambda rows: rotated(np.ascontiguousarray(rows.T), block).T)
        report.fire("absorbed")
    else:
        first = min((request.node for request in group), key=module.main.nodes.index)
        build = Builder(module.main, before=first, loc=first.loc)
        turned = build.nn.hadamard(group[0].input, block=block, name=f"{group[0].input.name}.rotated")
        for request in group:
            module.main.set_args(request.node, (turned, *request.node.args[1:]))
        report.fire("computed")
    for request in group:
        array = rotated(request.matrix, block).astype(np.float32)
        exchange(module, request.weight, Weight.dense(request.weight.name, array))


def _absorbing(module: Module, group: Sequence[Request]) -> Producers | None:
    """The layers whose rows can be rotated, unless their heads are too small for a block."""
    rank = group[0].input.type.rank
    try:
        found = producers(module.main, group[0].input, (rank - 1,), [one.node for one in group], "rotation")
    except Refused:
        return None
    return None if found.unit and found.unit % SMALLEST else found
