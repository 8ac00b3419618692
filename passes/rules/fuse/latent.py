"""Multi-head latent attention in its absorbed form (DeepSeek-AI, "DeepSeek-V2", 2024): softmax attention whose values
are a part of the keys that all heads share."""

from __future__ import annotations

from collections.abc import Iterator

from nomul.ir.dim import Dim
from nomul.ir.graph import Node, Value
from nomul.ir.ops.attention import MASK
from nomul.ir.shapes import ONE
from nomul.ir.views import View, chain_view, view_chain
from nomul.passes.contraction import Factor, arranged, contraction, same_elements
from nomul.passes.contraction_axes import Label
from nomul.passes.graph_tools import produced_by
from nomul.passes.rule import NodeRule, NoMatch, Rewriter

_PLAIN = {"scores": "f32", "keys_values": "f32", "block": 1, "prefix": 0, "window": 0, "softcap": 0.0}


class LatentFormula(NodeRule):
    """attention(concat(q, q_rotary), concat(latent, k_rotary), latent) of one key head -> latent_attention."""

    ops = ("nn.attention",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        q, k, v = (arg for arg in node.args[:MASK] if arg is not None)
        whole, part = k.shape[3], v.shape[3]
        rest = whole - part
        if (k.shape[2], v.shape[2]) != (ONE, ONE) or whole.value is None or (rest.value or 0) <= 0:
            return None
        start = next((start for start, piece in _pieces(g, k, part) if _is_same(g, piece, v)), None)
        if start is None:
            if _keys(g, k) is None:
                return None
            raise NoMatch("the values are no part of the keys", v)
        differs = next((name for name, value in _PLAIN.items() if node.attrs[name] != value), None)
        if differs is not None:
            raise NoMatch(f"latent attention has no {differs}={node.attrs[differs]}", node)
        if any(arg is not None for arg in node.args[MASK + 1 :]):
            raise NoMatch("latent attention has no bias by distance, lengths or tiles", node)
        other = part if start == 0 else Dim.of(0)
        latents = [g.view.slice(q, axis=3, start=start, stop=start + part), v]
        rotary = [g.view.slice(x, axis=3, start=other, stop=other + rest) for x in (q, k)]
        latent, k_rotary = (g.view.reshape(x, shape=(*x.shape[:2], x.shape[3])) for x in (latents[1], rotary[1]))
        attrs = {name: node.attrs[name] for name in ("scale", "causal", "offset")}
        return g.nn.latent_attention(latents[0], rotary[0], latent, k_rotary, node.operand(MASK), **attrs)


def _keys(g: Rewriter, k: Value) -> tuple[Node, Factor, tuple[tuple[Label, ...], ...]] | None:
    """(the concatenation along its last axis that k [B, T, 1, D] shows, what it is there, the axes of k), or None."""
    found = contraction(k, g.module.dims)
    (factor,) = found.factors if len(found.factors) == 1 and not found.is_made else (None,)
    concat = produced_by(factor.value, "view.concat") if factor is not None else None
    if concat is None or factor is None or len(found.axes[3]) != 1:
        return None
    fits = factor.axes[concat.attrs["axis"]] == found.axes[3] and len(found.axes[1]) < 2
    return (concat, factor, found.axes) if fits else None


def _pieces(g: Rewriter, k: Value, size: Dim) -> Iterator[tuple[Dim, Value]]:
    """The first and the last elements of keys [B, T, 1, D], that many, and where they begin."""
    last = k.shape[3] - size
    for start in (Dim.of(0), last):
        yield start, g.view.slice(k, axis=3, start=start, stop=start + size)
    if (keys := _keys(g, k)) is None:
        return
    concat, factor, (lead, tokens, *_) = keys
    axis, label = concat.attrs["axis"], Label(size)
    axes = tuple((label,) if place == axis else labels for place, labels in enumerate(factor.axes))
    for start, piece in ((Dim.of(0), concat.args[0]), (last, concat.args[-1])):
        if piece is not None and piece.shape[axis] == size:
            inner = Factor(piece, axes)
            yield start, arranged(g, inner, piece, lead, (tokens[0] if tokens else None, None, label))


def _is_same(g: Rewriter, one: Value, other: Value) -> bool:
    """Whether views show the same elements of one source."""
    chains = [view_chain(value) for value in (one, other)]
    shown = [chain_view(chain) if chain else None for chain in chains]
    if shown[0] is not None and shown[1] is not None and _places(shown[0], one) == _places(shown[1], other):
        return True
    return same_elements(one, other, g.module.dims)


def _places(view: View, value: Value) -> tuple[object, ...]:
    strides = [stride for stride, size in zip(view.strides, value.shape, strict=True) if size != ONE]
    return (view.source, view.offset, tuple(strides))
