"""Softmax attention itself, as the model has it or with products of 8 or 16 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from nomul.ir.attention import STORED
from nomul.ir.graph import Module, Value
from nomul.ir.quantise import LEVELS
from nomul.passes.exchange.base import AttentionLayer, Form, Operands
from nomul.passes.exchange.smooth_keys import rows_of, smooth_keys
from nomul.passes.rule import Rewriter

SCORES = ("f32", "bf16", "i8")
KEYS_VALUES = ("f32", *STORED)
SMOOTH = ("", "keys")


@dataclass(frozen=True)
class Softmax(Form):
    """Softmax attention as the model has it, or of numbers with fewer bits.

    scores: products of queries and keys in 8 bits by row ("i8"), or both products in bf16.
    keys_values: both as integers of 8 ("i8") or 4 ("i4") bits times a scale by row.
    smooth: "keys" divides each channel of keys by a factor and multiplies queries by it, from calibration data."""

    name: ClassVar[str] = "softmax"
    scores: str = SCORES[0]
    keys_values: str = KEYS_VALUES[0]
    smooth: str = SMOOTH[0]

    def __post_init__(self) -> None:
        if self.scores not in SCORES:
            raise ValueError(f"scores is one of {', '.join(SCORES)}, not '{self.scores}'")
        if self.keys_values not in KEYS_VALUES:
            raise ValueError(f"keys_values is one of {', '.join(KEYS_VALUES)}, not '{self.keys_values}'")
        if self.smooth not in SMOOTH:
            raise ValueError(f"smooth is keys or nothing, not '{self.smooth}'")
        if self.smooth and not any(self._levels):
            raise ValueError("smooth is for scores = i8 and for keys_values = i8 or i4")

    @property
    def is_change(self) -> bool:
        return (self.scores, self.keys_values) != (SCORES[0], KEYS_VALUES[0])

    @property
    def learns(self) -> bool:
        return bool(self.smooth)

    @property
    def _levels(self) -> tuple[int | None, int | None]:
        """The largest integers of queries and of keys; None: no integers."""
        scores = LEVELS if self.scores == "i8" else None
        return scores, STORED.get(self.keys_values, scores)

    def refusal(self, layer: AttentionLayer) -> str | None:
        return None

    def prepare(self, module: Module, layer: AttentionLayer, samples: Sequence[Operands]) -> str | None:
        if not self.smooth:
            return None
        queries, keys = self._levels
        return smooth_keys(module, layer.node, samples, (rows_of(queries), rows_of(keys)))

    def build(self, g: Rewriter, layer: AttentionLayer, samples: Sequence[Operands]) -> Value:
        return g.nn.attention(
            *layer.node.args, **(layer.node.attrs | {"scores": self.scores, "keys_values": self.keys_values})
        )
