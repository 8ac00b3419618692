"""Softmax attention itself, as the model has it or with scores from 8-bit products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from nomul.ir.graph import Value
from nomul.passes.exchange.base import AttentionLayer, Form, Operands
from nomul.passes.rule import Rewriter

SCORES = ("f32", "i8")


@dataclass(frozen=True)
class Softmax(Form):
    """Softmax attention as the model has it; scores = "i8": products of queries and keys in 8 bits by row."""

    name: ClassVar[str] = "softmax"
    scores: str = SCORES[0]

    def __post_init__(self) -> None:
        if self.scores not in SCORES:
            raise ValueError(f"scores is one of {', '.join(SCORES)}, not '{self.scores}'")

    @property
    def is_change(self) -> bool:
        return self.scores != SCORES[0]

    def refusal(self, layer: AttentionLayer) -> str | None:
        return None

    def build(self, g: Rewriter, layer: AttentionLayer, samples: Sequence[Operands]) -> Value:
        return g.nn.attention(*layer.node.args, **(layer.node.attrs | {"scores": self.scores}))
