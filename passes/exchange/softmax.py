"""Softmax attention itself, as the model has it or with products of 8 or 16 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from nomul.ir.attention import STORED
from nomul.ir.graph import Value
from nomul.passes.exchange.base import AttentionLayer, Form, Operands
from nomul.passes.rule import Rewriter

SCORES = ("f32", "bf16", "i8")
KEYS_VALUES = ("f32", *STORED)


@dataclass(frozen=True)
class Softmax(Form):
    """Softmax attention as the model has it, or of numbers with fewer bits.

    scores: products of queries and keys in 8 bits by row ("i8"), or both products in bf16.
    keys_values: both as integers of 8 ("i8") or 4 ("i4") bits times a scale by row."""

    name: ClassVar[str] = "softmax"
    scores: str = SCORES[0]
    keys_values: str = KEYS_VALUES[0]

    def __post_init__(self) -> None:
        if self.scores not in SCORES:
            raise ValueError(f"scores is one of {', '.join(SCORES)}, not '{self.scores}'")
        if self.keys_values not in KEYS_VALUES:
            raise ValueError(f"keys_values is one of {', '.join(KEYS_VALUES)}, not '{self.keys_values}'")

    @property
    def is_change(self) -> bool:
        return (self.scores, self.keys_values) != (SCORES[0], KEYS_VALUES[0])

    def refusal(self, layer: AttentionLayer) -> str | None:
        return None

    def build(self, g: Rewriter, layer: AttentionLayer, samples: Sequence[Operands]) -> Value:
        return g.nn.attention(
            *layer.node.args, **(layer.node.attrs | {"scores": self.scores, "keys_values": self.keys_values})
        )
