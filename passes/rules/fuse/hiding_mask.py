"""Additive masks that only hide scores."""

from __future__ import annotations

from math import inf

from nomul.ir.graph import Node, Value
from nomul.ir.ops.attention import MASK
from nomul.ir.types import DType
from nomul.ir.views import view_chain
from nomul.passes.contraction import contraction
from nomul.passes.ranked_blocks import FIRST, ranked
from nomul.passes.rule import NodeRule, NoMatch, Rewriter
from nomul.passes.rules.fuse.causal import hiding
from nomul.passes.view_tools import rebuild_views


class HidingMask(NodeRule):
    """attention with where(seen, 0, -inf) added to its scores -> attention with the bools `seen`; with a finite number
    too where each query sees a key for certain."""

    ops = ("nn.attention",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        mask = node.operand(MASK)
        if mask is None or mask.dtype is DType.BOOL:
            return None
        chain = view_chain(mask)
        source = chain[-1].args[0] if chain else mask
        found = hiding(g, source) if source is not None else None
        if found is None or source is None or found.bias is not None:
            return None
        visible = rebuild_views(g, chain, g.view.expand(found.visible, shape=source.shape) if chain else found.visible)
        if found.hidden != -inf:
            if visible.type.rank < 2 or not _sees_one(g, visible):
                return None
            if any(arg is not None for arg in node.args[MASK + 1 :]) or node.attrs["causal"] or node.attrs["window"]:
                raise NoMatch("a query may see no key at all: the additive mask would give it all that it hides", mask)
        return g.nn.attention(*node.args[:MASK], visible, *node.args[MASK + 1 :], **node.attrs)


def _sees_one(g: Rewriter, visible: Value) -> bool:
    """Whether something is true in each row: bools that are true for the first of blocks ranked along the last axis."""
    found = contraction(visible, g.module.dims)
    if len(found.factors) != 1 or found.is_made:
        return False
    (inner,) = found.factors
    ranks = ranked(inner.value)
    if ranks is None or ranks.scores is None or not ranks.numbers[FIRST]:
        return False
    along = {label.root() for label in inner.axes[-1]}
    return ranks.first.bounds(g.module.dims)[0] >= 1 and along <= {label.root() for label in found.axes[-1]}
