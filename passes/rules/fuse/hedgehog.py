"""Learned features of queries and keys (Zhang et al., "The Hedgehog", 2024) from their formula."""

from __future__ import annotations

from dataclasses import replace

from nomul.ir.graph import Node, Value, Weight
from nomul.passes.contraction import Contraction, arranged, contraction, paired, place, restored
from nomul.passes.contraction_axes import Label
from nomul.passes.graph_tools import produced_by
from nomul.passes.rule import NodeRule, NoMatch, Rewriter

LEAST = 1e-12  # of a feature, as the op has it


class HedgehogFormula(NodeRule):
    """clip([softmax(x w), softmax(-x w)]) -> hedgehog_map."""

    ops = ("ew.clip",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        concat = produced_by(node.args[0], "view.concat")
        parts = [produced_by(arg, "nn.softmax") for arg in concat.args] if concat is not None else []
        last = node.result.type.rank - 1
        if concat is None or len(parts) != 2 or concat.attrs["axis"] != last or None in parts:
            return None
        products = [contraction(part.args[0], g.module.dims) for part in parts if part and part.args[0] is not None]
        if any(part.attrs["axis"] != last for part in parts if part) or any(len(p.factors) != 2 for p in products):
            return None
        if node.attrs["low"] != LEAST or node.attrs["high"] != float("inf"):
            raise NoMatch(f"features are at least {node.attrs['low']:g}, not {LEAST:g}", node.result)
        if not _are_opposite(*products):
            raise NoMatch("the second half is not the softmax of the negative of the first", concat.args[1])
        return _mapped(g, products[0], node)


def _are_opposite(one: Contraction, other: Contraction) -> bool:
    """Whether both are the same product, of scales 1 and -1."""
    if (one.scale, other.scale) != (1.0, -1.0) or one.divisors or other.divisors or one.added or other.added:
        return False
    names: dict[Label, Label] = {}
    for left, right in zip(one.factors, other.factors, strict=True):
        pairs = paired(left, right)
        if left.value is not right.value or not pairs:
            return False
        if any(names.setdefault(label, twin) is not twin for label, twin in pairs):
            return False
    return [names.get(label) for label in one.free] == list(other.free)


def _mapped(g: Rewriter, found: Contraction, node: Node) -> Value | None:
    x, w = sorted(found.factors, key=lambda factor: isinstance(factor.value, Weight))
    free, feature = frozenset(found.free), found.free[-1]
    inner, heads = (x.labels & w.labels) - free, x.labels & w.labels & free
    tokens = sorted((x.labels & free) - heads, key=lambda label: place(x, label))
    fits = len(inner) == 1 and len(heads) < 2 and tokens and w.labels == inner | heads | {feature}
    if not isinstance(w.value, Weight) or not fits or any(label.size.value is None for label in heads):
        return None
    (size,), head = inner, next(iter(heads), None)
    queries = arranged(g, x, x.value, tokens[:-1], (tokens[-1], head, size))
    weights = arranged(g, w, w.value, (), (head, size, feature))
    y = g.nn.hedgehog_map(queries, g.view.reshape(weights, shape=weights.shape[-3:]))
    wide = Label(feature.size * 2)
    whole = replace(found, axes=(*found.axes[:-1], (wide,)))
    return restored(g, y, [*tokens, head, wide], whole, node.result.shape)
