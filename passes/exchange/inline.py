"""Injective linear attention (Han et al., "Bridging the divide", 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from nomul.ir.graph import Value
from nomul.passes.exchange.base import AttentionLayer, Form, Operands
from nomul.passes.rule import Rewriter
from nomul.passes.rules.expand.terms import repeated


@dataclass(frozen=True)
class Inline(Form):
    """Weights q k^T * scale / T, less their mean over keys, plus 1 / T: linear in the tokens, and no division."""

    name: ClassVar[str] = "inline"
    takes: ClassVar[frozenset[str]] = frozenset({"past", "cross", "softcap"})

    def build(self, g: Rewriter, layer: AttentionLayer, samples: Sequence[Operands]) -> Value:
        q, k, v = layer.operands
        k, v = (repeated(g, x, q.shape[2]) for x in (k, v))
        return g.nn.inline_attention(q, k, v, scale=layer.node.attrs["scale"])
