"""Attention of binary codes, with additions only (You et al., "ShiftAddViT", 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from nomul.ir.graph import Value
from nomul.passes.exchange.base import AttentionLayer, Form, Operands
from nomul.passes.rule import Rewriter
from nomul.passes.rules.expand.terms import repeated


@dataclass(frozen=True)
class Hamming(Form):
    """v / 2 + codes(q) codes(k)^T v / pi, codes of one bit for each element; results of a head have length 1."""

    name: ClassVar[str] = "hamming"
    takes: ClassVar[frozenset[str]] = frozenset({"softcap"})

    def build(self, g: Rewriter, layer: AttentionLayer, samples: Sequence[Operands]) -> Value:
        q, k, v = layer.operands
        k, v = (repeated(g, x, q.shape[2]) for x in (k, v))
        return g.nn.hamming_attention(g.nn.hamming_codes(q), g.nn.hamming_codes(k), v)
