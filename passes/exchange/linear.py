"""Linear attention with a fixed map of queries and keys, or with maps learned for each layer (Hedgehog)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from nomul.ir.graph import Value
from nomul.ir.ops.attention import LENGTHS, MASK
from nomul.ir.shapes import ONE
from nomul.ir.types import DType
from nomul.passes.exchange.base import AttentionLayer, Form, Operands
from nomul.passes.exchange.maps import Maps, load_maps
from nomul.passes.rule import Rewriter
from nomul.passes.rules.expand.linear_attention import features

MAPS = ("elu", "relu", "exp", "softmax", "identity")


@dataclass(frozen=True)
class Linear(Form):
    """Weights phi(q) phi(k): phi is `map`, elu, relu, exp, softmax or identity, or learned, from the file `maps`.

    Katharopoulos et al., 2020; learned ones: Zhang et al., "The Hedgehog", 2024, by `nomul.qat.distill_attention`."""

    name: ClassVar[str] = "linear"
    takes: ClassVar[frozenset[str]] = frozenset({"padding", "causal", "past", "cross", "softcap"})
    files: ClassVar[tuple[str, ...]] = ("maps",)
    map: str = ""
    maps: str = ""

    def __post_init__(self) -> None:
        if bool(self.map) == bool(self.maps):
            raise ValueError('form linear takes map = "NAME" or maps = "FILE", one of both')
        if self.map and self.map not in MAPS:
            raise ValueError(f"map is one of {', '.join(MAPS)}, not '{self.map}'")

    @cached_property
    def _learned(self) -> Maps:
        """Raises NomulError (NM465)."""
        return load_maps(self.maps)

    def refusal(self, layer: AttentionLayer) -> str | None:
        reason = super().refusal(layer)
        q, k, _ = layer.operands
        if reason is None and layer.node.attrs["causal"] and q.shape[1] != k.shape[1]:
            reason = "causal linear attention needs as many keys as queries"
        if reason is None and self.maps:
            reason = self._learned.refusal(layer)
        return reason

    def build(self, g: Rewriter, layer: AttentionLayer, samples: Sequence[Operands]) -> Value:
        q, k, v = layer.operands
        causal, seen, rule = layer.node.attrs["causal"], _seen(g, layer), self.map
        if self.maps:
            found, name = self._learned, layer.name
            of_queries, of_keys = (g.weight(f"{name}.{part}_map", found.of(layer, part)) for part in ("q", "k"))
            q = g.nn.hedgehog_map(q, of_queries, form=found.form)
            k = g.nn.hedgehog_map(k, of_keys, form=found.form)
            rule = "identity"
        elif seen is not None:
            q, k, rule = features(g, q, rule), features(g, k, rule), "identity"
        k = k if seen is None else g.ew.mul(k, seen)
        return g.nn.linear_attention(q, k, v, map=rule, causal=causal)


def _seen(g: Rewriter, layer: AttentionLayer) -> Value | None:
    """How much of each key is seen, [B or 1, T, 1, 1], or None for all of all: what a mask multiplies weights with."""
    _, k, _ = layer.operands
    mask, lengths = (layer.node.operand(position) for position in (MASK, LENGTHS))
    shown = None
    if mask is not None:
        batch = mask.shape[0] if mask.type.rank == 4 else ONE
        column = g.view.reshape(mask, shape=(batch, k.shape[1], ONE, ONE))
        shown = g.ew.cast(column, dtype=k.dtype) if mask.dtype is DType.BOOL else g.ew.exp(column)
    if lengths is not None:
        counter = g.ew.cast(g.make.iota(size=k.shape[1]), dtype=lengths.dtype)
        places = g.view.reshape(counter, shape=(ONE, k.shape[1], ONE, ONE))
        near = g.ew.lt(places, g.view.reshape(lengths, shape=(lengths.shape[0], ONE, ONE, ONE)))
        near = g.ew.cast(near, dtype=k.dtype)
        shown = near if shown is None else g.ew.mul(shown, near)
    return shown
