"""Values that say of each block of scores only whether it is among the first, among the last, or between."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomul.ir.dim import Dim
from nomul.ir.graph import Node, Value
from nomul.ir.interpreter import concrete
from nomul.ir.shapes import NOTHING
from nomul.passes.graph_tools import is_elementwise, number

FIRST, LAST, BETWEEN = range(3)


@dataclass(frozen=True)
class Ranked:
    """numbers: at the `first` largest scores along the last axis, at the `last` smallest, elsewhere. scores: None where
    the value is one number. A rank that nobody asked for has the count 0."""

    numbers: np.ndarray
    scores: Value | None = None
    first: Dim = NOTHING
    last: Dim = NOTHING


def ranked(value: Value | None) -> Ranked | None:
    """How the value depends on ranks alone, or None."""
    given, node = number(value), value.producer if value is not None else None
    if value is None or (given is None and node is None):
        return None
    if given is not None:
        return _everywhere(value, given)
    assert node is not None
    if node.op == "make.full":
        return _everywhere(value, float(node.attrs["value"]))
    if node.op == "index.scatter_elements":
        return _scattered(node)
    return _computed(node) if is_elementwise(node) else None


def _everywhere(value: Value, given: float) -> Ranked:
    return Ranked(np.full(3, given, value.dtype.numpy))


def _scattered(node: Node) -> Ranked | None:
    """A number that is put where the largest or the smallest scores are."""
    data, index, updates = node.args
    ranks = index.producer if index is not None else None
    before, put = ranked(data), ranked(updates)
    last = node.result.type.rank - 1
    if before is None or put is None or put.scores is not None or ranks is None or ranks.op != "index.top_k":
        return None
    if index is not ranks.results[1] or {node.attrs["axis"], ranks.attrs["axis"]} != {last}:
        return None
    scores, place = ranks.args[0], FIRST if ranks.attrs["largest"] else LAST
    if before.scores not in (None, scores) or node.attrs["reduction"] != "none":
        return None
    numbers = before.numbers.copy()
    numbers[place] = put.numbers[0]
    counts = [before.first, before.last]
    counts[place] = ranks.attrs["k"]
    return Ranked(numbers, scores, *counts)


def _computed(node: Node) -> Ranked | None:
    parts = [ranked(arg) for arg in node.args]
    known = [part for part in parts if part is not None]
    scored = [part for part in known if part.scores is not None]
    if len(known) < len(parts) or len({part.scores for part in scored}) > 1:
        return None
    counts = [{getattr(part, name) for part in scored} - {NOTHING} for name in ("first", "last")]
    if any(len(found) > 1 for found in counts):
        return None
    attrs = {name: concrete(value, {}) for name, value in node.attrs.items()}
    numbers = node.spec.function(*(part.numbers for part in known), **attrs)
    first, last = (next(iter(found), NOTHING) for found in counts)
    return Ranked(numbers, scored[0].scores if scored else None, first, last)
