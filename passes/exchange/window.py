"""Softmax attention to near keys only (Beltagy et al., "Longformer", 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from nomul.ir.graph import Value
from nomul.passes.exchange.base import AttentionLayer, Form, Operands
from nomul.passes.rule import Rewriter


@dataclass(frozen=True)
class Window(Form):
    """Softmax attention to keys fewer than `window` places away; all else stays."""

    name: ClassVar[str] = "window"
    takes: ClassVar[frozenset[str]] = frozenset(
        {"padding", "mask", "bias", "tiles", "window", "causal", "order", "past", "softcap"}
    )
    window: int

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window is a number above 0, not {self.window}")

    def build(self, g: Rewriter, layer: AttentionLayer, samples: Sequence[Operands]) -> Value:
        given = layer.node.attrs["window"]
        width = min(self.window, given) if given else self.window
        return g.nn.attention(*layer.node.args, **(layer.node.attrs | {"window": width}))
